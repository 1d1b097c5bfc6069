"""How well a model fits a distribution in the plane, on a grid over [-R, R]^2. Lower is better.

Two conventions (Daniel & Tamar 2021, arXiv 2012.13253, section 6.1, and what its released code
computes):

"released"   p, q are histogram *densities* on 100 x 100 cells; what lies outside [-R, R]^2 is left out. A sum
             over cells is divided by the 100 rows, and no cell area enters:

                 KL  = 1/100 sum p (ln p - ln(q + 1e-14)),          terms with p = 0 are 0
                 JSD = 1/2 1/100 [sum m (ln m - ln(p + 1e-14)) + sum m (ln m - ln(q + 1e-14))],   m = (p + q) / 2

             The KL is that of the cell probabilities times 100 x cell area (6.25 for R = 2, 1.5625 for R = 4), and a
             sample in a cell where q has none costs about ln p + 32 nats. The JSD has its arguments exchanged: it is
             unbounded. With 5,000 samples both are mostly sampling noise: compare with real against real.

"standard"   p, q are the probabilities of the 100 x 100 cells and of "outside". P counts of n samples, Q of m:

                 KL  = sum p ln(p / q),   p = P / n,   q = (Q + 1/2) / (m + 1/2 cells)      nats
                 JSD = 1/2 KL(p || m) + 1/2 KL(q || m),   m = (p + q) / 2, nothing smoothed  nats, at most ln 2

             Drawing costs nothing here, so use millions of samples (`counts_of`): the score of a perfect model is then
             about (occupied cells) / (2 n) + the same for m, a few thousandths of a nat.
"""

import warnings
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.errors import UserError, check_count, check_number, unknown
from jaxvae.types import Array

CELLS = 100  # a side
TINY = 1e-14  # the released code's guard against ln 0
GRID = 1024  # points a side for the ELBO
BLOCK = 2**16  # samples or points at a time
CONVENTIONS = ("released", "standard")

Convention = Literal["released", "standard"]


def histogram_kl(real, fake, *, half_range: float, convention: Convention = "standard") -> float:
    """Returns the divergence KL(real || fake) of two histograms, in one of two conventions (above).

    Args:
        real, fake: samples [n, 2] and [m, 2].
        half_range: R; a warning tells the share of `real` that lies outside [-R, R]^2.
        convention: "released" or "standard" (nats).

    Raises:
        UserError: for samples of another shape or not finite, a range that holds none, an unknown
            convention.
    """
    return kl_of_counts(
        *_both(real, fake, half_range, convention), half_range=half_range, convention=convention
    )


def histogram_jsd(real, fake, *, half_range: float, convention: Convention = "standard") -> float:
    """Returns the Jensen-Shannon divergence of two histograms, in one of two conventions (above).

    Arguments and errors are those of `histogram_kl`.
    """
    return jsd_of_counts(
        *_both(real, fake, half_range, convention), half_range=half_range, convention=convention
    )


def gn_elbo(
    neg_elbo: Callable[[Array], Array],
    samples,
    *,
    half_range: float,
    convention: Convention = "released",
    side: int = GRID,
) -> float:
    """Returns the grid-normalised ELBO: the negative ELBO of data against that of all the plane.

        released   mean_i l(x_i) / (sum over grid of l + sum_i l(x_i))     a flat l scores 1 / (1024^2 + n)
        standard   mean_i l(x_i) / mean over grid of l                     a flat l scores 1, whatever grid and n

    with l = neg_elbo and a grid of 1024 x 1024 points from -R to R. The paper's Table 2 shows it in
    units of 1e-7.

    Args:
        neg_elbo: x [n, 2] -> [n], such as L(x, D(mean)) + KL(q(z|x) || N(0, I)); best jitted.
        samples: data [n, 2]; the released code uses 12,800.
        half_range: R.
        convention: "released" or "standard".
        side: points of the grid along one axis.

    Raises:
        UserError: as `histogram_kl`, and where neg_elbo does not return one number per point.
    """
    _check(half_range, convention)
    samples = _samples("samples", samples, half_range)
    check_count("side", side, least=2)
    on_data, on_grid = on_points(neg_elbo, samples), on_points(neg_elbo, grid(half_range, side))
    if convention == "standard":
        return float(on_data.mean() / on_grid.mean())
    return float(on_data.mean() / (on_grid.sum() + on_data.sum()))


def grid(half_range: float, side: int = GRID) -> np.ndarray:
    """Returns the points of an even grid over [-R, R]^2, ends included: [side^2, 2] float32.

    They go row by row from the bottom.
    """
    axis = np.linspace(-half_range, half_range, side, dtype=np.float32)
    return np.stack([np.tile(axis, side), np.repeat(axis, side)], axis=1)


def on_points(function: Callable[[Array], Array], points) -> np.ndarray:
    """Returns `function` of points [n, 2] -> [n] as float64.

    It is called block by block (a jitted one is compiled once), at the highest matmul precision.

    Raises:
        UserError: where it does not return one number per point.
    """
    points = np.asarray(points)
    size = min(BLOCK, len(points))
    blocks = -(-len(points) // size)
    padded = np.pad(points, ((0, blocks * size - len(points)), (0, 0)), mode="edge")
    values = []
    for block in padded.reshape(blocks, size, 2):
        with jax.default_matmul_precision("highest"):
            value = function(jnp.asarray(block))
        if value.shape != (size,):
            raise UserError(
                f"neg_elbo must return one number per point, [{size}], not shape {value.shape}."
            )
        values.append(np.asarray(value, np.float64))
    return np.concatenate(values)[: len(points)]


# ---- counting ------------------------------------------------------------------------------


def edges(half_range: float) -> np.ndarray:
    """Returns the 101 borders of the cells along one axis, which sort float32 like exact ones."""
    exact = np.linspace(-half_range, half_range, CELLS + 1)
    rounded = exact.astype(np.float32)
    next_up = np.nextafter(rounded, np.float32(np.inf))
    return np.where(rounded.astype(np.float64) < exact, next_up, rounded)


def counts(x: Array, half_range: float) -> Array:
    """Returns how many points of x [n, 2] lie in each cell, then outside: [100 * 100 + 1] int32.

    Pure. The cell of x is row x_1, column x_2, as in NumPy's `histogram2d`; the borders at R belong to
    the last cells.
    """
    border = jnp.asarray(edges(half_range))
    cell = jnp.searchsorted(border, x, side="right").astype(jnp.int32) - 1
    if float(edges(half_range)[-1]) == half_range:  # else no float32 lies on it
        cell = jnp.where(x == border[-1], CELLS - 1, cell)
    inside = jnp.all((cell >= 0) & (cell < CELLS) & jnp.isfinite(x), axis=-1)
    index = jnp.where(inside, cell[:, 0] * CELLS + cell[:, 1], CELLS * CELLS)
    return jnp.zeros(CELLS * CELLS + 1, jnp.int32).at[index].add(1)


def counts_of(draw: Callable[[Array, int], Array], rng: Array, n: int, half_range: float) -> Array:
    """Returns `counts` of n samples, drawn block by block inside one loop, none of them kept.

    Pure; at the highest matmul precision.

    Args:
        draw: (rng, size) -> x [size, 2].
        n: number of samples, a multiple of `BLOCK`.
    """
    check_count("n", n)
    if n % BLOCK:
        raise UserError(f"n must be a multiple of {BLOCK}, not {n}.")

    def body(total, i):
        with jax.default_matmul_precision("highest"):
            x = draw(jax.random.fold_in(rng, i), BLOCK)
        return total + counts(x, half_range), None

    return jax.lax.scan(body, jnp.zeros(CELLS * CELLS + 1, jnp.int32), jnp.arange(n // BLOCK))[0]


def kl_of_counts(real, fake, *, half_range: float, convention: Convention = "standard") -> float:
    """Returns KL(real || fake) from two results of `counts`."""
    _check(half_range, convention)
    if convention == "released":
        p, q = _density(real, half_range), _density(fake, half_range)
        return float(np.sum(_times_log(p, p) - p * np.log(q + TINY)) / CELLS)
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    p, q = real / real.sum(), (fake + 0.5) / (fake.sum() + 0.5 * fake.size)
    return float(np.sum(_times_log(p, p) - p * np.log(q)))


def jsd_of_counts(real, fake, *, half_range: float, convention: Convention = "standard") -> float:
    """Returns the Jensen-Shannon divergence from two results of `counts`."""
    _check(half_range, convention)
    if convention == "released":
        p, q = _density(real, half_range), _density(fake, half_range)
        m = 0.5 * (p + q)
        terms = 2.0 * _times_log(m, m) - m * np.log(p + TINY) - m * np.log(q + TINY)
        return float(np.sum(terms) / (2 * CELLS))
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    p, q = real / real.sum(), fake / fake.sum()
    m = 0.5 * (p + q)
    terms = _times_log(p, p) + _times_log(q, q) - _times_log(p, m) - _times_log(q, m)
    return float(0.5 * np.sum(terms))


def _times_log(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns p ln q, which is 0 where p is."""
    return p * np.log(np.where(p > 0, q, 1.0))


def _density(count, half_range: float) -> np.ndarray:
    """Returns the density of each cell [100 * 100], as NumPy's `histogram2d(density=True)`."""
    inside = np.asarray(count, np.float64)[:-1]
    if inside.sum() == 0:
        raise UserError(
            f"no sample lies in [-{half_range:g}, {half_range:g}]^2: use a larger half_range."
        )
    return inside / inside.sum() / (2.0 * half_range / CELLS) ** 2


# ---- checks --------------------------------------------------------------------------------


def _check(half_range: float, convention: str) -> None:
    check_number("half_range", half_range, above=0.0)
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)


def _both(real, fake, half_range: float, convention: str) -> tuple[Array, Array]:
    _check(half_range, convention)  # before anything is counted
    real = _samples("real", real, half_range)
    fake = _samples("fake", fake)
    return counts(jnp.asarray(real), half_range), counts(jnp.asarray(fake), half_range)


def _samples(name: str, x, half_range: float | None = None) -> np.ndarray:
    """Returns samples [n, 2] as float32; warns if part of them lies outside a range."""
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[1] != 2 or len(x) == 0:
        raise UserError(f"{name} must be points [n, 2], not shape {x.shape}.")
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise UserError(f"{name} holds points that are not finite.")
    if half_range is not None:
        outside = float(np.mean(np.any(np.abs(x) > half_range, axis=1)))
        if outside:
            warnings.warn(
                f"{outside:.2%} of {name} lie outside [-{half_range:g}, {half_range:g}]^2: use a "
                "larger half_range.",
                stacklevel=4,
            )
    return x
