"""Sources: random access to the examples of one split, and batches as a pure function of (seed, step)."""

import functools
import os
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxvae.data import digits, idx
from jaxvae.errors import UserError, check_count, unknown


class Source(NamedTuple):
    """Random access to the examples of one split."""

    name: str                   # "mnist"
    split: str                  # "train[:55000]"
    size: int                   # number of examples
    shape: tuple[int, ...]      # of one x, e.g. (28, 28, 1)
    read: Callable              # (indices [n]) -> {"x": uint8 or float32 [n, *shape], "label": int32 [n]} (if labelled)
    num_classes: int | None = None
    arrays: dict[str, np.ndarray] | None = None   # the whole split where it fits in memory; None: streamed


class Splits(NamedTuple):
    """The splits to use where a user names none. Models are chosen on `valid`, never on `test`."""

    train: str
    valid: str
    test: str


class DataSet(NamedTuple):
    """A data set that `load` knows by name."""

    counts: dict[str, int]      # official split -> number of examples
    read: Callable              # (official split, data_dir) -> (x [n, ...], label [n])
    splits: Splits
    num_classes: int


_IDX_SPLITS = Splits("train[:55000]", "train[55000:]", "test")
DATA_SETS = {
    "digits": DataSet(digits.COUNTS, digits.read, Splits("train[:1293]", "train[1293:]", "test"), 10),
    "mnist": DataSet(idx.COUNTS, functools.partial(idx.read, "mnist"), _IDX_SPLITS, 10),
    "fashion_mnist": DataSet(idx.COUNTS, functools.partial(idx.read, "fashion_mnist"), _IDX_SPLITS, 10),
}


def names() -> tuple[str, ...]:
    """Returns the names that `load` knows."""
    return tuple(DATA_SETS)


def splits(name: str) -> Splits:
    """Returns the default train, validation and test splits of the data set `name`."""
    return _data_set(name).splits


def load(name: str, split: str, *, data_dir: str | os.PathLike | None = None) -> Source:
    """Returns the examples of one split of a known data set.

    Args:
        name: one of `names()`.
        split: an official split, or a part of one in the syntax of TensorFlow Datasets: "train",
            "train[:55000]", "train[-5000:]", "train[10%:90%]" (percentages are rounded to whole examples).
        data_dir: where the files are, for data sets that have files; see `jaxvae.data.idx`.

    Raises:
        UserError: for an unknown name, a split that does not exist or is empty, missing or damaged files.
    """
    data_set = _data_set(name)
    official, part = _parse_split(name, split, data_set.counts)
    x, label = data_set.read(official, data_dir)
    return from_arrays(x[part], label[part], name=name, split=split, num_classes=data_set.num_classes)


def from_arrays(x, label=None, *, name: str = "arrays", split: str = "all", num_classes: int | None = None) -> Source:
    """Returns a source over arrays in memory, which are not copied unless their type must change.

    Args:
        x: [n, ...], uint8, or finite floating point numbers, which become float32.
        label: [n] whole numbers from 0, which become int32.
        name: what logs call the data.
        split: what logs call this part of it.
        num_classes: the largest label + 1 unless given; give it where a part may lack the last class.

    Raises:
        UserError: for arrays of another type or shape, empty ones, and values that are not finite.
    """
    x = _array("x", x)
    if x.ndim < 2 or 0 in x.shape:
        raise UserError(f"x must be [n, ...] with at least two axes, none of them empty, not shape {x.shape}.")
    if np.issubdtype(x.dtype, np.floating):
        with np.errstate(over="ignore"):   # what overflows is not finite below
            x = x.astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise UserError("x holds values that are not finite as float32: clean the data first.")
    elif x.dtype != np.uint8:
        raise UserError(f"x must be uint8 or floating point, not {x.dtype}: convert it with x.astype('uint8') "
                        "(bytes) or x.astype('float32').")
    arrays = {"x": x}
    if label is not None:
        label = arrays["label"] = _check_label(label, len(x))
        classes = int(label.max()) + 1
        if num_classes is None:
            num_classes = classes
        check_count("num_classes", num_classes)
        if classes > num_classes:
            raise UserError(f"label holds {classes - 1}, but labels of {num_classes} classes run from 0 to "
                            f"{num_classes - 1}: number the classes from 0, or give another num_classes.")
    elif num_classes is not None:
        raise UserError("num_classes needs labels: give label=, or leave num_classes out.")

    def read(indices) -> dict[str, np.ndarray]:
        return {key: array[indices] for key, array in arrays.items()}

    return Source(name, split, len(x), x.shape[1:], read, num_classes, arrays)


def batch_indices(size: int, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Returns the indices of the examples of one training batch, [batch_size] int32: a pure function of its arguments.

    Step t takes positions t B to (t + 1) B of the endless sequence perm_0, perm_1, ..., where perm_e is
    a permutation of range(size) that depends on (seed, e). Every example is seen once an epoch and none
    is dropped; a batch may straddle epochs, and may be larger than one.

    Raises:
        UserError: for a size or batch size below 1 and a seed or step below 0.
    """
    for key, value, least in (("size", size, 1), ("seed", seed, 0), ("step", step, 0), ("batch_size", batch_size, 1)):
        check_count(key, value, least)
    if seed >= 2**64:
        raise UserError(f"seed must be below 2**64, not {seed}.")
    size, seed, step, batch_size = int(size), int(seed), int(step), int(batch_size)   # NumPy's would overflow
    start, stop = step * batch_size, (step + 1) * batch_size
    return np.concatenate([
        _permutation(size, seed, epoch)[max(start - epoch * size, 0):stop - epoch * size]
        for epoch in range(start // size, (stop - 1) // size + 1)
    ])


def batch_at(source: Source, seed: int, step: int, batch_size: int) -> dict[str, np.ndarray]:
    """Returns the training batch of one step, {"x": [batch_size, ...], "label": [batch_size]}; see `batch_indices`."""
    return source.read(batch_indices(source.size, seed, step, batch_size))


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    # NumPy promises the raw stream of a bit generator across versions, but not Generator.permutation.
    raw = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(size)
    return np.argsort(raw, kind="stable").astype(np.int32)


def overlap(name: str, split: str, other: str) -> bool:
    """Returns whether two splits of a data set share examples."""
    counts = _data_set(name).counts
    (official, part), (official_other, part_other) = (_parse_split(name, s, counts) for s in (split, other))
    return official == official_other and part.start < part_other.stop and part_other.start < part.stop


def _data_set(name: str) -> DataSet:
    if name not in DATA_SETS:
        raise unknown("data set", name, DATA_SETS)
    return DATA_SETS[name]


def _parse_split(name: str, split: str, counts: dict[str, int]) -> tuple[str, slice]:
    """Returns the official split and the part of it that `split` asks for, e.g. ("train", slice(0, 55000))."""
    choose = (f"Choose from: {', '.join(f'{key} ({count} examples)' for key, count in counts.items())}, "
              "or a part such as train[:90%] or train[-100:].")
    match = re.fullmatch(r"(\w+)(?:\[(?:(-?[0-9]+)(%?))?:(?:(-?[0-9]+)(%?))?\])?", str(split))
    if not match or match[1] not in counts:
        raise UserError(f"{name} has no split {split!r}. {choose}")
    count = counts[match[1]]
    if match[2] and match[4] and match[3] != match[5]:
        raise UserError(f"split {split!r} mixes examples and percentages: use one of the two. {choose}")

    def bound(number: str | None, unit: str | None, default: int) -> int:
        if number is None:
            return default
        value = round(int(number) * count / 100) if unit else int(number)
        if abs(value) > count:
            raise UserError(f"split {split!r} reaches beyond the {count} examples of {match[1]}. {choose}")
        return value + count if value < 0 else value

    start, stop = bound(match[2], match[3], 0), bound(match[4], match[5], count)
    if start >= stop:
        raise UserError(f"split {split!r} of {name} is empty. {choose}")
    return match[1], slice(start, stop)


def _check_label(label, size: int) -> np.ndarray:
    label = _array("label", label)
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise UserError(f"label must be whole numbers of shape [n], not {label.dtype} of shape {label.shape}.")
    if len(label) != size:
        raise UserError(f"label has {len(label)} entries, x has {size} examples: give one label per example.")
    if label.min() < 0 or label.max() >= 2**31 - 1:
        raise UserError(f"label runs from {label.min()} to {label.max()}: number the classes from 0.")
    return label.astype(np.int32, copy=False)


def _array(name: str, value) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        raise UserError(f"{name} must be one array: its rows have different shapes.") from None
