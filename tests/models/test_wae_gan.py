"""WAE-GAN's two losses against values worked out by hand, and its contract."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import nets
from jaxvae.errors import UserError
from jaxvae.models import wae_gan
from jaxvae.testing import check_model
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch, Net

X = np.asarray([[0.1, 0.9, 0.4], [0.7, 0.2, 0.6], [0.5, 0.5, 0.0], [1.0, 0.3, 0.8]], np.float32)
A, B = np.asarray([0.6, -1.1], np.float32), np.float32(0.3)  # the discriminator is A z + B
DIM, STEP = 2, jnp.int32(0)


def linear():
    def apply(params, state, z, *, cond=None, rng=None, train):
        return jnp.sum(z * params["a"], axis=-1) + params["b"], state

    return Net(lambda rng, z, cond=None: ({"a": jnp.asarray(A), "b": jnp.asarray(B)}, {}), apply)


def pair():
    """An encoder of hardly any noise, so that z is its mean."""

    def apply(params, state, x, *, cond=None, rng=None, train):
        mean = x[:, :DIM] * params["w"]
        return jnp.concatenate([mean, jnp.full_like(mean, -40.0)], axis=-1), state

    encoder = Net(lambda rng, x, cond=None: ({"w": jnp.full((), 1.5)}, {}), apply)
    return encoder, nets.mlp((), 3)


def losses_of(**options):
    model = wae_gan(*pair(), linear(), latent_dim=DIM, likelihood="gaussian", gamma=0.5, **options)
    batch = Batch(jnp.asarray(X))

    def walk():
        params, state = model.init(jax.random.key(0), batch)
        found = {}
        for objective in model.objectives:
            value, aux = objective.loss(params, state, jax.random.key(1), batch, STEP, None)
            found |= {objective.name: value, **aux.metrics}
        return found, params

    found, params = jax.jit(walk)()
    return model, jax.tree.map(np.asarray, found), params


def softplus(x):
    return np.log1p(np.exp(x))


@pytest.mark.parametrize("trick", [False, True])
def test_losses_are_those_of_the_paper(trick):
    model, found, params = losses_of(weight=7.0, prior_trick=trick)
    z = 1.5 * X[:, :DIM].astype(np.float64)
    logit = z @ A + B
    if trick:
        logit = logit - 0.5 * np.sum(z**2, axis=1) - np.log(2.0 * np.pi)
    dense = params["decoder"]["Dense_0"]
    x_hat = z @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    rec = np.sum((X - x_hat) ** 2, axis=1) + 1.5 * np.log(np.pi)  # variance 1/2
    np.testing.assert_allclose(found["on_posterior"], logit, rtol=1e-5)
    np.testing.assert_allclose(found["rec"], rec, rtol=1e-5)
    np.testing.assert_allclose(found["adversary"], softplus(-logit), rtol=1e-5)
    np.testing.assert_allclose(found["loss"], rec + 7.0 * softplus(-logit), rtol=1e-5)
    of_prior = softplus(-found["on_prior"].astype(np.float64))
    np.testing.assert_allclose(found["discriminator_loss"], of_prior + softplus(logit), rtol=1e-5)
    assert [o.wrt for o in model.objectives] == [("discriminator",), ("encoder", "decoder")]


def test_the_kl_has_its_weight_and_the_discriminator_none():
    _, plain, _ = losses_of(weight=7.0)
    _, weighted, _ = losses_of(weight=3.0, beta=0.25)
    more = weighted["loss"] - weighted["rec"] - 3.0 * weighted["adversary"]
    z = 1.5 * X[:, :DIM]
    kl = 0.5 * np.sum(z**2 + np.exp(-40.0) + 40.0 - 1.0, axis=1)
    np.testing.assert_allclose(more, 0.25 * kl, rtol=1e-4)
    np.testing.assert_array_equal(plain["discriminator_loss"], weighted["discriminator_loss"])


def test_the_prior_is_what_the_discriminator_sees_of_the_prior():
    """Of N(0, I) and A z + B the outputs are N(B, |A|^2)."""
    model = wae_gan(*pair(), linear(), latent_dim=DIM, likelihood="gaussian")
    batch = Batch(jnp.zeros((20_000, 3)))

    def outputs():
        params, state = model.init(jax.random.key(0), batch)
        loss = model.objectives[0].loss
        return loss(params, state, jax.random.key(1), batch, STEP, None)[1].metrics["on_prior"]

    found = np.asarray(jax.jit(outputs)())
    assert found.mean() == pytest.approx(B, abs=0.04)
    assert found.var() == pytest.approx(float(A @ A), rel=0.05)


def test_latents_are_drawn_to_the_prior():
    """An encoder that starts far from the prior is pushed towards it, which the weight 0 does not
    do."""
    x = Batch(2.0 + 0.5 * jax.random.normal(jax.random.key(2), (256, 1)))
    means = {}
    for weight in (0.0, 20.0):
        trio = nets.mlp((), 2), nets.mlp((8,), 1), nets.mlp((16,), ())
        model = wae_gan(*trio, latent_dim=1, weight=weight, likelihood="gaussian")
        tx = optax.adam(2e-2)

        @jax.jit
        def run(model=model, tx=tx):
            step = make_train_step(model, tx)
            state = init_state(model, tx, jax.random.key(0), x)
            bias = state.params["encoder"]["Dense_0"]["bias"].at[0].set(4.0)
            state.params["encoder"]["Dense_0"]["bias"] = bias
            state = jax.lax.scan(lambda s, _: (step(s, x)[0], None), state, None, 400)[0]
            return model.encode(state.params, state.state, x.x).mean

        means[weight] = float(np.mean(run()))
    assert abs(means[20.0]) < 0.7 < 2.0 < abs(means[0.0])


@pytest.mark.long
def test_contract():
    trio = nets.mlp((4,), 4), nets.mlp((4,), 3), nets.mlp((5,), ())
    model = wae_gan(*trio, latent_dim=DIM, likelihood="gaussian", gamma="learned")
    check_model(model, Batch(jnp.tile(jnp.asarray(X), (2, 1))))


def test_what_is_refused():
    trio = *pair(), linear()
    with pytest.raises(UserError, match="weight must be at least 0"):
        wae_gan(*trio, latent_dim=DIM, weight=-1.0)
    with pytest.raises(UserError, match="wae_gan has no free_bits"):
        wae_gan(*trio, latent_dim=DIM, free_bits=0.1)
    model = wae_gan(*pair(), nets.mlp((4,), 1), latent_dim=DIM, likelihood="gaussian")
    with pytest.raises(UserError, match="one number for each latent"):
        jax.eval_shape(model.init, jax.random.key(0), Batch(jnp.asarray(X)))
