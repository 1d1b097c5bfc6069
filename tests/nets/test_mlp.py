"""Perceptrons: parameter counts, shapes for any input, options out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abstract import abstract, count, sizes
from jaxvae import nets
from jaxvae.errors import UserError
from jaxvae.nets import mlp

pytestmark = pytest.mark.smoke

IMAGES = [(8, 8, 1), (28, 28, 1), (32, 32, 3), (33, 17, 2)]


def test_the_vae_of_784_400_10_400_784_has_640804_parameters():
    encoder, _, q = abstract(mlp((400,), 20, heads=2), (2, 28, 28, 1))
    decoder, _, x = abstract(mlp((400,), (28, 28, 1)), (2, 10))
    assert (q, x) == ((2, 20), (2, 28, 28, 1))
    assert count(encoder) == 784 * 400 + 400 + 2 * (400 * 10 + 10)
    assert count(encoder) + count(decoder) == 640_804


@pytest.mark.parametrize("shape", [*IMAGES, (5,)])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 5, 4)])
def test_mlp_takes_any_shape_and_depth(shape, hidden):
    params, state, y = abstract(mlp(hidden, shape), (3, *shape))
    assert y == (3, *shape)
    assert state == {}
    assert len(params) == len(hidden) + 1


def test_mlp_is_the_composition_of_its_layers():
    net, x, cond = (
        mlp((4,), 2, act="tanh"),
        np.linspace(-1, 1, 6).reshape(2, 3),
        np.array([[1.0], [-1.0]]),
    )
    params, state = net.init(
        jax.random.key(0), jnp.asarray(x, jnp.float32), jnp.asarray(cond, jnp.float32)
    )
    first, last = params["Dense_0"], params["Dense_1"]
    want = (
        np.tanh(np.hstack([x, cond]) @ first["kernel"] + first["bias"]) @ last["kernel"]
        + last["bias"]
    )
    have = net.apply(
        params, state, jnp.asarray(x, jnp.float32), cond=jnp.asarray(cond, jnp.float32), train=False
    )[0]
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def test_heads_are_separate_layers_side_by_side():
    net = mlp((32,), 64, heads=2, init="xavier")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    assert params["Dense_1"]["kernel"].shape == params["Dense_2"]["kernel"].shape == (32, 32)
    assert np.abs(params["Dense_1"]["kernel"]).max() > np.sqrt(
        6 / (32 + 64)
    )  # the bound of one layer of 64 outputs
    y, _ = net.apply(params, state, x, train=False)
    params["Dense_2"] = jax.tree.map(jnp.zeros_like, params["Dense_2"])
    half, _ = net.apply(params, state, x, train=False)
    np.testing.assert_array_equal(half[:, :32], y[:, :32])
    np.testing.assert_array_equal(half[:, 32:], np.zeros((2, 32)))


@pytest.mark.parametrize(
    ("width", "encoder", "decoder"), [(1024, 2_305_152, 2_235_457), (2048, 8_796_288, 8_661_057)]
)
def test_parameters_of_the_second_stage(width, encoder, decoder):
    assert sizes(nets.second_stage(64, width=width), (64,), 64) == (
        encoder,
        decoder - 1,
        (2, 128),
        (2, 64),
    )


def test_bfloat16_perceptrons_return_float32():
    params, _, _ = abstract(
        mlp((4,), 2, dtype=jnp.bfloat16), (2, 4, 4, 1)
    )  # and looks at the output
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp((0,), 2), "a layer's width must be at least 1, not 0"),
        (lambda: mlp((4, -3), 2), "a layer's width must be at least 1, not -3"),
        (lambda: mlp((4.0,), 2), "a layer's width must be a whole number, not 4.0"),
        (lambda: mlp((4,), 0), "a layer's width must be at least 1, not 0"),
        (lambda: mlp((4,), 3, heads=2), "2 heads cannot share 3 outputs equally"),
        (lambda: mlp((4,), 2, heads=0), "heads must be at least 1"),
        (lambda: mlp((4,), 2, act="gelu2"), "unknown activation 'gelu2'"),
        (
            lambda: mlp((4,), 2, init="glorott"),
            "unknown initialiser 'glorott'. Did you mean 'glorot'",
        ),
        (lambda: mlp((4,), 4, scale="sd"), "unknown scale 'sd'"),
        (lambda: mlp(4, 2), r"hidden must be a tuple of widths, such as \(400,\), not 4"),
        (lambda: nets.second_stage(0), "latent_dim must be at least 1"),
    ],
)
def test_options_out_of_range(build, message):
    with pytest.raises(UserError, match=message):
        build()
