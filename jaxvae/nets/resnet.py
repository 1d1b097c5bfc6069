"""The residual nets of the two-stage VAE, as its code builds them and as its Figure 11 draws them.

| part            | "released" (class Resnet)                             | "paper" (Figure 11)                           |
| --------------- | ----------------------------------------------------- | --------------------------------------------- |
| residual block  | [BatchNorm, ReLU, conv k3] twice, shortcut a conv k3  | the same, shortcut the identity               |
| scale block     | 1 residual block                                      | 2                                             |
| before the code | average over all positions                            | flattened                                     |
| dense block     | [ReLU, dense 512] twice, shortcut a dense layer; one  | [BatchNorm, ReLU, dense 512] twice, shortcut  |
|                 |                                                       | a dense layer where the width changes; two    |

encoder   conv k3 to `base` channels; a scale block at each of `scales` scales, between them a conv k3 s2 that doubles the
          channels; the dense block; linear heads, mean and log sd
decoder   dense to 2x2, transposed conv k3 s2 and a scale block for each doubling, conv k3 to C; channels base at the full
          size, twice as many at each half of it, at most 1024

Glorot weights, zero biases; BatchNorm with TensorFlow's running averages, decay 0.999. Figure 11
does not say what the shortcuts are.

Sources: Dai & Wipf 2019 (arXiv 1903.05789), Figure 11; its released code,
network/two_stage_vae_model.py.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count, unknown
from jaxvae.nets.layers import Conv, Dense, check_images, from_linen, log_variance, tf_batch_norm
from jaxvae.types import Array, Net

MAX_CHANNELS = 1024


class Style(nn.Module):
    """What the two conventions share: how a block looks."""

    released: bool
    blocks: int
    dtype: Any

    def conv(self, width: int, stride: int = 1, **options: Any) -> Conv:
        """Returns a 3x3 convolution to `width` channels."""
        return Conv(width, 3, stride, init_name="glorot", dtype=self.dtype, **options)

    def scale_block(self, h: Array, width: int, train: bool) -> Array:
        """Returns h [B, H, W, C] after its residual blocks: [B, H, W, width]."""
        for _ in range(self.blocks):
            start = h
            for _ in range(2):
                h = self.conv(width)(nn.relu(tf_batch_norm(self.dtype)(h, train=train)))
            h = h + (self.conv(width)(start) if self.released else start)
        return h

    def dense_block(self, h: Array, width: int, train: bool) -> Array:
        """Returns h [B, n] after its residual blocks: [B, width]."""
        for _ in range(self.blocks):
            start = h
            for _ in range(2):
                h = h if self.released else tf_batch_norm(self.dtype)(h, train=train)
                h = Dense(width, "glorot", self.dtype)(nn.relu(h))
            if self.released or start.shape != h.shape:
                start = Dense(width, "glorot", self.dtype)(start)
            h = h + start
        return h


class Encoder(Style):
    """Scale blocks with a halving between them, a dense block, and the heads."""

    base: int
    scales: int
    dense: int
    heads: tuple[int, ...]

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        width = self.base
        h = self.conv(width)(x)
        for i in range(self.scales):
            h = self.scale_block(h, width, train)
            if i < self.scales - 1:
                width *= 2
                h = self.conv(width, 2)(h)
        h = jnp.mean(h, axis=(1, 2)) if self.released else h.reshape(h.shape[0], -1)
        h = self.dense_block(h, self.dense, train)
        y = jnp.concatenate([Dense(n, "glorot", self.dtype)(h) for n in self.heads], axis=-1)
        return log_variance(y.astype(jnp.float32), self.heads[-1], "log_sd")


class Decoder(Style):
    """A dense layer to 2x2, then a doubling and a scale block at a time."""

    base: int
    shape: tuple[int, int, int]
    output: str

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        doublings = self.shape[0].bit_length() - 2  # from 2x2
        widths = [min(MAX_CHANNELS, self.base * 2**i) for i in range(doublings, -1, -1)]
        h = Dense(4 * widths[0], "glorot", self.dtype)(z).reshape(-1, 2, 2, widths[0])
        for width in widths[1:]:
            h = self.scale_block(self.conv(width, 2, transposed=True)(h), width, train)
        y = self.conv(self.shape[-1])(h).astype(jnp.float32)
        return nn.sigmoid(y) if self.output == "sigmoid" else y


def resnet(
    shape: Sequence[int],
    *,
    latent_dim: int = 64,
    heads: Sequence[int] | None = None,
    convention: str = "released",
    base: int | None = None,
    scales: int | None = None,
    blocks: int | None = None,
    dense: int = 512,
    output: str = "sigmoid",
    dtype: Any = jnp.float32,
) -> tuple[Net, Net]:
    """Returns (encoder, decoder): x [B, H, W, C] -> [B, sum(heads)], z [B, D] -> [B, H, W, C].

    Args:
        shape: of an image, (H, W, C), with H = W a power of two (pad 28x28 to 32x32).
        latent_dim, heads, output, dtype: as in `infogan`.
        convention: "released", or "paper": Figure 11.
        base: channels at the full size; default 16 released, 32 in the paper (and in the CelebA
            example of the code).
        scales: default 4 released; in the paper 4 for 64x64, else 3.
        blocks: residual blocks of a scale block; default 1 released, 2 in the paper.
        dense: width of the dense block.

    Raises:
        UserError: for images of another form, more scales than the image has halves, and an unknown
            convention or output.
    """
    if convention not in ("paper", "released"):
        raise unknown("convention", convention, ("paper", "released"))
    released = convention == "released"
    shape, heads = check_images("ResNet", shape, latent_dim, heads, output, multiple=1)
    side = shape[0]
    if shape[1] != side or side < 4 or side & (side - 1):
        raise UserError(
            f"the ResNet takes square images whose side is a power of two, not {side}x{shape[1]}: "
            "pad or resize."
        )
    base = (16 if released else 32) if base is None else base
    scales = (4 if released or side >= 64 else 3) if scales is None else scales
    blocks = (1 if released else 2) if blocks is None else blocks
    for name, value in (("base", base), ("scales", scales), ("blocks", blocks), ("dense", dense)):
        check_count(name, value)
    if 2 ** (scales - 1) > side:
        raise UserError(
            f"an image of {side}x{side} has no {scales} scales: use at most {side.bit_length()}."
        )
    encoder = Encoder(released, blocks, dtype, base, scales, dense, heads)
    decoder = Decoder(released, blocks, dtype, base, shape, output)
    return from_linen(encoder), from_linen(decoder)
