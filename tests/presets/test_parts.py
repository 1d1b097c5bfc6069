"""What presets share: optimisers whose learning rates are halved, in every preset and stage."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, stages
from jaxvae.presets.config import VAE

RUN = Path("run")
OPTIONS = {  # of small systems whose optimisers see the gradient alone
    "vae": {"likelihood": "gaussian", "gamma": "learned", "gamma_learning_rate": 0.1},
    "gan": {"every": 4},
    "flow": {},
    "cvae": {"hidden": (4, 4, 4), "weight_decay": 0.0},
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
