import gzip
import hashlib

import numpy as np
import pytest
from official import idx_file

from jaxvae import data
from jaxvae.data import idx
from jaxvae.errors import UserError

COUNTS = {"train": 12, "test": 5}
IMAGES, LABELS = idx.FILES["train"]


def make_set(seed):
    """File name -> content of a small data set with the official names and shapes of one image."""
    rng, files = np.random.default_rng(seed), {}
    for split, (images, labels) in idx.FILES.items():
        files[images] = idx_file(rng.integers(0, 256, (COUNTS[split], 28, 28), np.uint8))
        files[labels] = idx_file(rng.integers(0, 10, COUNTS[split], np.uint8))
    return files


def compress(content):
    """The same bytes at any time: by default gzip writes the clock into its header."""
    return gzip.compress(content, mtime=0)


MNIST, FASHION = make_set(0), make_set(1)


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / f"{file}.gz").write_bytes(compress(content))
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """The small sets take the place of the official ones; no file of the machine is found."""
    for split, count in COUNTS.items():
        monkeypatch.setitem(idx.COUNTS, split, count)
    for name, files in (("mnist", MNIST), ("fashion_mnist", FASHION)):
        sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        monkeypatch.setitem(idx.SHA256, name, sums)
    monkeypatch.delenv("JAXVAE_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def refused(folder, name="mnist"):
    """The message with which the training split is refused."""
    with pytest.raises(UserError) as raised:
        data.load(name, "train", data_dir=folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_reads_what_was_written(tmp_path):
    write(tmp_path / "mnist", MNIST)
    for split, (images, labels) in idx.FILES.items():
        source = data.load("mnist", split, data_dir=tmp_path)
        x = np.frombuffer(MNIST[images], np.uint8)[16:].reshape(-1, 28, 28, 1)
        np.testing.assert_array_equal(source.arrays["x"], x)
        np.testing.assert_array_equal(source.arrays["label"], list(MNIST[labels][8:]))
        assert (
            source[:4] == ("mnist", split, COUNTS[split], (28, 28, 1)) and source.num_classes == 10
        )
        assert source.arrays["x"].dtype == np.uint8 and source.arrays["label"].dtype == np.int32
    part = data.load("mnist", "train[-3:]", data_dir=tmp_path)
    np.testing.assert_array_equal(
        part.read([2])["x"][0, :, :, 0].ravel(), list(MNIST[IMAGES][-784:])
    )


def test_searches_the_argument_alone_or_environment_then_cache(tmp_path, monkeypatch):
    home = write(tmp_path / "home" / ".cache" / "jaxvae" / "mnist", MNIST)
    data.load("mnist", "train")
    assert f"not in {tmp_path / 'nowhere' / 'mnist'}, {tmp_path / 'nowhere'}:" in refused(
        tmp_path / "nowhere"
    )
    write(
        tmp_path / "env", FASHION
    )  # found before the cache, and the wrong set: shows which was read
    monkeypatch.setenv("JAXVAE_DATA_DIR", str(tmp_path / "env"))
    assert f"{tmp_path / 'env'} holds fashion_mnist" in refused(None)
    data.load("mnist", "train", data_dir=home)
    data.load("mnist", "train", data_dir="~/.cache/jaxvae")


@pytest.mark.parametrize("named_gz", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_reads_compressed_or_not_whatever_the_name(tmp_path, compressed, named_gz):
    for file, content in MNIST.items():
        (tmp_path / (f"{file}.gz" if named_gz else file)).write_bytes(
            compress(content) if compressed else content
        )
    assert data.load("mnist", "train", data_dir=tmp_path).size == 12


def test_missing_file_says_where_it_looked_and_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXVAE_DATA_DIR", "elsewhere")
    write(tmp_path, {IMAGES: MNIST[IMAGES]})  # its labels are missing
    message = refused(tmp_path)
    cache = tmp_path / "home" / ".cache" / "jaxvae"
    assert f"{tmp_path}/mnist, {tmp_path}:" in message
    assert f"not in elsewhere/mnist, elsewhere, {cache}/mnist, {cache}, " in refused(None)
    assert f"mnist needs {LABELS}.gz" in message
    assert f"https://storage.googleapis.com/cvdf-datasets/mnist/{LABELS}.gz" in message
    assert f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{IMAGES}.gz" in refused(
        "a", "fashion_mnist"
    )


def test_the_other_data_set_is_named(tmp_path):
    write(tmp_path, FASHION)
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path} holds fashion_mnist, not mnist: load 'fashion_mnist'")
    assert data.load("fashion_mnist", "train", data_dir=tmp_path).size == 12
    write(tmp_path, {IMAGES: MNIST[IMAGES]})  # a folder of both
    assert f"{tmp_path} holds fashion_mnist, not mnist" in refused(tmp_path)
    assert f"{tmp_path} holds mnist, not fashion_mnist" in refused(tmp_path, "fashion_mnist")


def _flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGED = {
    "no end": (
        compress(MNIST[IMAGES])[:-500],
        "gzip: Compressed file ended before the end-of-stream marker",
    ),
    "no checksum": (compress(MNIST[IMAGES])[:-4], "gzip: Compressed file ended"),
    "half a gzip header": (compress(MNIST[IMAGES])[:5], "gzip: Compressed file ended"),
    "wrong checksum": (_flip(compress(MNIST[IMAGES]), -6), "gzip: CRC check failed"),
    "junk": (compress(MNIST[IMAGES])[:10] + b"\xff" * 200, "gzip: Error -3 while decompressing"),
    "empty": (b"", "starts with nothing"),
    "a web page": (b"<html>404</html>", "starts with 3c68746d, not with the magic number 00000803"),
    "labels": (MNIST[LABELS], "starts with 00000801"),
    "half a header": (MNIST[IMAGES][:9], "header ends after 9 of 16 bytes"),
    "the other split": (
        MNIST[idx.FILES["test"][0]],
        r"header says shape (5, 28, 28), not (12, 28, 28)",
    ),
    "a byte short": (MNIST[IMAGES][:-1], "holds 9407 bytes of data where its header says 9408"),
    "a byte more": (MNIST[IMAGES] + b"\0", "holds 9409 bytes"),
    "a wrong pixel": (_flip(MNIST[IMAGES], 5000), "checksum is not that of the official file"),
}


@pytest.mark.parametrize(("content", "why"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_file(tmp_path, content, why):
    write(tmp_path, MNIST)
    (tmp_path / f"{IMAGES}.gz").write_bytes(content)
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path / IMAGES}.gz is damaged (")
    assert why in message
    assert message.endswith(
        f"fetch it again from https://storage.googleapis.com/cvdf-datasets/mnist/{IMAGES}.gz."
    )


def test_file_that_cannot_be_read(tmp_path, monkeypatch):
    write(tmp_path, MNIST)

    def read_bytes(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(idx.Path, "read_bytes", read_bytes)
    assert refused(tmp_path) == f"{tmp_path / IMAGES}.gz cannot be read: Permission denied."
