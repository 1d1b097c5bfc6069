"""Optimisers and schedules by name: first updates and rates written out by hand, and what does not go
together."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, stages
from jaxvae.presets.config import Options
from jaxvae.presets.optimise import is_weight, rate_of, transformation

RUN = Path("run")
G, W, RATE = 0.5, 3.0, 0.1  # a gradient, a weight, a learning rate


def options(**given):
    config = Options(workdir=RUN, **given)
    config.check()
    return config


def first_update(config, **extra):
    """Returns what a matrix and a bias of W get for a gradient of G."""
    params = {"kernel": jnp.full((1, 1), W), "bias": jnp.full((1,), W)}
    tx = transformation(config, RATE, **extra)
    with jax.numpy_dtype_promotion("standard"):  # as optax needs
        grads = jax.tree.map(lambda x: jnp.full_like(x, G), params)
        updates, _ = tx.update(grads, tx.init(params), params)
    return float(updates["kernel"][0, 0]), float(updates["bias"][0])


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("sgd", -RATE * G),
        ("adam", -RATE),  # both moments, corrected, are those of one gradient
        ("adamax", -RATE),
        ("radam", -RATE * G),  # no variance to trust yet: a step of the mean alone
        ("nadam", -RATE * (0.9 * 0.1 / (1 - 0.9**2) + 1.0)),  # the mean, one step ahead
        ("rmsprop", -RATE / math.sqrt(0.1)),  # the mean square is not corrected
    ],
)
def test_first_update_of_every_optimizer(name, want):
    np.testing.assert_allclose(first_update(options(optimizer=name)), want, rtol=1e-5)


def test_weight_decay_is_of_weights_alone_and_apart_from_the_gradient_with_adamw():
    assert first_update(options(optimizer="sgd", weight_decay=0.25)) == pytest.approx(
        (-RATE * (G + 0.25 * W), -RATE * G)
    )
    with_decay = first_update(options(optimizer="adamw", weight_decay=0.25))
    assert with_decay == pytest.approx((-RATE * (1.0 + 0.25 * W), -RATE), rel=1e-5)
    usual = first_update(options(optimizer="adamw"))
    assert usual == pytest.approx((-RATE * (1.0 + 0.01 * W), -RATE), rel=1e-5)
    assert is_weight({"a": jnp.ones(()), "b": np.ones((2, 2))}) == {"a": False, "b": True}


def test_momentum_keeps_what_was_moved_before():
    tx = transformation(options(optimizer="sgd", momentum=0.8), RATE)
    state, moved = tx.init(jnp.zeros(())), []
    for _ in range(3):
        update, state = tx.update(jnp.asarray(G), state, jnp.zeros(()))
        moved.append(float(update))
    np.testing.assert_allclose(moved, [-RATE * G * f for f in (1.0, 1.8, 2.44)], rtol=1e-6)


def test_the_first_decay_is_that_of_the_preset_where_adam_has_one():
    """With beta1 = 0 nadam looks no step ahead."""
    assert first_update(options(optimizer="nadam"), b1=0.0)[1] == pytest.approx(-RATE, rel=1e-5)
    assert first_update(options(optimizer="sgd"), b1=0.0)[1] == pytest.approx(-RATE * G)


def down(kind, p, final):
    if kind == "linear":
        return 1 - (1 - final) * p
    if kind == "cosine":
        return final + (1 - final) * (1 + np.cos(np.pi * p)) / 2
    return final**p


@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
@pytest.mark.parametrize(("warmup", "final"), [(0, None), (4, 0.25)])
def test_rates_of_every_schedule(kind, warmup, final):
    config = options(lr_schedule=kind, lr_steps=12, warmup=warmup, lr_final=final)
    t = np.arange(16)
    p = np.clip((t - warmup) / (12 - warmup), 0, 1)
    left = {"exponential": 0.01}.get(kind, 0.0) if final is None else final
    up = np.minimum(1.0, (t + 1) / warmup) if warmup else 1.0
    want = RATE * up * down(kind, p, left)
    np.testing.assert_allclose(jax.vmap(rate_of(config, RATE))(t), want, rtol=1e-5, atol=1e-8)
    every_4 = jax.vmap(rate_of(config, RATE, 4))(t[:4])  # one update in four steps
    np.testing.assert_allclose(every_4, want[::4], rtol=1e-5, atol=1e-8)


def test_a_warm_up_goes_before_halvings_and_constant_rates():
    rates = jax.vmap(rate_of(options(warmup=4), RATE))(np.arange(6))
    np.testing.assert_allclose(rates, RATE * np.array([0.25, 0.5, 0.75, 1, 1, 1]), rtol=1e-6)
    rates = jax.vmap(rate_of(options(warmup=2, lr_halve_every=3), RATE))(np.arange(7))
    np.testing.assert_allclose(rates, RATE * np.array([0.5, 1, 1, 0.5, 0.5, 0.5, 0.25]), rtol=1e-6)
    assert rate_of(options(), RATE) == RATE


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, "--momentum is of --optimizer rmsprop or sgd"),
        ({"optimizer": "sgd", "momentum": 1.0}, "--momentum must be below 1"),
        ({"weight_decay": -1.0}, "--weight-decay must be at least 0"),
        ({"lr_schedule": "cosine", "lr_halve_every": 5}, "give --lr-halve-every or --lr-schedule"),
        ({"lr_steps": 5}, "--lr-steps is of a --lr-schedule other than constant"),
        ({"lr_final": 0.1}, "--lr-final is of a --lr-schedule other than constant"),
        ({"lr_schedule": "linear", "lr_final": 1.0}, "--lr-final must be below 1"),
        ({"lr_schedule": "exponential", "lr_final": 0.0}, "--lr-final must be greater than 0"),
        ({"lr_schedule": "cosine", "lr_steps": 5, "warmup": 5}, "--warmup 5 leaves nothing of a"),
        ({"warmup": -1}, "--warmup must be at least 0"),
        ({"patience": 0}, "--patience must be at least 1"),
    ],
)
def test_what_does_not_go_together(given, message):
    with pytest.raises(UserError, match=message):
        options(**given)


@pytest.mark.parametrize(
    ("preset", "given", "message"),
    [
        ("gan", {"optimizer": "sgd", "beta1": 0.5}, "--beta1 is of --optimizer adam, adamw, ad"),
        ("vae", {"beta_cycle": 10, "beta_warmup": 5}, "--beta-warmup or --beta-cycle, not both"),
        ("vae", {"beta_cycle": 10, "beta": 0.0}, "--beta-cycle raises beta from 0"),
        ("vae", {"beta_warmup": 5, "beta_cycle": 5}, "each says how beta rises"),
        ("vae", {"beta_cycle": 1}, "--beta-cycle must be at least 2"),
        ("soft_intro_vae", {"beta_cycle": 10}, "introspective models have no --beta-cycle: use"),
        (
            "two_stage_vae",
            {"lr_schedule": "linear", "second_lr_halve_every": 5},
            "give --second-lr-halve-every or --lr-schedule linear",
        ),
        ("two_stage_vae", {"second_lr_steps": 5}, "--second-lr-steps is of a --lr-schedule"),
        (
            "two_stage_vae",
            {"lr_schedule": "cosine", "warmup": 9, "second_lr_steps": 9},
            "more --second-lr-steps",
        ),
    ],
)
def test_what_no_preset_takes_together(preset, given, message):
    with pytest.raises(UserError, match=message):
        PRESETS[preset].options(workdir=RUN, **given).check()


def test_the_length_of_a_schedule_is_that_of_the_run_and_part_of_it():
    config = options(lr_schedule="cosine", epochs=2, batch_size=10)
    assert config.resolved(100).lr_steps == 20
    assert config.resolved(100).longer(10).lr_steps == 20
    ended = config.resolved(100).longer(20)  # its rate is 0: a run twice as long is another
    assert (ended.lr_steps, ended.steps, ended.workdir) == (None, 40, Path(f"{RUN}-longer"))
    left = options(lr_schedule="cosine", lr_final=0.1, epochs=2, batch_size=10).resolved(100)
    assert left.longer(20).lr_steps == 20  # at its end: the rate stays where it is
    assert options(lr_schedule="linear", lr_steps=7).resolved(100).lr_steps == 7
    assert options().resolved(100).lr_steps is None
    with pytest.raises(UserError, match="needs the step at which it ends: --lr-steps N"):
        rate_of(config, RATE)


def test_both_stages_have_schedules_of_their_own_length():
    config = PRESETS["two_stage_vae"].options(
        workdir=RUN,
        net="mlp",
        latent_dim=2,
        steps=8,
        second_steps=20,
        lr_schedule="linear",
        optimizer="sgd",
        gamma_learning_rate=None,
        learning_rate=1.0,
    )
    config.check()
    config = config.resolved(100)
    assert (config.lr_steps, config.second_lr_steps) == (8, 20)
    assert stages.first_stage(config).lr_steps == 8
    tx = stages.second_stage(config).tx
    _, state = tx.update(jnp.ones(()), tx.init(jnp.ones(())), jnp.ones(()))
    with jax.numpy_dtype_promotion("standard"):
        update, _ = tx.update(jnp.ones(()), state, jnp.ones(()))
    assert float(update) == pytest.approx(-(1 - 1 / 20))


def test_every_preset_takes_every_optimizer():
    """The system is built; what it does with each is above."""
    few = {"gan": {}, "flow": {"hidden": (4,)}, "cvae": {"hidden": (4, 4, 4)}}
    for preset, extra in {"vae": {}, "info_vae": {"divergence": "gan"}, **few}.items():
        settings = PRESETS[preset].options(
            workdir=RUN, optimizer="adamw", lr_schedule="cosine", lr_steps=9, warmup=3, **extra
        )
        settings.check()
        tx = PRESETS[preset].build(settings, (8, 8, 1), None).tx
        for each in tx.values() if isinstance(tx, dict) else (tx,):
            params = jnp.ones((2, 2))
            with jax.numpy_dtype_promotion("standard"):
                update, _ = each.update(jnp.zeros((2, 2)), each.init(params), params)
            assert (update < 0.0).all(), preset  # decay alone moves weights whose gradient is 0
