"""Sources: random access to the examples of one split, and batches as a pure function of (seed,
step)."""

import functools
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxvae.errors import UserError, check_count, check_kind


class Source(NamedTuple):
    """Random access to the examples of one split."""

    name: str  # "mnist"
    split: str  # "train[:55000]"
    size: int  # number of examples
    shape: tuple[int, ...]  # of one x, e.g. (28, 28, 1)
    # (indices [n]) -> {"x": uint8 or float32 [n, *shape], "label": int32 [n]} (if labelled)
    read: Callable
    num_classes: int | None = None
    # the whole split where it fits in memory; None: streamed
    arrays: dict[str, np.ndarray] | None = None
    origin: str = "memory"  # where the examples came from, for people
    official: str = "all"  # the official split that `split` is a part of
    indices: Sequence[int] | np.ndarray | None = (
        None  # where each example stands in it; None: as here
    )
    # what examples are made of, where that is known (`shapes.World`)
    world: Any = None


class Splits(NamedTuple):
    """The splits to use where a user names none. Models are chosen on `valid`, never on `test`."""

    train: str
    valid: str
    test: str


def check_source(name: str, value: Any) -> None:
    """Raises `UserError` for what is no `Source`, such as the arrays themselves."""
    check_kind(name, value, Source, "data.from_arrays(x, label) makes one of arrays")


def read_checked(source: Source, indices: np.ndarray) -> dict[str, Any]:
    """Returns what `source.read` gives for these indices.

    Raises:
        UserError: where that is not what `Source` says.
    """
    examples = source.read(indices)
    what = f"read of the source {source.name!r} must return"
    if not isinstance(examples, dict) or "x" not in examples:
        raise UserError(
            f'{what} {{"x": [n, *shape], "label": [n]}}, the labels where there are any.'
        )
    want = {"x": (len(indices), *source.shape), "label": (len(indices),)}
    for key, shape in want.items():
        if key in examples and np.shape(examples[key]) != shape:
            raise UserError(
                f"{what} {key} of shape {shape} for {len(indices)} indices, not "
                f"{np.shape(examples[key])}."
            )
    label = examples.get("label")
    if label is not None and not np.issubdtype(np.asarray(label).dtype, np.integer):
        raise UserError(f"{what} whole numbers as labels, not {np.asarray(label).dtype}.")
    if label is not None and source.num_classes is not None:
        check_label_range(label, source.num_classes)
    return examples


def check_label_range(label: Any, num_classes: int) -> None:
    """Raises `UserError` for labels outside 0, ..., num_classes - 1."""
    if not np.size(label):
        return
    low, high = int(np.min(label)), int(np.max(label))
    if low < 0 or high >= num_classes:
        raise UserError(
            f"there is a label {low if low < 0 else high}, but those of {num_classes} classes run "
            f"from 0 to {num_classes - 1}: number the classes from 0, or give another num_classes."
        )


def make_read(source: Source) -> Callable[[np.ndarray], dict[str, Any]]:
    """Returns `read_checked` of a source that is streamed, which raises `UserError` also where a batch
    has other arrays or types than the first example: compiled programs take no others."""

    def types(examples: dict[str, Any]) -> dict[str, str]:
        return {key: str(np.asarray(value).dtype) for key, value in sorted(examples.items())}

    first = types(read_checked(source, np.zeros(1, np.int64)))

    def read(indices: np.ndarray) -> dict[str, Any]:
        examples = read_checked(source, indices)
        if (found := types(examples)) != first:
            said = [", ".join(f"{k} of {t}" for k, t in each.items()) for each in (first, found)]
            raise UserError(
                f"read of the source {source.name!r} returns {said[0]} for its first example, and "
                f"{said[1]} for later ones: let it return the same arrays and types for all."
            )
        return examples

    return read


def from_arrays(
    x, label=None, *, name: str = "arrays", split: str = "all", num_classes: int | None = None
) -> Source:
    """Returns a source over arrays in memory, which are not copied unless their type must change.

    Args:
        x: [n, ...], uint8, or finite floating point numbers, which become float32.
        label: [n] whole numbers from 0, which become int32.
        name: what logs call the data.
        split: what logs call this part of it.
        num_classes: the largest label + 1 unless given; give it where a part may lack the last
            class.

    Raises:
        UserError: for arrays of another type or shape, empty ones, and values that are not finite.
    """
    x = _array("x", x)
    if x.ndim < 2 or 0 in x.shape:
        raise UserError(
            f"x must be [n, ...] with at least two axes, none of them empty, not shape {x.shape}."
        )
    if np.issubdtype(x.dtype, np.floating):
        with np.errstate(over="ignore"):  # what overflows is not finite below
            x = x.astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise UserError("x holds values that are not finite as float32: clean the data first.")
    elif x.dtype != np.uint8:
        ways = "" if x.dtype == bool else "x.astype('uint8') (bytes, 0 to 255) or "
        raise UserError(
            f"x must be uint8 or floating point, not {x.dtype}: convert it with "
            f"{ways}x.astype('float32')."
        )
    arrays = {"x": x}
    if label is not None:
        label = arrays["label"] = _check_label(label, len(x))
        if num_classes is None:
            num_classes = int(label.max()) + 1
        check_count("num_classes", num_classes)
        check_label_range(label, num_classes)
    elif num_classes is not None:
        raise UserError("num_classes needs labels: give label=, or leave num_classes out.")

    def read(indices) -> dict[str, np.ndarray]:
        return {key: array[indices] for key, array in arrays.items()}

    return Source(name, split, len(x), x.shape[1:], read, num_classes, arrays)


def binarised(source: Source, seed: int = 0) -> Source:
    """Returns a resident source with every pixel drawn once as 0 or 255, with probability byte /
    255 for 255.

    The bits of an image are a function of (seed, name of the data set, official split, index in its
    official order) alone, the same on every machine and version: "train[:55000]" has those of
    "train", and "test" has noise of its own. This is a data set of its own: its likelihoods do not
    compare with those of other drawings.

    Args:
        source: bytes in memory. One from arrays has the split "all", in the order of the arrays.
        seed: at least 0.

    Returns:
        The source, whose name says so.

    Raises:
        UserError: for a source that is streamed, or does not hold bytes.
    """
    if source.arrays is None or source.arrays["x"].dtype != np.uint8:
        raise UserError(
            "only bytes in memory can be binarised once: use preprocessing with "
            "pixels='binarised' instead."
        )
    check_count("seed", seed, least=0)
    grey = source.arrays["x"]
    x, pixels = np.empty_like(grey), math.prod(grey.shape[1:])
    # 128 bits of a hash: no data set, split or seed shares a key with another, nor with
    # `_permutation`
    text = f"binarised\n{source.name}\n{source.official}\n{int(seed)}"
    key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u8")
    indices = range(len(grey)) if source.indices is None else source.indices
    for i, index in enumerate(indices):
        counter = np.array([0, index, 0, 0], np.uint64)  # the first word counts within an image
        raw = np.random.Philox(key=key, counter=counter).random_raw(-(-pixels // 4)).astype("<u8")
        u = raw.view("<u2")[:pixels].reshape(grey.shape[1:]).astype(np.uint32)
        x[i] = np.where(grey[i].astype(np.uint32) * 65536 > u * 255, 255, 0)  # byte/255 > u/65536
    arrays = {**source.arrays, "x": x}
    name = f"{source.name}, binarised once with seed {seed}"
    return source._replace(
        name=name, arrays=arrays, read=lambda indices: {k: v[indices] for k, v in arrays.items()}
    )


def batch_indices(
    size: int, seed: int, step: int, batch_size: int, *, first: int = 0
) -> np.ndarray:
    """Returns the indices of the examples of one training batch, [batch_size] int32: a pure
    function of its arguments.

    Step t takes positions first + t B to first + (t + 1) B of the endless sequence perm_0, perm_1,
    ..., where perm_e is a permutation of range(size) that depends on (seed, e). Every example is
    seen once an epoch and none is dropped; a batch may straddle epochs, and may be larger than one.

    Raises:
        UserError: for a size or batch size below 1 and a seed, step or first below 0.
    """
    counts = {"size": size, "seed": seed, "step": step, "batch_size": batch_size, "first": first}
    for key, value in counts.items():
        check_count(key, value, least=1 if key in ("size", "batch_size") else 0)
    if seed >= 2**64:
        raise UserError(f"seed must be below 2**64, not {seed}.")
    # NumPy's numbers would overflow
    size, seed, step, batch_size, first = (int(value) for value in counts.values())
    start = first + step * batch_size
    stop = start + batch_size
    return np.concatenate(
        [
            _permutation(size, seed, epoch)[max(start - epoch * size, 0) : stop - epoch * size]
            for epoch in range(start // size, (stop - 1) // size + 1)
        ]
    )


def batch_at(source: Source, seed: int, step: int, batch_size: int) -> dict[str, np.ndarray]:
    """Returns the training batch of one step, {"x": [batch_size, ...], "label": [batch_size]}; see
    `batch_indices`."""
    return source.read(batch_indices(source.size, seed, step, batch_size))


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    # NumPy promises the raw stream of a bit generator across versions, but not
    # Generator.permutation.
    raw = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(size)
    return np.argsort(raw, kind="stable").astype(np.int32)


def parse_split(name: str, split: str, counts: dict[str, int]) -> tuple[str, slice]:
    """Returns the official split and the part of it that `split` asks for, e.g. ("train", slice(0,
    55000))."""
    choose = (
        f"Choose from: {', '.join(f'{key} ({count} examples)' for key, count in counts.items())}, "
        "or a part such as train[:90%] or train[-100:]."
    )
    match = re.fullmatch(r"(\w+)(?:\[(?:(-?[0-9]+)(%?))?:(?:(-?[0-9]+)(%?))?\])?", str(split))
    if not match or match[1] not in counts:
        raise UserError(f"{name} has no split {split!r}. {choose}")
    count = counts[match[1]]
    if match[2] and match[4] and match[3] != match[5]:
        raise UserError(
            f"split {split!r} mixes examples and percentages: use one of the two. {choose}"
        )

    def bound(number: str | None, unit: str | None, default: int) -> int:
        if number is None:
            return default
        value = round(int(number) * count / 100) if unit else int(number)
        if abs(value) > count:
            raise UserError(
                f"split {split!r} reaches beyond the {count} examples of {match[1]}. {choose}"
            )
        return value + count if value < 0 else value

    start, stop = bound(match[2], match[3], 0), bound(match[4], match[5], count)
    if start >= stop:
        raise UserError(f"split {split!r} of {name} is empty. {choose}")
    return match[1], slice(start, stop)


def _check_label(label, size: int) -> np.ndarray:
    label = _array("label", label)
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise UserError(
            f"label must be whole numbers of shape [n], not {label.dtype} of shape {label.shape}."
        )
    if len(label) != size:
        raise UserError(
            f"label has {len(label)} entries, x has {size} examples: give one label per example."
        )
    if label.min() < 0 or label.max() >= 2**31 - 1:
        raise UserError(
            f"label runs from {label.min()} to {label.max()}: number the classes from 0."
        )
    return label.astype(np.int32, copy=False)


def _array(name: str, value) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        raise UserError(f"{name} must be one array: its rows have different shapes.") from None
