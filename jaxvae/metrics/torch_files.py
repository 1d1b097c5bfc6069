"""PyTorch's weight files (.pth, both layouts) as NumPy arrays, without torch and without running
what a pickle asks for.

A state dictionary is a pickle that names a few classes and functions of torch. This reader knows
those few, gives its own harmless stand-ins for them, and refuses a file that asks for anything
else.
"""

import io
import math
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxvae.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older layout
DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_Broken = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
)


class _Tensor(NamedTuple):
    """A view of a storage, before the numbers are read."""

    storage: tuple  # (dtype, key, number of elements)
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Dict(dict):
    def __setstate__(self, state: Any) -> None:
        """Drops what torch hangs on its dictionaries (version numbers of modules)."""


class _MakeDict:
    __slots__ = ()  # so that a pickle cannot change the stand-in itself

    def __call__(self, *args):
        return _Dict(*args)


class _MakeTensor:
    __slots__ = ()

    def __call__(self, storage, offset, shape, stride, *rest):
        return _Tensor(storage, offset, tuple(shape), tuple(stride))


class _MakeParameter:
    __slots__ = ()

    def __call__(self, tensor, *rest):
        return tensor


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _MakeDict(),
    ("torch._utils", "_rebuild_tensor"): _MakeTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _MakeTensor(),
    ("torch._utils", "_rebuild_parameter"): _MakeParameter(),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Reads the one pickle of a state dictionary; tensors stay `_Tensor`s."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UserError(
                f"the pickle in it asks for {module}.{name}, which no file of weights needs"
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> tuple:
        kind, dtype, key, _, size, *view = pid
        if (
            kind != "storage"
            or not isinstance(dtype, str)
            or any(part is not None for part in view)
        ):
            raise pickle.UnpicklingError("an unknown kind of storage")
        return dtype, str(key), int(size)


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dictionary saved by torch: name -> array, bfloat16 as float32.

    Raises:
        UserError: for a file that is truncated or damaged, holds something else than tensors by
            name, or whose pickle asks for other names than a state dictionary needs. Nothing of it
            has been run.
    """
    try:
        with open(path, "rb") as file:
            found, storages = (_zip if file.peek(4)[:4] == b"PK\x03\x04" else _legacy)(file)
            if not isinstance(found, dict) or not all(
                isinstance(v, _Tensor) for v in found.values()
            ):
                raise UserError(
                    "it holds something else than tensors by name: save model.state_dict()"
                )
            return {str(name): _array(tensor, storages) for name, tensor in found.items()}
    except UserError as error:
        raise UserError(f"{path} is not a file of weights: {error}.") from None
    except _Broken as error:
        raise UserError(
            f"{path} is not a whole file of weights ({type(error).__name__}: {error}): fetch it "
            "again."
        ) from None


def _zip(file: io.BufferedReader) -> tuple[Any, dict[str, np.ndarray]]:
    """Reads torch's layout since 1.6: a zip archive with data.pkl, and a file for each storage."""
    with zipfile.ZipFile(file) as archive:
        root = next(
            (
                name.removesuffix("data.pkl")
                for name in archive.namelist()
                if name.endswith("data.pkl")
            ),
            None,
        )
        if root is None:
            raise UserError("it is a zip archive without data.pkl")
        order = "little"
        if f"{root}byteorder" in archive.namelist():
            order = _stored(archive, f"{root}byteorder").decode()
        found = _Unpickler(io.BytesIO(_stored(archive, f"{root}data.pkl"))).load()
        storages = {
            key: _numbers(_stored(archive, f"{root}data/{key}"), dtype, size, order)
            for dtype, key, size in {t.storage for t in _tensors(found)}
        }
    return found, storages


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    if (
        archive.getinfo(name).compress_type != zipfile.ZIP_STORED
    ):  # torch never packs: a small file could hold a huge one
        raise UserError("parts of it are compressed, which torch does not do")
    return archive.read(name)


def _legacy(file: io.BufferedReader) -> tuple[Any, dict[str, np.ndarray]]:
    """Reads torch's layout before 1.6: five pickles after each other, then the storages."""
    file.seek(0)
    if _Unpickler(file).load() != MAGIC:
        raise UserError("it does not begin as torch's files do")
    _Unpickler(file).load()  # version of the protocol
    order = "little" if _Unpickler(file).load().get("little_endian", True) else "big"
    found = _Unpickler(file).load()
    kinds = {key: (dtype, size) for dtype, key, size in (t.storage for t in _tensors(found))}
    storages = {}
    for key in _Unpickler(file).load():
        size = int.from_bytes(file.read(8), order)
        dtype, want = kinds[key]
        if size != want:
            raise EOFError(f"storage {key} has {size} elements instead of {want}")
        storages[key] = _numbers(file.read(size * _dtype(dtype).itemsize), dtype, size, order)
    return found, storages


def _tensors(found: Any) -> list[_Tensor]:
    return [v for v in found.values() if isinstance(v, _Tensor)] if isinstance(found, dict) else []


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _numbers(raw: bytes, name: str, size: int, order: str) -> np.ndarray:
    dtype = _dtype(name)
    if len(raw) != size * dtype.itemsize:
        raise EOFError(f"{len(raw):,} bytes of {size * dtype.itemsize:,}")
    values = np.frombuffer(raw, dtype)
    if order != sys.byteorder:
        values = values.byteswap()
    return values.astype(np.float32) if name == "bfloat16" else values


def _array(tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    """Returns a copy of a view, after a proof that it stays inside its storage."""
    values = storages[tensor.storage[1]]
    numbers = (tensor.offset, *tensor.shape, *tensor.stride)
    if len(tensor.shape) != len(tensor.stride) or not all(
        isinstance(n, int) and n >= 0 for n in numbers
    ):
        raise ValueError("a tensor of impossible shape")
    count = math.prod(tensor.shape)
    last = tensor.offset + sum(
        (n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True)
    )
    if count > len(values) or (count and last >= len(values)):
        raise ValueError("a tensor that is larger than its storage")
    if not count:
        return np.zeros(tensor.shape, values.dtype)
    strides = tuple(step * values.itemsize for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(
        values[tensor.offset :], tensor.shape, strides, writeable=False
    ).copy()
