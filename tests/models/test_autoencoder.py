"""The autoencoder's loss and what it corrupts, by hand; codes have no likelihood, and a fitted prior
samples them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import data, nets
from jaxvae.errors import UserError
from jaxvae.models import autoencoder, fit_mixture, latents, with_mixture
from jaxvae.types import Batch, Net

STEP = jnp.int32(0)
BATCH = Batch(jax.random.uniform(jax.random.key(9), (50, 40), minval=0.1))


def identity(size):
    """A net that hands on what it sees, with one parameter to move."""

    def apply(params, state, x, *, cond=None, rng=None, train):
        return x * params["w"], state

    return Net(lambda rng, x, cond=None: ({"w": jnp.ones(())}, {}), apply)


def seen(corruption, amount):
    """Returns what the decoder gives in training, x' itself, by the loss of every example."""
    options = {"corruption": corruption, "amount": amount, "likelihood": "gaussian"}
    model = autoencoder(identity(40), identity(40), latent_dim=40, **options)
    params, state = model.init(jax.random.key(0), BATCH)
    loss = jax.jit(
        lambda: model.objectives[0].loss(params, state, jax.random.key(1), BATCH, STEP, None)
    )
    value, aux = loss()
    error = 2.0 * (np.float64(value) - 20.0 * np.log(2 * np.pi))  # |x - x'|^2
    return error, np.float64(aux.metrics["code_norm"])


def test_the_loss_is_the_likelihood_of_x_given_the_corrupted_x():
    x = np.float64(BATCH.x)
    error, norm = seen("none", 0.3)
    np.testing.assert_allclose(error, 0.0, atol=1e-4)
    np.testing.assert_allclose(norm, np.linalg.norm(x, axis=1), rtol=1e-5)
    error, _ = seen("gaussian", 0.3)  # 0.09 chi^2 of 40
    assert error.mean() == pytest.approx(3.6, rel=0.1)
    assert error.std() == pytest.approx(0.09 * np.sqrt(80), rel=0.3)
    error, norm = seen("mask", 0.25)
    assert error.sum() == pytest.approx(0.25 * np.sum(x**2), rel=0.1)
    np.testing.assert_allclose(error + norm**2, np.sum(x**2, axis=1), rtol=1e-4)  # 0 or itself
    error, norm = seen("mask", 1.0)
    np.testing.assert_allclose(norm, 0.0, atol=1e-6)


def test_codes_are_points_and_a_mixture_samples_them():
    model = autoencoder(nets.mlp((), 2), nets.mlp((), 4), latent_dim=2, likelihood="gaussian")
    source = data.from_arrays(np.random.default_rng(0).random((60, 4), np.float32))
    params, state = model.init(jax.random.key(0), Batch(jnp.asarray(source.arrays["x"])))
    assert model.terms is None and model.sample is None
    q = model.encode(params, state, jnp.asarray(source.arrays["x"]))
    np.testing.assert_array_equal(q.sample(jax.random.key(3)), q.mean)
    with pytest.raises(UserError, match="has no density"):
        q.log_prob(q.mean)
    found = latents(model, params, state, source)
    np.testing.assert_allclose(found.source.arrays["x"], q.mean, rtol=1e-5)
    both = with_mixture(model, latent_dim=2)
    joined = {"first": params, "prior": fit_mixture(found)}
    x = both.sample(joined, {"first": state}, jax.random.key(0), 400)
    want = np.asarray(model.decode(params, state, q.mean).mean)
    np.testing.assert_allclose(np.mean(x, axis=0), want.mean(axis=0), atol=0.03)


def test_there_are_moments_over_data_and_none_over_samples_of_no_prior():
    model = autoencoder(nets.mlp((), 2), nets.mlp((), 4), latent_dim=2)
    batch, rng = Batch(BATCH.x[:, :4]), jax.random.key(0)
    params, state = model.init(rng, batch)
    assert model.moments(params, state, rng, batch) == state  # no BatchNorm
    with pytest.raises(UserError, match="no prior to draw samples from"):
        model.moments(params, state, rng, batch, over="samples")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruption": "blur"}, "unknown corruption 'blur'"),
        ({"amount": -1.0}, "amount must be at least 0"),
        ({"corruption": "mask", "amount": 1.5}, "amount must be at most 1"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        autoencoder(nets.mlp((), 2), nets.mlp((), 4), latent_dim=2, **options)
