"""The contracts carry an alternating VAE with BatchNorm, and every form of the VAE; those of a GAN
and of a flow are looked at in `models/`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae.models import vae
from jaxvae.nets import conv_decoder, conv_encoder, from_linen, mlp
from jaxvae.nets.layers import Dense, Dropout
from jaxvae.testing import check_model
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch
from systems import VARIANTS, alternating_vae, images

pytestmark = pytest.mark.smoke

SHAPE = (4, 4, 1)


def perceptrons(**options):
    return vae(mlp((8,), 4, heads=2), mlp((8,), SHAPE), latent_dim=2, **options)


def plain() -> Batch:
    return Batch(images().x)


def convolutions():
    options = {"channels": (2, 2), "hidden": 4, "batch_norm": True}
    return vae(conv_encoder(4, **options), conv_decoder((5, 6, 2), **options), latent_dim=2)


VAES = {
    "bernoulli": (perceptrons, plain),
    "learned gamma": (lambda: perceptrons(likelihood="gaussian", gamma="learned"), plain),
    "conv": (convolutions, lambda: Batch(jax.random.uniform(jax.random.key(0), (16, 5, 6, 2)))),
    "conditional": (
        lambda: perceptrons(beta=optax.linear_schedule(0.5, 2.0, 10), free_bits=0.01),
        images,
    ),
}


MODELS = VAES | {"alternating": (alternating_vae, images)} | VARIANTS


@pytest.mark.parametrize("name", MODELS)
def test_check_model(name):
    build, data = MODELS[name]
    check_model(build(), data())


def train(model, batch, steps: int, tx=None):
    tx = optax.adam(1e-2) if tx is None else tx
    train_state = init_state(model, tx, jax.random.key(0), batch)
    step = make_train_step(model, tx)
    return jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, batch), s, length=steps))(
        train_state
    )


# ---- the alternating VAE ---------------------------------------------------------------------


def test_the_alternating_vae_carries_latents_and_threads_running_averages():
    model, batch = alternating_vae(), images()
    params, state = model.init(jax.random.key(0), batch)
    (encoder, decoder), step = model.objectives, jnp.int32(0)
    _, first = encoder.loss(params, state, jax.random.key(1), batch, step, None)
    moved = {**params, "encoder": jax.tree.map(lambda w: w + 1.0, params["encoder"])}
    rec, second = decoder.loss(moved, first.state, jax.random.key(2), batch, step, first.carry)
    np.testing.assert_array_equal(
        rec, first.metrics["rec"]
    )  # the latents drawn before the encoder moved

    def averages(state, net):
        return np.asarray(state[net]["batch_stats"]["BatchNorm_0"]["mean"])

    assert np.all(averages(first.state, "encoder") != 0)
    np.testing.assert_array_equal(
        averages(second.state, "encoder"), averages(first.state, "encoder")
    )
    np.testing.assert_allclose(
        averages(second.state, "decoder"), 1.9 * averages(first.state, "decoder"), rtol=1e-5
    )


def test_the_alternating_vae_learns_what_the_class_tells():
    model, batch = alternating_vae(), images()
    end, metrics = train(model, batch, 300)
    losses = np.asarray(metrics["encoder_loss"].total / metrics["encoder_loss"].count)
    assert losses[-1] < losses[0] - 0.5
    cond = jax.nn.one_hot(jnp.asarray([0, 1, 2]).repeat(50), 3)
    x = (
        np.asarray(model.sample(end.params, end.state, jax.random.key(1), 150, cond))
        .reshape(3, -1)
        .mean(axis=1)
    )
    want = [np.asarray(batch.x)[np.arange(16) % 3 == label].mean() for label in range(3)]
    np.testing.assert_allclose(x, want, atol=0.1)  # 1/6, 1/3, 1/2


@pytest.mark.long
def test_a_vae_with_dropout_keeps_the_contracts_and_evaluates_with_batch_statistics():
    """Batch statistics in evaluation bring no key, so dropout rests."""
    net = from_linen(DropsOut())
    model = vae(net, mlp((8,), 3), latent_dim=2)
    batch = Batch(jax.random.uniform(jax.random.key(0), (16, 3)))
    check_model(model, batch)
    params, state = model.init(jax.random.key(0), batch)
    a, b = (
        model.encode(params, state, batch.x, stats=stats).mean for stats in ("running", "batch")
    )
    np.testing.assert_array_equal(a, b)


class DropsOut(nn.Module):
    @nn.compact
    def __call__(self, x, *, cond=None, train):
        return Dense(4)(Dropout(0.5)(Dense(8)(x), train=train))
