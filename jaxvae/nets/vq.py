"""The convolutional nets of the VQ-VAE, and the causal net of a prior over its codes.

    encoder    4x4 convolutions of stride 2, ReLU, one for each halving; 3x3; residual blocks; 1x1 to E
    decoder    3x3; residual blocks; as many 4x4 transposed convolutions of stride 2
    block      x + 1x1(ReLU(3x3(ReLU(x))))
    masked     7x7 that does not see its own position; 3x3 residual blocks that do; ReLU, 1x1 to logits

Sources: van den Oord et al. 2017 (arXiv 1711.00937), section 4.1 (two halvings, two blocks, 256
channels); van den Oord et al. 2016 (arXiv 1601.06759), section 3.4 (masks A and B).
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.errors import check_count
from jaxvae.nets.layers import Conv, check_shape, from_linen
from jaxvae.types import Array, Net


class Encoder(nn.Module):
    """An image [B, H, W, C] to vectors [B, h, w, size]."""

    channels: int
    halvings: int
    blocks: int
    size: int
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        h = x.astype(self.dtype)
        for i in range(self.halvings):
            width = self.channels if i == self.halvings - 1 else max(1, self.channels // 2)
            h = nn.relu(Conv(width, 4, 2, dtype=self.dtype)(h))
        h = Conv(self.channels, dtype=self.dtype)(h)
        h = _residual(h, self.blocks, self.channels, self.dtype)
        return Conv(self.size, 1, dtype=self.dtype)(h).astype(jnp.float32)


class Decoder(nn.Module):
    """Vectors [B, h, w, size] to an image of `shape`, to which the last map is cropped."""

    shape: tuple[int, int, int]
    channels: int
    halvings: int
    blocks: int
    dtype: Any

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        height, width, colours = self.shape
        h = Conv(self.channels, dtype=self.dtype)(z.astype(self.dtype))
        h = _residual(h, self.blocks, self.channels, self.dtype)
        for i in range(self.halvings):
            last = i == self.halvings - 1
            features = colours if last else max(1, self.channels // 2)
            h = Conv(features, 4, 2, transposed=True, dtype=self.dtype)(h)
            h = h if last else nn.relu(h)
        top, left = (h.shape[1] - height) // 2, (h.shape[2] - width) // 2
        return h[:, top : top + height, left : left + width].astype(jnp.float32)


def _residual(h: Array, blocks: int, channels: int, dtype: Any) -> Array:
    """Returns h through residual blocks and a ReLU; inside a module's `__call__`."""
    for _ in range(blocks):
        inner = nn.relu(Conv(max(1, channels // 4), dtype=dtype)(nn.relu(h)))
        h = h + Conv(channels, 1, dtype=dtype)(inner)
    return nn.relu(h)


def vq_nets(
    shape: Sequence[int],
    size: int = 64,
    *,
    channels: int = 128,
    halvings: int = 2,
    blocks: int = 2,
    dtype: Any = jnp.float32,
) -> tuple[Net, Net, tuple[int, int]]:
    """Returns (encoder, decoder, positions): x [B, H, W, C] -> [B, h, w, size] and back, (h, w) the
    image halved so many times, rounded up.

    Args:
        shape: of an image, (H, W, C).
        size: E, numbers of a vector.
        channels: of the maps; the paper has 256.
        halvings: at least 1.
        blocks: residual ones, each way.
        dtype: of the computation; parameters and outputs are float32.

    Raises:
        UserError: for a shape that is none of images, and numbers out of range.
    """
    shape = check_shape("vq", shape)
    for name, value in (("size", size), ("channels", channels), ("halvings", halvings)):
        check_count(name, value)
    check_count("blocks", blocks, least=0)
    scale = 2**halvings
    positions = math.ceil(shape[0] / scale), math.ceil(shape[1] / scale)
    encoder = Encoder(channels, halvings, blocks, size, dtype)
    decoder = Decoder(shape, channels, halvings, blocks, dtype)
    return from_linen(encoder), from_linen(decoder), positions


class MaskedConv(nn.Module):
    """A convolution [B, h, w, C] -> [B, h, w, features] that sees what comes before a position in the
    order of reading, and with `sees_itself` the position too."""

    features: int
    side: int
    sees_itself: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        shape, middle = (self.side, self.side, x.shape[-1], self.features), self.side // 2
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        mask = np.zeros((self.side, self.side, 1, 1), np.float32)
        mask[:middle] = 1.0
        mask[middle, : middle + self.sees_itself] = 1.0
        y = jax.lax.conv_general_dilated(
            x,
            (kernel * mask).astype(self.dtype),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)


class Masked(nn.Module):
    """One-hot codes [B, h, w, codes] to the logits of each, of what comes before it."""

    codes: int
    channels: int
    blocks: int
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        h = MaskedConv(self.channels, 7, False, self.dtype)(x.astype(self.dtype))
        for _ in range(self.blocks):
            inner = MaskedConv(self.channels, 3, True, self.dtype)(nn.relu(h))
            h = h + Conv(self.channels, 1, dtype=self.dtype)(nn.relu(inner))
        h = nn.relu(Conv(self.channels, 1, dtype=self.dtype)(nn.relu(h)))
        return Conv(self.codes, 1, dtype=self.dtype)(h).astype(jnp.float32)


def masked_conv(
    codes: int, *, channels: int = 64, blocks: int = 6, dtype: Any = jnp.float32
) -> Net:
    """Returns the causal net of `models.code_prior`: one-hot codes [B, h, w, codes] -> logits.

    Masked convolutions have a blind spot: what lies above and to the right beyond the slope of their
    kernels' reach (van den Oord et al. 2016, arXiv 1606.05328, section 2.1).

    Raises:
        UserError: for numbers out of range.
    """
    check_count("codes", codes, least=2)
    check_count("channels", channels)
    check_count("blocks", blocks, least=0)
    return from_linen(Masked(codes, channels, blocks, dtype))
