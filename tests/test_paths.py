import errno
import os
from pathlib import Path

import pytest

from jaxvae import paths
from jaxvae.errors import UserError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "x"
    paths.replace(file, b"old", lasting=False)
    synced = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synced.append)
        paths.replace(file, b"new")
        assert file.read_bytes() == b"new" and len(synced) == 1
        paths.replace(str(file), b"newer", lasting=False)
        assert file.read_bytes() == b"newer" and len(synced) == 1

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, refuse)
            with pytest.raises(OSError, match="No space"):
                paths.replace(file, b"lost")
        assert file.read_bytes() == b"newer" and os.listdir(tmp_path) == ["x"]


def test_two_writers_of_one_file_do_not_meet(tmp_path, monkeypatch):
    """Each has a file of its own beside it: threads of one process, and processes of one number."""
    file, parts, move = tmp_path / "x", [], os.replace

    def other_first(part, place):
        parts.append(part)
        if len(parts) == 1:
            paths.replace(file, b"of the other one")  # meanwhile
        move(part, place)

    monkeypatch.setattr(os, "replace", other_first)
    paths.replace(file, b"mine")
    assert len(set(parts)) == 2
    assert file.read_bytes() == b"mine" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("gs://bucket/run", "gs://bucket/run"),
        (Path("gs://bucket/run"), "gs://bucket/run"),  # whose slashes Path has merged
        ("s3:/bucket", "s3://bucket"),
        ("runs/a", None),
        ("/runs/a", None),
        ("C:/runs", None),
        ("a/gs://b", None),
    ],
)
def test_an_address_is_told_from_a_folder(place, address):
    assert paths.address(place) == address


def test_a_place_on_a_disk_is_a_path(tmp_path):
    (tmp_path / "x").write_bytes(b"four")
    assert paths.path(str(tmp_path)) == tmp_path and isinstance(paths.path("a"), Path)
    assert paths.size(tmp_path / "x") == 4
    assert paths.resolved(tmp_path / "a" / "..") == tmp_path


def test_an_address_is_read_and_written_like_a_path(shelf):
    run = paths.path(Path("s3://bucket/run"))
    assert str(run / "x.txt") == "s3://bucket/run/x.txt"
    assert paths.path(run) == run == paths.resolved("s3://bucket/run")
    assert not run.is_dir() and not (run / "x.txt").exists()
    (run / "x.txt").write_bytes(b"four")
    assert run.is_dir() and (run / "x.txt").is_file()
    assert paths.size(run / "x.txt") == 4 and (run / "x.txt").read_bytes() == b"four"
    assert [file.name for file in run.iterdir()] == ["x.txt"]


def test_an_address_of_an_unknown_kind_is_refused():
    with pytest.raises(
        UserError, match=r"ftp://host/x: use a folder on a disk, or .* gs://, s3://"
    ):
        paths.path("ftp://host/x")


def test_what_a_bucket_refuses_is_one_line_that_says_what_to_do():
    error = paths.refused("write", "gs://b/x", ImportError("no gcsfs\nat all"))
    assert str(error) == (
        "cannot write gs://b/x (ImportError: no gcsfs). Install it: pip install 'jaxvae[gcs]'."
    )
    error = paths.refused("read", "gs://b/x", ValueError("denied"))
    assert "(ValueError: denied). Check the address" in str(error) and "gcloud" in str(error)
    assert "gcloud" not in str(paths.refused("read", "s3://b/x", ValueError("denied")))


def test_a_name_of_a_trained_model_is_no_place():
    for name, found in (
        ("zoo:vae/mnist", ("zoo", "vae/mnist")),
        (Path("hf:me/vae"), ("hf", "me/vae")),
        ("hf://datasets/x", None),  # an address
        ("runs/zoo:x", None),
        ("zoo", None),
    ):
        assert paths.named(name) == found
    assert paths.resolved("zoo:vae/mnist") == Path("zoo:vae/mnist")
    with pytest.raises(UserError, match="zoo:vae/mnist is the name of a trained model"):
        paths.path("zoo:vae/mnist")
