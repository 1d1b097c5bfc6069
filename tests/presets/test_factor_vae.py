"""The preset `factor_vae`: the discriminator has a net and an optimiser of its own."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from abstract import count
from jaxvae.errors import UserError
from jaxvae.presets.factor_vae import FactorVAE, build
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch

OPTIONS = {"workdir": Path("run"), "hidden": (5,), "latent_dim": 2}


def test_both_move_at_rates_of_their_own():
    config = FactorVAE(**OPTIONS, adversary_hidden=(4,), adversary_learning_rate=0.01)
    config.check()
    system = build(config, (2, 2, 1), None)
    x = Batch(jax.random.uniform(jax.random.key(1), (8, 2, 2, 1)))

    def one():
        state = init_state(system.model, system.tx, jax.random.key(0), x)
        return state, *make_train_step(system.model, system.tx)(state, x)

    before, after, metrics = jax.jit(one)()
    assert {"loss", "total_correlation", "discriminator_loss"} <= set(metrics)
    for group, rate in {"encoder": 1e-3, "decoder": 1e-3, "discriminator": 0.01}.items():
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after.params, before.params)
        largest = max(float(v) for v in jax.tree.leaves(moved[group]))
        assert largest == pytest.approx(rate, rel=1e-2)  # Adam's first step


def test_the_discriminator_is_the_papers():
    model = build(FactorVAE(workdir=Path("run")), (2, 2, 1), None).model
    params, _ = jax.eval_shape(model.init, jax.random.key(0), Batch(jnp.zeros((2, 2, 2, 1))))
    assert count(params["discriminator"]) == 11 * 1000 + 5 * 1001 * 1000 + 1001


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 2.0}, "by --tc-weight, not the KL: leave out --beta"),
        ({"adversary_learning_rate": 0.0}, "must be greater than 0"),
    ],
)
def test_options_in_vain_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        FactorVAE(**OPTIONS, **options).check()
