"""The grid metrics against NumPy's histograms and the formulas of both conventions written out
again."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import rel_entr

from jaxvae.data import toy2d
from jaxvae.errors import UserError
from jaxvae.metrics import grid2d
from jaxvae.metrics.grid2d import gn_elbo, histogram_jsd, histogram_kl

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(2_000, 2)).astype(np.float32).clip(-2, 2)  # some exactly on the border
FAKE = (1.3 * RNG.normal(size=(1_500, 2)) + 0.2).astype(np.float32)  # some outside


def density(x, r):
    """NumPy's own histogram."""
    return np.histogram2d(
        x[:, 0].astype(np.float64),
        x[:, 1].astype(np.float64),
        bins=100,
        range=[[-r, r], [-r, r]],
        density=True,
    )[0]


@pytest.mark.parametrize("r", [2.0, 4.0, 3.7])
def test_counts_are_those_of_numpy(r):
    for x in (
        REAL,
        FAKE,
        np.float32(np.linspace(-r, r, 101))[:, None].repeat(2, axis=1),
        np.full((3, 2), np.nan, np.float32),
    ):
        want = np.histogram2d(
            x[:, 0].astype(np.float64),
            x[:, 1].astype(np.float64),
            bins=100,
            range=[[-r, r], [-r, r]],
        )[0]
        have = np.asarray(jax.jit(lambda x: grid2d.counts(x, r))(jnp.asarray(x)))
        np.testing.assert_array_equal(have[:-1].reshape(100, 100), want)
        assert have.sum() == len(x)


@pytest.mark.parametrize("r", [2.0, 4.0])
def test_released_convention(r):
    p, q = density(REAL, r), density(FAKE, r)
    rows = [
        sum(a * (math.log(a) - math.log(b + 1e-14)) for a, b in zip(*pair, strict=True) if a > 0)
        for pair in zip(p, q, strict=True)
    ]
    have = histogram_kl(REAL, FAKE, half_range=r, convention="released")
    assert have == pytest.approx(sum(rows) / 100, rel=1e-6)
    m, total = (p + q) / 2, 0.0
    for d in (p, q):
        cells = m > 0
        total += 0.5 * (m[cells] * (np.log(m[cells]) - np.log(d[cells] + 1e-14))).sum() / 100
    assert histogram_jsd(REAL, FAKE, half_range=r, convention="released") == pytest.approx(
        total, rel=1e-6
    )
    # equal histograms: the guard of 1e-14 alone
    assert histogram_kl(REAL, REAL, half_range=r, convention="released") == pytest.approx(
        0, abs=1e-9
    )


@pytest.mark.parametrize(("r", "factor"), [(2.0, 6.25), (4.0, 1.5625)])
def test_released_kl_is_the_kl_of_cells_times_100_cell_areas(r, factor):
    """Where every cell that has data has samples, the guard does not matter."""
    real = np.repeat(REAL[:50] / 2, 3, axis=0)
    fake = np.concatenate([real, real[:40], real[:10]])
    p, q = (
        np.histogram2d(*x.T.astype(np.float64), bins=100, range=[[-r, r]] * 2)[0] / len(x)
        for x in (real, fake)
    )
    want = rel_entr(p, q).sum()
    assert want > 0.01
    assert histogram_kl(real, fake, half_range=r, convention="released") == pytest.approx(
        want * factor, rel=1e-9
    )


def test_standard_convention():
    r = 2.0
    p, q = (np.append(density(x, r) * 0, 0) for x in (REAL, FAKE))
    for counts, x in ((p, REAL), (q, FAKE)):
        counts[:-1] = np.histogram2d(*x.T.astype(np.float64), bins=100, range=[[-r, r]] * 2)[
            0
        ].ravel()
        counts[-1] = len(x) - counts.sum()
    assert q[-1] > 0
    smoothed = (q + 0.5) / (q.sum() + 0.5 * q.size)
    p, q = p / p.sum(), q / q.sum()
    assert histogram_kl(REAL, FAKE, half_range=r) == pytest.approx(
        rel_entr(p, smoothed).sum(), rel=1e-9
    )
    m = (p + q) / 2
    want = 0.5 * (rel_entr(p, m).sum() + rel_entr(q, m).sum())
    assert histogram_jsd(REAL, FAKE, half_range=r) == pytest.approx(want, rel=1e-9)
    assert histogram_jsd(REAL, REAL, half_range=r) == pytest.approx(0, abs=1e-12)
    apart = histogram_jsd(REAL[REAL[:, 0] > 0.5], REAL[REAL[:, 0] < -0.5], half_range=r)
    assert apart == pytest.approx(math.log(2), rel=1e-9)  # its largest value


def test_gn_elbo():
    def energy(x):
        return jnp.sum(jnp.square(x), axis=-1) + 0.5

    x = REAL[:300]
    axis = np.linspace(-2, 2, 1024)
    on_grid = (axis[:, None] ** 2 + axis[None] ** 2 + 0.5).sum()
    on_data = (x.astype(np.float64) ** 2).sum(axis=1) + 0.5
    assert gn_elbo(energy, x, half_range=2.0) == pytest.approx(
        on_data.mean() / (on_grid + on_data.sum()), rel=1e-6
    )
    standard = gn_elbo(energy, x, half_range=2.0, convention="standard")
    assert standard == pytest.approx(on_data.mean() / (on_grid / 1024**2), rel=1e-6)

    def flat(x):
        return jnp.ones(len(x))

    x = np.zeros((12_800, 2), np.float32)
    assert gn_elbo(flat, x, half_range=4.0) == pytest.approx(
        1 / (1024**2 + 12_800), rel=1e-9
    )  # 9.42e-7, the worst case
    assert gn_elbo(flat, x, half_range=4.0, convention="standard") == pytest.approx(1.0)


def test_functions_of_points_run_at_the_highest_precision():
    seen = []

    def energy(x):
        seen.append(jax.config.jax_default_matmul_precision)
        return x[:, 0]

    def draw(rng, n):
        seen.append(jax.config.jax_default_matmul_precision)
        return jax.random.uniform(rng, (n, 2))

    with jax.default_matmul_precision("bfloat16"):
        grid2d.gn_elbo(jax.jit(energy), np.ones((3, 2)), half_range=2.0, side=4)
        grid2d.counts_of(draw, jax.random.key(0), grid2d.BLOCK, 2.0)
    assert set(seen) == {"highest"}


def test_the_floor_is_high_in_the_released_convention_and_low_in_the_standard_one():
    """Real against real, as facts measured elsewhere: 0.69 +- 0.07 and 0.30 +- 0.05 for the 8
    Gaussians."""
    toy = toy2d.toy("8gaussians")
    released = [
        [
            f(
                toy.draw(jax.random.key(2 * i), 5_000),
                toy.draw(jax.random.key(2 * i + 1), 5_000),
                half_range=2.0,
                convention="released",
            )
            for f in (histogram_kl, histogram_jsd)
        ]
        for i in range(5)
    ]
    kl, jsd = np.mean(released, axis=0)
    assert 0.5 < kl < 0.9
    assert 0.2 < jsd < 0.45
    many = jax.jit(lambda key: grid2d.counts_of(toy.draw, key, 2**20, 2.0))
    counts = [many(jax.random.key(i)) for i in (10, 11)]
    assert 0 <= grid2d.kl_of_counts(*counts, half_range=2.0) < 0.006
    assert 0 <= grid2d.jsd_of_counts(*counts, half_range=2.0) < 0.001


def test_counts_of_draws_what_it_says():
    draws = jax.jit(
        lambda key: grid2d.counts_of(
            lambda k, n: jax.random.normal(k, (n, 2)), key, 2 * grid2d.BLOCK, 2.0
        )
    )
    counts = np.asarray(draws(jax.random.key(0)))
    assert counts.sum() == 2 * grid2d.BLOCK
    inside = math.erf(2 / math.sqrt(2)) ** 2
    assert counts[:-1].sum() / counts.sum() == pytest.approx(inside, abs=0.005)


def test_a_range_that_cuts_off_data_warns_with_the_share_outside():
    x = np.concatenate([np.zeros((75, 2)), np.full((25, 2), 3.0)])
    with pytest.warns(UserWarning, match=r"25.00% of real lie outside \[-2, 2\]"):
        histogram_kl(x, x, half_range=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        histogram_kl(x, x, half_range=3.0)
        histogram_kl(x[:50], x, half_range=2.0)  # samples may leave


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((REAL, FAKE), {"half_range": 0.0}, "half_range must be greater than 0"),
        (
            (REAL, FAKE),
            {"half_range": 2.0, "convention": "standart"},
            "unknown convention 'standart'. Did you mean 'standard'",
        ),
        (
            (REAL[:, :1], FAKE),
            {"half_range": 2.0},
            r"real must be points \[n, 2\], not shape \(2000, 1\)",
        ),
        ((REAL, FAKE[:0]), {"half_range": 2.0}, r"fake must be points \[n, 2\]"),
        ((REAL, FAKE * np.nan), {"half_range": 2.0}, "fake holds points that are not finite"),
        (
            (REAL, FAKE + 9),
            {"half_range": 2.0, "convention": "released"},
            r"no sample lies in \[-2, 2\]\^2",
        ),
    ],
)
def test_what_they_refuse(args, options, message):
    for metric in (histogram_kl, histogram_jsd):
        with pytest.raises(UserError, match=message):
            metric(*args, **options)


def test_counts_of_an_unknown_convention_are_refused():
    counts = grid2d.counts(jnp.asarray(REAL), 2.0)
    for metric in (grid2d.kl_of_counts, grid2d.jsd_of_counts):
        with pytest.raises(
            UserError, match="unknown convention 'release'. Did you mean 'released'"
        ):
            metric(counts, counts, half_range=2.0, convention="release")


def test_an_energy_of_the_wrong_shape():
    with pytest.raises(UserError, match=r"one number per point, \[300\], not shape \(300, 2\)"):
        gn_elbo(lambda x: x, REAL[:300], half_range=2.0)
