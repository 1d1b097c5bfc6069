"""The official idx files of MNIST and Fashion-MNIST, with or without .gz.

They are looked for in the argument `data_dir` alone where it is given, else in the folders of
`places.roots`; in each of these in `<folder>/<name>/` (name: mnist or fashion_mnist) and in the
folder itself. Nothing is downloaded. What is read is compared with the checksums of the official
files.

Format: two zero bytes, the type (8: unsigned byte), the number of axes, each axis as a big-endian
int32, then the bytes.
"""

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path

import numpy as np

from jaxvae.data import places
from jaxvae.errors import UserError

COUNTS = {"train": 60_000, "test": 10_000}
IMAGE = (28, 28)
FILES = {  # split -> images, labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
ADDRESSES = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
SHA256 = {  # of the decompressed content of the official files
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}


class FileError(UserError):
    """An official file that cannot be used; `problem` says why, without its path and address."""

    def __init__(self, message: str, problem: str):
        super().__init__(message)
        self.problem = problem


def find(
    name: str, split: str, data_dir: str | os.PathLike | None
) -> tuple[list[Path] | None, str]:
    """Returns the files of images and labels of a split, or None and what is missing where."""
    folders = [
        folder for root in places.roots(data_dir) for folder in (Path(root, name), Path(root))
    ]
    paths = []
    for file in FILES[split]:
        there = [
            path
            for folder in folders
            for path in (folder / file, folder / f"{file}.gz")
            if path.is_file()
        ]
        if not there:
            listed = ", ".join(map(str, folders))
            address = f"{ADDRESSES[name]}{file}.gz"
            return None, f"{file}.gz, which is not in {listed}: fetch it from {address}"
        paths.append(there[0])
    return paths, ""


def read(name: str, split: str, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [n, 28, 28, 1] uint8 and label [n] uint8 of one official split, checked against its
    checksums.

    Raises:
        FileError: for a file that cannot be read, is damaged, or belongs to the other data set.
    """
    x, label = (
        read_file(name, split, file, path) for file, path in zip(FILES[split], paths, strict=True)
    )
    return x[..., None], label


def header(shape: tuple[int, ...]) -> bytes:
    """Returns the first bytes of an idx file of an array of this shape."""
    return bytes((0, 0, 8, len(shape))) + np.array(shape, ">u4").tobytes()


def check(name: str, split: str, x: np.ndarray, label: np.ndarray) -> bool:
    """Returns whether x [n, 28, 28, 1] and label [n] are those of the official files, in order."""
    arrays = (x[..., 0], label.astype(np.uint8))
    return all(
        hashlib.sha256(header(array.shape) + array.tobytes()).hexdigest() == SHA256[name][file]
        for file, array in zip(FILES[split], arrays, strict=True)
    )


def read_file(name: str, split: str, file: str, path: Path) -> np.ndarray:
    """Returns the array in the official file called `file`, found at `path`, read-only; raises
    `FileError` as `read`."""
    shape = (COUNTS[split], *(IMAGE if file == FILES[split][0] else ()))

    def damaged(why: str) -> FileError:
        message = f"{path} is damaged ({why}): fetch it again from {ADDRESSES[name]}{file}.gz."
        return FileError(message, why)

    try:
        content = path.read_bytes()
        # whatever it is called: browsers decompress without renaming
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(f"gzip: {error}") from None
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}."
        raise FileError(message, message) from None
    start = 4 + 4 * len(shape)
    magic = bytes((0, 0, 8, len(shape)))
    if content[:4] != magic:
        raise damaged(
            f"it starts with {content[:4].hex() or 'nothing'}, not with the magic number "
            f"{magic.hex()}"
        )
    if len(content) < start:
        raise damaged(f"its header ends after {len(content)} of {start} bytes")
    found = tuple(int(n) for n in np.frombuffer(content, ">u4", len(shape), offset=4))
    if found != shape:
        raise damaged(f"its header says shape {found}, not {shape}")
    if len(content) != start + math.prod(shape):
        raise damaged(
            f"it holds {len(content) - start} bytes of data where its header says "
            f"{math.prod(shape)}"
        )
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name][file]:
        for other in SHA256:
            if digest == SHA256[other][file]:
                raise FileError(
                    f"{path.parent} holds {other}, not {name}: load {other!r}, or fetch {name} "
                    f"from {ADDRESSES[name]} into another folder.",
                    f"it is {other}'s",
                )
        raise damaged("its checksum is not that of the official file")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
