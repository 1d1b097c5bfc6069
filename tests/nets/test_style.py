"""The style-based nets against NumPy in float64, at every blend, and what is done to their states."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import style_numpy
from jaxvae import nets, noise
from jaxvae.errors import UserError
from jaxvae.nets.style import style_rows

D, B = 3, 2
OPTIONS = {"latent_dim": D, "top": 16, "start": 2, "max_channels": 4, "mapping": 2}
RNG = np.random.default_rng(5)
X, Z = RNG.uniform(size=(B, 8, 8, 2)), RNG.normal(size=(B, D))
NOISE = RNG.normal(size=(B, 2 * (16 + 64)))


def doubles(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def single(x):
    return jnp.asarray(x, jnp.float32)


@functools.cache
def made(side=8, **options):
    """Returns both nets of a level, with parameters none of which is at 0."""
    pair = nets.style((side, side, 2), **{**OPTIONS, **options})
    rng, inputs = np.random.default_rng(0), (jnp.ones((B, side, side, 2)), jnp.ones((B, D)))
    trees = [
        jax.jit(net.init)(jax.random.key(i), x)
        for i, (net, x) in enumerate(zip(pair, inputs, strict=True))
    ]
    params = [
        jax.tree.map(lambda p: p + single(rng.uniform(-0.2, 0.2, p.shape)), p) for p, _ in trees
    ]
    return pair, params, [s for _, s in trees]


def size(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def test_the_published_nets_have_the_parameters_that_they_should():
    encoder, decoder = nets.style((256, 256, 3))
    of_encoder, _ = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))
    of_decoder, _ = jax.eval_shape(decoder.init, jax.random.key(0), jnp.zeros((1, 512)))
    mappings = [
        size({name: tree for name, tree in params.items() if name.startswith("mapping")})
        for params in (of_encoder, of_decoder)
    ]
    assert mappings == [1_050_624, 2_101_248]
    assert size(of_encoder) - mappings[0] == 26_789_952
    assert size(of_decoder) - mappings[1] == 23_984_981


@pytest.mark.parametrize("blend", [0.0, 0.5, 1.0])
def test_both_nets_at_a_blend_are_those_in_numpy(monkeypatch, blend):
    (encoder, decoder), (phi, theta), states = made()
    both = nets.faded(dict(zip(("encoder", "decoder"), states, strict=True)), blend)
    have, _ = jax.jit(functools.partial(encoder.apply, train=True))(phi, both["encoder"], single(X))
    np.testing.assert_allclose(have, style_numpy.encode(doubles(phi), X, blend), atol=2e-5)

    monkeypatch.setattr(noise, "normal", lambda rng, shape: single(NOISE).reshape(shape))
    train = jax.jit(functools.partial(decoder.apply, rng=jax.random.key(0), train=True))
    have, after = train(theta, both["decoder"], single(Z))
    w = style_numpy.styles(doubles(theta), Z)
    want = style_numpy.decode(doubles(theta), np.stack([w] * 4, axis=1), 8, blend, NOISE)
    np.testing.assert_allclose(have, want, atol=2e-5)
    np.testing.assert_allclose(after["styles"]["average"], 0.005 * w.mean(axis=0), rtol=1e-4)
    assert after["fade"]["blend"] == blend


def test_a_level_that_is_not_faded_in_is_the_one_below_with_its_pixels_made_2x2():
    pair, params, states = made()
    low, of_low, states_low = made(4)  # its layers have the same names
    inputs = (single(X), single(Z)), (single(style_numpy.halved(X)), single(Z))
    for i in (0, 1):
        shared = {name: params[i][name] for name in of_low[i]}
        state = nets.faded({"net": states[i]}, 0.0)["net"]
        high, below = (
            jax.jit(functools.partial(net.apply, train=False))(*args)[0]
            for net, args in (
                (pair[i], (params[i], state, inputs[0][i])),
                (low[i], (shared, states_low[i], inputs[1][i])),
            )
        )
        np.testing.assert_allclose(
            high, below if i == 0 else style_numpy.doubled(np.asarray(below)), atol=1e-5
        )


@pytest.mark.parametrize("still", ["zero", "released"])
def test_without_a_key_there_is_no_noise_or_the_bump_of_the_released_code(still):
    (_, decoder), (_, theta), (_, state) = made(still=still)
    have, _ = jax.jit(functools.partial(decoder.apply, train=False))(theta, state, single(Z))
    w = np.stack([style_numpy.styles(doubles(theta), Z)] * 4, axis=1)
    np.testing.assert_allclose(
        have, style_numpy.decode(doubles(theta), w, 8, 1.0, still=still), atol=2e-5
    )


def test_truncation_draws_styles_to_their_average_and_mixing_takes_style_rows_two():
    (_, decoder), (_, theta), (_, state) = made()
    average = RNG.normal(size=D)
    state = {**state, "styles": {**state["styles"], "average": single(average)}}
    decode = jax.jit(functools.partial(decoder.apply, train=False))
    params, other = doubles(theta), RNG.normal(size=(B, D))
    w, v = (style_numpy.styles(params, z)[:, None].repeat(4, axis=1) for z in (Z, other))

    def check(state, z, w):
        want = style_numpy.decode(params, w, 8, 1.0)
        np.testing.assert_allclose(decode(theta, state["decoder"], single(z))[0], want, atol=2e-5)

    by_net = {"decoder": state, "encoder": {}}
    for psi in (0.0, 0.7, 1.0):
        check(nets.truncated(by_net, psi), Z, average + psi * (w - average))
    coarse = np.concatenate([average + 0.5 * (w - average)[:, :2], w[:, 2:]], axis=1)
    check(nets.truncated(by_net, 0.5, rows=2), Z, coarse)
    pair = nets.mixed(single(Z), single(other), 3, style_rows(8))
    check(by_net, pair, np.concatenate([w[:, :3], v[:, 3:]], axis=1))
    with pytest.raises(UserError, match="no styles"):
        nets.truncated({"encoder": {}}, 0.5)
    with pytest.raises(UserError, match="truncation must be at least 0"):
        nets.truncated(by_net, -0.1)


def test_features_computed_again_are_the_same():
    """Rematerialisation changes what is kept, not what is computed."""
    (_, decoder), (_, theta), (_, state) = made()
    (_, again), _, _ = made(remat=True)

    def loss(net, theta):
        y, _ = net.apply(theta, state, single(Z), rng=jax.random.key(0), train=True)
        return jnp.sum(jnp.square(y))

    texts = [
        str(jax.make_jaxpr(jax.grad(functools.partial(loss, n)))(theta)) for n in (decoder, again)
    ]
    assert ["remat" in text or "checkpoint" in text for text in texts] == [False, True]
    a, b = (jax.jit(functools.partial(loss, net))(theta) for net in (decoder, again))
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8, 4, 3), {}, "square images of 4, 8, 16, ... pixels, not 8x4"),
        ((12, 12, 3), {}, "not 12x12"),
        ((2, 2, 3), {}, "not 2x2"),
        ((8, 8, 3), {"top": 4}, "top must be 8, 16, 32"),
        ((8, 8, 3), {"start": 0}, "start must be at least 1"),
        ((8, 8, 3), {"still": "loud"}, "still"),
    ],
)
def test_nets_that_cannot_be(shape, options, message):
    with pytest.raises(UserError, match=message):
        nets.style(shape, **options)


def test_inputs_that_do_not_fit():
    (encoder, decoder), (phi, theta), (of_encoder, of_decoder) = made()
    with pytest.raises(UserError, match=r"takes images of shape \(8, 8, 2\)"):
        encoder.apply(phi, of_encoder, jnp.ones((1, 4, 4, 2)), train=False)
    with pytest.raises(UserError, match=r"\(3,\), or \(4, 3\) with one for each style"):
        decoder.apply(theta, of_decoder, jnp.ones((1, 2, 3)), train=False)
    with pytest.raises(UserError, match="without labels, not a condition"):
        encoder.apply(phi, of_encoder, single(X), cond=jnp.ones((B, 1)), train=False)
