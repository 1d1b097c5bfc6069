"""What TFDS has prepared is read in the official order, and damage is said."""

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import official
import pytest
from official import quiet, refused

from jaxvae import data
from jaxvae import data as data_sets
from jaxvae.data import places, prepare, prepared
from jaxvae.errors import UserError

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_a_cut_off_cache_is_made_again_and_a_lost_page_is_said(made, tmp_path):
    name, raw, arrays = made
    copy = quiet(name, data_dir=tmp_path / "tfds", source=raw)
    data.load(name, "train", data_dir=tmp_path / "tfds")
    for file in ("x.npy", "label.npy"):
        next((tmp_path / "tfds" / ".jaxvae").glob(f"*train*/{file}")).write_bytes(b"")
        np.testing.assert_array_equal(
            data.load(name, "train", data_dir=tmp_path / "tfds").arrays["x"], arrays["train"][0]
        )
    (Path(copy.folder) / "features.json").unlink()
    assert "is damaged" in refused(data.load, name, "test", data_dir=tmp_path / "tfds")


@pytest.mark.parametrize(
    "chunks, message",
    [
        ([], "holds no example of train"),
        ([[{"image": None}] * 2], "does not hold the official toys"),
    ],
)
def test_a_copy_without_examples_or_labels(tmp_path, monkeypatch, chunks, message):
    page = tmp_path / "toys/1.0.0/dataset_info.json"
    page.parent.mkdir(parents=True)
    page.write_text("{}")
    copy = prepared.Copy("toys", str(page.parent), "array_record", {"train": 2}, 0)
    monkeypatch.setattr(prepared, "records", lambda copy, split: iter(chunks))
    monkeypatch.setattr(prepared, "decode_image", lambda content: np.zeros((4, 4, 1), np.uint8))
    with pytest.raises(UserError, match=message):
        prepared.read(copy, "train", check=lambda x, label: label.sum() == 0)


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_half_written_and_damaged_copies_are_seen(made, tmp_path, monkeypatch):
    name, raw, arrays = made
    monkeypatch.setattr(
        prepare, "verify", lambda copy: (_ for _ in ()).throw(UserError("not written whole"))
    )
    refused(quiet, name, data_dir=tmp_path / "tfds", source=raw)
    assert not list((tmp_path / "tfds").glob("*/*"))
    monkeypatch.undo()
    official.hide_machine(monkeypatch, tmp_path)
    official.pass_as_official(monkeypatch, name, raw, arrays)
    copy = quiet(name, data_dir=tmp_path / "tfds", source=raw)
    (shard,) = Path(copy.folder).glob("mnist-train*")
    intact = shard.read_bytes()
    shard.write_bytes(intact[: len(intact) // 2])
    assert "is damaged" in refused(data.load, name, "train", data_dir=tmp_path / "tfds")
    middle = len(intact) // 2
    shard.write_bytes(intact[:middle] + bytes(16) + intact[middle + 16 :])
    assert "is damaged" in refused(data.load, name, "train", data_dir=tmp_path / "tfds")
    shard.write_bytes(intact)
    page = Path(copy.folder) / "dataset_info.json"
    page.write_text("{")
    assert any(
        "dataset_info.json is damaged" in row[-1] for row in data_sets.listing(tmp_path / "tfds")
    )
    assert "dataset_info.json is damaged" in refused(
        data.load, name, "train", data_dir=tmp_path / "tfds"
    )


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_a_copy_with_other_contents_is_refused(made, tmp_path, monkeypatch):
    name, raw, _ = made
    quiet(name, data_dir=tmp_path / "tfds", source=raw)
    other = official.make(name, tmp_path / "other", seed=1)
    official.pass_as_official(monkeypatch, name, tmp_path / "other", other)
    assert "does not hold the official mnist" in refused(
        data.load, name, "train", data_dir=tmp_path / "tfds"
    )


@pytest.mark.parametrize("made", ["fashion_mnist"], indirect=True)
def test_tfrecord_copies_ask_for_tensorflow(made, tmp_path, monkeypatch):
    name, raw, _ = made
    copy = quiet(name, data_dir=tmp_path / "tfds", source=raw)
    page = Path(copy.folder) / "dataset_info.json"
    page.write_text(page.read_text().replace("array_record", "tfrecord"))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    message = refused(data.load, name, "train", data_dir=tmp_path / "tfds")
    assert "is in tfrecord form" in message and "jaxvae[tf]" in message


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_an_address_is_fetched_once_and_read(made, tmp_path, monkeypatch):
    """gs:// without Google: the paths behind it are local here; a missing gcsfs is said by name."""
    name, raw, arrays = made
    quiet(name, data_dir=tmp_path / "bucket", source=raw)
    monkeypatch.setattr(
        prepared, "_path", lambda root: Path(str(root).replace("gs://b", str(tmp_path / "bucket")))
    )
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://b")
    monkeypatch.setattr(
        prepared,
        "_copy",
        lambda name, page, real=prepared._copy: (
            real(name, page)._replace(
                folder=str(page.parent).replace(str(tmp_path / "bucket"), "gs://b")
            )
            if "bucket" in str(page)
            else real(name, page)
        ),
    )
    loaded = data.load(name, "train")
    assert "gs://b" in loaded.origin
    np.testing.assert_array_equal(loaded.arrays["x"], arrays["train"][0])
    shutil.rmtree(tmp_path / "bucket" / name / "3.0.1")
    assert places.expand(Path("gs://b/c")) == "gs://b/c"


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_other_tfds_names_are_read_in_stored_order(made, tmp_path):
    name, raw, arrays = made
    quiet(name, data_dir=tmp_path / "tfds", source=raw)
    loaded = data.load("tfds:mnist", "train[:90%]", data_dir=tmp_path / "tfds")
    order = prepared.stored_order(37, "train", int)
    np.testing.assert_array_equal(loaded.arrays["x"], arrays["train"][0][order][:33])
    assert "is not in" in refused(data.load, "tfds:moon", "train", data_dir=tmp_path / "tfds")


def test_a_split_decoded_once_stays_readable_without_a_writable_disk(monkeypatch, tmp_path):
    arrays = official.make("mnist", tmp_path / "raw")
    official.pass_as_official(monkeypatch, "mnist", tmp_path / "raw", arrays)
    quiet("mnist", data_dir=tmp_path / "tfds", source=tmp_path / "raw")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared.np, "save", full)
    np.testing.assert_array_equal(
        data.load("mnist", "test", data_dir=tmp_path / "tfds").arrays["x"], arrays["test"][0]
    )
    assert not list((tmp_path / "tfds" / ".jaxvae").glob("*"))


def test_decoding_refuses_what_is_no_image():
    with pytest.raises(Exception, match="cannot identify"):
        prepared.decode_image(io.BytesIO(b"no image").read())
