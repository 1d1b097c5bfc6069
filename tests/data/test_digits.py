"""The digits that come with scikit-learn."""

import sys

import numpy as np
import pytest

from jaxvae import data
from jaxvae.errors import UserError


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


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        data.load("digits", "train")
