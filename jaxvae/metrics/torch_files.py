"""PyTorch's weight files (.pth, both layouts) as NumPy arrays, without torch; none of them is run.

A state dictionary is a pickle that names a few classes and functions of torch. This reader knows
those few, gives its own harmless stand-ins for them, and refuses a file that asks for anything
else. Before a pickle is read, its instructions are counted and compared with those that torch
writes, so that what it makes is bounded by the size of the file; so are the arrays together.
"""

import io
import math
import os
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from jaxvae import archives
from jaxvae.errors import Damaged, UserError, damage

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
INSTRUCTIONS = frozenset(  # that torch's pickles are made of
    """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    SHORT_BINUNICODE BINSTRING SHORT_BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST
    APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL
    STACK_GLOBAL REDUCE BUILD BINPERSID
    """.split()  # noqa: SIM905
)
STEPS = 2**17  # instructions that any pickle may have (a tensor takes 50); more for a larger file
PICKLED = 2**20  # bytes that any pickle may have; more for a larger file
ALLOWANCE = 2**23  # bytes that the arrays of any file may take together, beyond 3 times its size

NOT_BY_NAME = "it holds something else than tensors by name: save model.state_dict()"


class Refused(Damaged):
    """What a file is, or asks for, that is no file of weights, however whole it is."""


class _Kind(NamedTuple):
    """The type of the numbers in a storage. No pickle can make one, nor change it."""

    name: str


class _Storage(NamedTuple):
    """Numbers in a file, known by a key. Only a persistent id makes one."""

    kind: _Kind
    key: str
    size: int


class _Tensor(NamedTuple):
    """A view of a storage, before the numbers are read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Dict(dict):
    """A dictionary with names for keys, which are cheap to hash: a tuple that holds another many times
    takes for ever, one nested deep ends the process, and integers can be made to have one hash."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is not str:
            raise Refused(NOT_BY_NAME)
        super().__setitem__(key, value)

    def __setstate__(self, state: Any) -> None:
        """Drops what torch hangs on its dictionaries (version numbers of modules)."""


class _MakeDict:
    __slots__ = ()  # so that a pickle cannot change the stand-in itself

    def __call__(self, pairs: list | None = None) -> _Dict:
        """Returns a dictionary of the pairs that Python 2 wrote. The list is used up: one list
        must not make many dictionaries."""
        found = _Dict()
        if pairs is None:
            return found
        if type(pairs) is not list:
            raise Damaged("a dictionary made of something else than pairs")
        for key, value in pairs:
            found[key] = value
        pairs.clear()
        return found


class _MakeTensor:
    __slots__ = ()

    def __call__(self, storage, offset, shape, stride, *rest) -> _Tensor:
        if type(storage) is not _Storage:
            raise Damaged("a tensor without a storage")
        if type(shape) is not tuple or type(stride) is not tuple:
            raise Damaged("a tensor of impossible shape")
        return _Tensor(storage, offset, shape, stride)


class _MakeParameter:
    __slots__ = ()

    def __call__(self, tensor, *rest):
        return tensor


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _MakeDict(),
    ("torch._utils", "_rebuild_tensor"): _MakeTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _MakeTensor(),
    ("torch._utils", "_rebuild_parameter"): _MakeParameter(),
    **{("torch", name): _Kind(dtype) for name, dtype in DTYPES.items()},
}


class _Unpickler(pickle._Unpickler):
    """Reads the one pickle of a state dictionary; tensors stay `_Tensor`s. It is the one that is
    written in Python, whose dictionaries can be ours."""

    def load_empty_dictionary(self) -> None:
        """Begins a dictionary."""
        self.append(_Dict())  # pyright: ignore[reportAttributeAccessIssue]

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.EMPTY_DICT[0]: load_empty_dictionary,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Returns our stand-in for what the pickle names."""
        if (module, name) not in ALLOWED:
            raise Refused(
                f"the pickle in it asks for {module}.{name}, which no file of weights needs"
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage that a persistent id describes."""
        what, kind, key, _, size, *view = pid
        if (
            what != "storage"
            or type(kind) is not _Kind
            or type(key) is not str
            or type(size) is not int
            or any(part is not None for part in view)
        ):
            raise Damaged("an unknown kind of storage")
        return _Storage(kind, key, size)


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dictionary saved by torch: name -> array, bfloat16 as float32.

    Tensors may share a storage as long as the arrays, each a copy, take at most three times the
    file's size together (and 8 MiB).

    Raises:
        OSError: for a file that cannot be opened.
        UserError: for a file that is truncated or damaged, holds something else than tensors by
            name, or whose pickle asks for other names than a state dictionary needs. Nothing of it
            has been run.
    """
    try:
        with open(path, "rb") as file, damage():
            return (_zip if file.peek(4)[:4] == b"PK\x03\x04" else _legacy)(file)
    except Refused as error:
        raise UserError(f"{path} is not a file of weights: {error}.") from None
    except Damaged as error:
        raise UserError(
            f"{path} is not a whole file of weights ({error}): fetch it again."
        ) from None


def _zip(file: BinaryIO) -> dict[str, np.ndarray]:
    """Reads torch's layout since 1.6: a zip archive with data.pkl, and a file for each storage."""
    size = os.fstat(file.fileno()).st_size
    with archives.open_zip(file) as archive:
        names = archive.namelist()
        root = next((n.removesuffix("data.pkl") for n in names if n.endswith("data.pkl")), None)
        if root is None:
            raise Refused("it is a zip archive without data.pkl")
        order = "little"
        if f"{root}byteorder" in names:
            order = _stored(archive, f"{root}byteorder", 100).decode()
        if order not in ("little", "big"):
            raise Damaged(f"the byte order {order}")
        body = _stored(archive, f"{root}data.pkl", _longest(size))
        tensors = _state_dict(_unpickled(body, size)[0])

        def numbers(storage: _Storage) -> bytes:
            return _stored(archive, f"{root}data/{storage.key}", _bytes(storage))

        return _arrays(tensors, numbers, order, size)


def _stored(archive: zipfile.ZipFile, name: str, longest: int) -> bytes:
    part = archive.getinfo(name)
    if part.compress_type != zipfile.ZIP_STORED:  # a small file could hold a huge one
        raise Refused("parts of it are compressed, which torch does not do")
    if part.file_size > longest:
        raise Damaged(f"{name} has {part.file_size:,} bytes, more than {longest:,}")
    return archive.read(name)


def _legacy(file: BinaryIO) -> dict[str, np.ndarray]:
    """Reads torch's layout before 1.6: five pickles after each other, then the storages."""
    content = memoryview(file.read())
    size, start = len(content), 0

    def following() -> Any:
        nonlocal start
        found, length = _unpickled(bytes(content[start : start + _longest(size)]), size)
        start += length
        return found

    if following() != MAGIC:
        raise Refused("it does not begin as torch's files do")
    following()  # version of the protocol
    order = "little" if following().get("little_endian", True) else "big"
    tensors = _state_dict(following())
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    places = {}
    for key in following():
        if type(key) is not str:
            raise Damaged("a storage without a name")
        count = int.from_bytes(content[start : start + 8], order)
        if count != storages[key].size:
            raise Damaged(f"storage {key} has {count:,} elements instead of {storages[key].size:,}")
        places[key] = slice(start + 8, start + 8 + _bytes(storages[key]))
        start = places[key].stop
    return _arrays(tensors, lambda storage: content[places[storage.key]], order, size)


def _longest(size: int) -> int:
    """Returns how many bytes of a file of `size` bytes a pickle may be."""
    return PICKLED + size // 8


def _unpickled(body: bytes, size: int) -> tuple[Any, int]:
    """Returns what the pickle at the start of `body` holds, and its length; `size`: of the file."""
    if not body:
        raise EOFError("a pickle is missing")
    file = io.BytesIO(body)
    for number, (step, argument, _) in enumerate(pickletools.genops(file)):
        place = argument if isinstance(argument, int) else 0
        if step.name not in INSTRUCTIONS:
            raise Refused(f"the pickle in it uses {step.name}, which no file of weights needs")
        if step.name == "LONG_BINPUT" and place > number:  # a C unpickler takes that memory
            raise Damaged("its pickle counts further than it has instructions")
        if number >= STEPS + size // 256:
            raise Damaged("its pickle has too many instructions for its size")
    return _Unpickler(io.BytesIO(body[: file.tell()])).load(), file.tell()


def _state_dict(found: Any) -> dict[str, _Tensor]:
    """Returns `found` if it is tensors by name, each inside its storage."""
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and type(tensor) is _Tensor for name, tensor in found.items()
    ):
        raise Refused(NOT_BY_NAME)
    storages: dict[str, _Storage] = {}
    for tensor in found.values():
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise Damaged("a storage of two types or sizes")
        _check(tensor)
    return found


def _check(tensor: _Tensor) -> None:
    """Raises `Damaged` unless a view stays inside its storage."""
    numbers = (tensor.offset, *tensor.shape, *tensor.stride)
    if (
        len(tensor.shape) != len(tensor.stride)
        or len(tensor.shape) > 64
        or not all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    ):
        raise Damaged("a tensor of impossible shape")
    last = tensor.offset + sum(
        (n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True)
    )
    count = math.prod(tensor.shape)
    if count > tensor.storage.size or (count and last >= tensor.storage.size):
        raise Damaged("a tensor that is larger than its storage")


def _dtype(kind: _Kind) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if kind.name == "bfloat16" else kind.name)


def _result(kind: _Kind) -> np.dtype:
    return np.dtype(np.float32) if kind.name == "bfloat16" else _dtype(kind)


def _bytes(storage: _Storage) -> int:
    return storage.size * _dtype(storage.kind).itemsize


def _arrays(
    tensors: dict[str, _Tensor], numbers: Callable[[_Storage], bytes], order: str, size: int
) -> dict[str, np.ndarray]:
    """Returns a copy of every tensor; `numbers` reads a storage.

    Each is read once, and let go of before the next.
    """
    total = sum(
        math.prod(tensor.shape) * _result(tensor.storage.kind).itemsize
        for tensor in tensors.values()
    )
    if total > ALLOWANCE + 3 * size:
        raise Damaged(f"{total:,} bytes of tensors in a file of {size:,}")
    by_storage: dict[_Storage, list[str]] = {}
    for name, tensor in tensors.items():
        by_storage.setdefault(tensor.storage, []).append(name)
    found: dict[str, np.ndarray] = {}
    for storage, names in by_storage.items():
        raw = numbers(storage)
        if len(raw) != _bytes(storage):
            raise Damaged(f"{len(raw):,} bytes of {_bytes(storage):,}")
        values = np.frombuffer(raw, _dtype(storage.kind))
        for name in names:
            found[name] = _view(tensors[name], values, order)
    return {name: found[name] for name in tensors}


def _view(tensor: _Tensor, values: np.ndarray, order: str) -> np.ndarray:
    """Returns a copy of the view of a storage's `values` that a tensor is."""
    if not math.prod(tensor.shape):
        view = np.zeros(tensor.shape, values.dtype)
    else:
        strides = tuple(step * values.itemsize for step in tensor.stride)
        view = np.lib.stride_tricks.as_strided(
            values[tensor.offset :], tensor.shape, strides, writeable=False
        )
    native = view if order == sys.byteorder else view.byteswap()
    return native.astype(_result(tensor.storage.kind), order="C", copy=native is view)
