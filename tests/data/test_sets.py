"""The data sets by name: their splits, and the same examples whichever way they came."""

import numpy as np
import pytest
from official import quiet, refused

from jaxvae import data
from jaxvae.data import sets
from jaxvae.errors import UserError


@pytest.fixture
def hundred(monkeypatch):
    """A data set whose examples say where they stand: train 0..99, test 100..109."""

    def read(split, data_dir):
        x = np.arange(100) if split == "train" else np.arange(100, 110)
        return x.astype(np.float32).reshape(-1, 1), x % 3, "counted"

    known = sets.DataSet(
        {"train": 100, "test": 10}, read, data.Splits("train[:90]", "train[90:]", "test"), 4, (1,)
    )
    monkeypatch.setitem(sets.DATA_SETS, "hundred", known)


@pytest.mark.parametrize(
    "split, start, stop",
    [
        ("train", 0, 100),
        ("test", 100, 110),
        ("train[:55]", 0, 55),
        ("train[55:]", 55, 100),
        ("train[-5:]", 95, 100),
        ("train[:-5]", 0, 95),
        ("train[10:20]", 10, 20),
        ("train[:90%]", 0, 90),
        ("train[-10%:]", 90, 100),
        ("train[25%:75%]", 25, 75),
        ("test[:33%]", 100, 103),
        ("train[:]", 0, 100),
        ("train[:100]", 0, 100),
    ],
)
def test_load_slices_as_tensorflow_datasets(hundred, split, start, stop):
    source = data.load("hundred", split)
    np.testing.assert_array_equal(source.arrays["x"][:, 0], np.arange(start, stop))
    np.testing.assert_array_equal(source.arrays["label"], np.arange(start, stop) % 3)
    assert source[:4] == ("hundred", split, stop - start, (1,))
    assert source.num_classes == 4  # of the data set, not of the part


@pytest.mark.parametrize(
    "split, message",
    [
        ("valid", r"hundred has no split 'valid'.*train \(100 examples\), test \(10 examples\)"),
        ("", "no split ''"),
        ("train[3]", "no split"),
        ("train[:5", "no split"),
        ("train[a:]", "no split"),
        ("train[:5]x", "no split"),
        (None, "no split None"),
        ("train+test", "no split"),
        ("train[::2]", "no split"),
        ("train[5:5]", r"'train\[5:5\]' of hundred is empty.*train \(100 examples\)"),
        ("train[:0]", "is empty"),
        ("train[100:]", "is empty"),
        ("train[9:3]", "is empty"),
        ("test[:1%]", "is empty"),
        ("train[:101]", "reaches beyond the 100 examples of train"),
        ("train[-101:]", "reaches beyond"),
        ("train[:101%]", "reaches beyond"),
        ("train[10:50%]", "mixes examples and percentages"),
    ],
)
def test_load_refuses_splits(hundred, split, message):
    with pytest.raises(UserError, match=message) as raised:
        data.load("hundred", split)
    assert "\n" not in str(raised.value)


def test_names_and_default_splits():
    real = (
        "digits",
        "shapes",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "svhn_cropped",
        "celeb_a",
        "celeb_a_140",
    )
    assert data.names() == (*real, *(f"fake_{name}" for name in real))
    for name in ("mnist", "fashion_mnist"):
        assert data.splits(name) == ("train[:55000]", "train[55000:]", "test")
    for call in (data.splits, lambda name: data.load(name, "train")):
        with pytest.raises(UserError, match="unknown data set 'minst'. Did you mean 'mnist'?"):
            call("minst")


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_batches_are_the_same_however_the_data_came(made, tmp_path):
    name, raw, arrays = made
    quiet(name, data_dir=tmp_path / "tfds", source=raw)
    np.savez(tmp_path / "mnist.npz", x=arrays["train"][0], label=arrays["train"][1])
    sources = [
        data.load(name, "train[:90%]", data_dir=folder) for folder in (raw, tmp_path / "tfds")
    ]
    sources.append(data.npz(tmp_path / "mnist.npz", split="all[:90%]"))
    assert len({source.origin for source in sources}) == 3
    for step in range(4):
        batches = [data.batch_at(s, 3, step, 16) for s in sources]
        for batch in batches[1:]:
            for key in ("x", "label"):
                np.testing.assert_array_equal(batch[key], batches[0][key])


@pytest.mark.parametrize("made", ["cifar10"], indirect=True)
def test_a_copy_with_other_counts_is_refused(made, tmp_path, monkeypatch):
    name, raw, _ = made
    quiet(name, data_dir=tmp_path / "tfds", source=raw)
    monkeypatch.setitem(sets.DATA_SETS[name].counts, "train", 40)
    message = refused(data.load, name, "train", data_dir=tmp_path / "tfds")
    assert (
        "holds 35 examples of train, the official cifar10 40" in message
        and "tfds:cifar10" in message
    )
