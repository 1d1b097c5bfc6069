"""The digits that come with scikit-learn."""

import gzip
import subprocess
import sys
import types
import warnings
from pathlib import Path

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
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        data.load("digits", "train")


@pytest.mark.parametrize("kind", ["folder", "module", "broken", "stub"])
def test_what_only_calls_itself_scikit_learn_is_not_read(kind, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / "datasets" / "data").mkdir(parents=True)  # beside it, and not its own
    (tmp_path / digits.FILE).write_bytes(gzip.compress(b"1,1\n"))
    if kind == "folder":
        (tmp_path / "sklearn").mkdir()
    elif kind == "module":
        (tmp_path / "sklearn.py").write_text("")
    elif kind == "broken":
        (tmp_path / "sklearn").mkdir()
        (tmp_path / "sklearn" / "__init__.py").write_text("raise ImportError('broken')")
    else:
        monkeypatch.setitem(sys.modules, "sklearn", types.ModuleType("sklearn"))
    with pytest.raises(UserError, match="pip install scikit-learn"):
        data.load("digits", "train")


@pytest.mark.parametrize("share", [0.5, 0.0, None])
def test_a_damaged_file_is_one_line(share, tmp_path, monkeypatch):
    [place] = digits._places()
    content = Path(place, digits.FILE).read_bytes()
    short = b"\n".join(gzip.decompress(content).splitlines()[:100])
    (tmp_path / digits.FILE).parent.mkdir(parents=True)
    changed = gzip.compress(short) if share is None else content[: int(share * len(content))]
    (tmp_path / digits.FILE).write_bytes(changed)
    monkeypatch.setattr(digits, "_places", lambda: [str(tmp_path / "none"), str(tmp_path)])
    with (
        warnings.catch_warnings(action="ignore"),  # of NumPy, for a file without lines
        pytest.raises(UserError, match="damaged .*: pip install --force-reinstall") as error,
    ):
        data.load("digits", "train")
    assert "\n" not in str(error.value)
