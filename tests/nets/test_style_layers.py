"""Equalised layers, blur, statistics and modulation against NumPy in float64, and the optimiser."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import style_numpy
from jaxvae.errors import UserError
from jaxvae.nets import equalised_adam, style_layers
from jaxvae.nets.style_layers import EqualConv, EqualDense

RNG = np.random.default_rng(3)
X = RNG.normal(size=(2, 4, 4, 3))
IMAGE = jnp.asarray(X, jnp.float32)


class Named(nn.Module):
    """One layer under a name."""

    name_of: str
    features: int = 2000

    @nn.compact
    def __call__(self, x):
        return EqualDense(self.features, name=self.name_of)(x)


@pytest.mark.parametrize(
    ("name", "gain"),
    [("mapping_3", math.sqrt(2)), ("modulation_1", 1.0), ("to_rgb_64", 0.03), ("style_1", 2**0.5)],
)
def test_weights_start_with_the_gain_of_their_layer_over_the_root_of_the_inputs(name, gain):
    layer = Named(name).init(jax.random.key(0), jnp.ones((1, 50)))["params"][name]
    assert float(layer["kernel"].std()) == pytest.approx(gain / math.sqrt(50), rel=0.02)
    assert not layer["bias"].any()


def test_a_step_is_of_the_size_of_the_layer_it_moves():
    params = {
        "mapping_0": {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(4)},
        "block_8": {"conv_1": {"kernel": jnp.zeros((3, 3, 2, 5))}, "bias_1": jnp.zeros(5)},
        "to_rgb_8": {"kernel": jnp.zeros((1, 1, 9, 3)), "bias": jnp.zeros(3)},
        "const": jnp.zeros((4, 4, 2)),
    }
    found = style_layers.step_sizes(params)
    assert found["mapping_0"] == {"kernel": pytest.approx(0.1 * math.sqrt(2 / 8)), "bias": 0.1}
    assert found["block_8"]["conv_1"]["kernel"] == pytest.approx(math.sqrt(2 / 18))
    assert found["to_rgb_8"] == {"kernel": pytest.approx(0.01), "bias": 1.0}
    assert found["block_8"]["bias_1"] == found["const"] == 1.0


@pytest.mark.parametrize("resize", style_layers.RESIZE)
def test_a_convolution_that_resizes_is_one_with_means_or_pixels_made_2x2(resize):
    layer = EqualConv(5, resize=resize, use_bias=True)
    params = layer.init(jax.random.key(1), IMAGE)["params"]
    params = {**params, "bias": jnp.arange(5.0)}
    kernel = np.asarray(params["kernel"], np.float64)
    want = style_numpy.conv(style_numpy.doubled(X) if resize == "double" else X, kernel)
    want = style_numpy.halved(want) if resize == "half" else want
    have = layer.apply({"params": params}, IMAGE)
    np.testing.assert_allclose(have, want + np.arange(5.0), atol=1e-5)


def test_blur_statistics_norm_and_modulation_in_numpy():
    style = RNG.normal(size=(2, 6))
    pairs = [
        (style_layers.blur(IMAGE), style_numpy.blur(X)),
        (style_layers.statistics(IMAGE), np.hstack([X.mean((1, 2)), X.std((1, 2))])),
        (style_layers.instance_norm(IMAGE, 0.1), style_numpy.norm(X, 0.1)),
        (
            style_layers.modulate(IMAGE, jnp.asarray(style, jnp.float32)),
            X * (1 + style[:, None, None, :3]) + style[:, None, None, 3:],
        ),
        (style_layers.leaky(IMAGE), style_numpy.leaky(X)),
    ]
    for have, want in pairs:
        np.testing.assert_allclose(have, want, atol=2e-6)


def test_the_deviation_of_a_channel_without_any_has_a_gradient():
    x = IMAGE.at[..., 0].set(0.5)
    grad = jax.grad(lambda x: style_layers.statistics(x).sum())(x)
    assert np.isfinite(grad).all()
    np.testing.assert_allclose(grad[..., 0], 1 / 16)  # of the mean alone


def test_three_steps_of_the_optimiser_in_numpy():
    """Gradients of the size of eps, where its place decides."""
    params = {"mapping_0": {"kernel": jnp.zeros((4, 2)), "bias": jnp.zeros(2)}}
    grads = RNG.normal(size=(3, 4, 2)) * 1e-8
    tx, v = equalised_adam(0.5), np.zeros((4, 2))
    state = tx.init(params)
    for t, g in enumerate(grads, 1):
        v = 0.99 * v + 0.01 * g * g
        size = 0.5 * 0.1 * math.sqrt(2 / 4)
        want = -size * math.sqrt(1 - 0.99**t) * g / (np.sqrt(v) + 1e-8)
        tree = {"mapping_0": {"kernel": jnp.asarray(g, jnp.float32), "bias": jnp.zeros(2)}}
        updates, state = tx.update(tree, state, params)
        np.testing.assert_allclose(updates["mapping_0"]["kernel"], want, rtol=1e-4)
        assert not updates["mapping_0"]["bias"].any()
    optax_adam = optax.adam(size, b1=0.0, b2=0.99)
    first = {"mapping_0": {"kernel": jnp.asarray(grads[0], jnp.float32), "bias": jnp.zeros(2)}}
    with jax.numpy_dtype_promotion("standard"):
        theirs, _ = optax_adam.update(first, optax_adam.init(params))
    ours, _ = tx.update(first, tx.init(params))
    ratio = np.asarray(ours["mapping_0"]["kernel"]) / np.asarray(theirs["mapping_0"]["kernel"])
    assert np.all(ratio < 0.6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": 1.0, "b2": 1.0}, "b2 must be below"),
    ],
)
def test_numbers_that_no_optimiser_can_have(options, message):
    with pytest.raises(UserError, match=message):
        equalised_adam(**options)
