"""scikit-learn's digits: 1,797 grey images of 8x8 pixels, installed with it, so nothing is
downloaded.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998, UCI).
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxvae.errors import UserError

# The first and the last of them: ours, as there is no official split.
COUNTS = {"train": 1437, "test": 360}


def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [n, 8, 8, 1] uint8 (the levels 0..16 scaled to 0..255) and label [n] of "train" or
    "test"."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "the digits come with scikit-learn, which is missing: pip install scikit-learn."
        ) from None
    digits = _called(load_digits)
    part = slice(None, COUNTS["train"]) if split == "train" else slice(COUNTS["train"], None)
    x = np.rint(digits.images[part] * (255 / 16)).astype(np.uint8)
    return x[..., None], digits.target[part].astype(np.int32)


@functools.cache
def _called(load: Callable[[], Any]) -> Any:
    """Returns `load()`, which parses a file, once in a process."""
    return load()
