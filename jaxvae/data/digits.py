"""scikit-learn's digits: 1,797 grey images of 8x8 pixels, installed with it, so nothing is
downloaded.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998, UCI).
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np

from jaxvae.errors import UserError

# The first and the last of them: ours, as there is no official split.
COUNTS = {"train": 1437, "test": 360}
FILE = "datasets/data/digits.csv.gz"  # inside scikit-learn


def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [n, 8, 8, 1] uint8 (the levels 0..16 scaled to 0..255) and label [n] of "train" or
    "test"."""
    part = slice(None, COUNTS["train"]) if split == "train" else slice(COUNTS["train"], None)
    levels, labels = np.split(_table()[part], [64], axis=1)
    x = np.rint(levels * (255 / 16)).astype(np.uint8)
    return x.reshape(-1, 8, 8, 1), labels[:, 0].copy()


@functools.cache
def _table() -> np.ndarray:
    """Returns [n, 65] int32: 64 levels and the label. The file is read where it lies: to import
    scikit-learn takes as long as all else before a run's first step."""
    found = importlib.util.find_spec("sklearn")
    if found is None:
        raise UserError(
            "the digits come with scikit-learn, which is missing: pip install scikit-learn."
        )
    path = Path(*(found.submodule_search_locations or ()), FILE)
    if path.is_file():
        return np.loadtxt(path, delimiter=",", dtype=np.int32)
    from sklearn.datasets import load_digits  # one that keeps them elsewhere

    digits = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.int32)
