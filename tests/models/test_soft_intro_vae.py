"""One training step of Soft-IntroVAE with residual nets against Algorithm 2 in NumPy, in float64:
both losses, the gradient of every parameter, the running averages in the order of the passes, with
labels and without.

Derivatives are central differences along a random direction of each parameter; what a convention
holds fixed is computed at the parameters before the step.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from intro_numpy import Numpy, doubles

from gradients import RATE, check_gradients, given, keeping
from jaxvae import nets
from jaxvae.models import soft_intro_vae
from jaxvae.train.step import TrainState, make_train_step
from jaxvae.types import Batch

B, D, CLASSES, SHAPE = 4, 3, 5, (8, 4, 2)
H = {"beta_rec": 0.6, "beta_kl": 0.3, "beta_neg": 6.0, "s": 0.02, "alpha": 1.5}
H |= {"gamma": 0.8, "gamma_r": 0.7}


class Case(NamedTuple):
    """What a step sees, in float64."""

    x: np.ndarray
    cond: np.ndarray  # [B, classes], or [B, 0]
    eps: np.ndarray  # n, z, z_rec, z_fake of the encoder's turn; z_rec, z_fake of the decoder's
    state: dict


class Passes:
    """Runs both nets and keeps the averages as the passes before have left them."""

    def __init__(self, case, phi, theta, state):
        self.case, self.params, self.state = case, {"encoder": phi, "decoder": theta}, dict(state)

    def run(self, name, x):
        net = Numpy(self.params[name], self.state[name], "batch", "soft_intro_vae", True)
        y = (net.encode if name == "encoder" else net.decode)(x, self.case.cond)
        self.state[name] = {"batch_stats": net.state}
        return y

    def E(self, x):
        return np.split(self.run("encoder", x), 2, axis=1)

    def D(self, z):
        return self.run("decoder", z)


def draw(q, eps):
    return q[0] + np.exp(q[1] / 2) * eps


def error(a, b):
    return ((a - b) ** 2).sum((1, 2, 3))


def kl(q):
    return -0.5 * (1 + q[1] - q[0] ** 2 - np.exp(q[1])).sum(axis=1)


def encoder_turn(case, convention, phi, theta, old):
    """Algorithm 2, lines 8 to 19, to minimise; `old` are the encoder's parameters before the step.
    Returns the loss [B], the averages, z, and the fakes."""
    net, (n, eps_z, eps_r, eps_f) = Passes(case, phi, theta, case.state), case.eps[:4]
    fake = net.D(n)
    q = net.E(case.x)
    z = draw(q, eps_z)
    rec = net.D(z)
    q_rec = rec
    if convention == "released":  # E(rec) does not move with the encoder that rec comes from
        held = Passes(case, old, theta, case.state)
        q_rec = held.D(draw(held.E(case.x), eps_z))
    parts = []
    for y, seen, eps in ((rec, q_rec, eps_r), (fake, fake, eps_f)):
        q_y = net.E(seen)
        elbo = -(H["beta_rec"] * error(y, net.D(draw(q_y, eps))) + H["beta_neg"] * kl(q_y))
        parts.append(np.exp(H["alpha"] * H["s"] * elbo) / H["alpha"])
    real = H["s"] * (H["beta_rec"] * error(case.x, rec) + H["beta_kl"] * kl(q))
    return real + (parts[0] + parts[1]) / 2, net.state, z


def decoder_turn(case, convention, phi, theta, old, z, state):
    """Algorithm 2, lines 20 to 29, with the sign of Eq. 7; phi has moved, z has not."""
    net, (eps_r, eps_f) = Passes(case, phi, theta, state), case.eps[4:]
    held = Passes(case, phi, old, state)
    fakes = [net.D(case.eps[0]), net.D(z)][::-1]
    fixed = [held.D(case.eps[0]), held.D(z)][::-1]
    posteriors = [net.E(y) for y in fakes]
    held_latents = [draw(held.E(y), e) for y, e in zip(fixed, (eps_r, eps_f), strict=True)]
    total = 0.0
    for y, y_old, q, z_old in zip(fakes, fixed, posteriors, held_latents, strict=True):
        if convention == "paper":  # the second decode is held
            e = error(y, held.D(z_old))
            net.D(z_old)
        else:  # the target and the latent are held
            e = error(y_old, net.D(z_old))
        total = total + 0.5 * (H["beta_kl"] * kl(q) + H["gamma_r"] * H["beta_rec"] * e)
    return H["s"] * (H["beta_rec"] * error(case.x, fakes[0]) + H["gamma"] * total), net.state


@pytest.mark.long
@pytest.mark.parametrize(
    ("convention", "classes"), [("released", CLASSES), ("paper", CLASSES), ("released", None)]
)
def test_one_step_is_algorithm_2_in_numpy(monkeypatch, convention, classes):
    rng = np.random.default_rng(7)
    pair = nets.intro(SHAPE, latent_dim=D, channels=(3, 4), num_classes=classes)
    model = soft_intro_vae(*pair, latent_dim=D, convention=convention, **H)
    x = rng.uniform(size=(B, *SHAPE)).astype(np.float32)
    cond = None if classes is None else jnp.eye(B, classes)
    batch = Batch(jnp.asarray(x), cond)
    eps = rng.normal(size=(6, B, D)).astype(np.float32)
    params, state = jax.jit(model.init)(jax.random.key(0), batch)
    params, state = (  # nothing is left at 0 or 1
        jax.tree.map(lambda v: v + jnp.asarray(rng.uniform(-0.1, 0.1, v.shape), jnp.float32), tree)
        for tree in (params, state)
    )
    tx = keeping()
    start = TrainState(
        jnp.zeros((), jnp.int32),
        params,
        state,
        {name: tx.init(params[name]) for name in params},
        None,
        jax.random.key(1),
    )
    drawn = given(monkeypatch, eps)
    with jax.default_matmul_precision("highest"):
        end, metrics = jax.jit(make_train_step(model, tx))(start, batch)
    assert len(drawn) % 6 == 0 and drawn
    for name in ("exp_elbo_rec", "exp_elbo_fake"):  # the fakes count
        assert 0.2 < float(metrics[name]) < 0.9

    labels = np.zeros((B, 0)) if cond is None else np.asarray(cond, np.float64)
    case = Case(x.astype(np.float64), labels, eps.astype(np.float64), doubles(state))
    old = doubles(params)
    turn = functools.partial(encoder_turn, case, convention, old=old["encoder"])
    loss, after, z = turn(old["encoder"], old["decoder"])
    assert float(metrics["encoder_loss"]) == pytest.approx(loss.mean(), rel=1e-5)
    gradient = end.opt_state["encoder"]
    check_gradients(gradient, lambda phi: turn(phi, old["decoder"])[0], old["encoder"], rng)

    phi = jax.tree.map(lambda w, g: w - RATE * np.asarray(g, np.float64), old["encoder"], gradient)
    turn = functools.partial(
        decoder_turn, case, convention, phi, old=old["decoder"], z=z, state=after
    )
    loss, after = turn(old["decoder"])
    assert float(metrics["decoder_loss"]) == pytest.approx(loss.mean(), rel=1e-5)
    gradient = end.opt_state["decoder"]
    check_gradients(gradient, lambda theta: turn(theta)[0], old["decoder"], rng)
    for have, want in ((end.params["encoder"], phi), (end.state, after)):
        close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
        jax.tree.map(close, have, want)


# ---- what a log says -----------------------------------------------------------------------------

GOOD = {"kl": 36.0, "kl_rec": 37.0, "kl_fake": 55.0, "exp_elbo_rec": 2e-4, "exp_elbo_fake": 1e-5}


def warnings_of(rows):
    model = soft_intro_vae(nets.mlp((), 4), nets.mlp((), 2), latent_dim=2)
    return [watch(rows) for watch in model.watch]


def test_a_log_that_goes_well_gives_no_warning():
    """The values are those of the authors' own log after 75 epochs."""
    assert warnings_of([]) == warnings_of([GOOD] * 100) == [None, None]


@pytest.mark.parametrize("name", ["kl_rec", "kl_fake"])
def test_fakes_below_data_are_said_once_they_last(name):
    bad = {**GOOD, name: 34.9}
    for rows in ([bad] * 19, [GOOD] * 50 + [bad] * 19, [bad] * 50 + [GOOD], [bad, GOOD] * 30):
        assert warnings_of(rows) == [None, None]
    assert warnings_of([{**GOOD, name: 35.1}] * 50) == [None, None]  # within a nat of data
    message, other = warnings_of([GOOD] * 3 + [bad] * 20)
    assert other is None
    assert "34.9" in message and "against 36" in message
    assert "lower beta_neg" in message and "beta_kl at least as large as beta_rec" in message


@pytest.mark.parametrize(
    ("value", "end", "advice"), [(1e-9, "0", "Lower beta_neg"), (0.995, "1", "Raise beta_neg")]
)
def test_an_exponential_that_is_stuck_is_said_and_one_advice_alone(value, end, advice):
    stuck = {"exp_elbo_rec": value, "exp_elbo_fake": value}
    bad = {**GOOD, **stuck} if end == "0" else {**GOOD, **stuck, "kl_fake": 0.1, "kl_rec": 0.1}
    assert warnings_of([bad] * 19) == warnings_of([bad] * 20 + [GOOD]) == [None, None]
    assert warnings_of([{**bad, "exp_elbo_fake": 0.5}] * 20)[1] is None  # one of both works
    below, message = warnings_of([bad] * 20)
    assert below is None
    assert f"stuck at {end}" in message and advice in message and "latent_dim" in message
