"""The residual nets of Soft-IntroVAE for images of 28 to 1024 pixels, and IntroVAE's, which they come from.

block a -> b   conv k3 a -> b, norm, leaky ReLU 0.2, conv k3 b -> b, norm, + shortcut, leaky ReLU 0.2; the shortcut is x,
               or a conv k1 where a and b differ. IntroVAE has the second norm after the sum
encoder        conv k5 to channels[0], norm, leaky ReLU; mean over 2x2; for each further entry a block, mean over 2x2;
               block last -> last; flattened (labels beside it); one linear layer: mean and log-variance
decoder        linear to the encoder's last map (labels beside z), ReLU; for each entry of channels, last to first, a block,
               every pixel made 2x2; block first -> first; conv k5 to C

Convolutions keep the size and have no biases, but for the decoder's last one, which has no activation after it. Weights and
biases are drawn as torch does.

Sources: Daniel & Tamar 2021 (arXiv 2012.13253), appendix 9.4, and its released code, soft_intro_vae/train_soft_intro_vae.py;
Huang et al. 2018 (arXiv 1807.06358) and its released code, networks.py. That code, and the other's before 2022, compares
widths with `is not`, so that some of its blocks between equal widths above 256 have a conv k1 too; none here has.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count, unknown
from jaxvae.nets.layers import BatchNorm, Conv, Dense, check_images, from_linen, join
from jaxvae.types import Array, Net

# side of the image -> channels; those of 64 and 512 are not published
CHANNELS = {
    28: (64, 128),
    32: (64, 128, 256),
    64: (64, 128, 256, 512),
    128: (64, 128, 256, 512, 512),
    256: (64, 128, 256, 512, 512, 512),
    512: (32, 64, 128, 256, 512, 512, 512),
    1024: (16, 32, 64, 128, 256, 512, 512, 512),
}
INTRO_VAE_CHANNELS = CHANNELS | {256: (32, 64, 128, 256, 512, 512)}
VARIANTS = ("soft_intro_vae", "intro_vae")
NORMS = ("batch", "group", "none")
GROUPS = 32  # at most, and such that they divide the channels (Wu & He 2018)
OUTPUTS = ("linear", "sigmoid")


class Style(NamedTuple):
    """What encoder and decoder share: channels, labels, and how a block looks. Layers belong to the
    module in whose `__call__` they are made."""

    channels: tuple[int, ...]
    norm: str
    variant: str
    num_classes: int | None
    remat: bool
    dtype: Any

    def conv(self, width: int, side: int = 3) -> Conv:
        """Returns a convolution that keeps the size, with a bias where no norm follows."""
        bare = self.norm == "none"  # what no norm shifts has a bias of its own
        return Conv(width, side, padding=side // 2, use_bias=bare, dtype=self.dtype)

    def normalised(self, h: Array, train: bool) -> Array:
        """Returns h [B, H, W, C] through the norm of this net."""
        if self.norm == "none":
            return h
        if self.norm == "batch":
            return BatchNorm(dtype=self.dtype)(h, train=train)
        norm = nn.GroupNorm(math.gcd(GROUPS, h.shape[-1]), epsilon=1e-5, use_fast_variance=False)
        return norm(h.astype(jnp.float32)).astype(self.dtype)

    def block(
        self, module: nn.Module, x: Array, width: int, train: bool, *, double: bool = False
    ) -> Array:
        """Returns x [B, H, W, C], or with `double` every pixel of it made 2x2, through a residual
        block of `width` channels, a part of `module`."""

        def layers(x: Array) -> Array:
            return self.residual(doubled(x) if double else x, width, train)

        return self.part(module, layers, x)

    def part(self, module: nn.Module, layers: Callable[[Array], Array], x: Array) -> Array:
        """Returns layers(x), of `module`; with `remat` gradients compute all but x again."""
        return nn.remat(lambda _, x: layers(x))(module, x) if self.remat else layers(x)

    def stem(self, x: Array, train: bool) -> Array:
        """Returns an image [B, H, W, C] as features of half its sides."""
        h = self.conv(self.channels[0], 5)(x.astype(self.dtype))
        return halved(_leaky(self.normalised(h, train)))

    def residual(self, x: Array, width: int, train: bool) -> Array:
        """Returns x [B, H, W, C] through the layers of a residual block."""
        h = _leaky(self.normalised(self.conv(width)(x), train))
        h = self.conv(width)(h)
        shortcut = x if x.shape[-1] == width else self.conv(width, 1)(x)
        if self.variant == "intro_vae":
            return _leaky(self.normalised(h + shortcut, train))
        return _leaky(self.normalised(h, train) + shortcut)

    def joined(self, h: Array, cond: Array | None) -> Array:
        """Returns h [B, n] with the one-hot labels beside it, if this net has any."""
        classes = self.num_classes
        have = None if cond is None else cond.shape[1:]
        if have == (None if classes is None else (classes,)):
            return join(h, cond)
        what = "no cond" if cond is None else f"cond of shape {cond.shape}"
        want = "none: build it with num_classes"
        if classes is not None:
            want = f"one-hot labels [batch, {classes}]: jax.nn.one_hot(label, {classes})"
        raise UserError(f"this intro net got {what}, and takes {want}.")


class Encoder(nn.Module):
    """An image [B, H, W, C] to the outputs of a posterior [B, sum(heads)]."""

    style: Style
    shape: tuple[int, int, int]
    heads: tuple[int, ...]

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        style = self.style
        if x.shape[1:] != self.shape:
            raise UserError(
                f"this intro net takes images of shape {self.shape}, not {x.shape[1:]}: resize "
                "them, or build it for them."
            )
        h = style.part(self, lambda x: style.stem(x, train), x)
        for width in style.channels[1:]:
            h = halved(style.block(self, h, width, train))
        h = style.block(self, h, style.channels[-1], train)
        h = style.joined(h.reshape(h.shape[0], -1), cond)
        return Dense(sum(self.heads), dtype=style.dtype)(h).astype(jnp.float32)


class Decoder(nn.Module):
    """A latent [B, D] to an image [B, H, W, C]."""

    style: Style
    shape: tuple[int, int, int]
    output: str

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        style, (height, width, colours) = self.style, self.shape
        scale = 2 ** len(style.channels)
        small = (height // scale, width // scale, style.channels[-1])
        h = Dense(math.prod(small), dtype=style.dtype)(style.joined(z.astype(style.dtype), cond))
        h = nn.relu(h).reshape(-1, *small)
        for i, features in enumerate(style.channels[::-1]):
            h = style.block(self, h, features, train, double=i > 0)
        h = style.block(self, h, style.channels[0], train, double=True)
        y = Conv(colours, 5, padding=2, dtype=style.dtype)(h).astype(jnp.float32)
        return nn.sigmoid(y) if self.output == "sigmoid" else y


def _leaky(x: Array) -> Array:
    return nn.leaky_relu(x, 0.2)


def halved(x: Array) -> Array:
    """Returns x [B, H, W, C] averaged over squares of 2x2 pixels: [B, H/2, W/2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def doubled(x: Array) -> Array:
    """Returns x [B, H, W, C] with every pixel four times, as a square: [B, 2 H, 2 W, C]."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def intro(
    shape: Sequence[int],
    *,
    latent_dim: int = 128,
    channels: Sequence[int] | None = None,
    norm: str = "batch",
    variant: str = "soft_intro_vae",
    heads: Sequence[int] | None = None,
    num_classes: int | None = None,
    output: str = "linear",
    shrink: int = 1,
    remat: bool = False,
    dtype: Any = jnp.float32,
) -> tuple[Net, Net]:
    """Returns (encoder, decoder): x [B, H, W, C] -> [B, sum(heads)], z [B, D] -> [B, H, W, C].

    For 32x32x3 and D = 128 they have 3,382,848 and 2,382,531 parameters; for 28x28x1 and D = 32,
    928,512 and 697,025.

    Args:
        shape: of an image, (H, W, C): square, of 28, 32, 64, 128, 256, 512 or 1024 pixels; with
            `channels` of your own, any whose sides 2**len(channels) divides.
        latent_dim: D. Published: 128 for CIFAR-10 and SVHN, 32 for MNIST and Fashion-MNIST, 256 for
            faces of 256 pixels; 512 for those of IntroVAE.
        channels: of the feature maps, from the image inwards, the side halved after each; default:
            the published ones (`CHANNELS`, `INTRO_VAE_CHANNELS`).
        norm: "batch" (torch's, as published: running averages with the unbiased variance, momentum
            0.1), "group" (at most 32 groups), or "none" (convolutions then have biases).
        variant: "soft_intro_vae", or "intro_vae": the second norm of a block after the sum.
        heads: widths of the encoder's outputs; default mean and log-variance (D, D); (D, 1, 1) for
            an AR(1) posterior.
        num_classes: of a conditional model, whose `cond` is the one-hot label [B, num_classes],
            beside the flattened features and beside z. Default: none, and no `cond`.
        output: of the decoder: "linear", means for a squared error, or logits; or "sigmoid".
        shrink: divides every entry of `channels`, for narrow nets; 1 is the published width.
        remat: compute features of blocks again for gradients, to save memory.
        dtype: of the computation (float32 or bfloat16); parameters and outputs are float32.

    Raises:
        UserError: for images of another size, an unknown norm, variant or output, and, when
            applied, for images of another shape and labels that do not fit.
    """
    for what, name, known in (
        ("norm", norm, NORMS),
        ("variant", variant, VARIANTS),
        ("output", output, OUTPUTS),
    ):
        if name not in known:
            raise unknown(what, name, known)
    check_count("shrink", shrink)
    if num_classes is not None:
        check_count("num_classes", num_classes)
    shape, heads = check_images("intro", shape, latent_dim, heads, "logits", multiple=1)
    channels = _channels(
        shape, channels, INTRO_VAE_CHANNELS if variant == "intro_vae" else CHANNELS
    )
    channels = tuple(max(1, width // shrink) for width in channels)
    style = Style(channels, norm, variant, num_classes, remat, dtype)
    return from_linen(Encoder(style, shape, heads)), from_linen(Decoder(style, shape, output))


def _channels(
    shape: tuple[int, ...], channels: Sequence[int] | None, published: dict[int, tuple[int, ...]]
) -> Sequence[int]:
    """Returns the channels of a net for such images; raises `UserError` where none fits them."""
    height, width, _ = shape
    size = f"{height}x{width}"
    if channels is None:
        if height != width or height not in published:
            sides = ", ".join(map(str, published))
            raise UserError(
                f"the intro net takes square images of {sides} pixels a side, not {size}: resize "
                "them, or give channels, one entry for each time that the sides are halved."
            )
        return published[height]
    if not channels:
        raise UserError("the intro net needs at least one entry in channels.")
    for entry in channels:
        check_count("an entry of channels", entry)
    multiple = 2 ** len(channels)
    if height % multiple or width % multiple:
        raise UserError(
            f"the intro net with {len(channels)} channels takes images whose sides {multiple} "
            f"divides, not {size}: resize them, or give fewer channels."
        )
    return channels
