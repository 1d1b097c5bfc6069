"""What turns examples into a `Batch` inside the compiled step: bytes cross the bus, not floats."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import noise
from jaxvae.data.source import check_label_range
from jaxvae.errors import UserError, check_count, check_number, concrete, unknown
from jaxvae.types import Array, Batch

KEY = 0x0DA7A  # folded into a step's key for the noise of preprocessing
AUGMENT = 0xA06  # folded into that one for what is done to training batches alone
SHIFT = 0x5417  # and for where images are moved
PIXELS = ("grey", "binarised", "dequantised")
Preprocess = Callable[[Array, dict[str, Array]], Batch]  # (rng, examples) -> Batch, inside jit
Augment = Callable[[Array, Batch], Batch]  # (rng, batch) -> batch, inside jit

_BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


def make_preprocess(
    pixels: Literal["grey", "binarised", "dequantised"] = "grey", num_classes: int | None = None
) -> Preprocess:
    """Returns `preprocess(rng, examples) -> Batch`, to be called inside `jit`.

        grey          x = byte / 255
        binarised     x ~ Bernoulli(byte / 255), drawn anew at every visit
        dequantised   x = (byte + u) / 256,  u ~ U[0, 1), so that x is in [0, 1)

    Floating-point x is not scaled: "grey" leaves it as it is, "binarised" takes it as
    probabilities.

    Args:
        pixels: one of the three.
        num_classes: where given, `cond` is the one-hot label [B, num_classes].

    Returns:
        A function of a key and of examples {"x": uint8 or float32 [B, ...], "label": int32 [B]} as
        a `Source` reads them, which returns a `Batch` of float32.

    Raises:
        UserError: for an unknown kind of pixels and a number of classes below 1; when called, for
            examples without the labels or the bytes that are asked for, and outside `jit` for labels
            out of range.
    """
    if pixels not in PIXELS:
        raise unknown("pixels", pixels, PIXELS)
    if num_classes is not None:
        check_count("num_classes", num_classes)

    def preprocess(rng: Array, examples: dict[str, Array]) -> Batch:
        x = _pixels(rng, jnp.asarray(examples["x"]), pixels)
        if num_classes is None:
            return Batch(x)
        if "label" not in examples:
            raise UserError(
                "num_classes needs labels, and these examples have none: use a labelled source, "
                "or leave num_classes out."
            )
        if concrete(examples["label"]):
            check_label_range(examples["label"], num_classes)
        return Batch(x, jax.nn.one_hot(examples["label"], num_classes, dtype=jnp.float32))

    return preprocess


def augmented(preprocess: Preprocess, augment: Augment | None) -> Preprocess:
    """Returns `preprocess` with `augment` after it, which has a key of its own: what training sees.

    None: `preprocess` itself.
    """
    if augment is None:
        return preprocess

    def augmented(rng: Array, examples: dict[str, Array]) -> Batch:
        return augment(jax.random.fold_in(rng, AUGMENT), preprocess(rng, examples))

    return augmented


def at_side(side: int, *, pad: int = 0) -> Preprocess:
    """Returns the preprocessing of grey pixels (`make_preprocess`) of square images that are brought
    to `side` x `side`.

    Args:
        side: of the result; it divides that of the images, whose pixels are averaged over squares.
        pad: black pixels that are put on each side of an image before that.

    Raises:
        UserError: for numbers out of range; when called, for examples that cannot be brought to it.
    """
    check_count("side", side)
    check_count("pad", pad, least=0)
    grey = make_preprocess()

    def smaller(rng: Array, examples: dict[str, Array]) -> Batch:
        batch = grey(rng, examples)
        x, have = batch.x, np.asarray(batch.x.shape[1:3]) + 2 * pad
        if x.ndim != 4 or have[0] != have[1] or have[0] % side:
            raise UserError(
                f"examples of shape {x.shape[1:]}, with {pad} pixels around them, cannot be averaged "
                f"to {side}x{side}: they must be square images whose side {side} divides."
            )
        x, k = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), int(have[0]) // side
        x = x.reshape(len(x), side, k, side, k, x.shape[-1])
        return batch._replace(x=jnp.mean(x, axis=(2, 4)))

    return smaller


def shifted(preprocess: Preprocess, share: float = 0.05, pad: int = 2) -> Preprocess:
    """Returns `preprocess` of images that are moved first, each by whole pixels of its own.

        d = round(share (n + 2 pad) v),   v ~ U[-1, 1), for rows and for columns of n pixels each

    What comes in from outside is the nearest pixel of the edge: the image is padded by `pad` of
    them, moved, and its centre kept. Moving comes first so that dequantised copies of a pixel have
    noise of their own; two pixels that share theirs would give a density a ridge without bound.

    Args:
        preprocess: of the moved images; its noise does not depend on the moving.
        share: of the padded side, the largest distance; in [0, 1).
        pad: pixels on each side.

    Raises:
        UserError: for numbers out of range; when called, for examples that are no images, and ones
            so large that a share of their side is more than the padding.

    Source: the course report's released code, datasets/mnist.py (torchvision's Pad, RandomAffine
    and CenterCrop).
    """
    check_number("share", share, least=0.0, below=1.0)
    check_count("pad", pad)

    def moved(rng: Array, examples: dict[str, Array]) -> Batch:
        x = jnp.asarray(examples["x"])
        if x.ndim != 4:
            raise UserError(
                "only images (height, width, channels) can be moved, and these examples have the "
                f"shape {x.shape[1:]}: leave shifted out."
            )
        reach = share * (np.asarray(x.shape[1:3]) + 2 * pad)
        if np.any(np.round(reach) > pad):
            raise UserError(
                f"images of {x.shape[1]}x{x.shape[2]} would be moved by up to {reach.max():.3g} "
                f"pixels and are padded by {pad}: use a smaller share or a wider pad."
            )
        v = 2.0 * noise.uniform(jax.random.fold_in(rng, SHIFT), (len(x), 2)) - 1.0
        by = jnp.round(v * reach.astype(np.float32)).astype(jnp.int32)
        rows, columns = (
            jnp.clip(jnp.arange(n) - by[:, i, None], 0, n - 1) for i, n in enumerate(x.shape[1:3])
        )
        which = jnp.arange(len(x))[:, None, None]
        return preprocess(rng, {**examples, "x": x[which, rows[:, :, None], columns[:, None, :]]})

    return moved


def flip(rng: Array, batch: Batch) -> Batch:
    """Returns the batch with each image mirrored left to right with probability 1/2, drawn for
    each by itself.

    Raises:
        UserError: for examples that are no images.
    """
    x = batch.x
    if x.ndim != 4:
        raise UserError(
            f"flip mirrors images (height, width, channels), and these examples have the shape "
            f"{x.shape[1:]}: leave it out."
        )
    mirrored = noise.uniform(rng, x.shape[:1]) < 0.5
    return batch._replace(x=jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x))


def _pixels(rng: Array, x: Array, pixels: str) -> Array:
    is_bytes = x.dtype == jnp.uint8
    if not is_bytes and not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"x must be uint8 or floating point, not {x.dtype}.")
    if pixels == "dequantised":
        if not is_bytes:
            raise UserError(
                f"dequantised pixels need bytes (uint8), not {x.dtype}: use grey pixels."
            )
        x = (x.astype(jnp.float32) + noise.uniform(rng, x.shape)) / 256
        return jnp.minimum(x, _BELOW_ONE)  # in float32 255 + u can round to 256
    if is_bytes:
        x = x.astype(jnp.float32) / 255
    if pixels == "binarised":
        return (noise.uniform(rng, x.shape, x.dtype) < x).astype(x.dtype)
    return x
