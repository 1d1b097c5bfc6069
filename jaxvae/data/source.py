"""Sources: random access to the examples of one split, and batches as a pure function of (seed,
step)."""

import functools
import hashlib
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxvae.data import digits, fake, idx, images, places, prepare, prepared
from jaxvae.errors import UserError, check_count, unknown


class Source(NamedTuple):
    """Random access to the examples of one split."""

    name: str  # "mnist"
    split: str  # "train[:55000]"
    size: int  # number of examples
    shape: tuple[int, ...]  # of one x, e.g. (28, 28, 1)
    # (indices [n]) -> {"x": uint8 or float32 [n, *shape], "label": int32 [n]} (if labelled)
    read: Callable
    num_classes: int | None = None
    arrays: dict[str, np.ndarray] | None = (
        None  # the whole split where it fits in memory; None: streamed
    )
    origin: str = "memory"  # where the examples came from, for people
    official: str = "all"  # the official split that `split` is a part of
    indices: Sequence[int] | None = None  # where each example stands in it; None: as here


class Splits(NamedTuple):
    """The splits to use where a user names none. Models are chosen on `valid`, never on `test`."""

    train: str
    valid: str
    test: str


class DataSet(NamedTuple):
    """A data set that `load` knows by name."""

    counts: dict[str, int]  # official split -> number of examples
    read: Callable  # (official split, data_dir) -> (x [n, ...], label [n] or None, origin)
    splits: Splits
    num_classes: int | None
    shape: tuple[int, ...]
    files: str | None = None  # the TFDS data set that holds it, where there is one


def _digits(split: str, data_dir) -> tuple:
    return *digits.read(split), "scikit-learn"


def _idx(name: str, split: str, data_dir) -> tuple:
    """Reads the official files where they are, else a TFDS copy."""
    paths, missing = idx.find(name, split, data_dir)
    if paths is not None:
        return *idx.read(name, split, paths), f"official files in {paths[0].parent}"
    copy = prepared.find(name, data_dir)
    if copy is None:
        raise UserError(
            f"{name} needs {missing}, or run `jaxvae data prepare {name}`, or say where it is "
            "with data_dir or "
            "JAXVAE_DATA_DIR (TFDS_DATA_DIR for a TFDS copy)."
        )
    check = functools.partial(idx.check, name, split)
    return *prepared.read(copy, split, key=int, check=check), _origin(copy)


def _cifar10(split: str, data_dir) -> tuple:
    """Reads a TFDS copy, and compares it with the official .bin files, each an equal part of a
    split."""

    def check(x: np.ndarray, label: np.ndarray) -> bool:
        records = np.concatenate(
            [label[:, None].astype(np.uint8), x.transpose(0, 3, 1, 2).reshape(len(x), -1)], axis=1
        )
        known = [
            sums
            for file, sums in prepare.CIFAR_MD5.items()
            if file.startswith("test") == (split == "test")
        ]
        parts = np.array_split(records, len(known))
        return all(
            hashlib.md5(part).hexdigest() in sums for part, sums in zip(parts, known, strict=True)
        )

    return _tfds("cifar10", split, data_dir, check=check)


def _tfds(name: str, split: str, data_dir, key=int, crop=None, tag: str = "", check=None) -> tuple:
    copy = prepared.find(name, data_dir)
    if copy is None:
        raise UserError(
            f"{name} is not in {', '.join(places.roots(data_dir))}: run `jaxvae data prepare "
            f"{name}` (with "
            "--from DIR for files that are there already), or say where it is with data_dir or "
            "TFDS_DATA_DIR."
        )
    count = DATA_SETS[name].counts[split]
    if copy.counts.get(split, count) != count:  # the official order could not be found again
        raise UserError(
            f"{copy.folder} holds {copy.counts[split]} examples of {split}, the official {name} "
            f"{count}: delete it "
            f"and prepare {name} again, or read it as it is with tfds:{name}."
        )
    return *prepared.read(copy, split, key=key, crop=crop, tag=tag, check=check), _origin(copy)


def _celeb_a(side: int, split: str, data_dir) -> tuple:
    """CelebA's central square of `side` pixels, as 64x64: the key of an image is its file name."""
    first = 1 + sum(
        count
        for name, count in CELEB_A.items()
        if list(CELEB_A).index(name) < list(CELEB_A).index(split)
    )
    crop = functools.partial(images.celeb_a_crop, side=side)
    return _tfds(
        "celeb_a",
        split,
        data_dir,
        key=lambda i: f"{first + i:06d}.jpg",
        crop=crop,
        tag=f"crop{side}",
    )


def _origin(copy) -> str:
    return f"TFDS {copy.version}, {copy.format}, in {copy.folder}"


CELEB_A = {"train": 162_770, "validation": 19_867, "test": 19_962}
_IDX_SPLITS = Splits("train[:55000]", "train[55000:]", "test")
DATA_SETS = {
    "digits": DataSet(
        digits.COUNTS, _digits, Splits("train[:1293]", "train[1293:]", "test"), 10, (8, 8, 1)
    ),
    "mnist": DataSet(
        idx.COUNTS, functools.partial(_idx, "mnist"), _IDX_SPLITS, 10, (28, 28, 1), "mnist"
    ),
    "fashion_mnist": DataSet(
        idx.COUNTS,
        functools.partial(_idx, "fashion_mnist"),
        _IDX_SPLITS,
        10,
        (28, 28, 1),
        "fashion_mnist",
    ),
    "cifar10": DataSet(
        {"train": 50_000, "test": 10_000},
        _cifar10,
        Splits("train[:45000]", "train[45000:]", "test"),
        10,
        (32, 32, 3),
        "cifar10",
    ),
    "svhn_cropped": DataSet(
        {"train": 73_257, "test": 26_032, "extra": 531_131},
        functools.partial(_tfds, "svhn_cropped"),
        Splits("train[:68257]", "train[68257:]", "test"),
        10,
        (32, 32, 3),
        "svhn_cropped",
    ),
    "celeb_a": DataSet(
        CELEB_A,
        functools.partial(_celeb_a, 128),
        Splits("train", "validation", "test"),
        None,
        (64, 64, 3),
        "celeb_a",
    ),
    "celeb_a_140": DataSet(
        CELEB_A,
        functools.partial(_celeb_a, 140),
        Splits("train", "validation", "test"),
        None,
        (64, 64, 3),
        "celeb_a",
    ),
}
DATA_SETS |= {
    f"fake_{name}": DataSet(
        dict.fromkeys(known.counts, fake.COUNT),
        functools.partial(fake.read, known.shape, known.num_classes),
        Splits("train[:90%]", "train[90%:]", "test"),
        known.num_classes,
        known.shape,
    )
    for name, known in DATA_SETS.items()
}


OWN = ("tfds", "folder", "npz")  # "folder:PATH" and so on


def names() -> tuple[str, ...]:
    """Returns the names that `load` knows."""
    return tuple(DATA_SETS)


def splits(name: str, data_dir: str | os.PathLike | None = None) -> Splits:
    """Returns the default train, validation and test splits of the data set `name`."""
    if name.split(":", 1)[0] in ("folder", "npz") and ":" in name:
        return Splits("all[:80%]", "all[80%:90%]", "all[90%:]")
    return _data_set(name, data_dir).splits


def known(name: str) -> bool:
    """Returns whether `load` understands `name`; nothing is looked for."""
    return name in DATA_SETS or (name.split(":", 1)[0] in OWN and not name.endswith(":"))


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    size: int | None = None,
    crop: int | None = None,
) -> Source:
    """Returns the examples of one split of a known data set, or of your own images.

    Args:
        name: one of `names()`; "tfds:NAME" for any other data set of images that TFDS has prepared;
            "folder:PATH" for images and "npz:FILE" for arrays, whose one split is "all"
            (`data.folder`, `data.npz`).
        split: an official split, or a part of one in the syntax of TensorFlow Datasets: "train",
            "train[:55000]", "train[-5000:]", "train[10%:90%]" (percentages are rounded to whole
            examples). Examples are in the order of the official files, whichever way they came
            (`prepared`).
        data_dir: where the files are, for data sets that have files; see `places.roots`.
        size, crop: height and width of the images of a folder, and of the centre to keep before.

    Raises:
        UserError: for an unknown name, a split that does not exist or is empty, missing or damaged
            files.
    """
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        return images.folder(path, split=split, size=size, crop=crop)
    if size is not None or crop is not None:
        raise UserError(f"size and crop are for folders of images, not for {name}: leave them out.")
    if kind == "npz" and path:
        return images.npz(path, split=split)
    data_set = _data_set(name, data_dir)
    official, part = parse_split(name, split, data_set.counts)
    x, label, origin = data_set.read(official, data_dir)
    label = None if label is None else label[part]
    source = from_arrays(x[part], label, name=name, split=split, num_classes=data_set.num_classes)
    if x[part].nbytes > prepared.RESIDENT_BYTES:
        source = source._replace(arrays=None)
    return source._replace(origin=origin, official=official, indices=range(part.start, part.stop))


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
        raise UserError(
            f"x must be uint8 or floating point, not {x.dtype}: convert it with x.astype('uint8') "
            "(bytes) or x.astype('float32')."
        )
    arrays = {"x": x}
    if label is not None:
        label = arrays["label"] = _check_label(label, len(x))
        classes = int(label.max()) + 1
        if num_classes is None:
            num_classes = classes
        check_count("num_classes", num_classes)
        if classes > num_classes:
            raise UserError(
                f"label holds {classes - 1}, but labels of {num_classes} classes run from 0 to "
                f"{num_classes - 1}: number the classes from 0, or give another num_classes."
            )
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


def batch_indices(size: int, seed: int, step: int, batch_size: int) -> np.ndarray:
    """Returns the indices of the examples of one training batch, [batch_size] int32: a pure
    function of its arguments.

    Step t takes positions t B to (t + 1) B of the endless sequence perm_0, perm_1, ..., where
    perm_e is a permutation of range(size) that depends on (seed, e). Every example is seen once an
    epoch and none is dropped; a batch may straddle epochs, and may be larger than one.

    Raises:
        UserError: for a size or batch size below 1 and a seed or step below 0.
    """
    for key, value, least in (
        ("size", size, 1),
        ("seed", seed, 0),
        ("step", step, 0),
        ("batch_size", batch_size, 1),
    ):
        check_count(key, value, least)
    if seed >= 2**64:
        raise UserError(f"seed must be below 2**64, not {seed}.")
    size, seed, step, batch_size = (
        int(size),
        int(seed),
        int(step),
        int(batch_size),
    )  # NumPy's would overflow
    start, stop = step * batch_size, (step + 1) * batch_size
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


def overlap(name: str, split: str, other: str, data_dir: str | os.PathLike | None = None) -> bool:
    """Returns whether two splits of a data set share examples."""
    kind, _, path = name.partition(":")
    if kind in ("folder", "npz") and path:
        counts = {"all": images.count(path) if kind == "folder" else images.npz(path).size}
    else:
        counts = _data_set(name, data_dir).counts
    (official, part), (official_other, part_other) = (
        parse_split(name, s, counts) for s in (split, other)
    )
    return (
        official == official_other and part.start < part_other.stop and part_other.start < part.stop
    )


def _data_set(name: str, data_dir: os.PathLike | str | None = None) -> DataSet:
    if name.startswith("tfds:"):
        copy = prepared.find(name[5:], data_dir)
        if copy is None:
            raise UserError(
                f"{name[5:]} is not in {', '.join(places.roots(data_dir))}: say where TFDS has "
                "prepared it with "
                "data_dir or TFDS_DATA_DIR."
            )

        def read(split, data_dir):
            return *prepared.read(copy, split), _origin(copy)

        test = next((s for s in ("test", "validation", "valid") if s in copy.counts), "train[90%:]")
        ends = (
            ("train[:90%]", "train[90%:]")
            if test != "train[90%:]"
            else ("train[:80%]", "train[80%:90%]")
        )
        return DataSet(copy.counts, read, Splits(*ends, test), None, (), name[5:])
    if name not in DATA_SETS:
        raise unknown("data set", name, DATA_SETS)
    return DATA_SETS[name]


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
