"""LORD's nets for image translation: an encoder of the content, one of the class, and a decoder in which the class
sets mean and scale of every feature map.

encoder    conv k7 to channels[0]; for each further entry a conv k4 of stride 2; flattened; dense 256, dense 256; one
           linear layer: mean and log-variance
decoder    of the content: dense to the encoder's last map with 32, with 64, with 256 channels; for each halving of the
           encoder every pixel made 2x2, conv k3 to 256, and AdaIN; conv k5 to 64, conv k7 to C; sigmoid
AdaIN      y = scale (x - mean) / sd + offset for each map of each image, with mean and sd over its places; offset and
           scale are one linear layer of the class for each AdaIN

A leaky ReLU follows every layer but the linear ones and the last; convolutions keep the size, or halve it, and have biases.

Sources: Gabbay & Hoshen 2020 (arXiv 1906.11796) and its released code, model/network.py; Daniel & Tamar 2021 (arXiv
2012.13253), appendix 9.3, which makes both encoders variational and writes the encoder's channels (64, 128, 256, 256): the
released one has 256 once more.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count, unknown
from jaxvae.nets.intro import doubled
from jaxvae.nets.layers import Conv, Dense, check_shape, from_linen
from jaxvae.types import Array, Net

CHANNELS = (64, 128, 256, 256, 256)
HIDDEN = (256, 256)  # widths of an encoder's dense layers
MAPS = (32, 64, 256)  # channels of the decoder's dense layers, each of the size of the last map
WIDTH, LAST = 256, 64  # channels of the decoder's convolutions
LEAST = 4  # pixels a side of the last map, where no channels are given


class Convention(NamedTuple):
    """What two frameworks do differently."""

    slope: float  # of the leaky ReLU
    init: str
    inside: float  # added to the variance, under the root
    outside: float  # added to the root


# LORD's two codes: its PyTorch one, and the one of the paper
CONVENTIONS = {
    "torch": Convention(0.01, "torch", 1e-5, 0.0),
    "tensorflow": Convention(0.3, "glorot", 0.0, 1e-7),
}
TINY = 1e-12  # a variance below which a map is constant and sends no gradient through its root


class Style(NamedTuple):
    """What the three nets share. Layers belong to the module in whose `__call__` they are made."""

    shape: tuple[int, int, int]
    channels: tuple[int, ...]
    shrink: int
    convention: Convention
    dtype: Any

    def leaky(self, x: Array) -> Array:
        """Returns x through a leaky ReLU of this convention's slope."""
        return nn.leaky_relu(x, self.convention.slope)

    def dense(self, width: int) -> Dense:
        """Returns a linear layer."""
        return Dense(width, self.convention.init, dtype=self.dtype)

    def conv(self, width: int, side: int, stride: int = 1) -> Conv:
        """Returns a convolution that keeps the size or, with a stride of 2, halves it."""
        name, padding = self.convention.init, (side - 1) // 2
        return Conv(width, side, stride, padding, init_name=name, dtype=self.dtype)

    def narrowed(self, width: int) -> int:
        """Returns the channels that are left of `width`."""
        return max(1, width // self.shrink)


class Encoder(nn.Module):
    """An image [B, H, W, C] to the outputs of a posterior [B, outputs]."""

    style: Style
    outputs: int

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        style = self.style
        if x.shape[1:] != style.shape:
            raise UserError(
                f"this translation net takes images of shape {style.shape}, not {x.shape[1:]}: "
                "resize them, or build it for them."
            )
        h = style.leaky(style.conv(style.channels[0], 7)(x.astype(style.dtype)))
        for width in style.channels[1:]:
            h = style.leaky(style.conv(width, 4, 2)(h))
        h = h.reshape(h.shape[0], -1)
        for width in HIDDEN:
            h = style.leaky(style.dense(style.narrowed(width))(h))
        return style.dense(self.outputs)(h).astype(jnp.float32)


class AdaIN(nn.Module):
    """Feature maps [B, H, W, C] with the mean and scale that a class code [B, D] asks for."""

    style: Style

    @nn.compact
    def __call__(self, x, code):
        maps = x.shape[-1]
        modulation = self.style.dense(2 * maps)(code).reshape(-1, 1, 1, maps, 2)
        modulation = modulation.astype(jnp.float32)
        offset, scale = modulation[..., 0], modulation[..., 1]
        return (scale * normalised(x, self.style.convention) + offset).astype(x.dtype)


def normalised(x: Array, convention: Convention) -> Array:
    """Returns each map of each image of x [B, H, W, C] with mean 0 and variance 1 over its places,
    in float32: torch's instance norm, or (x - mean) / (sd + 1e-7)."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=(1, 2), keepdims=True)
    sd = jnp.sqrt(jnp.maximum(variance + convention.inside, TINY))
    return centred / (sd + convention.outside)


class Decoder(nn.Module):
    """A content and a class code [B, D], one beside the other, to an image [B, H, W, C]."""

    style: Style
    content_dim: int
    class_dim: int
    output: str

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        style, dim = self.style, self.content_dim + self.class_dim
        if z.shape[1:] != (dim,):
            raise UserError(
                f"this translation decoder takes {self.content_dim} numbers of the content and "
                f"{self.class_dim} of the class, [batch, {dim}], not shape {z.shape}."
            )
        z = z.astype(style.dtype)
        h, code = z[:, : self.content_dim], z[:, self.content_dim :]
        height, width, colours = style.shape
        halvings = len(style.channels) - 1
        small = (height // 2**halvings, width // 2**halvings)
        for maps in MAPS:
            h = style.leaky(style.dense(math.prod(small) * style.narrowed(maps))(h))
        h = h.reshape(-1, *small, style.narrowed(MAPS[-1]))
        for _ in range(halvings):
            h = style.leaky(style.conv(style.narrowed(WIDTH), 3)(doubled(h)))
            h = AdaIN(style)(h, code)
        h = style.leaky(style.conv(style.narrowed(LAST), 5)(h))
        y = style.conv(colours, 7)(h).astype(jnp.float32)
        return nn.sigmoid(y) if self.output == "sigmoid" else y


def translation(
    shape: Sequence[int],
    *,
    content_dim: int = 128,
    class_dim: int = 256,
    channels: Sequence[int] | None = None,
    variational: bool = True,
    output: str = "sigmoid",
    convention: str = "torch",
    shrink: int = 1,
    dtype: Any = jnp.float32,
) -> tuple[Net, Net, Net]:
    """Returns (content encoder, class encoder, decoder): x [B, H, W, C] -> [B, 2 content_dim] and
    [B, 2 class_dim], z [B, content_dim + class_dim] -> [B, H, W, C].

    For 64x64x3 the encoders that give codes alone have 3,910,400 and 3,943,296 parameters, the
    decoder 7,569,155 and, in its AdaIN layers, 526,336; log-variances add 32,896 and 65,792.

    Args:
        shape: of an image, (H, W, C).
        content_dim, class_dim: sizes of the two latents; z has the content first.
        channels: of an encoder's convolutions; each after the first halves the sides, and the decoder
            doubles them as often. Default: the published ones, as many as leave at least 4 pixels a
            side.
        variational: whether encoders give mean and log-variance, or a code alone.
        output: of the decoder: "sigmoid", or "linear".
        convention: "torch" (leaky ReLU 0.01, instance norm, torch's initialiser) or "tensorflow"
            (0.3, sd + 1e-7, Glorot's): LORD's two codes.
        shrink: divides all channels and hidden widths, for narrow nets; 1 is the published width.
        dtype: of the computation (float32 or bfloat16); parameters and outputs are float32.

    Raises:
        UserError: for images whose sides cannot be halved so often, sizes below 1, an unknown output
            or convention, and, when applied, for images and latents of another shape.
    """
    for what, name, known in (
        ("output", output, ("sigmoid", "linear")),
        ("convention", convention, CONVENTIONS),
    ):
        if name not in known:
            raise unknown(what, name, known)
    shape = check_shape("translation", shape)
    for name, value in (("content_dim", content_dim), ("class_dim", class_dim), ("shrink", shrink)):
        check_count(name, value)
    chosen = tuple(max(1, width // shrink) for width in _channels(shape, channels))
    style = Style(shape, chosen, shrink, CONVENTIONS[convention], dtype)
    heads = 2 if variational else 1
    content, of_class = (
        from_linen(Encoder(style, heads * dim)) for dim in (content_dim, class_dim)
    )
    return content, of_class, from_linen(Decoder(style, content_dim, class_dim, output))


def _channels(shape: tuple[int, int, int], channels: Sequence[int] | None) -> Sequence[int]:
    """Returns the channels of an encoder of such images; raises `UserError` where none fit."""
    height, width, _ = shape
    size = f"{height}x{width}"
    if channels is None:
        fitting = [
            n
            for n in range(1, len(CHANNELS))
            if not (height % 2**n or width % 2**n) and min(height, width) >= LEAST * 2**n
        ]
        if not fitting:
            raise UserError(
                f"the translation net takes images of even sides of {2 * LEAST} pixels or more, not "
                f"{size}: resize them, or give channels."
            )
        return CHANNELS[: max(fitting) + 1]
    if len(channels) < 2:
        raise UserError("the translation net needs at least two channels, one of them halved to.")
    for entry in channels:
        check_count("an entry of channels", entry)
    multiple = 2 ** (len(channels) - 1)
    if height % multiple or width % multiple:
        raise UserError(
            f"the translation net with {len(channels)} channels takes images whose sides {multiple} "
            f"divides, not {size}: resize them, or give fewer channels."
        )
    return channels
