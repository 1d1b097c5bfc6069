"""Directions of a decoder that is known, and singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.distributions import AR1Normal, Normal, ReadmeAR1, ReleasedAR1
from jaxvae.errors import UserError
from jaxvae.metrics import latent
from jaxvae.models.rho_vae import SampleForMean
from jaxvae.types import Model
from small import precisions

WEIGHTS = jnp.asarray(
    [[0.0, 0.0, 0.0], [3.0, 0.0, 4.0], [1.0, 0.0, 0.0]]
)  # z [3] -> x [3]: row j is the effect of z_j
LOGVAR = jnp.log(jnp.asarray([1.0, 0.01, 0.1]))


def model() -> Model:
    def encode(params, state, x, cond=None):
        return Normal(x, jnp.broadcast_to(LOGVAR, x.shape))

    def decode(params, state, z, cond=None):
        return Normal((z @ WEIGHTS).reshape(-1, 3, 1, 1), jnp.zeros(()))

    return Model(lambda rng, batch: ({}, {}), (), encode, decode)


def test_directions_are_ordered_by_posterior_variance():
    x = jax.random.normal(jax.random.key(0), (20, 3))
    found = latent.directions(model(), {}, {}, x, rng=jax.random.key(1), samples=2000)
    np.testing.assert_array_equal(found.index, [1, 2, 0])
    np.testing.assert_allclose(found.posterior_variance, [0.01, 0.1, 1.0], rtol=1e-5)
    np.testing.assert_allclose(found.image_variance, [25.0, 1.0, 0.0], rtol=0.15, atol=1e-9)


def test_latent_metrics_have_the_highest_precision_whatever_the_environment_says():
    z, offsets = jnp.ones((1, 3)), jnp.ones(2)
    seen = []

    def encode(params, state, x, cond=None):
        seen.append(jax.config.jax_default_matmul_precision)
        return Normal(x, jnp.broadcast_to(LOGVAR, x.shape))

    with jax.default_matmul_precision("bfloat16"):
        along = lambda z: latent.along(model(), {}, {}, z, 1, offsets)  # noqa: E731
        assert precisions(along, z) == {"HIGHEST"}
        coded = model()._replace(encode=encode)
        latent.directions(coded, {}, {}, z, rng=jax.random.key(0), samples=2)
    assert seen == ["highest"]


def test_along():
    z = jnp.asarray([[1.0, 2.0, 3.0]])
    x = latent.along(model(), {}, {}, z, 1, jnp.asarray([0.0, 1.0]))
    np.testing.assert_allclose(x[0, :, :, 0, 0], [[9.0, 0.0, 8.0], [12.0, 0.0, 12.0]])


def test_one_variance_for_all():
    dist = AR1Normal(jnp.zeros((2, 3)), jnp.zeros((2, 1)), jnp.log(jnp.full((2, 1), 0.5)))
    np.testing.assert_allclose(latent.posterior_variance(dist), np.full((2, 3), 0.5), rtol=1e-6)


@pytest.mark.parametrize("kind", [ReadmeAR1, ReleasedAR1])
def test_variances_that_differ_though_the_log_variance_is_one(kind):
    rows = 100_000
    dist = kind(jnp.ones((rows, 5)), jnp.full((rows, 1), -0.8), jnp.log(jnp.full((rows, 1), 0.5)))
    np.testing.assert_allclose(
        jnp.var(dist.sample(jax.random.key(0)), axis=0),
        latent.posterior_variance(dist)[0],
        rtol=0.03,
    )
    np.testing.assert_array_equal(
        latent.posterior_variance(SampleForMean(dist, AR1Normal(*dist))), dist.variance
    )
    assert latent.posterior_variance(dist)[0, -1] > 2 * latent.posterior_variance(dist)[0, 0]


def test_singular_values():
    z = np.random.default_rng(0).normal(size=(50, 4))
    np.testing.assert_allclose(
        latent.singular_values(z), np.linalg.svd(z, compute_uv=False), rtol=1e-10
    )
    rank_one = np.outer(np.arange(5.0), [1.0, 2.0])
    np.testing.assert_allclose(latent.singular_values(rank_one), [np.sqrt(30 * 5), 0.0], atol=1e-6)


def test_bad_input():
    with pytest.raises(UserError, match="encodes and decodes"):
        latent.directions(
            model()._replace(decode=None), {}, {}, jnp.zeros((2, 3)), rng=jax.random.key(0)
        )
    with pytest.raises(UserError, match="does not decode"):
        latent.along(model()._replace(decode=None), {}, {}, jnp.zeros((2, 3)), 0, jnp.zeros(1))
    with pytest.raises(UserError, match="samples must be at least 2"):
        latent.directions(model(), {}, {}, jnp.zeros((2, 3)), rng=jax.random.key(0), samples=1)
    with pytest.raises(UserError, match="finite"):
        latent.singular_values(np.full((3, 2), np.nan))
    with pytest.raises(UserError, match="has no variance"):
        latent.posterior_variance(object())
