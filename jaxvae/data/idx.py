"""The official idx files of MNIST and Fashion-MNIST, with or without .gz.

They are looked for in the argument `data_dir` alone where it is given, else in the folder that
JAXVAE_DATA_DIR names and then in ~/.cache/jaxvae; in each of these in `<folder>/<name>/` (name: mnist or
fashion_mnist) and in the folder itself. Nothing is downloaded. What is read is compared with the checksums
of the official files.

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

from jaxvae.errors import UserError

COUNTS = {"train": 60_000, "test": 10_000}
IMAGE = (28, 28)
FILES = {   # split -> images, labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
ADDRESSES = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
SHA256 = {   # of the decompressed content of the official files
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


def read(name: str, split: str, data_dir: str | os.PathLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [n, 28, 28, 1] uint8 and label [n] uint8 of one official split, checked against its checksums.

    Raises:
        UserError: for a file that is missing, cannot be read, is damaged, or belongs to the other data set.
    """
    images, labels = FILES[split]
    count = COUNTS[split]
    paths = [_find(name, file, data_dir) for file in (images, labels)]   # both, before the work
    x = _read_file(name, images, paths[0], (count, *IMAGE))
    return x[..., None], _read_file(name, labels, paths[1], (count,))


def _find(name: str, file: str, data_dir: str | os.PathLike | None) -> Path:
    roots = [data_dir] if data_dir else [os.environ.get("JAXVAE_DATA_DIR"), "~/.cache/jaxvae"]
    folders = [folder for root in roots if root
               for folder in (Path(os.path.expanduser(root), name), Path(os.path.expanduser(root)))]
    for folder in folders:
        for path in (folder / file, folder / f"{file}.gz"):
            if os.path.isfile(path):
                return path
    raise UserError(
        f"{name} needs {file}.gz, which is not in {', '.join(map(str, folders))}: fetch it from "
        f"{ADDRESSES[name]}{file}.gz into {folders[0]}, or say where it is with data_dir or JAXVAE_DATA_DIR."
    )


def _read_file(name: str, file: str, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the array of `shape` in the file at `path`, read-only."""

    def damaged(why: str) -> UserError:
        return UserError(f"{path} is damaged ({why}): fetch it again from {ADDRESSES[name]}{file}.gz.")

    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":   # whatever it is called: browsers decompress without renaming
            content = gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise damaged(f"gzip: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    start = 4 + 4 * len(shape)
    magic = bytes((0, 0, 8, len(shape)))
    if content[:4] != magic:
        raise damaged(f"it starts with {content[:4].hex() or 'nothing'}, not with the magic number {magic.hex()}")
    if len(content) < start:
        raise damaged(f"its header ends after {len(content)} of {start} bytes")
    found = tuple(int(n) for n in np.frombuffer(content, ">u4", len(shape), offset=4))
    if found != shape:
        raise damaged(f"its header says shape {found}, not {shape}")
    if len(content) != start + math.prod(shape):
        raise damaged(f"it holds {len(content) - start} bytes of data where its header says {math.prod(shape)}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name][file]:
        for other in SHA256:
            if digest == SHA256[other][file]:
                raise UserError(f"{path.parent} holds {other}, not {name}: load {other!r}, or fetch {name} "
                                f"from {ADDRESSES[name]} into another folder.")
        raise damaged("its checksum is not that of the official file")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
