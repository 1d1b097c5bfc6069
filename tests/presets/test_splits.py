"""What a run is trained and measured on."""

from pathlib import Path

import numpy as np
import pytest

from jaxvae import data
from jaxvae.presets import splits
from jaxvae.presets.config import Options
from jaxvae.presets.splits import described, first, held_out, training


def options(**given):
    return Options(workdir=Path("run"), **given)


def test_a_quick_run_takes_the_first_examples(monkeypatch):
    assert training(options(quick=True, split="train[:900]")).size == 900  # fewer than it takes
    monkeypatch.setattr(splits, "QUICK_TRAIN", 70)
    monkeypatch.setattr(splits, "QUICK_HELD_OUT", 50)
    assert training(options(quick=True)).size == 70
    assert training(options()).size == data.load("digits", data.splits("digits").train).size
    assert held_out(options(quick=True), "test").size == 50
    assert held_out(options(), "valid").size == data.load("digits", "train[1293:]").size


@pytest.mark.parametrize("given", [{}, {"split": "train[100:900]"}, {"quick": True}])
def test_a_split_is_described_before_its_files_are_here(given, monkeypatch):
    monkeypatch.setattr(splits, "QUICK_TRAIN", 70)
    found, train = described(options(**given)), training(options(**given))
    for name in ("name", "size", "shape", "num_classes"):
        assert getattr(found, name) == getattr(train, name), name
    assert described(options(data="folder:somewhere")) is None


@pytest.mark.parametrize("resident", [True, False])
def test_the_first_examples_of_a_source(resident):
    source = data.load("digits", "train[5:40]")
    part = first(source if resident else source._replace(arrays=None), 7)
    assert (part.size, part.split, part.shape) == (7, "train[5:40], the first 7", (8, 8, 1))
    np.testing.assert_array_equal(part.indices, np.arange(5, 12))
    want = source.arrays["x"][:7]
    np.testing.assert_array_equal(part.read(np.arange(7))["x"], want)
    assert (part.arrays is None) != resident
    if resident:
        np.testing.assert_array_equal(part.arrays["x"], want)
    assert first(source, 35) is source
