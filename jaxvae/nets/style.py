"""The style-based nets of Soft-IntroVAE, for square images of 4, 8, 16, ... pixels, which grow.

    encoder     for each side from the image's down to 4: conv k3, leaky ReLU, STYLE, norm, blur, conv k3 and mean over 2x2,
                leaky ReLU, STYLE, norm. A STYLE is a linear layer of the channels' means and standard deviations; w is the
                sum of all. Three dense layers make mean and log-variance of it, with a leaky ReLU after each, the last one, too
    decoder     pixel norm of z, dense layers: w, the same for every row of styles. From a learned 4x4, for each side:
                (but 4) every pixel made 2x2, conv k3, blur; then noise, bias, leaky ReLU, norm, STYLE; conv k3, noise, bias,
                leaky ReLU, norm, STYLE. A STYLE, x (1 + a) + b, has its (a, b) from a row of w
    fade-in     of the last side with its blend b: the encoder's styles of it times b, its features mixed with those of the
                image at half the side; the decoder's image mixed with that of the side before, every pixel made 2x2

Norms are instance norms: of each channel of each image. What is a leaky ReLU has the slope 0.2. Images are in [0, 1], of which
the layers see 2 x - 1. State: the blend of both nets (`faded`), and in the decoder a moving average of w (`truncated`).

Sources: Daniel & Tamar 2021 (arXiv 2012.13253), appendix 9.2.3 (Figure 4c) and its released code, style_soft_intro_vae/net.py;
Pidhorskyi et al. 2020 (arXiv 2004.04946); Karras et al. 2019 (arXiv 1812.04948).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvae import noise, parallel
from jaxvae.errors import UserError, check_count, check_number, unknown
from jaxvae.nets.intro import doubled, halved
from jaxvae.nets.layers import check_shape, from_linen
from jaxvae.nets.style_layers import (
    EqualConv,
    EqualDense,
    blur,
    instance_norm,
    leaky,
    lerp,
    modulate,
    statistics,
)
from jaxvae.types import Array, Net, State

LEAST = 4  # pixels of a side
AVERAGE = 0.995  # what the moving average of w keeps in a pass
STILL = ("zero", "released")


class Shape(NamedTuple):
    """What both nets of one level share."""

    side: int  # pixels of an image
    colours: int
    top: int  # pixels of the last level
    start: int  # channels at that
    max_channels: int
    latent_dim: int
    mapping: int
    still: str
    remat: bool
    dtype: Any

    @property
    def sides(self) -> list[int]:
        """The sides of this level's images and of all below, from 4 up."""
        return [LEAST << i for i in range(self.side.bit_length() - LEAST.bit_length() + 1)]

    def channels(self, side: int) -> int:
        """Returns the channels of maps of this side."""
        return min(self.max_channels, self.start * self.top // side)


# ---- blocks --------------------------------------------------------------------------------------


class EncoderBlock(nn.Module):
    """Maps [B, s, s, C] to [B, s / 2, s / 2, features] and a part of w [B, D]."""

    features: int
    latent_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        w = jnp.zeros((x.shape[0], self.latent_dim), self.dtype)
        for i, (features, resize) in enumerate(((x.shape[-1], "same"), (self.features, "half")), 1):
            x = x if i == 1 else blur(x)
            x = EqualConv(features, resize=resize, dtype=self.dtype, name=f"conv_{i}")(x)
            bias = self.param(f"bias_{i}", nn.initializers.zeros, (features,))
            x = leaky(x + bias.astype(self.dtype))
            dense = EqualDense(self.latent_dim, dtype=self.dtype, name=f"style_{i}")
            w = w + dense(statistics(x))
            x = instance_norm(x, 1e-5)
        return x, w


class DecoderBlock(nn.Module):
    """Maps [B, s / 2, s / 2, C] and two rows of styles [B, 2, D] to [B, s, s, features].

    The first one leaves the side, and has no convolution before its first style.
    """

    number: int
    features: int
    still: str
    dtype: Any

    @nn.compact
    def __call__(self, x, w, drawn):
        for i in (1, 2):
            if i == 2 or self.number > 0:
                resize = "double" if i == 1 else "same"
                conv = EqualConv(self.features, resize=resize, dtype=self.dtype, name=f"conv_{i}")
                x = blur(conv(x)) if i == 1 else conv(x)
            x = self.noisy(x, drawn, i)
            bias = self.param(f"bias_{i}", nn.initializers.zeros, (self.features,))
            x = instance_norm(leaky(x + bias.astype(self.dtype)), 1e-8)
            dense = EqualDense(2 * self.features, dtype=self.dtype, name=f"modulation_{i}")
            x = modulate(x, dense(w[:, i - 1]))
        return x

    def noisy(self, x: Array, drawn: Array | None, i: int) -> Array:
        """Returns x with a map of noise, the same for all channels but for a weight of each."""
        weight = self.param(f"noise_{i}", nn.initializers.zeros, (self.features,))
        if drawn is not None:
            return x + drawn[:, i - 1] * weight.astype(self.dtype)
        if self.still == "zero":
            return x
        t = math.sqrt(self.number + 1)
        bump = jnp.exp(-jnp.square(x) / (2 * t * t)) / math.sqrt(2 * math.pi)
        return x + 0.8 * t * bump


# ---- nets --------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """An image [B, s, s, C] to the outputs of a posterior [B, 2 D]."""

    shape: Shape

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        shape = self.shape
        want = (shape.side, shape.side, shape.colours)
        if x.shape[1:] != want or cond is not None:
            given = x.shape[1:] if cond is None else "a condition"
            raise UserError(
                f"this style net takes images of shape {want} without labels, not {given}."
            )
        x = (2 * x - 1).astype(shape.dtype)
        blend = blend_of(self, shape)
        block = nn.remat(EncoderBlock) if shape.remat else EncoderBlock
        h, w = self.from_rgb(x, shape.side), jnp.zeros((), shape.dtype)
        for side in reversed(shape.sides):
            features = shape.channels(side // 2)
            h, part = block(features, shape.latent_dim, shape.dtype, name=f"block_{side}")(h)
            if side == shape.side and blend is not None:
                h = lerp(self.from_rgb(halved(x), side // 2), h, blend)
                part = part * blend.astype(part.dtype)
            w = w + part
        if self.is_initializing():  # of the levels below, which this one has, too
            for side in shape.sides[:-2]:
                self.from_rgb(jnp.zeros((1, 1, 1, shape.colours)), side)
        for i, features in enumerate((shape.latent_dim, shape.latent_dim, 2 * shape.latent_dim)):
            w = leaky(EqualDense(features, dtype=shape.dtype, name=f"mapping_{i}")(w))
        return w.astype(jnp.float32)

    def from_rgb(self, x: Array, side: int) -> Array:
        """Returns the features of an image of this side; the released code has both leaky ReLUs."""
        shape, name = self.shape, f"from_rgb_{side}"
        conv = EqualConv(shape.channels(side), 1, use_bias=True, dtype=shape.dtype, name=name)
        return leaky(leaky(conv(x)))


class Decoder(nn.Module):
    """A latent [B, D], or one for each row of styles [B, rows, D], to an image [B, s, s, C]."""

    shape: Shape

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        shape = self.shape
        rows, width = 2 * len(shape.sides), shape.latent_dim
        if z.shape[1:] not in ((width,), (rows, width)) or cond is not None:
            given = f"shape {z.shape[1:]}" if cond is None else "a condition"
            raise UserError(
                f"this style net takes latents of shape ({width},), or ({rows}, {width}) with one for "
                f"each style, without labels, not {given}."
            )
        w = self.styles(z, train)
        if w.ndim == 2:
            w = jnp.broadcast_to(w[:, None], (w.shape[0], rows, w.shape[1]))
        if not train:
            truncation = self.get_variable("styles", "truncation")[:, None]
            w = w + (1 - truncation) * (self.get_variable("styles", "average") - w)
        return self.images(w.astype(shape.dtype))

    def styles(self, z: Array, train: bool) -> Array:
        """Returns w, of z's shape; training moves its average, by the first row of every image."""
        shape = self.shape
        square = jnp.mean(jnp.square(z), axis=-1, keepdims=True)
        w = (z * jax.lax.rsqrt(square + 1e-8)).astype(shape.dtype)
        for i in range(shape.mapping):
            dense = EqualDense(shape.latent_dim, dtype=shape.dtype, name=f"mapping_{i}")
            w = leaky(dense(w))
        w = w.astype(jnp.float32)
        average = self.variable("styles", "average", jnp.zeros, (shape.latent_dim,))
        self.variable("styles", "truncation", jnp.ones, (2 * len(shape.sides),))
        if train and not self.is_initializing() and self.is_mutable_collection("styles"):
            mean = parallel.mean(jnp.mean(w if w.ndim == 2 else w[:, 0], axis=0))
            average.value = AVERAGE * average.value + (1.0 - AVERAGE) * mean
        return w

    def images(self, w: Array) -> Array:
        """Returns the images [B, s, s, C] of styles [B, rows, D]."""
        shape, blend = self.shape, blend_of(self, self.shape)
        first = (LEAST, LEAST, shape.channels(LEAST))
        const = self.param("const", nn.initializers.ones, first).astype(shape.dtype)
        h, before = jnp.broadcast_to(const, (w.shape[0], *first)), None
        block = nn.remat(DecoderBlock) if shape.remat else DecoderBlock
        drawn = self.noise(w.shape[0])
        for i, side in enumerate(shape.sides):
            if side == shape.side and blend is not None:
                before = doubled(self.to_rgb(h, side // 2))
            made = block(i, shape.channels(side), shape.still, shape.dtype, name=f"block_{side}")
            h = made(h, w[:, 2 * i : 2 * i + 2], drawn[i])
        y = self.to_rgb(h, shape.side)
        if before is not None and blend is not None:
            y = lerp(before, y, blend)
        if self.is_initializing():
            for side in shape.sides[:-2]:
                self.to_rgb(jnp.zeros((1, 1, 1, shape.channels(side))), side)
        return (y + 1) / 2

    def noise(self, size: int) -> list[Array | None]:
        """Returns for each block two maps [B, 2, s, s, 1], of one draw; None where there is no key."""
        sides = self.shape.sides
        if not self.has_rng("dropout"):
            return [None] * len(sides)
        ends = list(itertools.accumulate(2 * side * side for side in sides))
        drawn = noise.normal(self.make_rng("dropout"), (size, ends[-1])).astype(self.shape.dtype)
        parts = jnp.split(drawn, ends[:-1], axis=1)
        return [x.reshape(size, 2, s, s, 1) for x, s in zip(parts, sides, strict=True)]

    def to_rgb(self, x: Array, side: int) -> Array:
        """Returns the image that features of this side are, nominally in [-1, 1]."""
        shape, name = self.shape, f"to_rgb_{side}"
        conv = EqualConv(shape.colours, 1, use_bias=True, dtype=shape.dtype, name=name)
        return conv(x).astype(jnp.float32)


def blend_of(module: nn.Module, shape: Shape) -> Array | None:
    """Returns how far the last side is faded in: 1, unless `faded` says otherwise; None at 4 pixels."""
    if shape.side == LEAST:
        return None
    return module.variable("fade", "blend", jnp.ones, ()).value


def style(
    shape: Sequence[int],
    *,
    latent_dim: int = 512,
    top: int | None = None,
    start: int = 64,
    max_channels: int = 512,
    mapping: int = 8,
    still: str = "zero",
    remat: bool = False,
    dtype: Any = jnp.float32,
) -> tuple[Net, Net]:
    """Returns (encoder, decoder) of one level: x [B, s, s, C] -> [B, 2 D], z [B, D] -> [B, s, s, C].

    A level has all parameters of those below by the same names (`train.carry_over` carries them over).
    For 256x256x3 they have 26,789,952 + 1,050,624 and 2,101,248 + 23,984,981 parameters. In training,
    and wherever they are given a key, decoders add noise; w may have rows of several latents (`mixed`).

    Args:
        shape: of an image, (s, s, C); s is 4, 8, 16, ...
        latent_dim: D, of z and of w.
        top: the side of the last level that is to come, which `start` is of; default: s.
        start: channels at `top`, twice as many at each half of it. Published: 64 for 256 pixels; 16 for
            1024.
        max_channels: channels at most.
        mapping: dense layers from z to w.
        still: what the decoder adds where it is given no key: "zero", or "released", the bump
            0.8 t exp(-x^2 / 2 t^2) / sqrt(2 pi), t = sqrt(number of the block), of the released code.
        remat: compute features of blocks again for gradients, to save memory.
        dtype: of the computation (float32 or bfloat16); parameters, norms and outputs are float32.

    Raises:
        UserError: for images that are not square, or of another size, an unknown `still`, numbers below
            1, and, when applied, for inputs that do not fit.
    """
    side, width, colours = check_shape("style", shape)
    if side != width or side < LEAST or side & (side - 1):
        raise UserError(
            f"the style net takes square images of 4, 8, 16, ... pixels, not {side}x{width}: resize "
            "or pad them."
        )
    top = side if top is None else top
    counts = {
        "latent_dim": latent_dim,
        "top": top,
        "start": start,
        "max_channels": max_channels,
        "mapping": mapping,
    }
    for name, value in counts.items():
        check_count(name, value)
    if top < side or top & (top - 1):
        raise UserError(f"top must be {side}, {2 * side}, {4 * side}, ..., not {top}.")
    if still not in STILL:
        raise unknown("still", still, STILL)
    level = Shape(side, colours, top, start, max_channels, latent_dim, mapping, still, remat, dtype)
    return from_linen(Encoder(level)), from_linen(Decoder(level))


# ---- what is done to states and latents --------------------------------------------------------


def style_rows(side: int) -> int:
    """Returns how many rows of styles the decoder of images of this side has."""
    return 2 * (side.bit_length() - 2)


def mixed(first: Array, last: Array, row: int | Array, rows: int) -> Array:
    """Returns latents [B, rows, D] for a decoder: `first` [B, D] in the rows before `row`, `last` [B,
    D] from there on: coarse features of the one, fine ones of the other."""
    is_first = jnp.arange(rows)[None, :, None] < row
    return jnp.where(is_first, first[:, None], last[:, None])


def faded(state: State, blend: Array | float) -> State:
    """Returns the state, by net, in which the last side of each net is faded in so far: from 0, the
    level before, to 1."""
    fade = {"blend": jnp.asarray(blend, jnp.float32)}
    return {
        name: {**tree, "fade": fade} if isinstance(tree, dict) and "fade" in tree else tree
        for name, tree in state.items()
    }


def truncated(state: State, truncation: float, rows: int | None = None) -> State:
    """Returns the state, by net, in which styles are nearer to their average outside of training:
    average + truncation (w - average).

    Args:
        state: of a model with a style decoder.
        truncation: 1 leaves w as it is, 0 gives the average image.
        rows: so many of the first ones alone, the coarse features; default: all.

    Raises:
        UserError: for a state without an average of styles, and numbers out of range.

    Source: Karras et al. 2019 (arXiv 1812.04948), appendix B.
    """
    check_number("truncation", truncation, least=0.0)
    found = {n: t for n, t in state.items() if isinstance(t, dict) and "styles" in t}
    if not found:
        raise UserError("this model has no styles, which a truncation is of: leave it out.")
    if rows is not None:
        check_count("rows", rows)

    def of(tree: State) -> State:
        have = tree["styles"]["truncation"]
        first = jnp.arange(have.size) < (have.size if rows is None else rows)
        return {
            **tree,
            "styles": {**tree["styles"], "truncation": jnp.where(first, truncation, 1.0)},
        }

    return {**state, **{name: of(tree) for name, tree in found.items()}}
