"""scikit-learn's digits: 1,797 grey images of 8x8 pixels, installed with it, so nothing is
downloaded.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998, UCI).
"""

import functools
import importlib.util
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.errors import UserError, one_line

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
    """Returns [n, 65] int32: 64 levels and the label. The file is read where it lies: importing
    scikit-learn would slow every start."""
    file = next((file for where in _places() if (file := Path(where, FILE)).is_file()), None)
    try:
        if file is None:  # one that keeps them elsewhere
            from sklearn.datasets import load_digits

            bunch: Any = load_digits()
            table = np.column_stack([bunch.data, bunch.target])
        else:
            table = np.loadtxt(file, delimiter=",")
    except ImportError:
        raise UserError(
            "the digits come with scikit-learn, which is missing: pip install scikit-learn."
        ) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(one_line(str(error))) from None
    if table.shape != (sum(COUNTS.values()), 65):
        raise _damaged(f"a table of {table.shape}")
    return table.astype(np.int32)


def _places() -> list[str]:
    """Returns the folders of scikit-learn; none where it is not installed."""
    try:
        found = importlib.util.find_spec("sklearn")
    except ValueError:  # something else that calls itself so
        return []
    return list(found.submodule_search_locations or ()) if found is not None else []


def _damaged(why: str) -> UserError:
    return UserError(
        f"the digits of scikit-learn are damaged ({why}): pip install --force-reinstall scikit-learn."
    )
