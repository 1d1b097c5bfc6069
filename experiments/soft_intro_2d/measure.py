"""What is measured of trained models in the plane, or of the data themselves, in both protocols."""

from collections.abc import Callable

import jax

from experiments.runner import Measure
from jaxvae import distributions
from jaxvae.data import toy2d
from jaxvae.metrics import grid2d
from jaxvae.models.introspective import squared_error
from jaxvae.types import Array, Model

RELEASED, RELEASED_GN = 5_000, 12_800  # samples, as in the released code
STANDARD, STANDARD_GN = 2**21, 2**16
PRECISION = "float32, highest"
NAMES = [
    (metric, protocol)
    for metric in ("histogram_kl", "histogram_jsd", "gn_elbo")
    for protocol in ("released", "standard")
]


def energy(model: Model) -> Callable[..., Array]:
    """Returns l(params, state, x) = L(x, D(mean)) + KL(q(z|x) || N(0, I)) [n], the energy of the
    grid-normalised ELBO."""

    def of(params, state, x: Array) -> Array:
        q = model.encode(params, state, x)
        return squared_error(x, model.decode(params, state, q.mean).mean) + distributions.kl(q)

    return of


def _counters(draw: Callable, half_range: float, smoke: bool) -> dict[str, tuple[int, Callable]]:
    """Returns, for each protocol, the number of samples and the compiled (args, key) -> counts of
    `draw(args, key, n)`."""
    many = grid2d.BLOCK if smoke else STANDARD
    return {
        "released": (
            RELEASED,
            jax.jit(lambda args, key: grid2d.counts(draw(args, key, RELEASED), half_range)),
        ),
        "standard": (
            many,
            jax.jit(
                lambda args, key: grid2d.counts_of(
                    lambda k, n: draw(args, k, n), key, many, half_range
                )
            ),
        ),
    }


def _histograms(
    real: dict, fake: dict, args, half_range: float, seed: int, steps: int
) -> list[Measure]:
    """Returns KL and JSD in both protocols; each number has draws of its own, as in the released
    code."""
    rng = jax.random.fold_in(jax.random.key(seed), 0x2D)
    found = []
    for i, (metric, of_counts) in enumerate(
        (("histogram_kl", grid2d.kl_of_counts), ("histogram_jsd", grid2d.jsd_of_counts))
    ):
        for j, protocol in enumerate(real):
            key_real, key_fake = jax.random.split(jax.random.fold_in(rng, 2 * i + j))
            n, count_real = real[protocol]
            draws = count_real(None, key_real), fake[protocol][1](args, key_fake)
            value = of_counts(*draws, half_range=half_range, convention=protocol)
            found.append(Measure(metric, protocol, value, n, steps, PRECISION))
    return found


def floor(name: str, seed: int, smoke: bool = False) -> list[Measure]:
    """Returns what a perfect model would score: the data against the data."""
    toy = toy2d.toy(name)
    counters = _counters(lambda _, key, n: toy.draw(key, n), toy.half_range, smoke)
    return _histograms(counters, counters, None, toy.half_range, seed, 0)


def meter(name: str, model: Model, smoke: bool = False) -> Callable[..., list[Measure]]:
    """Returns (params, state, seed, steps) -> the six numbers of a trained model, compiled once for
    many of them."""
    toy = toy2d.toy(name)
    real = _counters(lambda _, key, n: toy.draw(key, n), toy.half_range, smoke)
    fake = _counters(lambda trees, key, n: model.sample(*trees, key, n), toy.half_range, smoke)
    of, side = jax.jit(energy(model)), 64 if smoke else grid2d.GRID
    draws = {n: jax.jit(lambda key, n=n: toy.draw(key, n)) for n in (RELEASED_GN, STANDARD_GN)}

    def measure(params, state, seed: int, steps: int) -> list[Measure]:
        params, state = jax.device_get((params, state))  # else each device would measure the same
        found = _histograms(real, fake, (params, state), toy.half_range, seed, steps)
        rng = jax.random.fold_in(jax.random.key(seed), 0x6E)
        for i, (protocol, n) in enumerate((("released", RELEASED_GN), ("standard", STANDARD_GN))):
            value = grid2d.gn_elbo(
                lambda x: of(params, state, x),
                draws[n](jax.random.fold_in(rng, i)),
                half_range=toy.half_range,
                convention=protocol,
                side=side,
            )
            found.append(Measure("gn_elbo", protocol, value, n, steps, PRECISION))
        return found

    return measure


def not_finite(steps: int) -> list[Measure]:
    """Returns the numbers of a run whose loss stopped being one."""
    return [
        Measure(metric, protocol, float("nan"), 0, steps, PRECISION) for metric, protocol in NAMES
    ]
