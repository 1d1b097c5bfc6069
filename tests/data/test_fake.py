"""Data of every shape that need no files."""

import numpy as np
import pytest

from jaxvae import data
from jaxvae.data import fake, sets


@pytest.mark.parametrize("name", data.names())
def test_fake_data_have_the_shape_of_the_real(name):
    if name.startswith("fake_"):
        real = sets.DATA_SETS[name.removeprefix("fake_")]
        splits = data.splits(name)
        for split in splits:
            loaded = data.load(name, split)
            assert loaded.shape == real.shape and loaded.num_classes == real.num_classes
            assert loaded.arrays["x"].std() > 10
        np.testing.assert_array_equal(loaded.arrays["x"], data.load(name, split).arrays["x"])


def test_classes_are_told_by_where_their_blobs_are():
    x, label, origin = fake.read((12, 12, 3), 10, "train")
    assert x.shape == (fake.COUNT, 12, 12, 3) and x.dtype == np.uint8 and "not real" in origin
    assert np.bincount(label).min() >= fake.COUNT // 10
    means = np.stack([x[label == k].mean(axis=0) for k in range(10)])
    far = np.abs(x[:100, None].astype(np.float64) - means).mean(axis=(2, 3, 4))
    assert (far.argmin(axis=1) == label[:100]).mean() > 0.9


def test_splits_differ_and_data_without_classes_have_no_labels():
    train, label, _ = fake.read((8, 8, 1), None, "train")
    assert label is None
    assert (train != fake.read((8, 8, 1), None, "test")[0]).any()
