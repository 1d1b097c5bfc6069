"""What presets share: optimisers whose learning rates are halved, in every preset and stage."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, stages, vae
from jaxvae.presets.config import VAE
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch

RUN = Path("run")
OPTIONS = {  # of small systems whose optimisers see the gradient alone
    "vae": {"likelihood": "gaussian", "gamma": "learned", "gamma_learning_rate": 0.1},
    "gan": {"every": 4},
    "flow": {},
    "cvae": {"hidden": (4, 4, 4), "weight_decay": 0.0},
    "translation": {"shrink": 64},
    "info_vae": {"divergence": "gan", "adversary_hidden": (4,)},
}


def rates(tx, updates):
    """Returns the size of Adam's update after so many equal gradients: the learning rate."""
    params, found = {"w": jnp.zeros(())}, []
    with jax.numpy_dtype_promotion("standard"):  # as optax needs
        state = tx.init(params)
        for _ in range(updates):
            update, state = tx.update({"w": jnp.ones(())}, state, params)
            found.append(-float(update["w"]))
    return found


def system_of(preset, **options):
    settings = PRESETS[preset].options(workdir=RUN, **options)
    settings.check()
    return PRESETS[preset].build(settings, (8, 8, 1), None)


@pytest.mark.parametrize("preset", OPTIONS)
def test_every_preset_halves_its_rates(preset):
    tx = system_of(preset, lr_halve_every=4, learning_rate=0.01, **OPTIONS[preset]).tx
    for name, each in (tx if isinstance(tx, dict) else {"all": tx}).items():
        first = {"likelihood": 0.1, "discriminator": 0.005}.get(name, 0.01)
        if preset == "gan":
            first = 0.01
        period = 1 if (preset, name) == ("gan", "generator") else 4  # of updates: one in four steps
        want = [first * 0.5 ** (i // period) for i in range(9)]
        np.testing.assert_allclose(rates(each, 9), want, rtol=1e-4)


def test_without_the_option_rates_stay():
    np.testing.assert_allclose(rates(system_of("vae", learning_rate=0.01).tx, 9), 0.01, rtol=1e-4)


@pytest.mark.parametrize(("given", "period"), [(None, 4), (3, 3)])
def test_the_second_stage_has_a_period_of_its_own(given, period):
    options = {"lr_halve_every": 2, "gamma_learning_rate": None, "learning_rate": 0.01}
    config = PRESETS["two_stage_vae"].options(
        workdir=RUN, net="mlp", latent_dim=2, second_lr_halve_every=given, **options
    )
    config.check()
    assert isinstance(stages.first_stage(config), VAE)
    assert stages.first_stage(config).lr_halve_every == 2
    want = [0.01 * 0.5 ** (i // period) for i in range(7)]
    np.testing.assert_allclose(rates(stages.second_stage(config).tx, 7), want, rtol=1e-4)


def test_periods_that_no_run_can_have():
    with pytest.raises(UserError, match="--lr-halve-every must be at least 1"):
        VAE(workdir=RUN, lr_halve_every=0).check()
    with pytest.raises(UserError, match="--second-lr-halve-every must be at least 1"):
        PRESETS["two_stage_vae"].options(workdir=RUN, second_lr_halve_every=0).check()


@pytest.mark.parametrize("preset", [n for n, p in PRESETS.items() if issubclass(p.options, VAE)])
@pytest.mark.parametrize("posterior", ["normal", "ar1"])
def test_every_preset_of_a_vae_takes_the_infogan_net(preset, posterior):
    if preset == "rho_vae" and posterior == "normal":
        return
    own = {"m": 1.0} if preset == "intro_vae" else {}
    settings = PRESETS[preset].options(
        workdir=Path("run"), net="infogan", posterior=posterior, latent_dim=3, **own
    )
    model, tx, *_ = PRESETS[preset].build(settings, (8, 8, 1), None)
    x = Batch(jax.ShapeDtypeStruct((8, 8, 8, 1), jnp.float32))
    if preset == "two_stage_vae":
        params, state = jax.eval_shape(model.init, jax.random.key(0), x)
        assert jax.eval_shape(model.terms, params, state, jax.random.key(0), x).rec.shape == (8,)
        return
    state = jax.eval_shape(
        lambda: init_state(model, tx, jax.random.key(0), Batch(jnp.zeros((8, 8, 8, 1))))
    )
    new, metrics = jax.eval_shape(make_train_step(model, tx), state, x)
    assert metrics
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_one_optimiser_without_a_rate_of_gamma():
    settings = VAE(workdir=Path("run"), likelihood="gaussian", gamma="learned")
    assert isinstance(vae.build(settings, (4, 4, 1), None).tx, optax.GradientTransformation)
