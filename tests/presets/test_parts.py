"""What presets share: optimisers whose learning rates are halved, in every preset and stage."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, parts, stages, vae
from jaxvae.presets.conditions import example_like
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
    if preset in ("autoencoder", "ladder_vae"):  # no posterior, or nets of its own: in their tests
        return
    margin = {"m": 1.0} if preset == "intro_vae" else {}
    settings = PRESETS[preset].options(
        workdir=Path("run"), net="infogan", posterior=posterior, latent_dim=3, **margin
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


def test_beta_is_a_number_or_a_schedule():
    step = jnp.asarray(3)
    assert parts.beta_of(VAE(workdir=RUN), 2.0) == 2.0
    assert float(parts.beta_of(VAE(workdir=RUN, beta_warmup=4), 2.0)(step)) == 1.5
    cycle = parts.elbo_options(VAE(workdir=RUN, beta=2.0, beta_cycle=12))["beta"]
    assert float(cycle(step)) == 1.0  # the middle of the rise


def test_one_optimiser_without_a_rate_of_gamma():
    settings = VAE(workdir=Path("run"), likelihood="gaussian", gamma="learned")
    assert isinstance(vae.build(settings, (4, 4, 1), None).tx, optax.GradientTransformation)


# ---- precision -----------------------------------------------------------------------------------


def floats(tree):
    """Returns the types of the floating-point leaves of a tree."""
    return {str(x.dtype) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)}


def beginning(system, batch):
    """Returns the state at step 0 and the step."""
    state = init_state(system.model, system.tx, jax.random.key(0), batch)
    return state, make_train_step(system.model, system.tx)


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"flow", "two_stage_vae"}))
def test_only_the_nets_compute_in_bfloat16(preset):
    """Shapes and types alone: parameters, statistics, optimiser states and metrics are float32."""
    needed: dict = {"intro_vae": {"m": 1.0}, "style_soft_intro_vae": {"resolutions": (4, 8)}}
    given = needed.get(preset, {})
    config = PRESETS[preset].options(workdir=RUN, precision="bfloat16", **given)
    config.check()
    system = PRESETS[preset].build(config, (8, 8, 1), 3)
    batch = example_like(system.preprocess, (8, 8, 1), 3)
    found = jax.eval_shape(lambda batch: beginning(system, batch)[0], batch)
    assert floats(found) == {"float32"}
    step = make_train_step(system.model, system.tx)
    assert floats(jax.eval_shape(step, found, batch)) == {"float32"}
    text = str(jax.make_jaxpr(step)(found, batch))
    assert re.search(r":bf16\[[\d,]+\] = (dot_general|conv_general_dilated)", text)


def test_bfloat16_is_near_float32_and_default_and_high_are_of_the_matrix_products():
    batch = Batch(jnp.asarray(np.random.default_rng(0).random((16, 8, 8, 1)), jnp.float32))
    losses, states = {}, {}
    for precision in ("float32", "bfloat16"):
        config = VAE(RUN, net="intro", channels=(4,), latent_dim=3, precision=precision)
        state, step = beginning(vae.build(config, (8, 8, 1), None), batch)
        step, losses[precision] = jax.jit(step), []
        for _ in range(3):
            state, metrics = step(state, batch)
            losses[precision].append(float(metrics["loss"]))
        states[precision] = state
    assert floats(states["bfloat16"]) == {"float32"}
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.01)
    assert losses["bfloat16"] != losses["float32"]
    old, new = (jax.tree.leaves(states[name].state) for name in ("float32", "bfloat16"))
    for a, b in zip(old, new, strict=True):  # averages of BatchNorm
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.05)
    for name, dtype, products in (
        ("float32", "float32", "highest"),
        ("high", "float32", "high"),
        ("default", "float32", "default"),
        ("bfloat16", "bfloat16", "highest"),
    ):
        config = VAE(RUN, precision=name)
        assert (config.dtype, config.matmul_precision) == (dtype, products)
