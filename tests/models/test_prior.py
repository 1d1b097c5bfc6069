"""Another prior for a trained model: the bound it gives against exact densities, and a flow in the
place of the second stage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from jaxvae import data, distributions, models, nets
from jaxvae.distributions import Normal
from jaxvae.errors import UserError
from jaxvae.metrics import likelihood
from jaxvae.testing import check_model
from jaxvae.train import fit
from jaxvae.types import Batch, Model
from small import one_device

RNG = jax.random.key(0)
VARIANCE = 0.3  # of x given z


def plus_noise() -> Model:
    """x = z + noise, with a posterior that is a little too wide."""

    def init(rng, batch):
        return {}, {}

    def encode(params, state, x, cond=None, *, stats="running"):
        return Normal(x, jnp.full_like(x, np.log(2 * VARIANCE)))

    def decode(params, state, z, cond=None, *, stats="running"):
        return Normal(z, jnp.full_like(z, np.log(VARIANCE)))

    return Model(init, (), encode, decode)


def shifted() -> Model:
    """The prior N(params["mean"], 4 I)."""

    def init(rng, batch):
        return {"mean": jnp.zeros(2)}, {}

    def of(params, n):
        return Normal(jnp.broadcast_to(params["mean"], (n, 2)), jnp.full((n, 2), np.log(4.0)))

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        return distributions.sample(rng, of(params, n))

    def log_prob(params, state, x, cond=None, *, stats="running"):
        return distributions.log_prob(of(params, len(x)), x)

    return Model(init, (), sample=sample, log_prob=log_prob)


MEAN = np.asarray([1.0, -2.0], np.float32)
PARAMS, STATE = {"first": {}, "prior": {"mean": jnp.asarray(MEAN)}}, {"first": {}}


def test_bounds_are_of_the_given_prior():
    """x ~ N(mean, (4 + 0.3) I): importance weights find it, and the bound is below it by KL(q || p(z|x))."""
    model = models.with_prior(plus_noise(), shifted(), latent_dim=2)
    x = np.asarray([[0.0, 0.0], [2.0, -3.0], [-4.0, 1.0]], np.float32)
    exact = stats.multivariate_normal(MEAN, (4 + VARIANCE) * np.eye(2)).logpdf(x)
    found = likelihood.iw_bound(model, PARAMS, STATE, data.from_arrays(x), k=4000)
    np.testing.assert_allclose(found, exact, atol=0.02)

    many = Batch(jnp.asarray(np.repeat(x, 20_000, axis=0)))
    terms = model.terms(PARAMS, STATE, RNG, many)
    elbo = np.asarray(-terms.rec - terms.kl).reshape(3, -1).mean(1)
    variance = 1 / (1 / 4 + 1 / VARIANCE)  # of p(z|x)
    mean = variance * (MEAN / 4 + x / VARIANCE)
    ratio = 2 * VARIANCE / variance
    gap = 0.5 * (2 * (ratio - 1 - np.log(ratio)) + ((x - mean) ** 2).sum(1) / variance)
    np.testing.assert_allclose(elbo, exact - gap, atol=0.03)


def test_samples_are_decoded_draws_of_the_prior():
    model = models.with_prior(plus_noise(), shifted(), latent_dim=2)
    x = model.sample(PARAMS, STATE, RNG, 7)
    np.testing.assert_array_equal(x, shifted().sample(PARAMS["prior"], {}, RNG, 7))


def test_a_flow_is_trained_on_latents_and_keeps_the_contracts():
    first = plus_noise()
    x = np.random.default_rng(0).normal(2.0, 0.5, (200, 2)).astype(np.float32)
    z = models.latents(
        first, {}, {}, data.from_arrays(x), preprocess=lambda rng, found: Batch(found["x"])
    )
    prior = models.flow(nets.coupling(2, hidden=(8,)), 2, couplings=2, alpha=None)
    trained = fit(
        prior,
        optax.adam(3e-2),
        z.source,
        steps=60,
        batch_size=100,
        preprocess=z.preprocess,
        mesh=one_device(),
    )
    both, batch = models.with_prior(first, prior, latent_dim=2), Batch(jnp.asarray(x))
    start = prior.init(RNG, Batch(jnp.zeros((2, 2))))[0]
    before, after = (
        float(np.mean(both.terms({"first": {}, "prior": of}, {"first": {}}, RNG, batch).kl))
        for of in (start, trained.train_state.params)
    )
    q = first.encode({}, {}, batch.x)  # flows start as the identity, so p(z) as N(0, I)
    assert before == pytest.approx(float(np.mean(distributions.kl(q))), abs=0.5)
    assert after < before / 2
    check_model(both, Batch(batch.x[:16]))


def test_without_an_encoder_it_samples():
    model = models.with_prior(
        plus_noise()._replace(encode=None), shifted()._replace(log_prob=None), latent_dim=2
    )
    assert model.sample(PARAMS, STATE, RNG, 3).shape == (3, 2)
    assert model.encode is None and model.terms is None and model.log_weight is None


def test_what_cannot_be_a_prior():
    with pytest.raises(UserError, match="the first stage must decode"):
        models.with_prior(shifted(), shifted(), latent_dim=2)
    for prior in (shifted()._replace(log_prob=None), shifted()._replace(sample=None)):
        with pytest.raises(UserError, match="a prior must have sample and log_prob"):
            models.with_prior(plus_noise(), prior, latent_dim=2)
    with pytest.raises(UserError, match=r"latents of shape \(2,\), not \(3,\): fit it again"):
        models.with_prior(plus_noise(), shifted(), latent_dim=3).sample(PARAMS, STATE, RNG, 4)
