"""The preset `vamp_vae`: pseudo-inputs of images are in [0, 1], those of points are free."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.presets.vamp_vae import VampVAE, build
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch

OPTIONS = {"workdir": Path("run"), "hidden": (5,), "latent_dim": 2}


@pytest.mark.parametrize(("shape", "inside"), [((2, 2, 1), True), ((2,), False)])
def test_pseudo_inputs_are_of_the_data(shape, inside):
    config = VampVAE(**OPTIONS, components=6, beta_warmup=10, likelihood="gaussian")
    config.check()
    model, x = build(config, shape, None).model, jnp.full((4, *shape), 0.9)
    params, state = jax.jit(model.init)(jax.random.key(0), Batch(x))
    assert params["pseudo_inputs"].shape == (6, *shape)
    middle = np.log(0.9 / 0.1) if inside else 0.9  # before the sigmoid
    assert np.mean(params["pseudo_inputs"]) == pytest.approx(middle, abs=0.15)
    loss = model.objectives[0].loss
    _, aux = loss(params, state, jax.random.key(1), Batch(x), jnp.int32(5), None)
    assert float(aux.metrics["beta"]) == 0.5


def test_pseudo_inputs_are_no_weights_that_decay():
    config = VampVAE(**OPTIONS, components=6, weight_decay=0.5)
    tx = build(config, (2,), None).tx
    ones, none = {"w": jnp.ones((2, 2))}, {"w": jnp.zeros((2, 2))}
    for group, moves in (("encoder", True), ("pseudo_inputs", False)):
        with jax.numpy_dtype_promotion("standard"):  # as optax needs
            update, _ = tx[group].update(none, tx[group].init(ones), ones)
        assert bool(jnp.any(update["w"] != 0)) == moves


def test_a_learned_gamma_has_a_rate_of_its_own():
    rate = {"likelihood": "gaussian", "gamma": "learned", "gamma_learning_rate": 0.02}
    config = VampVAE(**OPTIONS, components=3, **rate)
    config.check()
    system, x = build(config, (2,), None), Batch(jax.random.normal(jax.random.key(1), (8, 2)))

    @jax.jit
    def one():
        state = init_state(system.model, system.tx, jax.random.key(0), x)
        after, _ = make_train_step(system.model, system.tx)(state, x)
        return jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after.params, state.params)

    moved = one()
    assert float(moved["likelihood"]["log_sd"]) == pytest.approx(
        0.02, rel=1e-2
    )  # Adam's first step
    assert float(moved["pseudo_inputs"]) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "--components must be at least 1"),
        ({"free_bits": 0.1}, "leave out --free-bits"),
        ({"conditional": True}, "leave out --conditional"),
    ],
)
def test_options_in_vain_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        VampVAE(**OPTIONS, **options).check()
