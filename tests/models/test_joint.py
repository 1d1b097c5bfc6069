"""Both stages trained at once: the loss of a linear chain by hand, what it moves, what it reports."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import models, nets
from jaxvae.errors import UserError
from jaxvae.testing import check_model
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch, Net
from small import SHAPE

RNG = jax.random.key(0)


def scaled(weight: float, logvar: float | None = None) -> Net:
    """Returns weight x, and beside it a log-variance, for the output of an encoder."""

    def init(rng, x, cond=None):
        return {"weight": jnp.float32(weight)}, {}

    def apply(params, state, x, *, cond=None, rng=None, train):
        y = params["weight"] * x
        if logvar is not None:
            y = jnp.concatenate([y, jnp.full_like(y, logvar)], axis=-1)
        return y, state

    return Net(init, apply)


def chain(gamma: float = 0.2):
    """q(z|x) = N(2 x, .1), p(x|z) = N(z / 2, gamma), q(u|z) = N(z / 2, .1), p(z|u) = N(2 u, 1)."""
    first = scaled(2.0, np.log(0.1)), scaled(0.5)
    second = scaled(0.5, np.log(0.1)), scaled(2.0)
    return models.joint_two_stage(first, second, latent_dim=1, gamma=gamma)


def test_the_loss_is_the_bound_of_the_chain():
    model, x = chain(), 0.7
    batch = Batch(jnp.full((40_000, 1), x))
    params, state = model.init(RNG, batch)
    loss, aux = jax.jit(lambda rng: model.objectives[0].loss(params, state, rng, batch, 0, None))(
        RNG
    )
    # by hand, at z ~ N(1.4, .1): E -log N(x; z/2, .2), E -log N(z; 2u, 1), entropy of q(z|x), KL of u
    rec = 0.5 * (0.1 / 4 / 0.2 + np.log(2 * np.pi * 0.2))
    minus_log_p_z = 0.5 * (4 * 0.1 / 1.0 + np.log(2 * np.pi))
    entropy = 0.5 * np.log(2 * np.pi * np.e * 0.1)
    kl_u = 0.5 * ((1.4**2 + 0.1) / 4 + 0.1 - 1 - np.log(0.1))
    kl = minus_log_p_z - entropy + kl_u
    found = {name: float(jnp.mean(aux.metrics[name])) for name in ("rec", "kl", "kl_u", "elbo")}
    assert found == pytest.approx({"rec": rec, "kl": kl, "kl_u": kl_u, "elbo": -rec - kl}, abs=0.02)
    assert float(jnp.mean(loss)) == pytest.approx(rec + kl, abs=0.02)
    assert float(aux.metrics["gamma_u"]) == pytest.approx(1.0) and "gamma" not in aux.metrics


def test_each_stage_feels_the_other():
    """At q(z|x) = N(2x, .1) the first encoder's gradient is of both terms: d rec + d kl by hand."""
    model, x = chain(), 0.7
    batch = Batch(jnp.full((40_000, 1), x))
    params, state = model.init(RNG, batch)

    def mean_loss(params):
        return jnp.mean(model.objectives[0].loss(params, state, RNG, batch, 0, None)[0])

    grads = jax.jit(jax.grad(mean_loss))(params)
    # E rec = ((x - w x / 2)^2 + .025) / .4; E -log p(z|u) has no w (2 u has mean z), and
    # KL(q(u|z)) = (w x)^2 / 8 + ..., at w = 2
    assert float(grads["first"]["encoder"]["weight"]) == pytest.approx(2 * x**2 / 4, abs=0.02)
    # decoder of z, 2 u - z with weight v: E ((v u - z)^2) / 2, u = z / 2 + e: d/dv at 2 is E u (2u - z)
    assert float(grads["second"]["decoder"]["weight"]) == pytest.approx(2 * 0.1, abs=0.02)


def joint(**options):
    first = nets.mlp((8,), 4), nets.mlp((8,), SHAPE)
    return models.joint_two_stage(first, nets.second_stage(2, width=8), latent_dim=2, **options)


@pytest.mark.long
def test_it_keeps_the_contracts():
    check_model(joint(), Batch(jax.random.uniform(jax.random.key(1), (16, *SHAPE))))


def test_training_moves_both_stages_and_lowers_the_loss():
    model, tx = joint(likelihood="bernoulli", gamma=1.0), optax.adam(1e-2)
    batch = Batch(jax.random.uniform(jax.random.key(1), (16, *SHAPE)))
    step, start = jax.jit(make_train_step(model, tx)), init_state(model, tx, RNG, batch)
    now, losses = start, []
    for _ in range(40):
        now, metrics = step(now, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 1.0
    for stage in ("first", "second"):
        for part in ("encoder", "decoder"):
            moved = jax.tree.map(
                lambda a, b: bool(jnp.any(a != b)),
                now.params[stage][part],
                start.params[stage][part],
            )
            assert all(jax.tree.leaves(moved)), (stage, part)


def test_sizes_that_do_not_fit():
    second = nets.second_stage(3, width=8)
    first = nets.mlp((8,), 4), nets.mlp((8,), SHAPE)
    model = models.joint_two_stage(first, second, latent_dim=2)
    with pytest.raises(UserError, match="the second stage"):
        model.init(RNG, Batch(jnp.zeros((2, *SHAPE))))
