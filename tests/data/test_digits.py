"""The digits that come with scikit-learn."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn import datasets

from jaxvae import data
from jaxvae.data import digits
from jaxvae.errors import UserError


@pytest.fixture(autouse=True)
def unread():
    digits._table.cache_clear()


def test_digits():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert train.size == 1437 and test.size == 360 and train.shape == test.shape == (8, 8, 1)
    assert train.num_classes == 10 and np.bincount(train.arrays["label"]).sum() == 1437
    x = train.arrays["x"]
    assert x.dtype == np.uint8
    # The first digit's first row has the levels 0 0 5 13 9 1 0 0 of 16: 255 / 16 * 5 = 79.7, ...
    assert x[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert x.min() == 0 and x.max() == 255 and len(np.unique(x)) == 17
    parts = [data.load("digits", split) for split in data.splits("digits")]
    assert [part.size for part in parts] == [1293, 144, 360]
    np.testing.assert_array_equal(np.concatenate([part.arrays["x"] for part in parts[:2]]), x)
    np.testing.assert_array_equal(parts[2].arrays["x"], test.arrays["x"])


@pytest.mark.parametrize("file", [digits.FILE, "datasets/elsewhere.csv.gz"])
def test_they_are_scikit_learns_own(monkeypatch, file):
    monkeypatch.setattr(digits, "FILE", file)
    theirs = datasets.load_digits()
    parts = [digits.read(split) for split in ("train", "test")]
    x, label = (np.concatenate(each) for each in zip(*parts, strict=True))
    np.testing.assert_array_equal(np.rint(x[..., 0] * (16 / 255)), theirs.images)
    np.testing.assert_array_equal(label, theirs.target)
    assert x.dtype == np.uint8 and label.dtype == np.int32


def test_to_read_them_imports_nothing_of_scikit_learn():
    program = """
import sys
from jaxvae import data
data.load("digits", "train")
print(sorted(name for name in sys.modules if name.startswith("sklearn")))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        data.load("digits", "train")
