"""The data sets that `load` knows by name, or that a name describes: `tfds:`, `folder:`, `npz:`."""

import functools
import hashlib
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxvae.data import arrays, digits, fake, idx, images, official, places, prepared, shapes
from jaxvae.data.source import Source, Splits, from_arrays, parse_split
from jaxvae.errors import UserError, unknown


class DataSet(NamedTuple):
    """A data set that `load` knows by name."""

    counts: dict[str, int]  # official split -> number of examples
    read: Callable  # (official split, data_dir) -> (x [n, ...], label [n] or None, origin)
    splits: Splits
    num_classes: int | None
    shape: tuple[int, ...]
    files: str | None = None  # the TFDS data set that holds it, where there is one
    world: Callable | None = None  # () -> what its examples are made of, where that is known


def _digits(split: str, data_dir) -> tuple:
    return *digits.read(split), "scikit-learn"


def _shapes(split: str, data_dir) -> tuple:
    return *shapes.read(split), "made in memory"


def _idx(name: str, split: str, data_dir) -> tuple:
    """Reads the official files where they are, else a TFDS copy."""
    paths, missing = idx.find(name, split, data_dir)
    if paths is not None:
        return *idx.read(name, split, paths), f"official files in {paths[0].parent}"
    copy = prepared.find(name, data_dir)
    if copy is None:
        raise UserError(
            f"{name} needs {missing}, or run `jaxvae data prepare {name}`, or say where it is "
            "with data_dir (--data-dir) or JAXVAE_DATA_DIR (TFDS_DATA_DIR for a TFDS copy)."
        )
    check = functools.partial(idx.check, name, split)
    return *prepared.read(copy, split, key=int, check=check), _origin(copy)


def _cifar10(split: str, data_dir) -> tuple:
    """Reads a TFDS copy, compared with the official .bin files, each an equal part of a split."""

    def check(x: np.ndarray, label: np.ndarray) -> bool:
        records = np.concatenate(
            [label[:, None].astype(np.uint8), x.transpose(0, 3, 1, 2).reshape(len(x), -1)], axis=1
        )
        is_test = split == "test"
        files = [file for file in official.CIFAR_MD5 if file.startswith("test") == is_test]
        return all(
            hashlib.md5(part.tobytes()).hexdigest() in official.CIFAR_MD5[file]
            for file, part in zip(files, np.array_split(records, len(files)), strict=True)
        )

    return _tfds("cifar10", split, data_dir, check=check)


def _tfds(
    name: str,
    split: str,
    data_dir: places.PathLike | None,
    key: Callable[[int], int | str] = int,
    crop: Callable[[np.ndarray], np.ndarray] | None = None,
    tag: str = "",
    check: Callable[[np.ndarray, np.ndarray], bool] | None = None,
) -> tuple:
    """Reads a TFDS copy, in the order of the official files."""
    copy = prepared.find(name, data_dir)
    if copy is None:
        raise UserError(
            f"{name} is not in {', '.join(places.roots(data_dir))}: run `jaxvae data prepare "
            f"{name}` (with --from DIR for files that are there already), or say where it is with "
            "data_dir (--data-dir) or TFDS_DATA_DIR."
        )
    count = DATA_SETS[name].counts[split]
    if copy.counts.get(split, count) != count:  # the official order could not be found again
        raise UserError(
            f"{copy.folder} holds {copy.counts[split]} examples of {split}, the official {name} "
            f"{count}: delete it and prepare {name} again, or read it as it is with tfds:{name}."
        )
    return *prepared.read(copy, split, key=key, crop=crop, tag=tag, check=check), _origin(copy)


def _celeb_a(side: int, split: str, data_dir) -> tuple:
    """CelebA's central square of `side` pixels, as 64x64: the key of an image is its file name."""
    before = list(CELEB_A)[: list(CELEB_A).index(split)]
    first = 1 + sum(CELEB_A[name] for name in before)

    def key(i: int) -> str:
        return f"{first + i:06d}.jpg"

    crop = functools.partial(images.celeb_a_crop, side=side)
    return _tfds("celeb_a", split, data_dir, key=key, crop=crop, tag=f"crop{side}")


def _origin(copy: prepared.Copy) -> str:
    return f"TFDS {copy.version}, {copy.format}, in {copy.folder}"


CELEB_A = {"train": 162_770, "validation": 19_867, "test": 19_962}

_IDX_SPLITS = Splits("train[:55000]", "train[55000:]", "test")

DATA_SETS = {
    "digits": DataSet(
        digits.COUNTS, _digits, Splits("train[:1293]", "train[1293:]", "test"), 10, (8, 8, 1)
    ),
    "shapes": DataSet(
        shapes.COUNTS,
        _shapes,
        Splits("train[:90%]", "train[90%:]", "test"),
        3,
        (shapes.SIDE, shapes.SIDE, 1),
        world=shapes.world,
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


KINDS = ("tfds", "folder", "npz")  # of names that describe their data: "folder:PATH" and so on


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
    return name in DATA_SETS or (name.split(":", 1)[0] in KINDS and not name.endswith(":"))


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
        return arrays.npz(path, split=split)
    data_set = _data_set(name, data_dir)
    official, part = parse_split(name, split, data_set.counts)
    x, label, origin = data_set.read(official, data_dir)
    label = None if label is None else label[part]
    source = from_arrays(x[part], label, name=name, split=split, num_classes=data_set.num_classes)
    if x[part].nbytes > prepared.RESIDENT_BYTES:
        source = source._replace(arrays=None)
    indices = range(part.start, part.stop)
    made_of = None if data_set.world is None else data_set.world()
    return source._replace(origin=origin, official=official, indices=indices, world=made_of)


def overlap(name: str, split: str, other: str, data_dir: str | os.PathLike | None = None) -> bool:
    """Returns whether two splits of a data set share examples."""
    kind, _, path = name.partition(":")
    if kind in ("folder", "npz") and path:
        counts = {"all": images.count(path) if kind == "folder" else arrays.npz(path).size}
    else:
        counts = _data_set(name, data_dir).counts
    (official, part), (other_official, other_part) = (
        parse_split(name, each, counts) for each in (split, other)
    )
    meet = part.start < other_part.stop and other_part.start < part.stop
    return official == other_official and meet


def _data_set(name: str, data_dir: os.PathLike | str | None = None) -> DataSet:
    if name.startswith("tfds:"):
        copy = prepared.find(name[5:], data_dir)
        if copy is None:
            raise UserError(
                f"{name[5:]} is not in {', '.join(places.roots(data_dir))}: say where TFDS has "
                "prepared it with data_dir (--data-dir) or TFDS_DATA_DIR."
            )

        def read(split, data_dir):
            return *prepared.read(copy, split), _origin(copy)

        test = next((s for s in ("test", "validation", "valid") if s in copy.counts), "train[90%:]")
        if test == "train[90%:]":
            splits = Splits("train[:80%]", "train[80%:90%]", test)
        else:
            splits = Splits("train[:90%]", "train[90%:]", test)
        return DataSet(copy.counts, read, splits, None, (), name[5:])
    if name not in DATA_SETS:
        raise unknown("data set", name, DATA_SETS)
    return DATA_SETS[name]


def is_here(name: str, data_dir: places.PathLike | None = None) -> bool:
    """Returns whether the files of a data set are here, or it needs none."""
    data_set = DATA_SETS.get(name)
    if data_set is None or data_set.files is None:
        return True
    if name in idx.ADDRESSES and all(idx.find(name, split, data_dir)[0] for split in idx.FILES):
        return True
    return prepared.find(data_set.files, data_dir) is not None


def listing(data_dir: places.PathLike | None = None) -> list[tuple[str, str, str, str]]:
    """Returns a row (name, examples, size, where) for every data set: each copy found, or how to
    get one."""
    rows = []
    for name in names():
        data_set = DATA_SETS[name]
        if data_set.files is None:
            where = "comes with scikit-learn" if name == "digits" else "made in memory"
            rows.append((name, _counted(data_set.counts), "", where))
            continue
        copies, problems = [], []
        for root in places.roots(data_dir):
            try:
                copies += prepared.copies_in(root, data_set.files)
            except UserError as error:  # a listing goes on
                problems.append((name, "", "", str(error)))
        rows += problems
        for copy in copies:
            size, where = f"{copy.bytes / 2**20:.1f} MiB", f"{copy.folder} ({copy.format})"
            rows.append((name, _counted(copy.counts), size, where))
        if name in idx.ADDRESSES:
            paths = idx.find(name, "train", data_dir)[0]
            if paths:
                where = f"{paths[0].parent} (official files)"
                rows.append((name, _counted(idx.COUNTS), "", where))
                copies = paths
        if not copies and not problems:
            where = f"not found: jaxvae data prepare {data_set.files} [--from DIR]"
            rows.append((name, "", "", where))
    return rows


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())
