"""IntroVAE against its two formulas in NumPy, and the averages of its released code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspective_numpy import (
    BATCH,
    INTRO,
    NOISE,
    ZERO,
    D,
    X,
    assert_grads,
    decode,
    differences,
    draw,
    encode,
    error,
    give,
    jax_params,
    kl,
    loss_and_gradient,
    nets,
    numpy_params,
)
from jaxvae.errors import UserError
from jaxvae.models import intro_vae
from jaxvae.types import Net


def intro_encoder(convention, old, phi, theta, eps, m):
    """Appendix 9.1.1, or IntroVAE's code; eps: z, n."""
    h, q = INTRO, encode(phi, X)
    rec, fake = decode(theta, draw(q, eps[0])), decode(theta, eps[1])
    if convention == "paper":
        return (
            h["beta_rec"] * error(X, rec)
            + h["beta_kl"] * kl(q)
            + h["beta_neg"] * np.maximum(0, m - kl(encode(phi, fake)))
        )
    fixed = decode(theta, draw(encode(old["encoder"], X), eps[0]))
    pushed = [max(0, m - kl(encode(phi, y)).mean()) for y in (fixed, fake)]
    return h["beta_rec"] * error(X, rec).mean() + h["beta_kl"] * (
        kl(q).mean() + 0.5 * h["beta_neg"] * sum(pushed)
    )


def intro_decoder(convention, old, phi, theta, z, n):
    h, rec, fake = INTRO, decode(theta, z), decode(theta, n)
    value = h["beta_rec"] * error(X, rec)
    if convention == "paper":
        return value + h["beta_neg"] * kl(encode(phi, fake))
    return value + 0.5 * h["beta_kl"] * (kl(encode(phi, rec)) + kl(encode(phi, fake)))


@pytest.mark.parametrize("m", [0.0, 1.2, 30.0], ids=["off", "some", "all"])
@pytest.mark.parametrize("convention", ["paper", "released"])
def test_intro_vae_losses_and_gradients(monkeypatch, convention, m):
    old, model = (
        numpy_params(),
        intro_vae(*nets(), latent_dim=D, m=m, convention=convention, **INTRO),
    )
    phi, theta, params = old["encoder"], old["decoder"], jax_params(old)
    draws = NOISE[:2] if convention == "paper" else NOISE[1::-1]  # "released" draws n before z
    loss, grads, aux = loss_and_gradient(monkeypatch, model, 0, params, draws)
    np.testing.assert_allclose(
        loss, intro_encoder(convention, old, phi, theta, NOISE[:2], m), rtol=1e-5
    )
    assert_grads(
        grads, differences(lambda w: intro_encoder(convention, old, w, theta, NOISE[:2], m), phi)
    )
    n, z = (np.asarray(v, np.float64) for v in aux.carry)
    moved = {**old, "encoder": numpy_params(2)["encoder"]}
    loss, grads, _ = loss_and_gradient(
        monkeypatch, model, 1, jax_params(moved), [], carry=aux.carry
    )
    np.testing.assert_allclose(
        loss, intro_decoder(convention, moved, moved["encoder"], theta, z, n), rtol=1e-5
    )
    assert_grads(
        grads,
        differences(lambda w: intro_decoder(convention, moved, moved["encoder"], w, z, n), theta),
    )


def test_the_hinges_differ_where_the_margin_cuts_through_the_batch(monkeypatch):
    """Per example some are beyond m = 1.2 and some are not; the batch mean is on one side."""
    old = numpy_params()
    fakes = kl(encode(old["encoder"], decode(old["decoder"], NOISE[1])))
    assert fakes.min() < 1.2 < fakes.max()


def averaging(net: Net) -> Net:
    """Returns `net` with BatchNorm's state: the running average of its inputs, 0.1 of each new one."""

    def init(rng, x, cond=None):
        return net.init(rng, x, cond)[0], {"mean": jnp.zeros(x.shape[1:])}

    def apply(params, state, x, *, cond=None, rng=None, train):
        y, _ = net.apply(params, {}, x, cond=cond, rng=rng, train=train)
        return y, {"mean": 0.9 * state["mean"] + 0.1 * jnp.mean(x, axis=0)} if train else state

    return Net(init, apply)


def test_running_averages_of_intro_vae_as_released(monkeypatch):
    """As the authors' code runs the nets: fake = D(n), z ~ E(x), rec = D(z), E(rec), E(fake); then,
    with the encoder that has moved, E(rec), E(fake)."""
    model = intro_vae(*map(averaging, nets()), latent_dim=D, m=1.0, convention="released")
    old, state = numpy_params(), model.init(jax.random.key(0), BATCH)[1]
    give(monkeypatch, NOISE[:2])
    n, eps = NOISE[:2]
    _, aux = model.objectives[0].loss(jax_params(old), state, jax.random.key(0), BATCH, ZERO, None)
    moved = {**old, "encoder": numpy_params(2)["encoder"]}
    _, aux = model.objectives[1].loss(
        jax_params(moved), aux.state, jax.random.key(1), BATCH, ZERO, aux.carry
    )
    z = draw(encode(old["encoder"], X), eps)
    rec, fake = decode(old["decoder"], z), decode(old["decoder"], n)
    for name, passes in (("decoder", (n, z)), ("encoder", (X, rec, fake, rec, fake))):
        mean = np.zeros(2)
        for x in passes:
            mean = 0.9 * mean + 0.1 * x.mean(axis=0)
        np.testing.assert_allclose(aux.state[name]["mean"], mean, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "intro_vae needs m, the margin"),
        ({"m": -1.0}, "m must be at least 0, not -1"),
        ({"m": 1.0, "beta_kl": -1}, "beta_kl must be at least 0"),
        ({"m": 1.0, "convention": "code"}, "unknown convention 'code'"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(UserError, match=message):
        intro_vae(*nets(), latent_dim=D, **options)


def test_it_watches_no_log():
    assert intro_vae(*nets(), latent_dim=D, m=1.0).watch == ()
