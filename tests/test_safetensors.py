"""The format of safetensors: what is written is read back, by its own package, too; all else ends in
one line."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hostile
from jaxvae import safetensors
from jaxvae.errors import UserError


def every_type():
    arrays = {
        name.lower(): np.arange(6).reshape(2, 3).astype(dtype)
        for name, dtype in safetensors.TYPES.items()
    }
    return {**arrays, "scalar": np.float32(2.5), "empty": np.zeros((0, 3), np.float32)}


def file(header, body=b""):
    """Returns a file with this header: bytes, or what JSON makes of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(first, last, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def test_shapes_are_read_without_the_arrays(tmp_path):
    arrays = every_type()
    content = safetensors.dump(arrays, {"a": "b"})
    body = sum(np.asarray(x).nbytes for x in arrays.values())
    for kept in (len(content), len(content) - body):  # the second has a header alone
        (tmp_path / "x").write_bytes(content[:kept])
        found = safetensors.read_shapes(tmp_path / "x")
        assert found == {name: np.shape(x) for name, x in arrays.items()}
    for kept in (0, 5, 8, len(content) - body - 1):
        (tmp_path / "x").write_bytes(content[:kept])
        with pytest.raises(UserError, match="is damaged"):
            safetensors.read_shapes(tmp_path / "x")


@given(st.binary(max_size=60), st.integers(0, 2**64 - 1))
def test_any_header_is_read_or_refused(tmp_path_factory, text, length):
    path = tmp_path_factory.mktemp("hostile") / "x"
    path.write_bytes(length.to_bytes(8, "little") + text)
    refused = ""
    try:
        assert isinstance(safetensors.read_shapes(path), dict)
    except UserError as error:
        refused = str(error)
    assert not refused or ("is damaged" in refused and "\n" not in refused)


def test_every_type_is_kept(tmp_path):
    arrays = every_type()
    (tmp_path / "x").write_bytes(safetensors.dump(arrays, {"a": "b"}))
    assert safetensors.read_metadata(tmp_path / "x") == {"a": "b"}
    found = safetensors.read(tmp_path / "x")
    hostile.same({name: found[name] for name in arrays}, arrays)
    assert list(found) == sorted(arrays) and found["bf16"].dtype == ml_dtypes.bfloat16
    with pytest.raises(UserError, match="has the type complex64"):
        safetensors.dump({"x": np.zeros(2, np.complex64)}, {})


def test_files_are_those_of_the_package(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    arrays = {name: np.asarray(x) for name, x in every_type().items() if name != "bf16"}
    (tmp_path / "ours").write_bytes(safetensors.dump(arrays, {}))
    package.save_file(arrays, tmp_path / "theirs", metadata={"a": "b"})
    for found in (package.load_file(tmp_path / "ours"), safetensors.read(tmp_path / "theirs")):
        hostile.same({name: found[name] for name in arrays}, arrays)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        safetensors.read(tmp_path / "x")


A, B = entry(0, 8, [2]), entry(8, 12, [1])


REFUSED = [
    (b"", "a header of 0 bytes in a file of 0"),
    ((100).to_bytes(8, "little") + b"{}", "a header of 100 bytes in a file of 10"),
    (file([]), "its header is no object"),
    (file({"a": [1]}), "a has no type, shape and place"),
    (file({"a": {**A, "more": 1}}, bytes(8)), "a has no type, shape and place"),
    (file({"a": entry(0, 8, [2], "F31")}, bytes(8)), "a has the type F31"),
    (file({"a": entry(0, 8, [2], [])}, bytes(8)), "unhashable"),
    (file({"a": entry(0, 8, [-1])}, bytes(8)), "impossible shape"),
    (file({"a": entry(0, 8, [2.0])}, bytes(8)), "impossible shape"),
    (file({"a": entry(0, 4, [True])}, bytes(4)), "impossible shape"),
    (file({"a": entry(0, 8, 2)}, bytes(8)), "impossible shape"),
    (file({"a": entry(0, 4, [1] * 65)}, bytes(4)), "impossible shape"),
    (file({"a": entry(0, 0, [0, 2**63])}), "impossible shape"),
    (file({"a": entry(-8, 8, [2])}, bytes(8)), "impossible shape or place"),
    (file({"a": entry(0, 8, [3])}, bytes(8)), "a of 12 bytes is said to be at 0 to 8"),
    (file({"a": entry(8, 0, [2])}, bytes(8)), "is said to be at 8 to 0"),
    (file({"a": A, "b": entry(4, 8, [1])}, bytes(8)), "b of 4 bytes is said to be at 4"),
    (file({"a": A, "b": entry(0, 8, [2])}, bytes(8)), "b of 8 bytes is said to be at 0"),
    (file({"a": A, "b": entry(9, 13, [1])}, bytes(13)), "b of 4 bytes is said to be at 9"),
    (file({"a": A, "b": B}, bytes(11)), "11 bytes of data where its header says 12"),
    (file({"a": A, "b": B}, bytes(13)), "13 bytes of data where its header says 12"),
    (file(b'{"a":%b,"a":%b}' % ((json.dumps(A).encode(),) * 2), bytes(8)), "comes twice"),
    (file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "RecursionError"),
    (file(b'{"a":' + b"[]," * 2**17), "its header is too large for its size"),
    (file(b'{"a":{"dtype":"F32","shape":[' + b"1" * 5000 + b"]}}"), "ValueError"),
    (file(b"\xff{}"), "UnicodeDecodeError"),
    (file({"a\nb" * 99: 1}), "a ba ba b"),
]


@pytest.mark.parametrize("content,message", REFUSED, ids=[message for _, message in REFUSED])
def test_what_the_format_does_not_allow(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=rf"x is damaged \((.*({message}).*)\): export") as raised:
        safetensors.read(tmp_path / "x")
    assert "\n" not in str(raised.value)


def test_arrays_lie_in_any_order(tmp_path):
    body = np.arange(3, dtype="<f4")
    (tmp_path / "x").write_bytes(file({"b": B, "a": A}, body.tobytes()))
    hostile.same(safetensors.read(tmp_path / "x"), {"b": body[2:], "a": body[:2]})


def test_damaged_files_end_in_one_line(tmp_path):
    @hostile.tries
    @given(hostile.damaged(safetensors.dump(every_type(), {"a": "b"})))
    def check(content):
        hostile.outcome(safetensors.read, tmp_path / "x", content)

    check()


def test_damaged_headers_end_in_one_line(tmp_path):
    content = safetensors.dump(every_type(), {"a": "b"})
    start = 8 + int.from_bytes(content[:8], "little")

    @hostile.tries
    @given(hostile.damaged(content[8:start]))
    def check(header):
        hostile.outcome(safetensors.read, tmp_path / "x", file(header, content[start:]))

    check()


KEYS = st.sampled_from(["a", "b\n", safetensors.METADATA])
NUMBERS = st.sampled_from([-1, 0, 1, 2, 4, 8, 12, 2**31, 2**63, 2**70, 1.0, True, None, "4", []])
ENTRIES = st.fixed_dictionaries(
    {"dtype": st.sampled_from([*safetensors.TYPES, "F8", None])},
    optional={
        "shape": st.lists(NUMBERS, max_size=3),
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3),
    },
)


def test_any_header_ends_in_one_line(tmp_path):
    @hostile.tries
    @given(st.dictionaries(KEYS, ENTRIES | NUMBERS, max_size=3), st.integers(0, 16))
    def check(header, size):
        hostile.outcome(safetensors.read, tmp_path / "x", file(header, bytes(size)))

    check()
