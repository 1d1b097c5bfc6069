"""Folders of image files as sources, and what is done to an image on the way."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxvae.data import places
from jaxvae.data.source import Source, from_arrays, parse_split
from jaxvae.errors import UserError, check_count

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
Pair = tuple[int, int] | None  # height and width, where they are given
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
            f"{size[0]}x{size[1]}: use a smaller crop."
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
) -> Source:
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
        UserError: for a folder, or one of a class, without images, files of several sizes, and
            files that cannot be read (how many, which).
    """
    root = Path(os.path.expanduser(path))
    files, classes = _files(root, by_class)
    crop, size = _pair("crop", crop), _pair("size", size)
    if channels not in (None, 1, 3):
        raise UserError(f"channels must be 1 (grey) or 3 (colour), not {channels!r}.")
    name = name or root.name
    _, part = parse_split(name, split, {"all": len(files)})
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    shape = _check(root, tuple(files), crop, size, channels, pool)
    order = np.arange(len(files))
    if split != "all":
        order = np.argsort(np.random.Philox(0).random_raw(len(files)), kind="stable")[part]
    files, label = [files[i] for i in order], None
    if classes:
        numbers = [classes.index(file.parent.relative_to(root).parts[0]) for file in files]
        label = np.array(numbers, np.int32)

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
        source = from_arrays(x, label, name=name, split=split, num_classes=count)
    else:
        source = Source(name, split, len(files), shape, read, count)
    return source._replace(origin=str(root), indices=order)


def count(path: places.PathLike) -> int:
    """Returns how many image files there are below `path`."""
    return len(_files(Path(os.path.expanduser(path)), False)[0])


def _pair(name: str, value: int | tuple[int, ...] | list[int] | None) -> Pair:
    """Returns height and width of an option, checked; None where it is not given."""
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(sides) != 2:
        raise UserError(f"{name} must be one number, or (height, width), not {value!r}.")
    for side in sides:
        check_count(name, side)
    return sides[0], sides[1]


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
            f"{beside[0].name}: move them into one, or use by_class=False."
        )
    classes = sorted({file.relative_to(root).parts[0] for file in files})
    folders = (place.name for place in root.iterdir() if place.is_dir())
    empty = sorted(name for name in folders if name not in classes and not name.startswith("."))
    if empty:
        raise UserError(
            f"{root} has {len(empty)} class folders without images: {_first_three(empty)}. Fill "
            "them, remove them, or use by_class=False."
        )
    return files, classes


def _open(file: Path, channels: int | None) -> np.ndarray:
    """Returns an image [H, W, channels] uint8; None keeps the channels that the file has."""
    from PIL import Image

    with Image.open(file) as image:
        grey = channels == 1
        if channels is None:
            grey = image.mode in ("1", "L", "LA", "I;16", "I;16B", "I;16L")
        if image.mode.startswith("I;16"):  # Pillow would cut off at 255
            image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"pixels of type {image.mode}, 32 bits each: save 8 bits")
        x = np.asarray(image.convert("L" if grey else "RGB"))
    return x[..., None] if grey else x


# Folders whose every file has been decoded: their other splits need not do it again.
_CHECKED: dict[tuple, tuple[int, int, int]] = {}


def _check(
    root: Path,
    files: tuple[Path, ...],
    crop: Pair,
    size: Pair,
    channels: int | None,
    pool: ThreadPoolExecutor,
) -> tuple[int, int, int]:
    """Returns the shape of every example; decodes each file of the folder once, whatever the split,
    so that no run is lost to a bad one in its middle or in the test part at its end."""
    times = tuple((file, file.stat().st_mtime_ns) for file in files)
    known = (root.absolute(), crop, size, channels, times)
    if known in _CHECKED:
        return _CHECKED[known]

    def look(file: Path) -> tuple[int, int, int] | Exception:
        try:
            x = _open(file, channels)
            height, width = (x if crop is None else centre_crop(x, crop)).shape[:2]
            return height, width, x.shape[-1]
        except Exception as error:  # Pillow raises many kinds
            return error

    shapes: dict[Path, tuple[int, int, int]] = {}
    bad: dict[Path, Exception] = {}
    for file, found in zip(files, pool.map(look, files), strict=True):
        if isinstance(found, Exception):
            bad[file] = found
        else:
            shapes[file] = found
    if bad:
        names = _first_three([str(file.relative_to(root)) for file in bad])
        why = str(next(iter(bad.values()))).splitlines()[0].rstrip(".")
        raise UserError(
            f"{len(bad)} of {len(files)} images in {root} cannot be used: {names} ({why}). Remove "
            "or repair them."
        )
    sizes = Counter((height, width) for height, width, _ in shapes.values())
    if size is None and len(sizes) > 1:
        common = sizes.most_common()
        rows = _first_three([f"{count} of {h}x{w}" for (h, w), count in common])
        odd = next(file for file in files if shapes[file][:2] != common[0][0])
        raise UserError(
            f"{root} holds images of {len(sizes)} sizes ({rows}; {odd.relative_to(root)} is one "
            "of the rarer): say what to do with size= (resize) or crop=."
        )
    height, width = next(iter(sizes)) if size is None else size
    _CHECKED.clear()
    _CHECKED[known] = height, width, max(shape[-1] for shape in shapes.values())
    return _CHECKED[known]


def _first_three(words: list[str]) -> str:
    return ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")
