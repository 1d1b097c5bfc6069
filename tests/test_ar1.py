"""The AR(1) normal and its two relatives against dense matrices in float64, Monte Carlo and finite
differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxvae import arithmetic, distributions
from jaxvae.distributions import AR1Normal, Normal, ReadmeAR1, ReleasedAR1
from jaxvae.errors import UserError

DIMS = (1, 2, 10, 64)
RHOS = (-0.999, -0.6, 0.0, 0.3, 0.9, 0.999)
KINDS = (AR1Normal, ReadmeAR1, ReleasedAR1)


def lag(d: int) -> np.ndarray:
    i = np.arange(d)
    return i[:, None] - i


def dense(kind, rho: float, logvar: float, d: int) -> np.ndarray:
    """Returns the covariance [D, D] of what `kind` samples, from its definition."""
    if kind is AR1Normal:
        return np.exp(logvar) * np.where(lag(d) == 0, 1.0, rho ** np.abs(lag(d)))
    r = rho if kind is ReadmeAR1 else 1.0
    root = np.where(lag(d) >= 0, np.where(lag(d) == 0, 1.0, r ** np.maximum(lag(d), 1)), 0.0)
    return np.exp(logvar) * root @ root.T


def dense_kl(mean: np.ndarray, cov: np.ndarray) -> float:
    return 0.5 * (np.trace(cov) + mean @ mean - len(mean) - np.linalg.slogdet(cov)[1])


def parameters(d: int, rho: float, b: int = 3):
    rng = np.random.default_rng(d)
    return (
        rng.normal(size=(b, d)),
        np.full((b, 1), rho),
        rng.normal(size=(b, 1)),
        rng.normal(size=(b, d)),
    )


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("kind", KINDS)
def test_kl_and_log_prob_are_the_dense_ones_in_float64(kind, d):
    for rho in RHOS:
        mean, r, logvar, x = parameters(d, rho)
        with jax.enable_x64(True):
            q = kind(*map(jnp.asarray, (mean, r, logvar)))
            kl, log_prob = np.asarray(q.kl()), np.asarray(q.log_prob(jnp.asarray(x)))
        covs = [dense(kind, rho, v, d) for v in logvar[:, 0]]
        np.testing.assert_allclose(
            kl, [dense_kl(m, c) for m, c in zip(mean, covs, strict=True)], rtol=1e-9
        )
        e = x - mean
        want = [
            -0.5 * (v @ np.linalg.solve(c, v) + np.linalg.slogdet(c)[1] + d * np.log(2 * np.pi))
            for v, c in zip(e, covs, strict=True)
        ]
        np.testing.assert_allclose(log_prob, want, rtol=1e-9)


def test_log_prob_is_scipys():
    mean, r, logvar, x = parameters(5, 0.7, b=1)
    want = scipy.stats.multivariate_normal(mean[0], dense(AR1Normal, 0.7, logvar[0, 0], 5)).logpdf(
        x[0]
    )
    have = AR1Normal(*(jnp.asarray(v, jnp.float32) for v in (mean, r, logvar))).log_prob(
        jnp.asarray(x, jnp.float32)
    )
    np.testing.assert_allclose(have, [want], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rho", [-0.7, 0.9])
def test_samples_have_the_covariance(kind, rho):
    n, d, logvar = 200_000, 10, -0.4
    q = kind(jnp.full((n, d), 2.0), jnp.full((n, 1), rho), jnp.full((n, 1), logvar))
    z = np.asarray(distributions.sample(jax.random.key(0), q), np.float64)
    cov = dense(kind, rho, logvar, d)
    # a sample covariance of Gaussians has variance (c_ii c_jj + c_ij^2) / n; 55 numbers, so 4.5 of
    # them
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    assert np.all(np.abs(np.cov(z.T) - cov) < 4.5 * error)
    assert np.all(np.abs(z.mean(axis=0) - 2.0) < 4.5 * np.sqrt(np.diag(cov) / n))


@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_its_monte_carlo_estimate(kind):
    n = 100_000
    mean, r, logvar, _ = parameters(6, 0.8, b=1)
    q = kind(*(jnp.tile(jnp.asarray(v, jnp.float32), (n, 1)) for v in (mean, r, logvar)))
    z = distributions.sample(jax.random.key(1), q)
    ratio = np.asarray(
        q.log_prob(z) - Normal(jnp.zeros_like(z), jnp.zeros(())).log_prob(z), np.float64
    )
    assert abs(ratio.mean() - float(q.kl()[0])) < 4.0 * ratio.std() / np.sqrt(n)


@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_precise_and_never_negative_near_the_prior(kind):
    """In float32, against the sum of its parts in float64, none of which is below 0."""
    for rho, logvar in itertools.product((0.0, 1e-6, -1e-3, 0.1, 0.6), (0.0, 1e-7, -1e-5, -1e-3)):
        rho, logvar = np.float32(rho), np.float32(logvar)
        q = kind(jnp.zeros((1, 4)), jnp.full((1, 1), rho), jnp.full((1, 1), logvar))
        r, v = float(rho), float(logvar)
        of_variance = 4 * 0.5 * (v**2 / 2 + v**3 / 6 + v**4 / 24)
        if kind is AR1Normal:
            want = of_variance - 0.5 * 3 * np.log1p(-(r**2))
        else:
            r = r if kind is ReadmeAR1 else 1.0
            of_rho = 3 * r**2 + 2 * r**4 + r**6  # what var_j / s has above 1, over j
            want = of_variance + 0.5 * np.exp(v) * of_rho
        np.testing.assert_allclose(q.kl(), [want], rtol=1e-6, err_msg=f"{rho}, {logvar}")
        assert q.kl()[0] >= 0.0


@pytest.mark.parametrize("d", DIMS)
def test_rho_zero_is_the_normal_to_the_bit(d):
    mean, r, logvar, x = (jnp.asarray(v, jnp.float32) for v in parameters(d, 0.0))
    q, p, rng = AR1Normal(mean, r, logvar), Normal(mean, logvar), jax.random.key(3)
    np.testing.assert_array_equal(q.sample(rng), p.sample(rng))
    np.testing.assert_array_equal(q.kl(), p.kl())
    np.testing.assert_array_equal(
        q.log_prob(x), Normal(jnp.zeros_like(x), logvar).log_prob(x - mean)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rho", [-0.95, 0.0, 0.5, 0.99])
def test_gradients_are_finite_differences_in_float64(kind, rho):
    *values, x = parameters(7, rho)
    functions = {
        "kl": lambda *v: jnp.sum(kind(*v).kl()),
        "penalty": lambda *v: jnp.sum(distributions.penalty(kind(*v), v[0])),
        "log_prob": lambda *v: jnp.sum(kind(*v).log_prob(jnp.asarray(x))),
        "sample": lambda *v: jnp.sum(jnp.sin(kind(*v).sample(jax.random.key(0)))),
    }
    with jax.enable_x64(True):
        values = [jnp.asarray(v) for v in values]
        for name, f in functions.items():
            grads, h = jax.jit(jax.grad(f, (0, 1, 2)))(*values), 1e-6
            f = jax.jit(f)
            for i, grad in enumerate(grads):
                at = np.zeros(values[i].shape)
                at[1, -1] = h
                up, down = (
                    float(f(*values[:i], values[i] + sign * at, *values[i + 1 :]))
                    for sign in (1.0, -1.0)
                )
                np.testing.assert_allclose(
                    grad[1, -1], (up - down) / (2 * h), rtol=1e-5, atol=1e-7, err_msg=f"{name}, {i}"
                )


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_finite_and_right_up_to_the_last_rho(kind, sign):
    rho = np.float32(sign * arithmetic.MAX_RHO)
    mean, r, logvar, x = parameters(64, float(rho))
    single = [jnp.asarray(v, jnp.float32) for v in (mean, r, logvar)]

    def everything(*v):
        q = kind(*v)
        return (
            jnp.sum(q.kl())
            + 1e-6 * jnp.sum(q.log_prob(jnp.asarray(x, jnp.float32)))
            + jnp.sum(q.sample(jax.random.key(0)))
        )

    value, grads = jax.value_and_grad(everything, (0, 1, 2))(*single)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, grads)))
    with jax.enable_x64(True):
        want = kind(*(jnp.asarray(np.asarray(v), jnp.float64) for v in single)).kl()
    np.testing.assert_allclose(kind(*single).kl(), want, rtol=1e-5)


# ---- what the loss pays ----------------------------------------------------------------------


def test_penalties_by_hand():
    d, b = 4, 5
    rng = np.random.default_rng(2)
    mean, rho, logvar = (
        rng.normal(size=(b, d)),
        rng.uniform(-0.9, 0.9, (b, 1)),
        rng.normal(size=(b, 1)),
    )
    of_mean = 0.5 * (mean**2).sum(axis=1)
    rest = 0.5 * (-d * logvar - (d - 1) * np.log(1 - rho**2) + d * (np.exp(logvar) - 1))[:, 0]
    single = [jnp.asarray(v, jnp.float32) for v in (mean, rho, logvar)]
    z = jnp.zeros((b, d))
    np.testing.assert_allclose(
        distributions.penalty(AR1Normal(*single), z), of_mean + rest, rtol=1e-5
    )
    np.testing.assert_allclose(
        distributions.penalty(ReadmeAR1(*single), z), of_mean + rest, rtol=1e-5
    )
    released = distributions.penalty(ReleasedAR1(*single), z)
    np.testing.assert_allclose(released, of_mean + rest / b, rtol=1e-5)
    np.testing.assert_allclose(
        distributions.penalty(ReleasedAR1(*single), z, 128), of_mean + rest / 128, rtol=1e-5
    )
    # the sum over the batch, as the released code writes it; it lacks (1 - 1/B) of the second part
    total = np.asarray(released, np.float64).sum()
    np.testing.assert_allclose(total, of_mean.sum() + rest.mean(), rtol=1e-5)
    np.testing.assert_allclose((of_mean + rest).sum() - total, (1 - 1 / b) * rest.sum(), rtol=1e-4)


def test_the_released_divisor_is_the_global_batch_under_pmap():
    mean, rho, logvar, _ = (jnp.asarray(v, jnp.float32) for v in parameters(3, 0.5, b=16))
    one = distributions.penalty(ReleasedAR1(mean, rho, logvar), mean)
    slices = [v.reshape(8, 2, -1) for v in (mean, rho, logvar)]
    many = jax.pmap(
        lambda *v: distributions.penalty(ReleasedAR1(*v), v[0]),
        axis_name=distributions.parallel.AXIS,
    )(*slices)
    np.testing.assert_allclose(many.reshape(-1), one, rtol=1e-6)


def test_in_two_dimensions_ar1_is_a_rotated_normal():
    """Eigenvectors (1, 1) and (1, -1) whatever rho: the family is the diagonal one in a fixed
    basis, so it can gain nothing."""
    rho, logvar = 0.8, -0.3
    rotation = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)
    rotated = rotation @ dense(AR1Normal, rho, logvar, 2) @ rotation.T
    np.testing.assert_allclose(rotated, np.exp(logvar) * np.diag([1 + rho, 1 - rho]), atol=1e-12)


# ---- the posterior, and what it refuses ------------------------------------------------------


def test_the_ar1_posterior_reads_mean_rho_logvar():
    q = distributions.posterior("ar1")
    assert q.size(3) == 5
    dist = q.build(jnp.asarray([[1.0, 2.0, 3.0, 0.5, -1.0], [0.0, 0.0, 0.0, 100.0, 0.0]]))
    assert isinstance(dist, AR1Normal)
    np.testing.assert_array_equal(dist.mean[0], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(dist.rho[:, 0], [np.tanh(0.5), arithmetic.MAX_RHO], rtol=1e-6)
    np.testing.assert_array_equal(dist.logvar[:, 0], [-1.0, 0.0])
    np.testing.assert_array_equal(distributions.metrics(dist)["rho_saturated"], [0.0, 1.0])
    kinds = [
        type(distributions.posterior(name).build(jnp.zeros((1, 5))))
        for name in ("ar1-readme", "ar1-released")
    ]
    assert kinds == [ReadmeAR1, ReleasedAR1]


@pytest.mark.parametrize("start", [-30.0, 8.0, 12.0, 30.0])
def test_a_saturated_posterior_comes_back(start):
    """Gradient descent on the KL alone, D = 10: it starts at 59 nats, and the prior is where it
    ends."""
    build = distributions.posterior("ar1").build

    def kl(a):
        return build(jnp.zeros((1, 12)).at[0, -2].set(a)).kl()[0]

    np.testing.assert_allclose(kl(start), 59.0, atol=0.5)
    assert distributions.metrics(build(jnp.full((1, 12), start)))["rho_saturated"] == 1.0

    def descend(a, _):
        return a - 0.05 * jax.grad(kl)(a), None

    end, _ = jax.lax.scan(descend, jnp.asarray(start), length=120)
    assert kl(end) < 0.1


def test_outputs_in_bfloat16_stay_finite():
    q = jax.jit(distributions.posterior("ar1").build)(jnp.full((2, 5), 8.0, jnp.bfloat16))
    assert q.rho.dtype == jnp.float32 and np.isfinite(q.kl()).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rho", [1.0, -1.0, 1.5, np.nan])
def test_rho_outside_is_refused(kind, rho):
    q = kind(jnp.zeros((2, 3)), jnp.full((2, 1), rho), jnp.zeros((2, 1)))
    with pytest.raises(UserError, match="must lie inside"):
        q.kl()
    with pytest.raises(UserError, match="must lie inside"):
        q.sample(jax.random.key(0))
    with pytest.raises(UserError, match="must lie inside"):
        q.log_prob(jnp.zeros((2, 3)))


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3), (2,), (2, 1)),
        ((2, 3), (2, 1), (2, 3)),
        ((2, 0), (2, 1), (2, 1)),
        ((3,), (2, 1), (2, 1)),
    ],
)
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(UserError, match="mean \\[B, D\\]"):
        AR1Normal(*map(jnp.zeros, shapes)).kl()


def test_an_unknown_convention_gets_the_nearest_name():
    with pytest.raises(UserError, match="unknown convention 'release'. Did you mean 'released'?"):
        distributions.ar1("release")
