"""Zip archives and .npz files: what NumPy writes is read, all else ends in one error."""

import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given

import hostile
from jaxvae import archives
from jaxvae.errors import Damaged, UserError


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((3, 4)).astype(np.float32),
        "turned": np.asfortranarray(rng.integers(0, 9, (4, 3))),
        "scalar": np.asarray(1.5, np.float16),
        "big": np.arange(3, dtype=">i2"),
        "empty": np.zeros((0, 3), np.uint8),
        "flags": np.array([True, False]),
    }


SAVERS = {"plain": np.savez, "compressed": np.savez_compressed}


def refused(path, message, **options):
    with pytest.raises(Damaged, match=message) as raised:
        archives.read_npz(path, **options)
    assert "\n" not in str(raised.value) and len(str(raised.value)) <= 200


def with_part(path, name, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)


def npy(header, body=b"", version=1):
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + body


@pytest.mark.parametrize("save", SAVERS)
def test_what_numpy_writes(tmp_path, arrays, save):
    SAVERS[save](tmp_path / "a.npz", **arrays)
    found = archives.read_npz(tmp_path / "a.npz")
    hostile.same(found, arrays)
    assert found["turned"].flags.f_contiguous and found["x"].flags.writeable
    assert archives.npz_names(tmp_path / "a.npz") == list(arrays)
    assert list(archives.read_npz(tmp_path / "a.npz", ("big",))) == ["big"]


def test_an_array_of_many_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "PIECE", 1000)
    x = np.arange(12_345)
    np.savez_compressed(tmp_path / "a.npz", x=x)
    hostile.same(archives.read_npz(tmp_path / "a.npz"), {"x": x})


def test_headers_of_version_2_and_of_python_2(tmp_path):
    text = "{'descr': '<i4', 'fortran_order': False, 'shape': (2L,), }"
    for version in (1, 2):
        with_part(tmp_path / "a.npz", "x.npy", npy(text, bytes(8), version))
        hostile.same(archives.read_npz(tmp_path / "a.npz"), {"x": np.zeros(2, "<i4")})


def header(descr="'<i4'", shape="(2,)"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


REFUSED = [
    (b"", "magic"),
    (b"text", "magic"),
    (npy(header(), bytes(7)), "has 7 bytes of data"),
    (npy(header(), bytes(9)), "has 9 bytes of data"),
    (npy(header(shape=f"({10**14},)"), bytes(8)), "has 8 bytes of data"),
    (npy(header(shape=f"({10**30},)"), bytes(8)), "has 8 bytes of data"),
    (npy(header(shape="(-2, -1)"), bytes(8)), "has 8 bytes of data"),
    (npy(header(shape="(0, -1)")), "has 0 bytes of data"),
    (npy(header(shape=f"(0, {2**63})")), "Error"),
    (npy(header(shape="(2.0,)"), bytes(8)), "shape is not valid"),
    (npy(header("'<U2'"), bytes(16)), "holds <U2, not numbers"),
    (npy(header("'<U0'", f"({10**14},)")), "not numbers"),
    (npy(header("'|O'"), bytes(16)), "holds object, not numbers"),
    (npy(header("[('a\\n', '<i4')]"), bytes(8)), "not numbers"),
    (npy(header("'<c8'"), bytes(16)), "holds complex64, not numbers"),
    (npy(header("'<M8[s]'"), bytes(16)), "not numbers"),
    (npy(header("'nonsense'")), "not a valid dtype"),
    (npy("{" * 9000, b""), "Error"),
    (npy("-" * 9000 + "1", b""), "Error"),
    (npy(header(), bytes(8), version=3), "of version \\(3, 0\\)"),
    (npy(" " * 20_000 + header(), bytes(8), version=2), "EOF|Error"),
]


@pytest.mark.parametrize("content,message", REFUSED, ids=[message for _, message in REFUSED])
def test_arrays_that_are_none(tmp_path, content, message):
    with_part(tmp_path / "a.npz", "x.npy", content)
    refused(tmp_path / "a.npz", message)


def test_other_archives_and_files(tmp_path, arrays):
    path = tmp_path / "a.npz"
    path.write_bytes(b"no archive")
    refused(path, "BadZipFile")
    np.save(tmp_path / "a.npy", arrays["x"])
    refused(tmp_path / "a.npy", "BadZipFile")
    with_part(path, "readme\n" * 200, b"hello")
    refused(path, "it holds 'readme.*, which is no array|\\.\\.\\.$")
    assert archives.npz_names(path) == []
    refused(path, "it has no array 'x'", names=("x",))
    with_part(path, "x.npy", npy(header(), bytes(8)), zipfile.ZIP_BZIP2)
    refused(path, "packed in an unknown way")
    np.savez(path, x=arrays["x"], y=arrays["x"])
    path.write_bytes(path.read_bytes().replace(b"y.npy", b"x.npy"))
    refused(path, "two of its parts have one name")
    with pytest.raises(OSError, match="No such file"):
        archives.read_npz(tmp_path / "none.npz")


def test_encrypted_parts(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", x=arrays["x"])
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz", "parts of it are encrypted")


def test_sizes_that_no_archive_has(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", x=arrays["x"])
    content = (tmp_path / "a.npz").read_bytes()
    start = content.find(b"PK\x01\x02")
    for at, message in ((20, "larger than the file"), (24, "a stored part has two sizes")):
        broken = bytearray(content)
        broken[start + at : start + at + 4] = struct.pack("<I", 2**31)
        (tmp_path / "a.npz").write_bytes(broken)
        refused(tmp_path / "a.npz", message)


def test_packing_is_bounded_by_the_ratio(tmp_path):
    x = np.zeros(2**25, np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=x)
    refused(
        tmp_path / "a.npz", "33,554,560 bytes of arrays, over 4 times its size: do not compress it"
    )
    assert archives.read_npz(tmp_path / "a.npz", ratio=1024)["x"].shape == x.shape


@pytest.mark.parametrize("save", SAVERS)
def test_damaged_archives_end_in_one_error(tmp_path, arrays, save):
    """Every part has a checksum: what is read at all is right."""
    path = tmp_path / "a.npz"
    SAVERS[save](path, **arrays)
    intact = path.read_bytes()

    def read(path):
        try:
            return archives.read_npz(path, list(arrays))
        except Damaged as error:
            raise UserError(f"{path}: {error}") from None

    @hostile.tries
    @given(hostile.damaged(intact))
    def check(content):
        found = hostile.outcome(read, path, content)
        if found is not None:
            hostile.same(found, arrays)

    check()


def test_damaged_arrays_end_in_one_error(tmp_path):
    """The checksum of the archive is that of the damaged array."""

    def read(path):
        try:
            return archives.read_npz(path)
        except Damaged as error:
            raise UserError(f"{path}: {error}") from None

    @hostile.tries
    @given(hostile.damaged(npy(header(), bytes(8))))
    def check(content):
        with_part(tmp_path / "a.npz", "x.npy", content, zipfile.ZIP_DEFLATED)
        hostile.outcome(read, tmp_path / "a.npz", (tmp_path / "a.npz").read_bytes())

    check()
