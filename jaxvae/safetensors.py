"""The safetensors format: arrays by name, readable by anyone.

Eight bytes, the length of a JSON header, little-endian; the header, name -> type, shape and the place
of the bytes; the bytes.
"""

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxvae.errors import UserError

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


def dump(arrays: dict[str, Any], metadata: dict[str, str]) -> bytes:
    """Returns a safetensors file."""
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, at = [], 0
    for name, x in sorted(arrays.items()):
        x = np.asarray(x)
        if x.dtype not in NAMES:
            raise UserError(f"{name} has the type {x.dtype}, which safetensors does not have.")
        part = np.ascontiguousarray(x).astype(x.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {
            "dtype": NAMES[x.dtype],
            "shape": list(x.shape),
            "data_offsets": [at, at + len(part)],
        }
        parts.append(part)
        at += len(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name. Raises `UserError` for one that is
    damaged."""
    try:
        content = Path(path).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header, body = json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :]
        header.pop("__metadata__", None)
        found, end = {}, 0
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            array = np.frombuffer(
                body[first:last], np.dtype(TYPES[entry["dtype"]]).newbyteorder("<")
            )
            found[name] = array.reshape(entry["shape"]).astype(TYPES[entry["dtype"]], copy=False)
            end = max(end, last)
        if end != len(body):
            raise ValueError(f"{len(body)} bytes of data where its header says {end}")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): export it again.") from None
    return found
