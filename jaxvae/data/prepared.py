"""Reading what TensorFlow Datasets has prepared, without TensorFlow where it is in ArrayRecord
form.

TFDS stores examples in an order of its own: by a hash of their keys. For the data sets that
`jaxvae` knows, that order is undone here, so that examples come in the order of the official files
however they arrived, and the contents are compared with the official checksums where there are any.
A split is decoded once, and kept as .npy files beside the prepared data (in memory where that
cannot be written).
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from jaxvae import paths
from jaxvae.data import places
from jaxvae.errors import UserError
from jaxvae.paths import path as _path

RESIDENT_BYTES = 2**32  # splits larger than this are streamed from the disk
CHUNK = 4096  # records in memory at a time


class Copy(NamedTuple):
    """A prepared data set: a folder such as ROOT/mnist/3.0.1, and what its page says."""

    name: str
    folder: str
    format: str  # "array_record", "tfrecord", ...
    counts: dict[str, int]  # split -> examples
    bytes: int

    @property
    def version(self) -> str:
        """The version of the data set, e.g. "3.0.1"."""
        return self.folder.rstrip("/").rsplit("/", 1)[-1]


def find(name: str, data_dir: places.PathLike | None = None) -> Copy | None:
    """Returns the copy of `name` to be used: the first ArrayRecord one in `places.roots`, else the
    first other one."""
    copies = [copy for root in places.roots(data_dir) for copy in copies_in(root, name)]
    return next((c for c in copies if c.format == "array_record"), copies[0] if copies else None)


def copies_in(root: str, name: str) -> list[Copy]:
    """Returns the copies of `name` in one folder, newest version first."""
    base = _path(root) / name
    with _readable(root):
        if not base.is_dir():
            return []
        pages = [(_numbers(page.parent.name), page) for page in _pages(base)]
        versions = [(numbers, page) for numbers, page in pages if numbers is not None]
        versions.sort(key=lambda pair: pair[0], reverse=True)
        return [_copy(name, page) for _, page in versions]


def _pages(base: Any) -> list[Any]:
    """Returns the dataset_info.json of every version of a data set, without and with a config."""
    return [*base.glob("*/dataset_info.json"), *base.glob("*/*/dataset_info.json")]


def _copy(name: str, page: Any) -> Copy:
    try:
        info = json.loads(page.read_text())
        counts = {s["name"]: sum(int(n) for n in s.get("shardLengths", [])) for s in info["splits"]}
        size = sum(int(s.get("numBytes", 0)) for s in info["splits"])
        return Copy(name, os.fspath(page.parent), info.get("fileFormat", "tfrecord"), counts, size)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{page} is damaged ({type(error).__name__}: {error}): prepare {name} again."
        ) from None


def _numbers(version: str) -> tuple[int, ...] | None:
    """Returns the three numbers of a version; None for what is none."""
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        return None
    return tuple(int(part) for part in parts)


@contextlib.contextmanager
def _readable(root: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if places.remote(root):  # whose clients have errors of their own
            raise paths.refused("read", root, error) from None
        if not isinstance(error, (ImportError, OSError, RuntimeError)):
            raise
        raise UserError(f"{root} cannot be read: {error}.") from None


def local(copy: Copy) -> Copy:
    """Returns the copy itself, or where it lies behind an address, one fetched into
    ~/.cache/jaxvae/remote."""
    if not places.remote(copy.folder):
        return copy
    mark = hashlib.sha256(copy.folder.encode()).hexdigest()[:12]
    folder = places.cache() / "remote" / mark / copy.name / copy.version
    if not folder.is_dir():
        with _readable(copy.folder), _writing(folder) as new:
            new.mkdir(parents=True)
            for file in _path(copy.folder).iterdir():
                if not file.is_dir():
                    with file.open("rb") as source, open(new / file.name, "wb") as target:
                        shutil.copyfileobj(source, target, 2**22)
    return copy._replace(folder=os.fspath(folder))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """Yields a new path that becomes `folder` if the block ends well, and nothing otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as place:
        yield Path(place) / "new"
        os.replace(Path(place) / "new", folder)


# ---- records -------------------------------------------------------------------------------


def records(copy: Copy, split: str) -> Iterator[list[dict[str, Any]]]:
    """Yields the examples of a split in stored order, some thousands at a time, images still as PNG
    or JPEG bytes.

    Raises:
        UserError: for files that are missing or damaged, and for other formats than ArrayRecord
            without TensorFlow.
    """
    import tensorflow_datasets as tfds

    copy = local(copy)
    decoders = {"image": tfds.decode.SkipDecoding()}
    try:
        builder = cast(Any, tfds.builder_from_directory(copy.folder))
    except Exception as error:  # a missing or broken features.json
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{copy.folder} is damaged ({why}): delete it and prepare {copy.name} again."
        ) from None
    if copy.format != "array_record":
        yield from _with_tensorflow(copy, builder, split, decoders)
        return
    try:
        source = builder.as_data_source(split, decoders=decoders)
        size = len(source)
        if size != copy.counts[split]:
            raise ValueError(f"{size} records where dataset_info.json says {copy.counts[split]}")
        for start in range(0, size, CHUNK):
            yield source.__getitems__(range(start, min(start + CHUNK, size)))
    except Exception as error:  # array_record raises what its C++ part says
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{copy.folder} is damaged ({split}: {why}): delete it and prepare {copy.name} again."
        ) from None


def _with_tensorflow(
    copy: Copy, builder: Any, split: str, decoders: dict[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    import tensorflow_datasets as tfds

    try:
        import tensorflow as tf
    except ImportError:
        raise UserError(
            f"{copy.folder} is in {copy.format} form, which needs TensorFlow: pip install "
            "'jaxvae[tf]', or prepare it again without: jaxvae data prepare "
            f"{copy.name} --data-dir DIR."
        ) from None
    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
    data = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=decoders,
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    chunk = []
    for example in tfds.as_numpy(data):
        chunk.append(example)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def decode_image(content: bytes) -> np.ndarray:
    """Returns a PNG or JPEG image [H, W, 1 or 3] uint8."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        x = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return x[..., None] if x.ndim == 2 else x


def stored_order(size: int, split: str, key: Callable[[int], int | str]) -> list[int]:
    """Returns the official position of each stored example: TFDS sorts by MD5 of split and key."""
    salt = hashlib.md5(split.encode())

    def mark(i: int) -> bytes:
        digest = salt.copy()
        digest.update(str(key(i)).encode())
        return digest.digest()

    return sorted(range(size), key=mark)


# ---- whole splits --------------------------------------------------------------------------


def read(
    copy: Copy,
    split: str,
    *,
    key: Callable[[int], int | str] | None = None,
    crop: Callable[[np.ndarray], np.ndarray] | None = None,
    tag: str = "",
    check: Callable[[np.ndarray, np.ndarray], bool] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns x [n, H, W, C] uint8 and label [n] int32 (None without labels) of a whole split.

    Args:
        copy: where it is.
        split: an official split.
        key: position in the official files -> the key under which the builder stored it; None:
            stored order.
        crop: applied to every image [H, W, C] as it is decoded; `tag` names it in the cache.
        check: (x, label) -> whether this is the official content.

    Raises:
        UserError: for damage, other contents than the official ones, and images of several sizes.
    """
    if split not in copy.counts:
        raise UserError(
            f"{copy.folder} has no split {split!r}, only {', '.join(copy.counts)}: prepare "
            f"{copy.name} again."
        )
    info = (_path(copy.folder) / "dataset_info.json").read_bytes()
    root = places.cache() / "remote" if places.remote(copy.folder) else Path(copy.folder).parents[1]
    name = "-".join(
        filter(None, (copy.name, copy.version, split, tag, hashlib.sha256(info).hexdigest()[:12]))
    )
    folder = root / ".jaxvae" / name
    with contextlib.suppress(OSError, ValueError, EOFError):  # no cache, or a broken one
        return _load(folder, copy.counts[split])
    x, label = _decode(copy, split, key, crop)
    if check is not None and (label is None or not check(x, label)):
        raise UserError(
            f"{copy.folder} does not hold the official {copy.name} ({split}: another checksum): "
            f"delete it and prepare {copy.name} again."
        )
    with contextlib.suppress(OSError):  # a read-only or full disk: the arrays stay in memory
        if folder.exists():
            shutil.rmtree(folder)
        with _writing(folder) as new:
            new.mkdir(parents=True)
            np.save(new / "x.npy", x)
            if label is not None:
                np.save(new / "label.npy", label)
        if x.nbytes > RESIDENT_BYTES:
            return _load(folder, len(x))
    return x, label


def _load(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    x = np.load(folder / "x.npy", mmap_mode="r")
    label = np.load(folder / "label.npy") if (folder / "label.npy").exists() else None
    if len(x) != size or (label is not None and len(label) != size):
        raise ValueError
    return (x if x.nbytes > RESIDENT_BYTES else np.array(x)), label


def _decode(
    copy: Copy,
    split: str,
    key: Callable[[int], int | str] | None,
    crop: Callable[[np.ndarray], np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns x and label of a split, decoded, in the official order."""
    size = copy.counts[split]
    positions = range(size) if key is None else stored_order(size, split, key)
    x, label, at = None, None, 0

    def decode(example: dict[str, Any]) -> np.ndarray:
        try:
            image = decode_image(example["image"])
        except Exception as error:  # Pillow raises many kinds
            raise UserError(
                f"{copy.folder} is damaged ({split}: {str(error).splitlines()[0]}): delete it and "
                f"prepare {copy.name} again."
            ) from None
        return image if crop is None else crop(image)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for chunk in records(copy, split):
            if "image" not in chunk[0]:
                raise UserError(
                    f"{copy.folder} holds no feature called image, only {', '.join(chunk[0])}."
                )
            for image, example in zip(pool.map(decode, chunk), chunk, strict=True):
                if x is None:
                    x = np.empty((size, *image.shape), np.uint8)
                    label = np.empty(size, np.int32) if "label" in example else None
                if image.shape != x.shape[1:]:
                    raise UserError(
                        f"{copy.folder} holds images of shape {image.shape} and {x.shape[1:]}: "
                        "write them to a folder, and load that with a size."
                    )
                x[positions[at]] = image
                if label is not None:
                    label[positions[at]] = example["label"]
                at += 1
    if x is None:
        raise UserError(f"{copy.folder} holds no example of {split}: prepare {copy.name} again.")
    return x, label
