"""The discriminator of patches: a convolutional net with a logit for each overlapping patch of an image."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count
from jaxvae.nets.layers import BatchNorm, Conv, activation, check_shape, from_linen
from jaxvae.types import Net

CHANNELS = (64, 128, 256)
LEAST = 3  # pixels a side of the last map that is halved: two convolutions take one each


class Patches(nn.Module):
    """Convolutions k4 of stride 2 to each of `channels`, one of stride 1 to the last of them doubled
    (at most eight times the first), one of stride 1 to the logits: [B, h, w]."""

    channels: tuple[int, ...]
    batch_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        h, act = 2.0 * x.astype(self.dtype) - 1.0, activation("leaky_relu")
        last = min(2 * self.channels[-1], 8 * self.channels[0])
        for i, width in enumerate((*self.channels, last)):
            normed, stride = self.batch_norm and i > 0, 2 if i < len(self.channels) else 1
            options = {"use_bias": not normed, "init_name": "normal0.02", "dtype": self.dtype}
            h = Conv(width, 4, stride, 1, **options)(h)
            h = act(BatchNorm(dtype=self.dtype)(h, train=train) if normed else h)
        h = Conv(1, 4, 1, 1, init_name="normal0.02", dtype=self.dtype)(h)
        return h[..., 0].astype(jnp.float32)


def patches(
    shape: Sequence[int],
    *,
    channels: Sequence[int] | None = None,
    batch_norm: bool = True,
    dtype: Any = jnp.float32,
) -> Net:
    """Returns a discriminator as a `Net`: x [B, H, W, C] in [0, 1] -> logits [B, h, w], float32.

    With three channels each logit sees 70x70 pixels; every entry halves the sides, and the last two
    convolutions take one pixel each.

    Args:
        shape: of an image, (H, W, C).
        channels: of the convolutions of stride 2; default: 64, 128, 256, as many as leave patches.
        batch_norm: after all convolutions but the first and the last, as released; in a batch of data
            the moments are theirs, in one of fakes those of fakes.
        dtype: as in `mlp`.

    Raises:
        UserError: for no channels, and images that are too small for as many.

    Source: Isola et al. 2017 (arXiv 1611.07004), appendix 6.1.2, as taming-transformers' NLayerDiscriminator
    has it, which starts weights at N(0, 0.02^2).
    """
    height, width, _ = check_shape("patch", shape)
    side = min(height, width)
    if channels is None:
        channels = [each for i, each in enumerate(CHANNELS) if i == 0 or side >> (i + 1) >= LEAST]
    channels = tuple(channels)
    if not channels:
        raise UserError("a discriminator of patches needs at least one entry in channels.")
    for each in channels:
        check_count("a layer's width", each)
    if side >> len(channels) < LEAST:
        raise UserError(
            f"{height}x{width} pixels, halved {len(channels)} times, leave no patch: give fewer channels."
        )
    return from_linen(Patches(channels, batch_norm, dtype))
