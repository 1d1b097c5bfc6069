"""Zip archives and .npz files from anywhere: bad ones end in one error, and in bounded memory.

The bounds are of the file's size, where a number in the file could say anything: the parts of an
archive, as they are stored, are together no larger than the file; what they unpack to is bounded by
a ratio that the caller chooses; an array's header and its part agree on the number of bytes before
any are allocated.
"""

import io
import math
import os
import warnings
import zipfile
from collections.abc import Collection
from typing import BinaryIO

import numpy as np

from jaxvae.errors import Damaged, damage
from jaxvae.writers import PathLike

ALLOWANCE = 2**23  # bytes that any file may unpack to, however small
RATIO = 4  # bytes unpacked for each byte of a file, beyond the allowance
PARTS = 8192  # that any archive may have; a larger one has one more for each KiB
NUMBERS = "biuf"  # kinds of dtypes
HEADER = 2**14  # bytes in which the header of an array ends
PIECE = 2**20  # bytes unpacked at once


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """Returns the archive in an open file, its directory checked; nothing is unpacked.

    Raises:
        Damaged: for too many parts for the size of the file, parts that overlap, share a name, are
            encrypted, or are packed in another way than by deflate.
        Exception: whatever zipfile raises for a damaged directory.
    """
    size = file.seek(0, os.SEEK_END)
    if _count(file, b"PK\x01\x02") > PARTS + size // 1024:  # before each becomes an object
        raise Damaged("it has too many parts for its size")
    archive = zipfile.ZipFile(file)
    parts = archive.infolist()
    if len(parts) > len(set(archive.namelist())):
        raise Damaged("two of its parts have one name")
    if sum(part.compress_size for part in parts) > size:
        raise Damaged("its parts are larger than the file")
    if any(part.flag_bits & 1 for part in parts):
        raise Damaged("parts of it are encrypted")
    for part in parts:
        if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Damaged("parts of it are packed in an unknown way")
        if part.compress_type == zipfile.ZIP_STORED and part.file_size != part.compress_size:
            raise Damaged("a stored part has two sizes")
    return archive


def npz_names(path: PathLike) -> list[str]:
    """Returns the names of the arrays in an .npz file; other parts of it are left out.

    Raises:
        OSError: for a file that cannot be opened.
        Damaged: for one that is no archive, or a damaged one.
    """
    with open(path, "rb") as file, damage(), open_zip(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_npz(
    path: PathLike,
    names: Collection[str] | None = None,
    *,
    kinds: str = NUMBERS,
    ratio: int = RATIO,
) -> dict[str, np.ndarray]:
    """Returns arrays of an .npz file by name; nothing is unpickled.

    Args:
        path: the file, packed or not.
        names: which arrays; None: all, and then the file holds nothing else.
        kinds: the kinds of dtypes (`np.dtype.kind`) that are accepted.
        ratio: together the arrays take at most 8 MiB and `ratio` times the file's size. Deflate
            reaches 1032 on zeros.

    Raises:
        OSError: for a file that cannot be opened.
        Damaged: for one that is damaged, lacks an array, holds arrays of another kind, or unpacks
            to more than `ratio` allows.
    """
    with open(path, "rb") as file, damage(), open_zip(file) as archive:
        known = set(archive.namelist())
        parts = archive.namelist() if names is None else [f"{name}.npy" for name in names]
        for part in parts:
            if part not in known:
                raise Damaged(f"it has no array {part.removesuffix('.npy')!r}")
            if not part.endswith(".npy"):
                raise Damaged(f"it holds {part!r}, which is no array")
        total = sum(archive.getinfo(part).file_size for part in parts)
        if total > ALLOWANCE + ratio * os.fstat(file.fileno()).st_size:
            raise Damaged(
                f"{total:,} bytes of arrays, over {ratio} times its size: do not compress it"
            )
        return {part.removesuffix(".npy"): _array(archive, part, kinds) for part in parts}


def _array(archive: zipfile.ZipFile, part: str, kinds: str) -> np.ndarray:
    with archive.open(part) as stream:
        shape, columns_first, dtype, start = _header(stream.read(HEADER))
    if dtype.kind not in kinds or not dtype.itemsize:
        raise Damaged(f"{part} holds {dtype}, not numbers")
    count, size = math.prod(shape), archive.getinfo(part).file_size - start
    if min(shape, default=0) < 0 or count * dtype.itemsize != size:
        raise Damaged(f"{part} has {size:,} bytes of data, which is not what its header says")
    values = np.empty(count, dtype)
    raw = values.view(np.uint8)
    with archive.open(part) as stream:
        stream.read(start)
        for first in range(0, size, PIECE):
            piece = stream.read(PIECE)
            if len(piece) != min(PIECE, size - first):
                raise Damaged(f"{part} ends early")
            raw[first : first + PIECE] = np.frombuffer(piece, np.uint8)
    return values.reshape(shape, order="F" if columns_first else "C")


def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Returns shape, whether columns come first, dtype, and where the data begin in a .npy file."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    known = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in known:
        raise Damaged(f"an array in it is of version {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        return *known[version](file), file.tell()


def _count(file: BinaryIO, signature: bytes) -> int:
    """Returns how often `signature` occurs in a file."""
    file.seek(0)
    total, before = 0, b""
    while piece := file.read(PIECE):
        total += (before + piece).count(signature)
        before = piece[-len(signature) + 1 :]
    return total
