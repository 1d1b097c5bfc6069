"""Conv nets: parameter counts, shapes for any image, options out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abstract import abstract, count
from jaxvae import nets
from jaxvae.errors import UserError
from jaxvae.nets import conv_decoder, conv_encoder

pytestmark = pytest.mark.smoke

IMAGES = [(8, 8, 1), (28, 28, 1), (32, 32, 3), (33, 17, 2)]


def test_bfloat16_nets_return_float32():
    for net, shape in [
        (conv_encoder(2, channels=(2,), hidden=4, dtype=jnp.bfloat16), (2, 4, 4, 1)),
        (conv_decoder((4, 4, 1), channels=(2,), hidden=4, dtype=jnp.bfloat16), (2, 3)),
    ]:
        params, _, _ = abstract(net, shape)  # which looks at the output's type
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("channels", [(3,), (4, 2), (5, 4, 3)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_conv_nets_take_images_of_any_size(shape, channels, batch_norm):
    options = {"channels": channels, "hidden": 6, "batch_norm": batch_norm}
    _, state, q = abstract(conv_encoder(4, **options), (2, *shape), (2, 3))
    assert q == (2, 4)
    assert len(state.get("batch_stats", {})) == (len(channels) if batch_norm else 0)
    _, state, x = abstract(conv_decoder(shape, **options), (2, 5), (2, 3))
    assert x == (2, *shape)
    assert len(state.get("batch_stats", {})) == (len(channels) - 1 if batch_norm else 0)


def test_conv_parameter_counts():
    encoder, _, _ = abstract(conv_encoder(20, channels=(32, 64), hidden=256), (2, 28, 28, 1))
    decoder, _, _ = abstract(conv_decoder((28, 28, 1), channels=(64, 32), hidden=256), (2, 10))
    assert count(encoder) == (16 * 32 + 32) + (16 * 32 * 64 + 64) + (7 * 7 * 64 * 256 + 256) + (
        256 * 20 + 20
    )
    assert count(decoder) == (10 * 256 + 256) + (256 * 7 * 7 * 64 + 7 * 7 * 64) + (
        16 * 64 * 32 + 32
    ) + (16 * 32 + 1)


def test_every_pixel_of_an_odd_image_reaches_the_encoder_and_can_be_drawn_by_the_decoder():
    shape = (7, 5, 1)
    encoder = conv_encoder(2, channels=(4, 4), hidden=8, act="tanh")
    decoder = conv_decoder(shape, channels=(4, 4), hidden=8, act="tanh")
    x, z = jnp.full((1, *shape), 0.5), jnp.ones((1, 3))
    params, state = encoder.init(jax.random.key(0), x)
    by_pixel = jax.grad(lambda x: jnp.sum(encoder.apply(params, state, x, train=False)[0]))(x)
    assert np.all(np.asarray(by_pixel) != 0)
    params, state = decoder.init(jax.random.key(0), z)
    by_latent = jax.jacrev(lambda z: decoder.apply(params, state, z, train=False)[0])(z)
    assert np.all(np.any(np.asarray(by_latent) != 0, axis=-1))


def test_the_condition_reaches_conv_nets():
    cond = jnp.eye(2)
    for net, x in [
        (conv_encoder(2, channels=(2,), hidden=4), jnp.ones((2, 4, 4, 1))),
        (conv_decoder((4, 4, 1), channels=(2,), hidden=4), jnp.ones((2, 3))),
    ]:
        params, state = net.init(jax.random.key(1), x, cond)
        y, _ = net.apply(params, state, x, cond=cond, train=False)
        assert not np.allclose(y[0], y[1])


# ---- options out of range --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: conv_encoder(0), "out must be at least 1"),
        (lambda: conv_encoder(2, channels=()), "at least one entry in channels"),
        (lambda: conv_encoder(2, channels=(4, 0)), "a layer's width must be at least 1, not 0"),
        (lambda: conv_encoder(2, hidden=0), "a layer's width must be at least 1, not 0"),
        (lambda: conv_encoder(2, act="swishh"), "unknown activation"),
        (lambda: conv_decoder((8, 8)), r"shape must be \(height, width, channels\), not \(8, 8\)"),
        (lambda: conv_decoder((8, 0, 1)), "a side of the image must be at least 1, not 0"),
        (lambda: conv_decoder((8, 8, 1), init="he"), "unknown initialiser 'he'"),
    ],
)
def test_options_out_of_range(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_a_conv_net_wants_images():
    with pytest.raises(
        UserError,
        match=r"needs images \[batch, height, width, channels\], not shape \(2, 64\): use",
    ):
        nets.conv_encoder(2).init(jax.random.key(0), jnp.zeros((2, 64)))
