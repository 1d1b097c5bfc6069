"""Torch's files: both layouts, what is refused, and what damage and malice do."""

import collections
import importlib.util
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hostile
from hostile import WRITERS, Call, as_calls, dump, same, write_legacy, write_zip
from jaxvae.errors import UserError
from jaxvae.metrics import torch_files

TORCH = importlib.util.find_spec("torch")


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "a.bias": rng.standard_normal(5).astype(np.float32),
        "t": np.asarray(1.5, np.float32),
    }


@pytest.mark.parametrize("layout", WRITERS)
def test_both_layouts(tmp_path, arrays, layout):
    path = tmp_path / "w.pth"
    WRITERS[layout](path, arrays)
    same(torch_files.read(path), arrays)


@pytest.mark.parametrize("layout", WRITERS)
def test_every_type_of_number(tmp_path, layout):
    arrays = {
        name: np.array([[0, 1, 2], [3, 4, 100]]).astype(
            ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        )
        for name, dtype in torch_files.DTYPES.items()
    }
    arrays["empty"] = np.zeros((0, 3), np.float32)
    want = {
        name: x.astype(np.float32) if x.dtype == ml_dtypes.bfloat16 else x
        for name, x in arrays.items()
    }
    WRITERS[layout](tmp_path / "w.pth", arrays)
    same(torch_files.read(tmp_path / "w.pth"), want)
    if layout == "zip":
        write_zip(tmp_path / "w.pth", arrays, order="big")
        same(torch_files.read(tmp_path / "w.pth"), want)


@pytest.mark.parametrize("layout", WRITERS)
def test_parameters(tmp_path, arrays, layout):
    calls = {
        name: Call("torch._utils._rebuild_parameter", call, True, {})
        for name, call in as_calls(arrays, (None,)).items()
    }
    WRITERS[layout](tmp_path / "w.pth", arrays, dump(calls))
    same(torch_files.read(tmp_path / "w.pth"), arrays)


def test_big_endian_archives(tmp_path, arrays):
    write_zip(tmp_path / "w.pth", arrays, order="big")
    same(torch_files.read(tmp_path / "w.pth"), arrays)


@pytest.mark.skipif(not TORCH, reason="needs torch")
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_itself_writes(tmp_path, zipped):
    import torch

    base = torch.arange(24.0).reshape(2, 3, 4)
    made = collections.OrderedDict(
        plain=base,
        turned=base.permute(2, 0, 1),
        part=base[1, 1:],
        half=base.half(),
        brain=base.bfloat16(),
        parameter=torch.nn.Parameter(base),
        count=torch.tensor(7),
        flags=base > 3,
        empty=base[:0],
        double=base.double(),
    )
    made._metadata = {"": {"version": 1}}
    path = tmp_path / "w.pth"
    torch.save(made, path, _use_new_zipfile_serialization=zipped)
    found = torch_files.read(path)
    assert list(found) == list(made)
    for name, value in made.items():
        value = value.detach()
        np.testing.assert_array_equal(
            found[name], (value.float() if name == "brain" else value).numpy()
        )
        assert found[name].shape == tuple(value.shape)


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.getattr", "torch.load", "torch.nn.Module"]
)
def test_a_pickle_that_asks_for_code_is_refused(tmp_path, arrays, layout, name):
    path, witness = tmp_path / "w.pth", tmp_path / "ran"
    body = dump({"a": Call(name, f"touch {witness}")})
    WRITERS[layout](path, arrays, body)
    with pytest.raises(UserError, match=f"asks for {name.rsplit('.', 1)[0]}"):
        torch_files.read(path)
    assert not witness.exists()


def test_stand_ins_cannot_be_changed_by_a_pickle(tmp_path, arrays):
    """BUILD sets attributes: of none of the names that a file may ask for."""
    for module, name in torch_files.ALLOWED:
        for state in (b"}U\x08__call__U\x01xs", b"N}U\x08__call__U\x01xs\x86"):
            body = b"\x80\x02c" + f"{module}\n{name}\n".encode() + state + b"b."
            write_zip(tmp_path / "w.pth", arrays, body)
            with pytest.raises(UserError, match="not a (whole )?file of weights"):
                torch_files.read(tmp_path / "w.pth")
    write_zip(tmp_path / "w.pth", arrays)
    same(torch_files.read(tmp_path / "w.pth"), arrays)


@pytest.mark.parametrize(
    "offset,shape,stride",
    [
        (0, (4, 4), (4, 1)),
        (10, (3,), (1,)),
        (0, (2, 2), (0, 100)),
        (-4, (2,), (1,)),
        (0, (2**40,), (0,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, ("a",), (1,)),
    ],
)
def test_views_outside_their_storage_are_refused(tmp_path, arrays, offset, shape, stride):
    body = dump(
        {
            "a": Call(
                "torch._utils._rebuild_tensor_v2",
                ("FloatStorage", "0", 12),
                offset,
                shape,
                stride,
                False,
                {},
            )
        }
    )
    write_zip(tmp_path / "w.pth", arrays, body)
    with pytest.raises(UserError, match="not a whole file of weights"):
        torch_files.read(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "body,message",
    [
        (dump([1, 2]), "something else than tensors"),
        (dump({"model": {"a": 1}}), "something else than tensors"),
        (b"", "EOFError"),
        (b"\x80\x02}.", None),
        (b"junk", "whole file"),
    ],
)
def test_archives_that_hold_something_else(tmp_path, arrays, body, message):
    write_zip(tmp_path / "w.pth", arrays, body)
    if message is None:
        assert torch_files.read(tmp_path / "w.pth") == {}
        return
    with pytest.raises(UserError, match=message):
        torch_files.read(tmp_path / "w.pth")


def test_packed_archives_other_archives_and_other_files(tmp_path, arrays):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", dump({}) + b"0" * 1000)
    with pytest.raises(UserError, match="compressed"):
        torch_files.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", dump({}))
        archive.writestr("model/byteorder", "little", zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        torch_files.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(UserError, match="without data.pkl"):
        torch_files.read(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="does not begin as torch's files do"):
        torch_files.read(path)


# ---- damage and malice -------------------------------------------------------------------------


@pytest.mark.parametrize("layout", WRITERS)
def test_damaged_files_end_in_one_line(tmp_path, arrays, layout):
    path = tmp_path / "w.pth"
    WRITERS[layout](path, arrays)
    content = path.read_bytes()

    @hostile.tries
    @given(hostile.damaged(content))
    def check(broken):
        found = hostile.outcome(torch_files.read, path, broken)
        if layout == "zip" and found is not None:  # where every part has a checksum
            same(found, arrays)

    check()


@pytest.mark.parametrize("layout", WRITERS)
def test_damaged_pickles_end_in_one_line(tmp_path, arrays, layout):
    """The checksum of the archive is that of the damaged pickle."""
    path = tmp_path / "w.pth"
    body = dump(as_calls(arrays, (None,)))

    @hostile.tries
    @given(hostile.damaged(body))
    def check(broken):
        WRITERS[layout](path, arrays, broken)
        hostile.outcome(torch_files.read, path, path.read_bytes())

    check()


PIECES = [  # of pickles: what torch writes, in any order, and what it does not
    *(bytes([b]) for b in b"}](uestabRQN).0210\x85\x86\x87\x88\x89\x94\x81\x92"),
    *(b"K" + bytes([b]) for b in (0, 1, 3, 255)),
    *(b"q" + bytes([b]) for b in (0, 1, 9)),
    *(b"h" + bytes([b]) for b in (0, 1, 9)),
    b"r\xff\xff\xff\x0f",
    b"r\x05\x00\x00\x00",
    b"J\xff\xff\xff\xff",
    b"\x8a\xff" + b"\x7f" * 255,
    b"X\x07\x00\x00\x00storage",
    b"X\x03\x00\x00\x00cpu",
    b"X\x01\x00\x00\x000",
    b"X\xff\xff\xff\x7f",
    b"X\x03\x00\x00\x00a\n\r",
    b"\x8cP" + b"a" * 80,
    b"U\x01a",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"G\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nFloatStorage\n",
    b"cos\nsystem\n",
    b"\x93",
    b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x0ct",
]


@pytest.mark.parametrize("layout", WRITERS)
def test_any_pickle_ends_in_one_line(tmp_path, arrays, layout):
    path = tmp_path / "w.pth"

    @hostile.tries
    @given(st.lists(st.sampled_from(PIECES), max_size=30))
    def check(pieces):
        WRITERS[layout](path, arrays, b"\x80\x02" + b"".join(pieces) + b".")
        hostile.outcome(torch_files.read, path, path.read_bytes())

    check()


def tensors(*storages):
    return dump({f"t{i}": hostile.view(s, 0, (2,), (1,)) for i, s in enumerate(storages)})


@pytest.mark.parametrize(
    "storage,message",
    [
        (("storage", "O", "0", "cpu", 12), "a tensor without a storage"),
        (("O", "0", 12), "a tensor without a storage"),
        (("FloatStorage", 0, 12), "unknown kind of storage"),
        (("FloatStorage", "0", "12"), "unknown kind of storage"),
        (("FloatStorage", "0", -1), "larger than its storage"),
        (("FloatStorage", "9", 12), "KeyError"),
        (("FloatStorage", "0", 13), "48 bytes of 52"),
        (("FloatStorage", "0", 11), "more than 44"),
    ],
)
def test_a_storage_is_what_torch_writes(tmp_path, arrays, storage, message):
    write_zip(tmp_path / "w.pth", arrays, tensors(storage))
    with pytest.raises(UserError, match=message):
        torch_files.read(tmp_path / "w.pth")


def nested(levels: int) -> bytes:
    """Returns the instructions of a tuple whose hash takes 2^levels steps: each level holds the one
    below twice."""
    steps = (b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(levels))
    return b"(" + b")q\x00" + b"".join(steps) + b"t"


def alike(i: int) -> bytes:
    """Returns the instruction of an integer that has the hash of the others."""
    content = (i * (2**61 - 1)).to_bytes(11, "little")
    return b"\x8a" + bytes([len(content)]) + content


@pytest.mark.parametrize(
    "body",
    [
        b"}" + nested(60) + b"Ns.",
        b"}(" + nested(60) + b"Nu.",
        b"ccollections\nOrderedDict\n]" + nested(60) + b"N\x86a\x85R.",
        b"})" + 130_900 * b"\x85" + b"Ns.",  # hashing it, C fills its stack
        b"}(" + b"".join(alike(i) + b"N" for i in range(1, 60_000)) + b"u.",
    ],
    ids=["one", "several", "ordered", "deep", "alike"],
)
def test_keys_that_cannot_be_hashed_in_time(tmp_path, arrays, body):
    write_zip(tmp_path / "w.pth", arrays, b"\x80\x02" + body)
    with pytest.raises(UserError, match="something else than tensors by name"):
        torch_files.read(tmp_path / "w.pth")


def test_a_storage_has_a_name(tmp_path):
    pickles = [dump(torch_files.MAGIC), dump(1001), dump({"little_endian": True}), dump({})]
    content = b"".join(pickles) + b"\x80\x02]" + nested(60) + b"a."
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match="a storage without a name"):
        torch_files.read(tmp_path / "w.pth")


def test_a_storage_has_one_type_and_size(tmp_path, arrays):
    write_zip(
        tmp_path / "w.pth", arrays, tensors(("FloatStorage", "0", 12), ("FloatStorage", "0", 11))
    )
    with pytest.raises(UserError, match="a storage of two types or sizes"):
        torch_files.read(tmp_path / "w.pth")


def test_a_tensor_by_a_name_that_is_no_text(tmp_path, arrays):
    write_zip(
        tmp_path / "w.pth",
        arrays,
        dump({1: hostile.view(("FloatStorage", "0", 12), 0, (2,), (1,))}),
    )
    with pytest.raises(UserError, match="something else than tensors by name"):
        torch_files.read(tmp_path / "w.pth")


@pytest.mark.parametrize("layout", WRITERS)
def test_tied_and_turned_tensors_share_a_storage(tmp_path, arrays, layout):
    x = arrays["a.weight"]
    views = {
        name: hostile.view(("FloatStorage", "0", 12, *((None,) * (layout == "legacy"))), *form)
        for name, form in {
            "whole": (0, (3, 4), (4, 1)),
            "tied": (0, (3, 4), (4, 1)),
            "turned": (0, (4, 3), (1, 4)),
            "part": (5, (2, 2), (4, 2)),
            "spread": (1, (3, 4), (0, 1)),
        }.items()
    }
    WRITERS[layout](tmp_path / "w.pth", {"a.weight": x}, dump(views))
    found = torch_files.read(tmp_path / "w.pth")
    spread = np.broadcast_to(x.ravel()[1:5], (3, 4))
    want = {"whole": x, "tied": x, "turned": x.T, "part": x.ravel()[[[5, 7], [9, 11]]]}
    same(found, {**want, "spread": spread})
    assert all(value.flags.c_contiguous and value.flags.writeable for value in found.values())


def test_dictionaries_of_pairs_as_python_2_wrote_them(tmp_path, arrays):
    pairs = [[name, call] for name, call in as_calls(arrays, (None,)).items()]
    write_legacy(tmp_path / "w.pth", arrays, dump(Call("collections.OrderedDict", pairs)))
    same(torch_files.read(tmp_path / "w.pth"), arrays)


def test_encrypted_archives(tmp_path, arrays):
    path = tmp_path / "w.pth"
    write_zip(path, arrays)
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = content.find(signature)
        while start >= 0:
            content[start + at] |= 1
            start = content.find(signature, start + 1)
    path.write_bytes(content)
    with pytest.raises(UserError, match="parts of it are encrypted"):
        torch_files.read(path)
