"""Files in torch's two layouts, written without torch, and what damage makes of any file."""

import io
import pickle
import struct
import sys
import zipfile

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from jaxvae.errors import UserError
from jaxvae.metrics import torch_files

# ---- torch's two layouts -----------------------------------------------------------------------

KINDS = {dtype: name for name, dtype in torch_files.DTYPES.items()}


class Global:
    """Pickles as a name of another module."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


class Pickler(pickle._Pickler):
    """Writes names as they are, and storages by their number, as torch does."""

    def save_global(self, obj, name=None):
        self.write(pickle.GLOBAL + "{}\n{}\n".format(*obj.name.rsplit(".", 1)).encode())

    dispatch = {**pickle._Pickler.dispatch, Global: save_global}  # noqa: RUF012

    def persistent_id(self, obj):
        if not isinstance(obj, tuple) or not obj or obj[0] not in KINDS.values():
            return None
        kind, key, size, *view = obj
        return "storage", Global(f"torch.{kind}"), key, "cuda:0", size, *view


class Call:
    """Pickles as a call of `name`."""

    def __init__(self, name, *args):
        self.name, self.args = name, args


def save_call(pickler, obj):
    pickler.save(Global(obj.name))
    pickler.save(obj.args)
    pickler.write(pickle.REDUCE)


Pickler.dispatch[Call] = save_call


def dump(obj) -> bytes:
    file = io.BytesIO()
    Pickler(file, 2).dump(obj)
    return file.getvalue()


def as_calls(arrays, extra=()):
    """Returns the pickled form of a state dictionary."""
    return {
        name: Call(
            "torch._utils._rebuild_tensor_v2",
            (KINDS[x.dtype.name], str(i), x.size, *extra),
            0,
            x.shape,
            tuple(s // x.itemsize for s in x.strides),
            False,
            {},
        )
        for i, (name, x) in enumerate(arrays.items())
    }


def view(storage, offset, shape, stride):
    """Returns the pickled form of a tensor; `storage` is (a name in `KINDS`, key, size)."""
    return Call("torch._utils._rebuild_tensor_v2", storage, offset, shape, stride, False, {})


def write_zip(path, arrays, body=None, order="little"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", dump(as_calls(arrays)) if body is None else body)
        archive.writestr("model/byteorder", order)
        for i, x in enumerate(arrays.values()):
            x = x if order == sys.byteorder else x.byteswap()
            archive.writestr(f"model/data/{i}", x.tobytes())


def write_legacy(path, arrays, body=None):
    raw = [
        dump(torch_files.MAGIC),
        dump(1001),
        dump({"little_endian": True}),
        dump(as_calls(arrays, (None,))) if body is None else body,
        dump([str(i) for i in range(len(arrays))]),
    ]
    raw += [struct.pack("<q", x.size) + x.tobytes() for x in arrays.values()]
    path.write_bytes(b"".join(raw))


WRITERS = {"zip": write_zip, "legacy": write_legacy}


# ---- damage ------------------------------------------------------------------------------------

tries = settings(  # the same ones in every run
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LARGE = [struct.pack(form, n) for form in ("<I", "<Q", ">I") for n in (0, 1, 2**16, 2**28, 2**31)]


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Returns `content` after one to four mishaps: bytes flipped, lost, doubled, put in, or
    overwritten with numbers that could be sizes; cut off."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        head, tail = content[:at], content[at:]
        what = draw(st.sampled_from(["flip", "flip", "lose", "double", "put", "size", "cut"]))
        length = draw(st.integers(1, 9))
        if what == "flip":
            tail = bytes(b ^ draw(st.integers(1, 255)) for b in tail[:1]) + tail[1:]
        elif what == "lose":
            tail = tail[length:]
        elif what == "double":
            tail = tail[:length] + tail
        elif what == "put":
            tail = draw(st.binary(min_size=1, max_size=9)) + tail
        elif what == "size":
            number = draw(st.sampled_from([*LARGE, b"\xff" * 8]))
            tail = number + tail[len(number) :]
        elif length < 4:  # not too often: little is left of the file
            tail = b""
        content = head + tail
    return content


def outcome(read, path, content: bytes) -> dict[str, np.ndarray] | None:
    """Returns what `read` makes of a file with this content: arrays of bounded size, or None after
    a `UserError` of one line that names the file. Anything else is an error."""
    path.write_bytes(content)
    try:
        found = read(path)
    except UserError as error:
        line = str(error)
    else:
        line = None
    if line is not None:
        assert str(path) in line and "\n" not in line and len(line) < 1000
        return None
    assert all(isinstance(x, np.ndarray) and x.dtype.kind in "biufV" for x in found.values())
    assert sum(x.nbytes for x in found.values()) <= 4 * len(content) + 2**24
    return found


def same(found, want):
    """Asserts that arrays have the same names in the same order, types, shapes and values."""
    assert list(found) == list(want)
    for name, value in want.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
