"""Arrays by name in the format of safetensors, readable by anyone.

The format: eight bytes, the length of a JSON header, little-endian; the header, name -> type, shape
and the place of the bytes; the bytes, without gaps.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxvae import paths
from jaxvae.errors import Damaged, UserError, damage
from jaxvae.paths import PathLike

TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAMES = {np.dtype(dtype): name for name, dtype in TYPES.items()}
METADATA = "__metadata__"  # a name in the header that is no array's
ALLOWANCE = 2**24  # bytes that the header of any file may take in memory, however small the file
CHARACTER, ITEM = 8, 128  # bytes in memory that a character and an item of a header take at most
AXES = 64  # of an array, at most, as in NumPy


def dump(arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """Returns a safetensors file.

    Args:
        arrays: name -> NumPy or JAX array.
        metadata: text by name, kept beside them.

    Raises:
        UserError: for an array of a type that the format does not have.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)}
    parts, start = [], 0
    for name, x in sorted(arrays.items()):
        x = np.asarray(x)
        if x.dtype not in NAMES:
            raise UserError(f"{name} has the type {x.dtype}, which safetensors does not have.")
        part = np.ascontiguousarray(x).astype(x.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {
            "dtype": NAMES[x.dtype],
            "shape": list(x.shape),
            "data_offsets": [start, start + len(part)],
        }
        parts.append(part)
        start += len(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read(path: PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name, in the order of its header, read-only.

    Raises:
        UserError: for a file that cannot be read, and one that is not what the format says to the
            byte: names that come twice, bytes that belong to no array or to two.
    """
    return _read(path, _arrays)


def read_shapes(path: PathLike) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays by name, from the header alone: the file is not read to its
    end.

    Raises:
        UserError: for a file that cannot be read or whose header is damaged.
    """

    def header(content: bytes) -> dict[str, tuple[int, ...]]:
        entries = _header(_header_text(content), ALLOWANCE + 3 * paths.size(path))
        return {name: tuple(entry["shape"]) for name, entry in entries.items()}

    return _read(path, header, _first_bytes)


def read_metadata(path: PathLike) -> dict[str, Any]:
    """Returns the text by name that is kept beside the arrays; raises `UserError` as `read`."""

    def beside(content: bytes) -> dict[str, Any]:
        _arrays(content)  # so that its header is one
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        found = header.get(METADATA)
        return found if isinstance(found, dict) else {}

    return _read(path, beside)


def _all_bytes(path: PathLike) -> bytes:
    return paths.path(path).read_bytes()


def _first_bytes(path: PathLike) -> bytes:
    """Returns a file's length of the header and the header."""
    with paths.path(path).open("rb") as file:
        start = file.read(8)
        length = min(int.from_bytes(start, "little"), paths.size(path))
        return start + file.read(length)


def _read(
    path: PathLike, what: Callable[[bytes], Any], get: Callable[[PathLike], bytes] = _all_bytes
) -> Any:
    """Returns `what` of a file's content, or of the part of it that `get` reads."""
    try:
        content = get(path)
    except Exception as error:
        if paths.address(path):
            raise paths.refused("read", path, error) from None
        if not isinstance(error, OSError):
            raise
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        with damage():
            return what(content)
    except Damaged as error:
        raise UserError(f"{path} is damaged ({error}): export it again.") from None


def _header_text(content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 + length:
        raise Damaged(f"a header of {length:,} bytes in a file of {len(content):,}")
    return content[8 : 8 + length]


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    text = _header_text(content)
    body = memoryview(content)[8 + len(text) :]
    entries = _header(text, ALLOWANCE + 3 * len(content))
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        size = math.prod(entry["shape"]) * np.dtype(TYPES[entry["dtype"]]).itemsize
        if first != end or last != first + size:
            raise Damaged(f"{name} of {size:,} bytes is said to be at {first:,} to {last:,}")
        end = last
    if end != len(body):
        raise Damaged(f"{len(body):,} bytes of data where its header says {end:,}")
    found = {}
    for name, entry in entries.items():
        dtype = np.dtype(TYPES[entry["dtype"]])
        values = np.frombuffer(body[slice(*entry["data_offsets"])], dtype.newbyteorder("<"))
        found[name] = values.reshape(entry["shape"]).astype(dtype, copy=False)
    return found


def _header(text: bytes, memory: int) -> dict[str, dict[str, Any]]:
    """Returns name -> {"dtype", "shape", "data_offsets"}, of the right types but not compared.

    What JSON makes of it takes at most `memory` bytes.
    """
    items = sum(text.count(c) for c in (b"[", b"{", b",", b":"))
    if CHARACTER * len(text) + ITEM * items > memory:
        raise Damaged("its header is too large for its size")
    header = json.loads(text.decode(), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise Damaged("its header is no object")
    header.pop(METADATA, None)
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise Damaged(f"{name} has no type, shape and place")
        shape, place = entry["shape"], entry["data_offsets"]
        if entry["dtype"] not in TYPES:
            raise Damaged(f"{name} has the type {entry['dtype']}")
        if not _sizes(shape) or not _sizes(place) or len(place) != 2:
            raise Damaged(f"{name} has an impossible shape or place")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Damaged("a name comes twice in its header")
    return found


def _sizes(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= AXES
        and all(type(n) is int and 0 <= n < 2**63 for n in values)
    )
