"""Images of which a part is given and the rest is to be completed: which pixels, and the batches.

    cond = g m,   x = g m + image (1 - m)

where m is 1 at given pixels and g is the image there: as it is, or drawn as zeros and ones with the
pixels' intensities as probabilities, anew at every visit.

Source: Doersch 2016 (arXiv 1606.05908), section 4.2: the binarised centre column of MNIST.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import noise
from jaxvae.data.preprocess import Preprocess, make_preprocess
from jaxvae.errors import UserError, check_count, unknown
from jaxvae.types import Array, Batch

PARTS = ("column", "left", "right", "top", "bottom")
GIVEN = ("binarised", "grey")


def given_pixels(
    shape: tuple[int, ...], part: str = "column", column: int | None = None
) -> np.ndarray:
    """Returns which pixels of images [H, W, C] are given: bool [H, W].

    Args:
        shape: (H, W, C).
        part: "column", or the half of the image that is given: "left", "right", "top" or "bottom"
            (of an odd side its smaller half).
        column: number of the column, from 0; default: the centre, (W - 1) // 2, which is 13 of 28.

    Raises:
        UserError: for data that are no images, an unknown part, a column that does not exist or is
            given with another part, and images too small for it.
    """
    if len(shape) != 3:
        raise UserError(f"only images [H, W, C] can be completed, not data of shape {shape}.")
    if part not in PARTS:
        raise unknown("part", part, PARTS)
    if column is not None and part != "column":
        raise UserError(f"a column's number goes with part='column', not with {part!r}.")
    height, width, _ = shape
    along = height if part in ("top", "bottom") else width
    if along < 2:
        raise UserError(f"images of {height}x{width} have nothing left beside the part {part!r}.")
    mask = np.zeros((height, width), bool)
    if part == "column":
        column = (width - 1) // 2 if column is None else column
        check_count("column", column, least=0)
        if column >= width:
            raise UserError(
                f"there is no column {column}: images of width {width} have the columns 0 to "
                f"{width - 1}."
            )
        mask[:, column] = True
    else:
        first = part in ("left", "top")
        half = slice(along // 2) if first else slice(along - along // 2, None)
        mask[(half, slice(None)) if part in ("top", "bottom") else (slice(None), half)] = True
    return mask


def make_completion(
    mask: np.ndarray,
    pixels: Literal["grey", "binarised"] = "grey",
    given: Literal["binarised", "grey"] = "binarised",
) -> Preprocess:
    """Returns `preprocess(rng, examples) -> Batch`, whose `cond` [B, H, W, C] is the given part of
    an image, 0 elsewhere; `x` is the image with that part as it is given.

    Args:
        mask: which pixels are given, bool [H, W].
        pixels: of the image, as in `make_preprocess`.
        given: of the given part: "binarised" draws it as zeros and ones, anew at every visit.

    Raises:
        UserError: for unknown names; when called, for images of another size.
    """
    if given not in GIVEN:
        raise unknown("given pixels", given, GIVEN)
    plain = make_preprocess(pixels)

    def preprocess(rng: Array, examples: dict[str, Array]) -> Batch:
        rng_pixels, rng_given = jax.random.split(rng)
        x = plain(rng_pixels, examples).x
        check_mask(mask, x.shape[1:])
        seen = x
        if given == "binarised":
            seen = (noise.uniform(rng_given, x.shape, x.dtype) < x).astype(x.dtype)
        is_given = jnp.asarray(mask)[..., None]
        return Batch(jnp.where(is_given, seen, x), jnp.where(is_given, seen, jnp.zeros_like(x)))

    return preprocess


def check_mask(mask: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises `UserError` unless `mask` gives some but not all pixels of images of `shape`."""
    if mask.dtype != bool or mask.shape != tuple(shape[:-1]) or len(shape) != 3:
        raise UserError(
            f"the given pixels must be bool [H, W] for images {tuple(shape)}, not {mask.dtype} "
            f"{mask.shape}."
        )
    if mask.all() or not mask.any():
        raise UserError("some pixels must be given and some be missing.")
