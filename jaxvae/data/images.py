"""Images from anywhere as sources: folders of files, .npz archives, plain iterators."""

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae import archives
from jaxvae.data import places
from jaxvae.data.source import Source, from_arrays, parse_split
from jaxvae.errors import Damaged, UserError, check_count, one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
PACKED = 512  # bytes for each byte of an .npz, at most; black rectangles on white reach 365
RESIDENT_BYTES = 2**30  # folders that decode to more are read from the disk as they are needed


def celeb_a_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Returns CelebA's aligned image [218, 178, 3] as 64x64: its central square, then PIL's
    bilinear filter.

    `side` 128 is rows 45:173, columns 25:153 (the Two-Stage VAE's), 140 is rows 39:179, columns
    19:159 (the WAE's).
    """
    top, left = (218 - side) // 2, (178 - side) // 2
    return resized(image[top : top + side, left : left + side], (64, 64))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an image [H, W, C] uint8 as [*size, C], with PIL's bilinear filter (which averages
    where it shrinks)."""
    from PIL import Image

    if image.shape[:2] == tuple(size):
        return image
    flat = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(flat.resize((size[1], size[0]), Image.Resampling.BILINEAR)).reshape(
        *size, image.shape[-1]
    )


def centre_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the centre [*size, C] of an image [H, W, C]."""
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    if top < 0 or left < 0:
        raise UserError(
            f"an image of {image.shape[0]}x{image.shape[1]} pixels has no crop of "
            f"{size[0]}x{size[1]}: "
            "use a smaller crop."
        )
    return image[top : top + size[0], left : left + size[1]]


def folder(
    path: places.PathLike,
    *,
    crop: int | tuple[int, int] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    by_class: bool | None = None,
    split: str = "all",
    name: str | None = None,
    workers: int | None = None,
):
    """Returns a `Source` over the image files below `path`, in the order of their names.

    An image is cropped around its centre, then resized, and only where that is asked for: without
    them all files must have one size. What does not fit in memory is decoded as it is read, in
    parallel.

    Args:
        path: a folder of images, or of one folder per class.
        crop: (height, width), or one number for both, of the central part to keep.
        size: the same, of the result (bilinear filter, averaging where it shrinks).
        channels: 1 (grey) or 3 (colour); default: 3 where any file has colours.
        by_class: whether each subfolder is a class, numbered in the order of names; default: where
            there are no files beside the subfolders.
        split: a part in the syntax of TensorFlow Datasets over "all": "all[:90%]", "all[90%:]". The
            parts are of a fixed shuffled order, so that each has every class.
        name: what logs call it; default: the folder's name.
        workers: threads that decode; default: one per core.

    Raises:
        UserError: for a folder without images, files of several sizes, and files that cannot be
            read (how many, which).
    """

    root = Path(os.path.expanduser(path))
    files, classes = _files(root, by_class)
    for key, value in (("crop", crop), ("size", size)):
        if value is not None and len(_pair(value)) != 2:
            raise UserError(f"{key} must be one number, or (height, width), not {value!r}.")
        for side in _pair(value) or ():
            check_count(key, side)
    if channels not in (None, 1, 3):
        raise UserError(f"channels must be 1 (grey) or 3 (colour), not {channels!r}.")
    name = name or root.name
    crop, size = _pair(crop), _pair(size)
    _, part = parse_split(name, split, {"all": len(files)})
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    shape = _check(root, tuple(files), crop, size, channels, pool)
    label = (
        np.array([classes.index(file.parent.relative_to(root).parts[0]) for file in files])
        if classes
        else None
    )
    order = (
        np.argsort(np.random.Philox(0).random_raw(len(files)), kind="stable")[part]
        if split != "all"
        else np.arange(len(files))
    )
    files = [files[i] for i in order]
    label = None if label is None else label[order].astype(np.int32)

    def decode(file: Path) -> np.ndarray:
        image = _open(file, shape[-1])
        image = image if crop is None else centre_crop(image, crop)
        return image if size is None else resized(image, size)

    def read(indices) -> dict[str, np.ndarray]:
        indices = np.asarray(indices)
        x = np.empty((len(indices), *shape), np.uint8)
        for i, image in enumerate(pool.map(lambda i: decode(files[i]), indices)):
            x[i] = image
        return {"x": x} if label is None else {"x": x, "label": label[indices]}

    count = len(classes) if classes else None
    if len(files) * int(np.prod(shape)) <= RESIDENT_BYTES:
        x = read(np.arange(len(files)))["x"]
        return from_arrays(x, label, name=name, split=split, num_classes=count)._replace(
            origin=str(root), indices=order
        )
    return Source(name, split, len(files), shape, read, count, None, str(root), indices=order)


def count(path: places.PathLike) -> int:
    """Returns how many image files there are below `path`."""
    return len(_files(Path(os.path.expanduser(path)), False)[0])


def _pair(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if value is None or isinstance(value, (tuple, list)):
        return None if value is None else tuple(value)
    return value, value


def _files(root: Path, by_class: bool | None) -> tuple[list[Path], list[str]]:
    """Returns the image files below `root`, sorted, and the classes ([]: none)."""
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give the one with the images.")
    files = sorted(
        p
        for p in root.rglob("*")
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    if not files:
        raise UserError(f"{root} holds no images ({', '.join(SUFFIXES)}).")
    beside = [file for file in files if file.parent == root]
    if by_class is None:
        by_class = not beside and len({file.relative_to(root).parts[0] for file in files}) > 1
    if not by_class:
        return files, []
    if beside:
        raise UserError(
            f"{root} holds {len(beside)} images beside its class folders, such as "
            f"{beside[0].name}: move them "
            "into one, or use by_class=False."
        )
    return files, sorted({file.relative_to(root).parts[0] for file in files})


def _open(file: Path, channels: int | None) -> np.ndarray:
    from PIL import Image

    with Image.open(file) as image:
        grey = (
            image.mode in ("1", "L", "LA", "I;16", "I;16B", "I;16L")
            if channels is None
            else channels == 1
        )
        if image.mode.startswith("I;16"):  # Pillow would cut off at 255
            image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"pixels of type {image.mode}, 32 bits each: save 8 bits")
        x = np.asarray(image.convert("L" if grey else "RGB"))
    return x[..., None] if grey else x


_CHECKED: dict[
    tuple, tuple[int, int, int]
] = {}  # folders whose every file has been decoded: the other splits need not again


def _check(
    root: Path, files: tuple[Path, ...], crop, size, channels: int | None, pool
) -> tuple[int, int, int]:
    """Returns the shape of every example; decodes each file of the folder once, whatever the split,
    so that no run is lost to a bad one in its middle or in the test part at its end."""
    known = (
        root.absolute(),
        crop,
        size,
        channels,
        tuple((file, file.stat().st_mtime_ns) for file in files),
    )
    if known in _CHECKED:
        return _CHECKED[known]

    def look(file: Path):
        try:
            x = _open(file, channels)
            return (*(x if crop is None else centre_crop(x, crop)).shape[:2], x.shape[-1])
        except Exception as error:  # Pillow raises many kinds
            return error

    results = list(pool.map(look, files))
    bad = [
        (file, result)
        for file, result in zip(files, results, strict=True)
        if isinstance(result, Exception)
    ]
    if bad:
        names = ", ".join(str(file.relative_to(root)) for file, _ in bad[:3]) + (
            ", ..." if len(bad) > 3 else ""
        )
        why = str(bad[0][1]).splitlines()[0].rstrip(".")
        raise UserError(
            f"{len(bad)} of {len(files)} images in {root} cannot be used: {names} ({why}). Remove "
            "or repair them."
        )
    sizes: dict[tuple[int, int], int] = {}
    for *shape, _ in results:
        sizes[tuple(shape)] = sizes.get(tuple(shape), 0) + 1
    if size is None and len(sizes) > 1:
        common = sorted(sizes.items(), key=lambda item: -item[1])
        rows = ", ".join(f"{count} of {h}x{w}" for (h, w), count in common[:3]) + (
            ", ..." if len(common) > 3 else ""
        )
        odd = next(
            file for file, shape in zip(files, results, strict=True) if shape[:2] != common[0][0]
        )
        raise UserError(
            f"{root} holds images of {len(sizes)} sizes ({rows}; {odd.relative_to(root)} is one "
            "of the rarer): "
            "say what to do with size= (resize) or crop=."
        )
    shape = (
        *(next(iter(sizes)) if size is None else size),
        max(channels for *_, channels in results),
    )
    _CHECKED.clear()
    return _CHECKED.setdefault(known, shape)


def npz(
    path: places.PathLike,
    *,
    x: str | None = None,
    label: str | None = None,
    split: str = "all",
    name: str | None = None,
    num_classes: int | None = None,
):
    """Returns a `Source` over the arrays of an .npz file.

    Args:
        path: the file; nothing in it is unpickled. A compressed one may unpack to 512 times its
            size (and 8 MiB): half of what zeros reach, more than sprites do.
        x: the key of the examples [n, ...]; default: "x", "x_train", "images", "arr_0" or the only
            key.
        label: the key of the labels [n]; default: "label", "y", "y_train" or "labels" where there
            is one.
        split: a part over "all", as in "all[:55000]".
        name, num_classes: as in `from_arrays`.

    Raises:
        UserError: for a file that cannot be read or lacks the keys, and what `from_arrays` refuses.
    """

    path = Path(os.path.expanduser(path))
    try:
        keys = archives.npz_names(path)
        x, label = _keys(path, keys, x, label)
        arrays = archives.read_npz(path, dict.fromkeys(filter(None, (x, label))), ratio=PACKED)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except Damaged as error:
        raise UserError(
            f"{path} cannot be read as .npz ({error}): write it with "
            "numpy.savez(file, x=..., label=...), without objects."
        ) from None
    values, labels = arrays[x], arrays[label] if label else None
    name = name or path.stem
    if values.ndim == 3 and values.dtype == np.uint8:  # grey images without their channel
        values = values[..., None]
    if not values.ndim:
        raise UserError(f"{path} holds one number as {x!r}: give examples [n, ...].")
    _, part = parse_split(name, split, {"all": len(values)})
    if labels is not None:
        labels = np.atleast_1d(labels)
        if len(labels):  # a part may lack the last class of the file
            every_row = np.zeros((len(labels), 1), np.uint8)
            num_classes = from_arrays(every_row, labels, num_classes=num_classes).num_classes
        if len(labels) != len(values):
            raise UserError(
                f"{path} holds {len(labels)} labels and {len(values)} examples: give one label "
                "per example."
            )
        labels = labels[part]
    return from_arrays(
        values[part], labels, name=name, split=split, num_classes=num_classes
    )._replace(origin=str(path), indices=range(part.start, part.stop))


def _keys(path: Path, keys: list[str], x: str | None, label: str | None) -> tuple[str, str | None]:
    """Returns the keys of the examples and of the labels (None: there are none)."""
    only = keys[0] if len(keys) == 1 else None
    x = x or next((k for k in ("x", "x_train", "images", "arr_0") if k in keys), only)
    label = label or next((k for k in ("label", "y", "y_train", "labels") if k in keys), None)
    listed = one_line(", ".join(keys))
    for key in filter(None, (x, label)):
        if key not in keys:
            raise UserError(f"{path} has no array {key!r}, only {listed}.")
    if x is None:
        raise UserError(
            f"{path} holds {listed or 'nothing'}: say which array has the examples with x=."
        )
    return x, label


def from_iterator(
    examples: Iterable[Any],
    *,
    spool: places.PathLike | None = None,
    most_bytes: int = 2**31,
    name: str = "iterator",
    num_classes: int | None = None,
):
    """Returns a `Source` over what an iterator yields: x [...], or (x, label), or {"x": ...,
    "label": ...}.

    Training needs random access, so the iterator is read once, to its end: into memory, or with
    `spool` into a file there, of which only the examples in use are in memory.

    Args:
        examples: yields one example at a time.
        spool: a file to be written (raw bytes), for what does not fit in memory.
        most_bytes: in memory; beyond it, without `spool`, the answer is an error instead of
            swapping.
        name, num_classes: as in `from_arrays`.

    Raises:
        UserError: for an empty iterator, examples of several shapes or types, and too many of them
            for memory.
    """

    rows = iter(_rows(examples))
    first = next(rows, None)
    if first is None:
        raise UserError("the iterator yields no example.")
    x0 = first[0]
    labels: list[int] = []
    store = _Spool(spool, x0) if spool is not None else []
    for i, (x, label) in enumerate(itertools.chain([first], rows)):
        if x.shape != x0.shape or x.dtype != x0.dtype:
            raise UserError(
                f"example {i} has shape {x.shape} and type {x.dtype}, the first {x0.shape} and "
                f"{x0.dtype}: "
                "yield examples of one shape and type."
            )
        if (label is None) != (first[1] is None):
            raise UserError(
                f"example {i} {'lacks a' if label is None else 'has a'} label, unlike the first "
                "one."
            )
        if spool is None and (i + 1) * x0.nbytes > most_bytes:
            raise UserError(
                f"the iterator yields more than {most_bytes:,} bytes: pass spool=FILE, and it is "
                "kept there."
            )
        store.append(x)
        if label is not None:
            labels.append(label)
    label = np.array(labels) if labels else None
    if spool is None:
        return from_arrays(np.stack(store), label, name=name, num_classes=num_classes)
    array = store.close()
    checked = from_arrays(array[:1], None)  # its type and shape
    classes = (
        None
        if label is None
        else from_arrays(np.zeros((len(label), 1), np.uint8), label, num_classes=num_classes)
    )

    def read(indices) -> dict[str, np.ndarray]:
        x = np.asarray(array[indices])
        x = x.astype(np.float32) if x.dtype != np.uint8 else x
        return (
            {"x": x}
            if classes is None
            else {"x": x, **{k: v for k, v in classes.read(indices).items() if k == "label"}}
        )

    count = None if classes is None else classes.num_classes
    return Source(name, "all", len(array), checked.shape, read, count, None, str(spool))


def _rows(examples: Iterable[Any]) -> Iterator[tuple[np.ndarray, int | None]]:
    for example in examples:
        if isinstance(example, dict) and "x" in example:
            x, label = example["x"], example.get("label")
        elif isinstance(example, tuple) and len(example) == 2:
            x, label = example
        elif isinstance(example, (dict, tuple)):
            what = (
                ", ".join(map(str, example))
                if isinstance(example, dict)
                else f"{len(example)} values"
            )
            raise UserError(
                f"the iterator yields {what[:100]}: let it yield x, (x, label) or "
                f'{{"x": ..., "label": ...}}.'
            )
        else:
            x, label = example, None
        if label is not None and not np.issubdtype(np.asarray(label).dtype, np.integer):
            raise UserError(f"label must be a whole number, not {label!r}.")
        yield np.asarray(x), None if label is None else int(label)


class _Spool:
    """A file of raw bytes that grows by one example at a time."""

    def __init__(self, path: places.PathLike, example: np.ndarray):
        self.path, self.count = Path(path), 0
        self.shape, self.dtype = example.shape, example.dtype
        try:
            self.file = open(self.path, "wb")  # noqa: SIM115 - closed in close()
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}. Choose another file."
            ) from None

    def append(self, x: np.ndarray) -> None:
        try:
            self.file.write(np.ascontiguousarray(x).tobytes())
        except OSError as error:
            self.file.close()
            self.path.unlink(missing_ok=True)
            raise UserError(
                f"cannot write {self.path}: {error.strerror}. Free some space or choose another "
                "file."
            ) from None
        self.count += 1

    def close(self) -> np.ndarray:
        self.file.close()
        return np.memmap(self.path, self.dtype, "r", shape=(self.count, *self.shape))
