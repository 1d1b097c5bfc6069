"""Priors fitted after training: a Gaussian and a mixture of latents whose density is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxvae import Batch, data, distributions, models
from jaxvae.distributions import Normal
from jaxvae.errors import UserError
from jaxvae.metrics import likelihood
from jaxvae.models import mixture
from jaxvae.models.mixture import Mixture
from jaxvae.models.two_stage import Latents
from jaxvae.testing import check_model
from two_stages import RNG, D, first, images, linear


def test_the_model_with_a_mixture_passes_the_conformance_suite():
    check_model(models.with_mixture(first(), latent_dim=D, components=2), images())


def points(n: int = 4000):
    """Returns latents without noise from a known mixture of two Gaussians, and its moments."""
    rng = np.random.default_rng(0)
    factors = np.array([[[0.5, 0.0], [0.3, 0.2]], [[0.3, 0.0], [-0.2, 0.6]]])
    means = np.array([[-3.0, 0.0], [2.0, 1.0]])
    which = (rng.random(n) < 0.25).astype(int)
    z = means[which] + np.einsum("nij,nj->ni", factors[which], rng.normal(size=(n, 2)))
    arrays = {"x": z.astype(np.float32), "logvar": np.full((n, 2), -30.0, np.float32)}
    made = data.from_arrays(arrays["x"])._replace(
        arrays=arrays, read=lambda i: {k: v[i] for k, v in arrays.items()}
    )

    def redraw(rng, examples):
        return Batch(
            distributions.sample(
                rng, Normal(jnp.asarray(examples["x"]), jnp.asarray(examples["logvar"]))
            )
        )

    return Latents(made, redraw), z, means, factors


def test_the_gaussian_has_the_moments_of_the_latents():
    z_source, z, *_ = points()
    prior = models.fit_mixture(z_source)
    np.testing.assert_allclose(prior.mean[0], z.mean(0), atol=1e-5)
    np.testing.assert_allclose(prior.factor[0] @ prior.factor[0].T, np.cov(z.T), rtol=1e-4)
    np.testing.assert_array_equal(prior.weight, [1.0])


def test_the_mixture_is_found_and_sampled():
    z_source, _, means, factors = points()
    prior = models.fit_mixture(z_source, 2)
    order = np.argsort(np.asarray(prior.mean)[:, 0])
    np.testing.assert_allclose(np.asarray(prior.mean)[order], means, atol=0.05)
    np.testing.assert_allclose(np.asarray(prior.weight)[order], [0.75, 0.25], atol=0.03)
    model = models.with_mixture(linear(1.0, 1.0, 1.0), latent_dim=2, components=2)
    x = np.asarray(model.sample({"first": {}, "prior": prior}, {"first": {}}, RNG, 40_000))
    left = x[:, 0] < -0.5
    assert left.mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(np.cov(x[left].T), factors[0] @ factors[0].T, atol=0.02)


@pytest.mark.long
def test_importance_weighted_bounds_are_of_the_mixture():
    """x = z + noise, so that log p(x) is that of a mixture with wider components."""
    z_source, z, _, _ = points()
    prior = models.fit_mixture(z_source, 2)
    model = models.with_mixture(linear(1.0, 0.3, 0.2), latent_dim=2, components=2)
    params, state = {"first": {}, "prior": prior}, {"first": {}}
    x = z[:6].astype(np.float32)

    def log_p(points, extra):
        each = [
            w * stats.multivariate_normal(m, f @ f.T + extra * np.eye(2)).pdf(points)
            for w, m, f in zip(*(np.asarray(v, np.float64) for v in prior), strict=True)
        ]
        return np.log(np.sum(each, axis=0))

    np.testing.assert_allclose(
        mixture.log_prob(prior, jnp.asarray(x)), log_p(x, 0.0), rtol=1e-4, atol=1e-4
    )
    found = likelihood.iw_bound(model, params, state, data.from_arrays(x), k=4000)
    np.testing.assert_allclose(found, log_p(x, 0.2), atol=0.05)


def test_a_standard_prior_is_where_it_starts():
    model = models.with_mixture(linear(1.0, 1.0, 1.0), latent_dim=2, components=3)
    params, state = model.init(RNG, Batch(jnp.zeros((2, 2))))
    x = np.asarray(model.sample(params, state, RNG, 20_000))
    np.testing.assert_allclose(np.cov(x.T), np.eye(2), atol=0.05)


def test_a_prior_of_another_size():
    model = models.with_mixture(linear(1.0, 1.0, 1.0), latent_dim=2)
    prior = Mixture(jnp.ones(1), jnp.zeros((1, 3)), jnp.eye(3)[None])
    with pytest.raises(UserError, match="fit it again"):
        model.sample({"first": {}, "prior": prior}, {"first": {}}, RNG, 4)


def test_too_few_examples_for_a_mixture():
    z_source, *_ = points(5)
    with pytest.raises(
        UserError, match=r"2 covariance\(s\) of 2 dimensions need 6 examples, not 5"
    ):
        models.fit_mixture(z_source, 2)
