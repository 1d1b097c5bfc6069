"""FactorVAE: both losses against values worked out by hand, and a discriminator that finds the total
correlation of correlated draws."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import nets, parallel
from jaxvae.errors import UserError
from jaxvae.models import factor_vae
from jaxvae.nets.layers import BatchNorm, Dense, Dropout
from jaxvae.types import Batch, Net

DIM, STEP = 2, jnp.int32(0)
BATCH = Batch(jax.random.uniform(jax.random.key(9), (8, 4)))


def softplus(x):
    return np.log1p(np.exp(x))


def model_of(judge=None, **options):
    pair = nets.mlp((), 2 * DIM), nets.mlp((), 4)
    judge = nets.mlp((), ()) if judge is None else judge
    return factor_vae(*pair, judge, **{"latent_dim": DIM, "likelihood": "gaussian", **options})


@pytest.fixture(scope="module")
def walked():
    model = model_of(tc_weight=7.0)
    first, second = model.objectives

    @jax.jit
    def walk():
        params, state = model.init(jax.random.key(0), BATCH)
        found = first.loss(params, state, jax.random.key(1), BATCH, STEP, None)
        rng, aux = jax.random.key(2), found[1]
        return params, found, second.loss(params, aux.state, rng, BATCH, STEP, aux.carry)

    params, (loss, aux), judged = walk()
    dense = params["discriminator"]["Dense_0"]
    logits = np.float64(aux.carry) @ np.float64(dense["kernel"])[:, 0] + np.float64(dense["bias"])
    return model, params, (loss, aux), judged, logits


def test_the_auto_encoder_pays_the_logit(walked):
    model, params, (loss, aux), _, logits = walked
    metrics, z = aux.metrics, np.float64(aux.carry)
    np.testing.assert_allclose(metrics["total_correlation"], logits, rtol=1e-4, atol=1e-6)
    want = np.float64(metrics["rec"]) + np.float64(metrics["kl"]) + 7.0 * logits
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    dense = {name: np.float64(v) for name, v in params["decoder"]["Dense_0"].items()}
    error = np.sum((np.float64(BATCH.x) - z @ dense["kernel"] - dense["bias"]) ** 2, axis=1)
    np.testing.assert_allclose(metrics["rec"], 0.5 * error + 2 * np.log(2 * np.pi), rtol=1e-5)
    assert [o.wrt for o in model.objectives] == [("encoder", "decoder"), ("discriminator",)]


def test_the_discriminator_sees_one_half_and_the_other_with_each_dimension_reordered(walked):
    _, params, (_, aux), (loss, judged), logits = walked
    z = np.float64(aux.carry)
    u = np.asarray(jax.random.uniform(jax.random.split(jax.random.key(2), 3)[0], (8, DIM)))
    apart = np.stack([z[4:, j][np.argsort(u[4:, j])] for j in range(DIM)], axis=1)
    np.testing.assert_array_equal(np.sort(apart, axis=0), np.sort(z[4:], axis=0))
    dense = params["discriminator"]["Dense_0"]
    other = apart @ np.float64(dense["kernel"])[:, 0] + np.float64(dense["bias"])
    want = 0.5 * (softplus(-logits[:4]).mean() + softplus(other).mean())
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    right = 0.5 * (np.mean(logits[:4] > 0) + np.mean(other < 0))
    assert float(judged.metrics["discriminator_accuracy"]) == pytest.approx(right)
    assert loss.shape == ()


def test_the_logit_learns_the_total_correlation():
    """Of N(0, [[1, r], [r, 1]]) it is -1/2 log(1 - r^2), by a discriminator of squares."""

    def quadratic(params, state, z, *, cond=None, rng=None, train):
        features = jnp.stack([z[:, 0] ** 2, z[:, 1] ** 2, z[:, 0] * z[:, 1]], axis=1)
        return features @ params["w"] + params["b"], state

    judge = Net(lambda rng, z, cond=None: ({"w": jnp.zeros(3), "b": jnp.zeros(())}, {}), quadratic)
    model = model_of(judge)
    params, state = model.init(jax.random.key(0), BATCH)
    r, size, tx = 0.8, 2048, optax.adam(0.05)
    mix = jnp.asarray([[1.0, r], [0.0, (1 - r**2) ** 0.5]])

    @jax.jit
    def run(judge_params):
        def step(carry, rng):
            at, opt_state = carry
            z = jax.random.normal(jax.random.fold_in(rng, 9), (size, DIM)) @ mix

            def scalar(at):
                joined = {**params, "discriminator": at}
                return model.objectives[1].loss(joined, state, rng, BATCH, STEP, z)[0]

            grads = jax.grad(scalar)(at)
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(at, updates), opt_state), None

        rngs = jax.random.split(jax.random.key(1), 250)
        (at, _), _ = jax.lax.scan(step, (judge_params, tx.init(judge_params)), rngs)
        z = jax.random.normal(jax.random.key(2), (20_000, DIM)) @ mix
        return jnp.mean(judge.apply(at, {}, z, train=False)[0])

    found = float(run(params["discriminator"]))
    assert found == pytest.approx(-0.5 * np.log(1 - r**2), abs=0.08)


class Normed(nn.Module):
    """A discriminator with BatchNorm and dropout."""

    @nn.compact
    def __call__(self, z, *, cond=None, train):
        h = Dropout(0.5)(BatchNorm()(Dense(6)(z), train=train), train=train)
        return Dense(1)(nn.tanh(h))[:, 0]


def test_a_discriminator_with_moments_and_dropout_is_the_same_under_pmap():
    """Each device has the whole batch of z: neither its mask nor its moments are of a part."""
    model, devices = model_of(nets.from_linen(Normed())), 4
    params, state = model.init(jax.random.key(0), BATCH)
    z, rng = jax.random.normal(jax.random.key(1), (8, DIM)), jax.random.key(2)

    def judged(batch, z):
        def scalar(judge):
            joined = {**params, "discriminator": judge}
            loss, aux = model.objectives[1].loss(joined, state, rng, batch, STEP, z)
            return loss, (loss, aux.state)

        return jax.grad(scalar, has_aux=True)(params["discriminator"])

    want = jax.jit(judged)(BATCH, z)
    mapped = jax.pmap(judged, axis_name=parallel.AXIS, devices=jax.devices()[:devices])
    found = mapped(*parallel.shard((BATCH, z), devices))
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, np.broadcast_to(a, b.shape), rtol=1e-4, atol=1e-6)


def test_what_is_refused():
    with pytest.raises(UserError, match="tc_weight must be at least 0"):
        model_of(tc_weight=-1.0)
    with pytest.raises(UserError, match="FactorVAEs pay the KL"):
        model_of(posterior="ar1-readme")
    with pytest.raises(UserError, match="one number for each latent"):
        jax.eval_shape(model_of(nets.mlp((), 1)).init, jax.random.key(0), BATCH)
    with pytest.raises(UserError, match="batch_size above 1"):
        jax.eval_shape(model_of().init, jax.random.key(0), Batch(BATCH.x[:1]))
