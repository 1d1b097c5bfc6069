"""The layers of the style-based nets, which have an equalised learning rate, and the optimiser that goes
with them.

    weights   drawn from N(0, gain^2 / fan_in) and used as they are;  biases start at 0
    steps     those of weights times gain / sqrt(fan_in) times rate,  those of biases times rate

That is the form of the released code: a parameter v ~ N(0, 1) that is used as v gain / sqrt(fan_in) takes
the same steps under Adam but for its eps, which counts here: gradients of the style-based losses are
as small as 1e-8. `gain` and `rate` go with the kind of a layer, which is its name without a number
(`KINDS`): the optimiser finds them in the names of the parameters.

Sources: Karras et al. 2018 (arXiv 1710.10196), section 4.1; Karras et al. 2019 (arXiv 1812.04948), section
2; Pidhorskyi et al. 2020 (arXiv 2004.04946) and its released code, lreq.py, net.py and custom_adam.py.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxvae.errors import check_number
from jaxvae.nets.layers import conv_transpose
from jaxvae.types import Array, Tree


class Kind(NamedTuple):
    """How the weights of a layer start and move."""

    gain: float = math.sqrt(2.0)
    rate: float = 1.0


KINDS = {"mapping": Kind(rate=0.1), "modulation": Kind(gain=1.0), "to_rgb": Kind(gain=0.03)}
RESIZE = ("same", "half", "double")


def kind_of(name: str | None) -> Kind:
    """Returns the kind of the layer called `name`: "mapping_3" is a "mapping", "conv_1" of no kind
    of its own."""
    return KINDS.get((name or "").rstrip("0123456789").rstrip("_"), Kind())


def _kernel(layer: nn.Module, shape: tuple[int, ...]) -> Array:
    std = kind_of(layer.name).gain / math.sqrt(math.prod(shape[:-1]))
    return layer.param("kernel", nn.initializers.normal(std), shape)


class EqualDense(nn.Module):
    """x W + b over the last axis: [..., n] -> [..., features]."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel = _kernel(self, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


class EqualConv(nn.Module):
    """A square convolution, padded with zeros: [B, H, W, C] -> [B, H', W', features].

    `resize` is "same"; "half": followed by the mean over 2x2 pixels; or "double": of the image with
    every pixel made 2x2. The last two are one convolution of stride 2, or transposed, whose kernel is
    the sum of the four shifts of this one by a pixel; the released code does so from 128 pixels on.
    """

    features: int
    kernel_size: int = 3
    resize: str = "same"
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        k = self.kernel_size
        kernel = _kernel(self, (k, k, x.shape[-1], self.features)).astype(self.dtype)
        x, numbers = x.astype(self.dtype), ("NHWC", "HWIO", "NHWC")
        if self.resize == "double":
            y = conv_transpose(x, shifted_sum(kernel), 2, "SAME")
        else:
            half = self.resize == "half"
            kernel, stride = (shifted_sum(kernel) / 4, 2) if half else (kernel, 1)
            y = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), "SAME", dimension_numbers=numbers
            )
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)


def shifted_sum(kernel: Array) -> Array:
    """Returns the sum of a kernel's four shifts by a pixel: [3, 3, C, O] -> [4, 4, C, O]."""
    padded = jnp.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0)))
    rows = padded[1:] + padded[:-1]
    return rows[:, 1:] + rows[:, :-1]


def blur(x: Array) -> Array:
    """Returns x [B, H, W, C] convolved with [1 2 1] / 4 along both sides, padded with zeros."""
    for axis in (1, 2):
        n = x.shape[axis]
        padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)])
        before, at, after = (jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i in range(3))
        x = (before + 2 * at + after) / 4
    return x


def statistics(x: Array) -> Array:
    """Returns mean and standard deviation of each channel, side by side: [B, H, W, C] -> [B, 2 C].

    The deviation is biased and has no epsilon; where it is 0 its gradient is 0, too.
    """
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, (1, 2))
    var = jnp.mean(jnp.square(x - mean[:, None, None]), (1, 2))
    std = jnp.where(var > 0, jnp.sqrt(jnp.where(var > 0, var, 1.0)), 0.0)
    return jnp.concatenate([mean, std], axis=-1)


def instance_norm(x: Array, epsilon: float) -> Array:
    """Returns x [B, H, W, C] with each channel of each image at mean 0 and variance 1."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, (1, 2), keepdims=True)
    var = jnp.mean(jnp.square(y), (1, 2), keepdims=True)
    return (y * jax.lax.rsqrt(var + epsilon)).astype(x.dtype)


def modulate(x: Array, style: Array) -> Array:
    """Returns x [B, H, W, C] times 1 + a, plus b, where style [B, 2 C] is a and b side by side."""
    a, b = jnp.split(style[:, None, None].astype(x.dtype), 2, axis=-1)
    return x * (1 + a) + b


def leaky(x: Array) -> Array:
    """Returns x where it is positive, else 0.2 x."""
    return nn.leaky_relu(x, 0.2)


def lerp(first: Array, last: Array, t: Array) -> Array:
    """Returns (1 - t) first + t last."""
    return first + t.astype(first.dtype) * (last - first)


# ---- optimiser -----------------------------------------------------------------------------------


def step_sizes(params: Tree) -> Tree:
    """Returns what an optimiser's step of each parameter is multiplied by: numbers, in the form of
    `params`."""

    def size(path: Any, leaf: Array) -> float:
        names = [str(entry.key) for entry in path]
        kind = kind_of(names[-2] if len(names) > 1 else None)
        if names[-1] == "kernel":
            return kind.rate * kind.gain / math.sqrt(math.prod(leaf.shape[:-1]))
        return kind.rate if names[-1] == "bias" else 1.0

    return jax.tree_util.tree_map_with_path(size, params)


class EqualisedAdam(NamedTuple):
    """The state of `equalised_adam`."""

    taken: Array  # [] int32, steps
    square: Tree  # moving average of squared gradients


def equalised_adam(
    learning_rate: float, *, b2: float = 0.99, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Returns Adam without momentum whose steps are those of equalised layers.

        v <- b2 v + (1 - b2) g^2,   w <- w - learning_rate size sqrt(1 - b2^t) g / (sqrt(v) + eps)

    `size` is that of `step_sizes`. Unlike in `optax.adam`, eps is added to the root of v as it is,
    before v is corrected for its start: in the first steps it weighs up to 1 / sqrt(1 - b2) = 10
    times as much.

    Args:
        learning_rate: above 0.
        b2: in [0, 1).
        eps: above 0.

    Raises:
        UserError: for numbers out of range.
    """
    check_number("learning_rate", learning_rate, above=0.0)
    check_number("b2", b2, least=0.0, below=1.0)
    check_number("eps", eps, above=0.0)

    def init(params: Tree) -> EqualisedAdam:
        return EqualisedAdam(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, EqualisedAdam]:
        taken = state.taken + 1
        square = jax.tree.map(
            lambda v, g: b2 * v + (1.0 - b2) * jnp.square(g), state.square, updates
        )
        rate = learning_rate * jnp.sqrt(1.0 - b2 ** taken.astype(jnp.float32))
        steps = jax.tree.map(
            lambda size, g, v: -rate * size * g / (jnp.sqrt(v) + eps),
            *(step_sizes(updates), updates, square),
        )
        return steps, EqualisedAdam(taken, square)

    return optax.GradientTransformation(init, update)
