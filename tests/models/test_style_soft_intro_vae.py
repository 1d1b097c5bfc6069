"""One step of the style-based Soft-IntroVAE at a blend against NumPy in float64: both losses and the
gradient of every parameter, as the released code has them and as the paper's algorithm does; and what is
its own: the blend, the latents of fakes, noise in samples.

Derivatives are central differences along a random direction of each parameter; what a convention
holds fixed is computed at the parameters before the step.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import style_numpy
from gradients import check_gradients, keeping
from jaxvae import nets, noise
from jaxvae.errors import UserError
from jaxvae.models import fade_in, style_plain_vae, style_soft_intro_vae
from jaxvae.models.style_soft_intro_vae import mixed_draws
from jaxvae.testing import check_model
from jaxvae.train.step import TrainState, make_train_step
from jaxvae.types import Batch

B, D, SIDE, ROWS, CHANGE, START, STEP = 3, 3, 8, 4, 3, 5, 7
H = {"beta_rec": 0.6, "beta_kl": 0.3, "beta_neg": 6.0, "s": 0.02, "gamma_r": 0.7}
MAPS = 2 * (16 + 64)
# in the order of the passes; of the decoder's loss new latents as released, none as in the paper
TURNS = {
    "encoder": [(B, 2, D), (B, MAPS), (B, D), (B, MAPS), *[(B, D), (B, MAPS)] * 2],
    "released": [(B, 2, D), (B, MAPS), (B, D), (B, MAPS), *[(B, D), (B, MAPS)] * 2],
    "paper": [(B, MAPS), (B, MAPS), *[(B, D), (B, MAPS)] * 2],
}


def pair(side=SIDE, **options):
    options = {"latent_dim": D, "top": 16, "start": 2, "max_channels": 3, "mapping": 1, **options}
    return nets.style((side, side, 1), **options)


def doubles(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def draw(q, eps):
    return q[0] + np.exp(q[1] / 2) * eps


def error(a, b):
    """Returns the squared error on the scale [-1, 1] of images in [0, 1]."""
    return 4 * ((a - b) ** 2).sum((1, 2, 3))


def kl(q):
    return -0.5 * (1 + q[1] - q[0] ** 2 - np.exp(q[1])).sum(axis=1)


class Turn:
    """One of the two losses [B] of algorithm and released code, for given noise."""

    def __init__(self, x, blend, draws, row_of_change=CHANGE):
        self.x, self.blend, self.draws, self.row_of_change = x, blend, draws, row_of_change

    def E(self, phi, x):
        return np.split(style_numpy.encode(phi, x, self.blend), 2, axis=1)

    def D(self, theta, z, maps):
        """Decodes z [B, D], or the two latents [B, 2, D] of a fake."""
        z = np.stack([z, z], axis=1) if z.ndim == 2 else z
        w = style_numpy.styles(theta, z)
        rows = np.stack([w[:, 0 if row < self.row_of_change else 1] for row in range(ROWS)], axis=1)
        return style_numpy.decode(theta, rows, SIDE, self.blend, maps)

    def encoder(self, phi, theta, old, convention):
        n, maps_n, eps, maps, eps_r, maps_r, eps_f, maps_f = self.draws
        fake = self.D(theta, n, maps_n)
        q = self.E(phi, self.x)
        rec = self.D(theta, draw(q, eps), maps)
        seen = rec
        if convention == "released":  # E(rec) does not move with the encoder that rec comes from
            seen = self.D(theta, draw(self.E(old, self.x), eps), maps)
        total = 0.0
        for y, seen_y, e, m in ((rec, seen, eps_r, maps_r), (fake, fake, eps_f, maps_f)):
            q_y = self.E(phi, seen_y)
            again = self.D(theta, draw(q_y, e), m)
            exponent = H["beta_rec"] * error(y, again) + H["beta_neg"] * kl(q_y)
            total = total + 0.25 * np.exp(-2 * H["s"] * exponent)
        return H["s"] * (H["beta_rec"] * error(self.x, rec) + H["beta_kl"] * kl(q)) + total

    def decoder(self, phi, theta, old, convention, carry=None):
        """`phi` has moved; `old` are the decoder's parameters before the step."""
        if convention == "released":
            n, maps_n, eps, maps, *rest = self.draws
            z = draw(self.E(phi, self.x), eps)
        else:  # the latents of the encoder's turn, from the encoder as it was
            (n, z), (maps_n, maps, *rest) = carry, self.draws
        ways = (z, maps, *rest[:2]), (n, maps_n, *rest[2:])
        total = 0.0
        for latent, m, eps, again in ways:
            y, held = self.D(theta, latent, m), self.D(old, latent, m)
            z_held = draw(self.E(phi, held), eps)
            if convention == "released":  # the target and the latent are held
                e = error(held, self.D(theta, z_held, again))
            else:  # the second decode is held
                e = error(y, self.D(old, z_held, again))
            part = H["beta_kl"] * kl(self.E(phi, y)) + H["gamma_r"] * H["beta_rec"] * e
            total = total + 0.5 * part
        rec = self.D(theta, z, maps)
        return H["s"] * (H["beta_rec"] * error(self.x, rec) + total)


@pytest.mark.long
@pytest.mark.parametrize("convention", ["released", pytest.param("paper", marks=pytest.mark.slow)])
def test_one_step_at_a_blend_in_numpy(monkeypatch, convention):
    rng = np.random.default_rng(11)
    model = style_soft_intro_vae(
        *pair(),
        side=SIDE,
        latent_dim=D,
        mixing=1.0,
        fade=fade_in(START, 6),
        convention=convention,
        **H,
    )
    t = (STEP - START) / 6
    blend = 0.5 + 0.5 * np.sin(np.pi * t - np.pi / 2)
    x = rng.uniform(size=(B, SIDE, SIDE, 1)).astype(np.float32)
    params, state = jax.jit(model.init)(jax.random.key(0), Batch(jnp.asarray(x)))
    params = jax.tree.map(
        lambda v: v + jnp.asarray(rng.uniform(-0.2, 0.2, v.shape), jnp.float32), params
    )
    const = jnp.asarray(rng.normal(size=(4, 4, 3)), jnp.float32)  # a norm takes away what it shares
    params = {**params, "decoder": {**params["decoder"], "const": const}}
    shapes = [*TURNS["encoder"], *TURNS[convention]]
    draws = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    taken = []

    def normal(key, shape, dtype=jnp.float32, *, batch_axis=0):
        taken.append(shape)
        return jnp.asarray(draws[(len(taken) - 1) % len(draws)], dtype)

    monkeypatch.setattr(noise, "normal", normal)
    monkeypatch.setattr(jax.random, "randint", lambda key, shape, low, high: jnp.int32(CHANGE))
    tx, at = keeping(), jnp.full((), STEP, jnp.int32)
    opt_state = {name: tx.init(params[name]) for name in params}
    start = TrainState(at, params, state, opt_state, None, jax.random.key(1))
    with jax.default_matmul_precision("highest"):
        end, metrics = jax.jit(make_train_step(model, tx))(start, Batch(jnp.asarray(x)))
    assert taken[: len(shapes)] == shapes
    for name in ("exp_elbo_rec", "exp_elbo_fake"):  # the fakes count
        assert 0.05 < float(metrics[name]) < 0.95

    x, draws, old = x.astype(np.float64), doubles(draws), doubles(params)
    x = (1 - blend) * style_numpy.doubled(style_numpy.halved(x)) + blend * x
    turn = Turn(x, blend, draws[:8])
    of_encoder = functools.partial(
        turn.encoder, theta=old["decoder"], old=old["encoder"], convention=convention
    )
    assert float(metrics["encoder_loss"]) == pytest.approx(
        of_encoder(old["encoder"]).mean(), rel=1e-5
    )
    check_gradients(end.opt_state["encoder"], of_encoder, old["encoder"], rng)

    carry = draws[0], draw(turn.E(old["encoder"], x), draws[2])
    turn = Turn(x, blend, draws[8:])
    of_decoder = functools.partial(
        turn.decoder,
        doubles(end.params["encoder"]),
        old=old["decoder"],
        convention=convention,
        carry=carry,
    )
    assert float(metrics["decoder_loss"]) == pytest.approx(
        of_decoder(old["decoder"]).mean(), rel=1e-5
    )
    check_gradients(end.opt_state["decoder"], of_decoder, old["decoder"], rng)
    assert float(end.state["decoder"]["fade"]["blend"]) == pytest.approx(blend)
    assert np.all(np.asarray(end.state["decoder"]["styles"]["average"]) != 0)


def test_the_plain_vae_pays_the_unscaled_error_and_kl(monkeypatch):
    rng = np.random.default_rng(2)
    model = style_plain_vae(*pair(4), side=4, latent_dim=D, beta_rec=0.5, beta_kl=0.25)
    batch = Batch(jnp.asarray(rng.uniform(size=(B, 4, 4, 1)), jnp.float32))
    params, state = jax.jit(model.init)(jax.random.key(0), batch)
    draws = [rng.normal(size=shape) for shape in ((B, D), (B, 32))]
    rest = [jnp.asarray(d, jnp.float32) for d in draws]
    monkeypatch.setattr(noise, "normal", lambda rng, shape, *_: rest.pop(0).reshape(shape))
    loss, _ = jax.jit(model.objectives[0].loss)(
        params, state, jax.random.key(0), batch, jnp.int32(0), None
    )
    phi, theta, x = doubles(params["encoder"]), doubles(params["decoder"]), np.asarray(batch.x)
    q = np.split(style_numpy.encode(phi, x), 2, axis=1)
    w = style_numpy.styles(theta, draw(q, draws[0]))
    rec = style_numpy.decode(theta, np.stack([w, w], axis=1), 4, noise=draws[1])
    np.testing.assert_allclose(loss, 0.5 * error(x, rec) + 0.25 * kl(q), rtol=1e-5)


def test_a_level_fades_in_over_its_steps():
    fade = fade_in(10, 4)
    found = [float(fade(jnp.int32(step))) for step in (0, 10, 11, 12, 13, 14, 40)]
    quarter = 0.5 - 0.5 * np.sin(np.pi / 4)
    np.testing.assert_allclose(found, [0, 0, quarter, 0.5, 1 - quarter, 1, 1], atol=1e-6)


def test_fakes_have_two_latents_as_often_as_asked_for():
    """One coin and one cut for a batch; the first row is always of the first latent."""
    draws_of = {}
    for mixing in (0.0, 0.5, 1.0):
        z = jax.jit(jax.vmap(lambda k, m=mixing: mixed_draws(D, ROWS, m)(k, 2)))(
            jax.random.split(jax.random.key(0), 400)
        )
        is_other = np.any(np.asarray(z) != np.asarray(z)[:, :, :1], axis=-1)  # [runs, B, rows]
        assert np.all(is_other == is_other[:, :1])  # the same rows in all of a batch
        draws_of[mixing] = is_other[:, 0].mean(axis=0)
    assert not draws_of[0.0].any()
    # row r is of the other latent where the cut, uniform in 1, ..., 4, is at most r
    np.testing.assert_allclose(draws_of[1.0], [0, 0.25, 0.5, 0.75], atol=0.08)
    np.testing.assert_allclose(draws_of[0.5], [0, 0.125, 0.25, 0.375], atol=0.08)


def test_samples_have_noise_and_the_mean_of_a_latent_has_none():
    model = style_soft_intro_vae(*pair(4), side=4, latent_dim=D)
    batch = Batch(jnp.full((B, 4, 4, 1), 0.5))
    params, state = jax.jit(model.init)(jax.random.key(0), batch)
    assert model.sample is not None and model.decode is not None
    noisy = params["decoder"]["block_4"]
    noisy = {**noisy, "noise_1": noisy["noise_1"] + 1.0}
    loud = {**params, "decoder": {**params["decoder"], "block_4": noisy}}
    sample = jax.jit(functools.partial(model.sample, n=4))
    decode = jax.jit(lambda p, z: model.decode(p, state, z).mean)
    z = jax.random.normal(jax.random.key(2), (B, D))
    np.testing.assert_array_equal(decode(params, z), decode(loud, z))
    a, b = (sample(p, state, jax.random.key(1)) for p in (params, loud))
    assert a.shape == (4, 4, 4, 1) and np.any(np.asarray(a) != np.asarray(b))


@pytest.mark.slow
def test_it_keeps_the_contracts():
    """Minutes: a step has fourteen passes, and is compiled for one device and for eight."""
    model = style_soft_intro_vae(*pair(4), side=4, latent_dim=D, convention="released")
    x = jax.random.uniform(jax.random.key(3), (8, 4, 4, 1))
    check_model(model, Batch(x))


@pytest.mark.slow
@pytest.mark.parametrize(("side", "start", "remat"), [(256, 64, False), (1024, 16, True)])
def test_a_step_of_the_published_nets_can_be_lowered_for_tpu(side, start, remat):
    """Features are computed again only where that is asked for; no array is made."""
    both = nets.style((side, side, 3), start=start, remat=remat)
    model = style_soft_intro_vae(*both, side=side, latent_dim=512, fade=fade_in(0, 100))
    batch, tx = (
        Batch(jax.ShapeDtypeStruct((4, side, side, 3), jnp.float32)),
        nets.equalised_adam(1e-3),
    )

    def start_of(rng, x):
        params, state = model.init(rng, x)
        opt_state = {name: tx.init(params[name]) for name in params}
        return TrainState(jnp.zeros((), jnp.int32), params, state, opt_state, None, rng)

    state = jax.eval_shape(start_of, jax.random.key(0), batch)
    traced = jax.jit(make_train_step(model, tx)).trace(state, batch)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert f"tensor<4x{side}x{side}x{start}xf32>" in text
    assert ("optimization_barrier" in text) == remat


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing": 1.5}, "mixing must be at most 1"),
        ({"beta_neg": -1.0}, "beta_neg must be at least 0"),
        ({"convention": "code"}, "convention"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(UserError, match=message):
        style_soft_intro_vae(*pair(), side=SIDE, latent_dim=D, **options)


def test_images_of_another_level_and_labels_are_refused():
    model = style_soft_intro_vae(*pair(), side=SIDE, latent_dim=D)
    with pytest.raises(UserError, match=r"images of 8x8 pixels, not of shape \(4, 4, 1\)"):
        model.init(jax.random.key(0), Batch(jnp.ones((2, 4, 4, 1))))
    with pytest.raises(UserError, match="take no labels"):
        model.init(jax.random.key(0), Batch(jnp.ones((2, 8, 8, 1)), jnp.ones((2, 3))))
