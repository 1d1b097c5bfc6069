"""Densities and divergences against formulas written out in float64, and against Monte Carlo."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from jaxvae import distributions
from jaxvae.distributions import Bernoulli, Normal
from jaxvae.errors import UserError
from jaxvae.types import Posterior

pytestmark = pytest.mark.smoke

MEAN = np.array([[0.3, -1.2, 4.0], [0.0, 2.5, -0.1]])
LOGVAR = np.array([[-3.0, 0.0, 1.5], [0.7, -0.2, -6.0]])
X = np.array([[0.5, -1.0, 2.0], [0.4, 2.5, -0.2]])


def single(x) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def normal() -> Normal:
    return Normal(single(MEAN), single(LOGVAR))


# ---- Normal ----------------------------------------------------------------------------------


def test_normal_log_prob():
    want = scipy.stats.norm(MEAN, np.exp(0.5 * LOGVAR)).logpdf(X).sum(axis=1)
    np.testing.assert_allclose(distributions.log_prob(normal(), single(X)), want, rtol=1e-5)


def test_normal_log_prob_sums_over_every_axis_but_the_batch():
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 2))
    mean = np.zeros_like(x)
    have = Normal(single(mean), single(0.4)).log_prob(single(x))  # one variance for all pixels
    want = scipy.stats.norm(0.0, np.exp(0.2)).logpdf(x).reshape(2, -1).sum(axis=1)
    np.testing.assert_allclose(have, want, rtol=1e-5)


def test_normal_kl():
    want = 0.5 * (MEAN**2 + np.exp(LOGVAR) - 1.0 - LOGVAR)
    np.testing.assert_allclose(normal().kl_per_dim(), want, rtol=1e-5)
    np.testing.assert_allclose(distributions.kl(normal()), want.sum(axis=1), rtol=1e-5)


def test_normal_kl_is_the_integral_of_its_definition():
    mean, logvar = 0.8, -1.1
    q, p = scipy.stats.norm(mean, np.exp(0.5 * logvar)), scipy.stats.norm()
    want, _ = scipy.integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -10, 10)
    np.testing.assert_allclose(
        distributions.kl(Normal(single([[mean]]), single([[logvar]]))), [want], rtol=1e-5
    )


def test_normal_kl_by_monte_carlo():
    n = 200_000
    q = Normal(jnp.tile(single(MEAN[:1]), (n, 1)), jnp.tile(single(LOGVAR[:1]), (n, 1)))
    z = distributions.sample(jax.random.key(0), q)
    ratio = np.asarray(
        q.log_prob(z) - Normal(jnp.zeros_like(z), jnp.zeros(())).log_prob(z), np.float64
    )
    error = ratio.std() / np.sqrt(n)
    assert error < 0.02
    assert abs(ratio.mean() - float(normal().kl()[0])) < 4.0 * error


def test_kl_at_a_draw_is_the_closed_form_or_else_the_ratio_of_densities():
    class Open:  # a distribution without a KL
        log_prob = staticmethod(normal().log_prob)
        sample = staticmethod(normal().sample)

    z = single(X)
    np.testing.assert_array_equal(distributions.kl_at(normal(), z), normal().kl())
    q, p = scipy.stats.norm(MEAN, np.exp(0.5 * LOGVAR)), scipy.stats.norm()
    want = (q.logpdf(X) - p.logpdf(X)).sum(axis=1)
    np.testing.assert_allclose(distributions.kl_at(Open(), z), want, rtol=1e-5)


def test_normal_kl_of_the_prior_is_zero():
    np.testing.assert_array_equal(Normal(jnp.zeros((2, 3)), jnp.zeros((2, 3))).kl(), np.zeros(2))


def exact_excess(logvar: np.float32) -> float:
    """Returns e^v - 1 - v of a float32 number, with 60 digits on the way."""
    with decimal.localcontext(prec=60):
        v = decimal.Decimal(float(logvar))
        return float(v.exp() - 1 - v)


def test_normal_kl_is_precise_and_never_negative_near_the_prior():
    sizes = [10.0**-k for k in range(1, 8)] + [0.3, 0.999, 1.0, 1.001, 5.0]
    logvar = np.array([0.0, *sizes, *(-v for v in sizes)], np.float32)[:, None]
    for mean in (0.0, 1e-6, -1e-3, 0.2):
        q = Normal(jnp.full_like(logvar, mean), jnp.asarray(logvar))
        want = [0.5 * (float(np.float32(mean)) ** 2 + exact_excess(v)) for v in logvar[:, 0]]
        np.testing.assert_allclose(q.kl_per_dim()[:, 0], want, rtol=1e-6)
        np.testing.assert_allclose(q.kl(), want, rtol=1e-6)
        assert (np.asarray(q.kl()) >= 0.0).all()


@pytest.mark.parametrize("logvar", [-80.0, -1.0, -1e-4, 0.0, 1e-4, 1.0, 80.0])
def test_the_gradient_of_normal_kl_is_precise(logvar):
    grad = jax.grad(lambda v: Normal(jnp.zeros(()), v).kl_per_dim())(single(logvar))
    np.testing.assert_allclose(grad, 0.5 * np.expm1(np.float64(np.float32(logvar))), rtol=1e-5)


def test_normal_samples_have_its_moments():
    n = 100_000
    z = np.asarray(
        Normal(jnp.full((n, 1), 3.0), jnp.full((n, 1), -2.0)).sample(jax.random.key(1)), np.float64
    )
    sd = np.exp(-1.0)
    assert abs(z.mean() - 3.0) < 4.0 * sd / np.sqrt(n)
    assert abs(z.std() - sd) < 4.0 * sd / np.sqrt(2 * n)


def test_normal_samples_are_reparametrised():
    def total(mean, logvar):
        return jnp.sum(Normal(mean, logvar).sample(jax.random.key(2)))

    z, zero = normal().sample(jax.random.key(2)), jnp.zeros((2, 3))
    noise = Normal(zero, zero).sample(jax.random.key(2))
    by_mean, by_logvar = jax.grad(total, (0, 1))(single(MEAN), single(LOGVAR))
    np.testing.assert_allclose(z, MEAN + np.exp(0.5 * LOGVAR) * np.asarray(noise), rtol=1e-5)
    np.testing.assert_array_equal(by_mean, np.ones((2, 3)))
    np.testing.assert_allclose(by_logvar, 0.5 * np.exp(0.5 * LOGVAR) * np.asarray(noise), rtol=1e-5)


# ---- Bernoulli -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels", [[0.0, 1.0, 1.0, 0.0], [0.2, 0.9, 0.5, 0.0]], ids=["binary", "grey"]
)
def test_bernoulli_log_prob(pixels):
    logits, x = np.array([[-2.0, 0.3, 5.0, 0.0]]), np.array([pixels])
    p = scipy.special.expit(logits)
    want = (x * np.log(p) + (1.0 - x) * np.log1p(-p)).sum(axis=1)
    np.testing.assert_allclose(
        distributions.log_prob(Bernoulli(single(logits)), single(x)), want, rtol=1e-5
    )
    grads = jax.grad(lambda at: jnp.sum(Bernoulli(at).log_prob(single(x))))(single(logits))
    np.testing.assert_allclose(grads, x - p, rtol=1e-5, atol=1e-6)  # at logit 0 as well


def test_bernoulli_at_logit_zero_costs_log_2_a_pixel():
    x = single(np.random.default_rng(0).uniform(size=(3, 5, 5, 1)))
    np.testing.assert_allclose(
        Bernoulli(jnp.zeros_like(x)).log_prob(x), np.full(3, -25 * np.log(2.0)), rtol=1e-6
    )


@pytest.mark.parametrize("logit", [1e2, 1e4, 1e30])
def test_bernoulli_with_extreme_logits_is_finite_and_right(logit):
    logits = single([[logit], [-logit], [logit], [-logit]])
    x = single([[1.0], [0.0], [0.0], [1.0]])
    np.testing.assert_allclose(
        Bernoulli(logits).log_prob(x), [0.0, 0.0, -logit, -logit], rtol=1e-6, atol=1e-6
    )
    grads = jax.grad(lambda at: jnp.sum(Bernoulli(at).log_prob(x)))(logits)
    np.testing.assert_allclose(grads, [[0.0], [0.0], [-1.0], [1.0]], atol=1e-6)


def test_bernoulli_mean_and_samples():
    n = 50_000
    dist = Bernoulli(jnp.full((n, 1), -0.7))
    p = scipy.special.expit(-0.7)
    x = np.asarray(dist.sample(jax.random.key(3)), np.float64)
    np.testing.assert_allclose(dist.mean[0, 0], p, rtol=1e-6)
    assert set(np.unique(x)) == {0.0, 1.0}
    assert abs(x.mean() - p) < 4.0 * np.sqrt(p * (1 - p) / n)


# ---- shapes and names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dist", [Normal(jnp.zeros((4, 3)), jnp.zeros(())), Bernoulli(jnp.zeros((4, 3)))]
)
@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 1), (1, 3)])
def test_x_must_have_the_shape_of_the_distribution(dist, shape):
    with pytest.raises(
        UserError,
        match=rf"{type(dist).__name__}.log_prob: x has shape .*, the distribution \(4, 3\)",
    ):
        distributions.log_prob(dist, jnp.zeros(shape))


def test_the_normal_posterior_reads_means_then_log_variances():
    q = distributions.posterior("normal")
    dist = q.build(single([[1.0, 2.0, 3.0, 4.0]]))
    assert q.size(5) == 10
    np.testing.assert_array_equal(dist.mean, [[1.0, 2.0]])
    np.testing.assert_array_equal(dist.logvar, [[3.0, 4.0]])


def test_a_posterior_of_ones_own_is_taken_as_it_is():
    kind = Posterior(
        size=lambda latent_dim: latent_dim, build=lambda output: Normal(output, jnp.zeros(()))
    )
    assert distributions.posterior(kind) is kind


def test_an_unknown_posterior_gets_the_nearest_name():
    with pytest.raises(UserError, match="unknown posterior 'norml'. Did you mean 'normal'"):
        distributions.posterior("norml")


@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 2), (6,)])
def test_an_encoder_of_another_size_is_refused(shape):
    with pytest.raises(UserError, match=r"needs \[batch, 6\]: build the encoder with out=6"):
        distributions.check_posterior(distributions.posterior("normal"), 3, jnp.zeros(shape))
