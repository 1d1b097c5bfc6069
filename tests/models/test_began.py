"""BEGAN's losses and its balance against values worked out by hand, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import nets
from jaxvae.errors import UserError
from jaxvae.models import began
from jaxvae.nets import infogan_autoencoder, infogan_gan
from jaxvae.testing import check_model
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch, Net

X = np.asarray([[0.5, -1.0], [2.0, 0.25], [-1.5, 1.0]], np.float32)
FAKE, SCALE = np.asarray([0.3, -0.7], np.float32), np.float32(0.4)
RATE, GAMMA = 0.1, 0.75


def constant():
    """A generator whose every x is its parameter."""

    def apply(params, state, z, *, cond=None, rng=None, train):
        return jnp.broadcast_to(params["x"], (len(z), 2)), state

    return Net(lambda rng, z, cond=None: ({"x": jnp.asarray(FAKE)}, {}), apply)


def scaling():
    """An autoencoder that gives s x: its error is |1 - s| mean |x|."""

    def apply(params, state, x, *, cond=None, rng=None, train):
        return params["s"] * x, state

    return Net(lambda rng, x, cond=None: ({"s": jnp.asarray(SCALE)}, {}), apply)


def model(**options):
    return began(constant(), scaling(), latent_dim=3, gamma=GAMMA, rate=RATE, **options)


def by_hand(steps: int, lr: float, convention: str):
    """Plain NumPy in float64: gradient steps of the autoencoder, then of the generator."""
    x, fake, s, k = X.astype(np.float64), FAKE.astype(np.float64), float(SCALE), 0.0
    found = []
    for _ in range(steps):
        of_real, of_fake = np.abs(x).mean(axis=1), np.abs(fake).mean()
        real, rebuilt = abs(1 - s) * of_real, abs(1 - s) * of_fake
        gap = GAMMA * real.mean() - rebuilt
        loss, convergence = real.mean() - k * rebuilt, real.mean() + abs(gap)
        s += lr * np.sign(1 - s) * (of_real.mean() - k * of_fake)
        found.append((k, loss, convergence, abs(1 - s) * of_fake))  # the moved autoencoder judges
        k += RATE * gap
        if convention == "paper":
            k = min(max(k, 0.0), 1.0)
        fake = fake - lr * abs(1 - s) * np.sign(fake) / 2
    return found, s, fake, k


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_losses_and_balance_are_those_worked_out_by_hand(convention):
    """Six steps of gradient descent with both nets of one number or two."""
    of, batch = model(convention=convention), Batch(jnp.asarray(X))
    state = init_state(of, optax.sgd(0.05), jax.random.key(0), batch)
    step = jax.jit(make_train_step(of, optax.sgd(0.05)))
    want, s, fake, k = by_hand(6, 0.05, convention)
    for of_k, loss, convergence, generator in want:
        state, metrics = step(state, batch)
        assert float(metrics["k"]) == pytest.approx(of_k, abs=1e-6)
        assert float(metrics["discriminator_loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(metrics["convergence"]) == pytest.approx(convergence, rel=1e-5)
        assert float(metrics["generator_loss"]) == pytest.approx(generator, rel=1e-5)
    assert float(state.state["balance"]) == pytest.approx(k, rel=1e-5) and k > 0.01
    assert float(state.params["discriminator"]["s"]) == pytest.approx(s, rel=1e-5)
    np.testing.assert_allclose(state.params["generator"]["x"], fake, rtol=1e-5)


def test_the_paper_keeps_the_balance_in_the_unit_interval_and_the_code_does_not():
    """Data at 0: fakes are worse than gamma asks for, and k falls; then a rate that takes it past 1."""
    for convention, low, high in (
        ("paper", 0.0, 1.0),
        ("released", -RATE * 0.3, 100.0 * 0.6 * (GAMMA * 6.25 / 6 - 0.5)),
    ):
        for x, rate, want in ((np.zeros_like(X), RATE, low), (X, 100.0, high)):
            of = began(
                constant(), scaling(), latent_dim=3, gamma=GAMMA, rate=rate, convention=convention
            )
            params, state = of.init(jax.random.key(0), Batch(jnp.asarray(x)))
            _, aux = of.objectives[0].loss(
                params, state, jax.random.key(1), Batch(jnp.asarray(x)), jnp.int32(0), None
            )
            assert float(aux.state["balance"]) == pytest.approx(want, abs=1e-5)


@pytest.mark.long
def test_the_contracts_hold_with_the_nets_of_the_study():
    batch = Batch(jax.random.uniform(jax.random.key(5), (16, 4, 4, 1)))
    generator, _ = infogan_gan((4, 4, 1), latent_dim=3, shrink=32)
    judge = infogan_autoencoder((4, 4, 1), code_dim=3, shrink=32)
    of = began(generator, judge, latent_dim=3, convention="released", every=2, same_noise=True)
    check_model(of, batch)
    assert [o.name for o in of.objectives] == ["discriminator_loss", "generator_loss"]
    assert (of.objectives[1].every, of.objectives[1].phase) == (2, 1)
    other = began(generator, judge, latent_dim=3, first="generator")
    assert [o.name for o in other.objectives] == ["generator_loss", "discriminator_loss"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.5}, "gamma must be at most 1"),
        ({"rate": -1.0}, "rate must be at least 0"),
        ({"convention": "mine"}, "unknown convention"),
        ({"prior": "gaussian"}, "unknown prior"),
        ({"first": "encoder"}, "unknown first"),
        ({"every": 0}, "every must be at least 1"),
        ({"first": "generator", "every": 2, "same_noise": True}, "no noise to hand on"),
    ],
)
def test_settings_that_no_began_has_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        began(constant(), scaling(), **{"latent_dim": 2, **options})


def test_an_autoencoder_of_another_shape_is_refused():
    of = began(constant(), nets.mlp((4,), 3), latent_dim=2)
    with pytest.raises(UserError, match=r"the autoencoder returns shape \(3,\) per example"):
        of.init(jax.random.key(0), Batch(jnp.asarray(X)))
