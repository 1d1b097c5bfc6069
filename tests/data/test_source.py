import os
import re
import subprocess
import sys

import numpy as np
import pytest

from jaxvae import data
from jaxvae.data import sets
from jaxvae.data import source as source_module
from jaxvae.data.source import read_checked
from jaxvae.errors import UserError


@pytest.mark.parametrize("size, batch_size", [(10, 4), (12, 4), (7, 1), (5, 13)])
def test_every_example_comes_once_an_epoch_although_batches_straddle(size, batch_size):
    batches = [data.batch_indices(size, 3, step, batch_size) for step in range(size)]
    assert all(b.shape == (batch_size,) and b.dtype == np.int32 for b in batches)
    epochs = np.concatenate(batches).reshape(
        batch_size, size
    )  # size * batch_size positions: batch_size epochs
    np.testing.assert_array_equal(
        np.sort(epochs, axis=1), np.tile(np.arange(size), (batch_size, 1))
    )
    assert batch_size == 1 or any((epochs[0] != epoch).any() for epoch in epochs[1:])


def test_the_stream_of_indices_never_changes():
    # A change here breaks the resuming of every run started before it.
    assert data.batch_indices(10, 7, 1, 8).tolist() == [9, 0, 3, 9, 1, 6, 2, 5]
    assert data.batch_indices(60_000, 0, 468, 4).tolist() == [6850, 14069, 43, 51917]


def test_batch_indices_depend_on_nothing_but_their_arguments():
    late = data.batch_indices(50, 1, 99, 8)
    late[:] = 0  # what a caller does to its batch reaches nobody else
    first = [data.batch_indices(50, 1, step, 8) for step in range(100)]
    source_module._permutation.cache_clear()
    for step in reversed(range(100)):
        np.testing.assert_array_equal(data.batch_indices(50, 1, step, 8), first[step])
    assert (data.batch_indices(50, 2, 0, 50) != data.batch_indices(50, 1, 0, 50)).any()
    one_pass = data.batch_indices(50, 1, 0, 800)
    np.testing.assert_array_equal(np.concatenate(first), one_pass)


def test_batch_indices_of_a_step_that_overflows_int32():
    step = np.int32(2**31 - 1)
    assert sorted(data.batch_indices(4, 2**64 - 1, step, np.int32(4))) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 0, 0, 1), "size must be at least 1"),
        ((5, -1, 0, 1), "seed must be at least 0"),
        ((5, 2**64, 0, 1), "seed must be below"),
        ((5, 0, -1, 1), "step must be at least 0"),
        ((5, 0, 0, 0), "batch_size must be at least 1"),
        ((5, 0, 0, 2.5), "batch_size must be a whole number"),
    ],
)
def test_batch_indices_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        data.batch_indices(*arguments)


def test_batch_at_reads_those_examples():
    x = np.arange(12, dtype=np.uint8).reshape(6, 2)
    source = data.from_arrays(x, [0, 1, 2, 0, 1, 2], name="mine")
    batch, indices = data.batch_at(source, 5, 2, 4), data.batch_indices(6, 5, 2, 4)
    np.testing.assert_array_equal(batch["x"], x[indices])
    np.testing.assert_array_equal(batch["label"], indices % 3)
    assert batch["x"].dtype == np.uint8 and batch["label"].dtype == np.int32
    assert source[:4] == ("mine", "all", 6, (2,)) and source.num_classes == 3


def test_from_arrays_keeps_bytes_and_makes_floats_float32():
    x = np.zeros((4, 3), np.uint8)
    assert data.from_arrays(x).arrays["x"] is x
    source = data.from_arrays([[0.5, 1.5]])
    assert source.arrays["x"].dtype == np.float32 and source.read([0])["x"].tolist() == [[0.5, 1.5]]
    assert source.num_classes is None and set(source.arrays) == {"x"}
    assert data.from_arrays(x, np.arange(4), num_classes=7).num_classes == 7


ROWS = np.zeros((3, 2), np.float32)


@pytest.mark.parametrize(
    "x, label, message",
    [
        (np.zeros(5, np.uint8), None, r"at least two axes.*not shape \(5,\)"),
        (np.zeros((0, 8, 8), np.uint8), None, r"none of them empty, not shape \(0, 8, 8\)"),
        (np.zeros((3, 2), np.int64), None, "uint8 or floating point, not int64"),
        (np.array([["a", "b"]]), None, "uint8 or floating point"),
        # as bytes they would be nearly black
        (np.ones((3, 2), bool), None, r"not bool: convert it with x.astype\('float32'\)"),
        ([[1.0], [1.0, 2.0]], None, "rows have different shapes"),
        (np.array([[1.0, np.nan]]), None, "not finite"),
        (np.array([[1.0, 1e300]]), None, "not finite as float32"),
        (ROWS, [0.0, 1.0, 2.0], "whole numbers .* not float64"),
        (ROWS, [[0], [1], [2]], r"of shape \[n\], not int64 of shape \(3, 1\)"),
        (ROWS, [0, 1], "2 entries, x has 3 examples"),
        (ROWS, [0, -1, 1], "runs from -1 to 1"),
        (ROWS, [0, 1, 2**31 - 1], "number the classes from 0"),
    ],
)
def test_from_arrays_refuses(x, label, message):
    with pytest.raises(UserError, match=message) as raised:
        data.from_arrays(x, label)
    assert "\n" not in str(raised.value)


def test_from_arrays_checks_num_classes():
    with pytest.raises(
        UserError, match="there is a label 2, but those of 2 classes run from 0 to 1"
    ):
        data.from_arrays(ROWS, [0, 1, 2], num_classes=2)
    with pytest.raises(UserError, match="needs labels"):
        data.from_arrays(ROWS, num_classes=2)


def test_importing_data_imports_nothing_heavy():
    code = "import sys, jaxvae.data; print(sorted({'jax', 'flax', 'sklearn', 'scipy'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def noise(source):
    """Returns how far each drawn pixel of mid-grey images lies from its mean, [n, pixels]."""
    return data.binarised(source).arrays["x"].reshape(source.size, -1) / 255.0 - 0.5


@pytest.fixture
def greys(monkeypatch):
    """Two data sets of mid-grey images alone: what differs between their drawings is the noise."""

    def read(split, data_dir):
        return np.full((60 if split == "train" else 20, 20, 20, 1), 128, np.uint8), None, "grey"

    for name in ("grey", "also_grey"):
        known = sets.DataSet(
            {"train": 60, "test": 20},
            read,
            data.Splits("train[:40]", "train[40:]", "test"),
            None,
            (20, 20, 1),
        )
        monkeypatch.setitem(sets.DATA_SETS, name, known)


def test_binarised_splits_and_data_sets_have_noise_of_their_own(greys):
    train, valid, test = (noise(data.load("grey", s)) for s in data.splits("grey"))
    other = noise(data.load("also_grey", "train"))
    for one, two in ((train, valid), (train, test), (valid, test), (train, other)):
        n = min(len(one), len(two))
        assert abs(np.corrcoef(one[:n].ravel(), two[:n].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(train[:-1].ravel(), train[1:].ravel())[0, 1]) < 0.05


def test_binarised_images_have_the_same_bits_in_every_part_of_their_split(greys):
    full = noise(data.load("grey", "train"))
    for split, at in (
        ("train[:40]", slice(40)),
        ("train[40:]", slice(40, 60)),
        ("train[-5:]", slice(55, 60)),
    ):
        np.testing.assert_array_equal(noise(data.load("grey", split)), full[at])


def test_binarised_files_of_your_own_have_the_same_bits_in_every_part(tmp_path):
    from PIL import Image

    x = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    (tmp_path / "x").mkdir()
    for i, image in enumerate(x):
        Image.fromarray(image[..., 0]).save(tmp_path / "x" / f"{i}.png")
    for name in (f"npz:{tmp_path / 'x.npz'}", f"folder:{tmp_path / 'x'}"):
        full = data.load(name, "all")
        bits = {
            grey.tobytes(): drawn
            for grey, drawn in zip(full.arrays["x"], data.binarised(full).arrays["x"], strict=True)
        }
        part = data.load(name, "all[3:8]")
        for grey, drawn in zip(part.arrays["x"], data.binarised(part).arrays["x"], strict=True):
            np.testing.assert_array_equal(drawn, bits[grey.tobytes()])


def test_the_binarised_bits_never_change():
    x = np.full((2, 4, 4, 1), 128, np.uint8)
    bits = data.binarised(data.from_arrays(x), 3).arrays["x"].reshape(2, -1)
    assert np.packbits(bits == 255, axis=1).tolist() == [[27, 26], [132, 67]]


def test_no_key_of_binarised_is_one_of_a_permutation(greys, monkeypatch):
    philox, keys = np.random.Philox, []

    def noted(*, key, **more):
        keys.append(tuple(np.asarray(key).tolist()))
        return philox(key=key, **more)

    monkeypatch.setattr(np.random, "Philox", noted)
    for seed in (0, 1):
        for split in ("train", "test"):
            data.binarised(data.load("grey", split), seed)
    drawn = set(keys)
    assert len(drawn) == 4  # for each seed and split
    keys.clear()
    source_module._permutation.cache_clear()
    for seed in (0, 1):
        for epoch in range(60):
            source_module._permutation(10, seed, epoch)
    assert len(set(keys)) == 120 and not drawn & set(keys)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (np.zeros((2, 3)), r'must return {"x": \[n, \*shape\], "label": \[n\]}'),
        ({"image": np.zeros((2, 3))}, r'must return {"x"'),
        ({"x": np.zeros((1, 3))}, r"x of shape \(2, 3\) for 2 indices, not \(1, 3\)"),
        ({"x": np.zeros((2, 3, 1))}, r"x of shape \(2, 3\) for 2 indices, not \(2, 3, 1\)"),
        ({"x": np.zeros((2, 3)), "label": np.zeros((2, 1), int)}, r"label of shape \(2,\)"),
        (
            {"x": np.zeros((2, 3)), "label": np.array(["a", "b"])},
            "whole numbers as labels, not <U1",
        ),
    ],
)
def test_what_read_must_return(examples, message):
    source = data.Source("mine", "train", 9, (3,), lambda indices: examples)
    with pytest.raises(UserError, match="read of the source 'mine' must return") as raised:
        read_checked(source, np.arange(2))
    assert re.search(message, str(raised.value))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_no_class_has_are_refused(label):
    def read(indices):
        return {"x": np.zeros((len(indices), 3)), "label": np.full(len(indices), label)}

    source = data.Source("mine", "train", 9, (3,), read, num_classes=3)
    with pytest.raises(UserError, match=f"there is a label {label}, .* run from 0 to 2"):
        read_checked(source, np.arange(2))
    assert read_checked(source, np.arange(0))["label"].size == 0
    assert read_checked(source._replace(num_classes=None), np.arange(2))["label"][0] == label


def test_a_read_that_is_right_is_handed_on():
    source = data.from_arrays(ROWS, [0, 1, 2])
    assert read_checked(source, np.arange(2))["label"].tolist() == [0, 1]
