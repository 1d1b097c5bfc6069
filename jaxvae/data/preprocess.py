"""What turns examples into a `Batch` inside the compiled step: bytes cross the bus, not floats."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import noise
from jaxvae.errors import UserError, check_count, unknown
from jaxvae.types import Array, Batch

KEY = 0x0DA7A  # folded into a step's key for the noise of preprocessing
PIXELS = ("grey", "binarised", "dequantised")
Preprocess = Callable[[Array, dict[str, Array]], Batch]  # (rng, examples) -> Batch, inside jit

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
            examples without the labels or the bytes that are asked for.
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
        return Batch(x, jax.nn.one_hot(examples["label"], num_classes, dtype=jnp.float32))

    return preprocess


def _pixels(rng: Array, x: Array, pixels: str) -> Array:
    is_bytes = x.dtype == jnp.uint8
    if not is_bytes and not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"x must be uint8 or floating point, not {x.dtype}.")
    if pixels == "dequantised":
        if not is_bytes:
            raise UserError(
                f"dequantised pixels need bytes (uint8), not {x.dtype}: use pixels='grey'."
            )
        x = (x.astype(jnp.float32) + noise.uniform(rng, x.shape)) / 256
        return jnp.minimum(x, _BELOW_ONE)  # in float32 255 + u can round to 256
    if is_bytes:
        x = x.astype(jnp.float32) / 255
    if pixels == "binarised":
        return (noise.uniform(rng, x.shape, x.dtype) < x).astype(x.dtype)
    return x
