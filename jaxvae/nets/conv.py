"""A small strided conv net for images of any size and number of channels."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count
from jaxvae.nets.layers import BatchNorm, Conv, Dense, activation, check_init, from_linen, join
from jaxvae.types import Net


class Encoder(nn.Module):
    """Halves the image once per entry of `channels`, then one hidden layer and the outputs."""

    channels: tuple[int, ...]
    hidden: int
    out: int
    act: str
    batch_norm: bool
    init_name: str
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        if x.ndim != 4:
            raise UserError(
                f"a conv net needs images [batch, height, width, channels], not shape {x.shape}: "
                "use an MLP."
            )
        h, act = x.astype(self.dtype), activation(self.act)
        for width in self.channels:
            h = Conv(width, 4, 2, init_name=self.init_name, dtype=self.dtype)(h)
            h = BatchNorm(dtype=self.dtype)(h, train=train) if self.batch_norm else h
            h = act(h)
        h = join(h.reshape(h.shape[0], -1), cond)
        h = act(Dense(self.hidden, self.init_name, self.dtype)(h))
        return Dense(self.out, self.init_name, self.dtype)(h).astype(jnp.float32)


class Decoder(nn.Module):
    """The encoder in reverse: doubles the image for each entry of `channels`, crops it to `shape`."""

    shape: tuple[int, int, int]
    channels: tuple[int, ...]
    hidden: int
    act: str
    batch_norm: bool
    init_name: str
    dtype: Any

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        height, width, colours = self.shape
        scale, act = 2 ** len(self.channels), activation(self.act)
        small = (-(-height // scale), -(-width // scale), self.channels[0])
        h = act(Dense(self.hidden, self.init_name, self.dtype)(join(z.astype(self.dtype), cond)))
        h = act(Dense(math.prod(small), self.init_name, self.dtype)(h)).reshape(-1, *small)
        for features in self.channels[1:]:
            h = Conv(features, 4, 2, transposed=True, init_name=self.init_name, dtype=self.dtype)(h)
            h = BatchNorm(dtype=self.dtype)(h, train=train) if self.batch_norm else h
            h = act(h)
        h = Conv(colours, 4, 2, transposed=True, init_name=self.init_name, dtype=self.dtype)(h)
        top, left = (h.shape[1] - height) // 2, (h.shape[2] - width) // 2
        return h[:, top : top + height, left : left + width].astype(jnp.float32)


def _check(channels: tuple[int, ...], hidden: int, act: str, init: str) -> None:
    if not channels:
        raise UserError("a conv net needs at least one entry in channels.")
    for width in (*channels, hidden):
        check_count("a layer's width", width)
    activation(act)
    check_init(init)


def conv_encoder(
    out: int,
    *,
    channels: Sequence[int] = (32, 64),
    hidden: int = 256,
    act: str = "relu",
    batch_norm: bool = False,
    init: str = "torch",
    dtype: Any = jnp.float32,
) -> Net:
    """Returns a conv encoder as a `Net`: x [B, H, W, C] -> [B, out], float32.

    Args:
        out: number of outputs: `posterior.size(latent_dim)`.
        channels: of the 4x4 convolutions of stride 2, first to last; any H and W will do.
        hidden: width of the dense layer before the outputs; cond is put beside its input.
        act, init, dtype: as in `mlp`.
        batch_norm: torch's BatchNorm after each convolution.
    """
    _check(tuple(channels), hidden, act, init)
    check_count("out", out)
    return from_linen(Encoder(tuple(channels), hidden, out, act, batch_norm, init, dtype))


def conv_decoder(
    shape: Sequence[int],
    *,
    channels: Sequence[int] = (64, 32),
    hidden: int = 256,
    act: str = "relu",
    batch_norm: bool = False,
    init: str = "torch",
    dtype: Any = jnp.float32,
) -> Net:
    """Returns a conv decoder as a `Net`: z [B, D] -> [B, H, W, C], float32 (logits or means).

    Args:
        shape: of an image, (H, W, C); any size (the last feature map is cropped to it).
        channels: of the feature maps, first to last; one 4x4 transposed convolution of stride 2
            after each.
        hidden, act, batch_norm, init, dtype: as in `conv_encoder`.
    """
    shape = tuple(shape)
    if len(shape) != 3:
        raise UserError(f"shape must be (height, width, channels), not {shape}.")
    for side in shape:
        check_count("a side of the image", side)
    _check(tuple(channels), hidden, act, init)
    return from_linen(Decoder(shape, tuple(channels), hidden, act, batch_norm, init, dtype))
