"""Official files that are missing or damaged: an error that carries them, and one line of it."""

import gzip

import official
import pytest

from jaxvae.data import builders, idx
from jaxvae.data import official as official_files

IMAGES, LABELS = (f"{file}.gz" for file in idx.FILES["train"])


@pytest.fixture
def raw(monkeypatch, tmp_path):
    """A folder of official files of MNIST, and of those of Fashion-MNIST in a subfolder."""
    official.hide_machine(monkeypatch, tmp_path)
    for name, folder in (("mnist", tmp_path), ("fashion_mnist", tmp_path / "other")):
        arrays = official.make(name, folder, seed=len(name))
        official.pass_as_official(monkeypatch, name, folder, arrays)
    return tmp_path


def refused(name, folder):
    with pytest.raises(official_files.FilesError) as raised:
        official_files.check(builders.BUILDERS[name], folder)
    assert "\n" not in str(raised.value)
    return raised.value


def test_whole_files_are_found_packed_and_extracted(raw):
    cls = builders.BUILDERS["mnist"]
    (raw / LABELS.removesuffix(".gz")).write_bytes(gzip.decompress((raw / LABELS).read_bytes()))
    (raw / LABELS).unlink()
    paths, remarks = official_files.check(cls, raw)
    assert paths[IMAGES] == raw / IMAGES and paths[LABELS] == raw / LABELS.removesuffix(".gz")
    assert len(paths) == 4 and remarks == []


def test_the_error_carries_every_file(raw):
    (raw / LABELS).unlink()
    (raw / IMAGES).write_bytes(gzip.compress(b"not images"))
    test = f"{idx.FILES['test'][0]}.gz"
    (raw / test).write_bytes((raw / "other" / test).read_bytes())
    error = refused("mnist", raw)
    assert error.missing == (LABELS,)
    assert error.damaged == {
        IMAGES: (raw / IMAGES, "it starts with 6e6f7420, not with the magic number 00000803"),
        test: (raw / test, "it is fashion_mnist's"),
    }
    listed = "; ".join(f"{path}: {problem}" for path, problem in error.damaged.values())
    assert str(error).startswith(
        f"mnist cannot be prepared from {raw} (missing: {LABELS}; damaged: {listed}). Fetch by hand"
    )


def test_a_file_of_an_archive_that_changed(monkeypatch, tmp_path):
    official.hide_machine(monkeypatch, tmp_path)
    arrays = official.make("cifar10", tmp_path)
    official.pass_as_official(monkeypatch, "cifar10", tmp_path, arrays)
    (file,) = tmp_path.glob("*.tar.gz")
    file.write_bytes(file.read_bytes() + b"x")
    size = file.stat().st_size
    error = refused("cifar10", tmp_path)
    assert error.missing == () and error.damaged == {
        file.name: (file, f"{size:,} bytes instead of {size - 1:,}")
    }
