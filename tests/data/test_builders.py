"""The official builders on small official files: what they write is read under the official names."""

import io
import tarfile

import numpy as np
import official
import pytest
import tensorflow_datasets as tfds
from official import quiet, refused

from jaxvae import data
from jaxvae.data import builders, images, prepared

pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize("made", official.COUNTS, indirect=True)
def test_official_builder_prepares_and_reads_back(made, tmp_path):
    """The official name finds it through TFDS; `load` gives it in the order of the official
    files."""
    name, raw, arrays = made
    copy = quiet(name, data_dir=tmp_path / "tfds", source=raw)
    assert copy.counts == official.COUNTS[name]
    assert copy.format == "array_record"
    for split, (x, label) in arrays.items():
        public = tfds.data_source(name, split=split, data_dir=tmp_path / "tfds", download=False)
        stored = [public[i] for i in range(len(public))]
        order = prepared.stored_order(len(x), split, int) if name != "celeb_a" else None
        loaded = data.load(name, split, data_dir=tmp_path / "tfds")
        assert "TFDS" in loaded.origin and str(tmp_path / "tfds") in loaded.origin
        if name == "celeb_a":
            want = np.stack([images.celeb_a_crop(image, 128) for image in x])
            assert np.abs(loaded.arrays["x"].astype(int) - want).max() <= 3  # JPEG
            wide = data.load("celeb_a_140", split, data_dir=tmp_path / "tfds")
            assert wide.shape == loaded.shape == (64, 64, 3) and wide.num_classes is None
            continue
        np.testing.assert_array_equal(np.stack([e["image"] for e in stored]), x[order])
        np.testing.assert_array_equal([e["label"] for e in stored], label[order])
        np.testing.assert_array_equal(loaded.arrays["x"], x)
        np.testing.assert_array_equal(loaded.arrays["label"], label)
        again = data.load(name, split, data_dir=tmp_path / "tfds")  # from the cache
        np.testing.assert_array_equal(again.arrays["x"], x)
    cls = tfds.builder_cls(name)
    assert (
        cls(data_dir=tmp_path / "tfds").data_dir == copy.folder and str(cls.VERSION) == copy.version
    )


@pytest.mark.parametrize("made", ["celeb_a"], indirect=True)
def test_celeb_a_keeps_lists_and_partition(made, tmp_path):
    _, raw, _ = made
    quiet("celeb_a", data_dir=tmp_path / "tfds", source=raw)
    example = tfds.data_source(
        "celeb_a", split="validation", data_dir=tmp_path / "tfds", download=False
    )[0]
    assert (
        example["attributes"]["5_o_Clock_Shadow"] and not example["attributes"]["Arched_Eyebrows"]
    )
    assert example["landmarks"]["lefteye_x"] == 0 and example["identity"]["Identity_No"] in range(
        1, 5
    )


@pytest.mark.parametrize("made", ["cifar10"], indirect=True)
def test_extracted_files_do_as_well_as_the_archive(made, tmp_path):
    _, _, arrays = made
    folder = tmp_path / "unpacked" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, content in official.cifar_bins(arrays).items():
        (folder / name).write_bytes(content)
    quiet("cifar10", data_dir=tmp_path / "tfds", source=tmp_path / "unpacked")
    np.testing.assert_array_equal(
        data.load("cifar10", "test", data_dir=tmp_path / "tfds").arrays["x"], arrays["test"][0]
    )
    (folder / "data_batch_2.bin").unlink()
    message = refused(quiet, "cifar10", data_dir=tmp_path / "other", source=tmp_path / "unpacked")
    assert "lacks data_batch_2.bin" in message
    (folder / "data_batch_2.bin").write_bytes(bytes(7 * builders.CIFAR_RECORD))
    message = refused(quiet, "cifar10", data_dir=tmp_path / "other", source=folder)
    assert "checksum of data_batch_2.bin is not the official one" in message


def test_an_archive_is_read_up_to_its_checksum(tmp_path):
    """Which is behind the end of the archive, where tarfile stops."""
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x/a.bin"), io.BytesIO())
    paths, content = {path.name: path}, bytearray(path.read_bytes())
    assert list(builders.cifar_batches(paths, ("a.bin",))) == [("a.bin", b"")]
    content[-8] ^= 1
    path.write_bytes(content)
    batches = builders.cifar_batches(paths, ("a.bin",))
    assert "is damaged (CRC check failed" in refused(list, batches)
    content[len(content) // 2 :] = bytes(10)
    path.write_bytes(content)
    assert "is damaged (" in refused(list, builders.cifar_batches(paths, ("a.bin",)))


def test_labels_out_of_range_are_refused(tmp_path):
    record = bytes([10]) + bytes(3072)
    assert "the label 10" in refused(builders.cifar_records, "test_batch.bin", record)
    assert "truncated" in refused(builders.cifar_records, "test_batch.bin", record[:-1])
    from scipy.io import savemat

    savemat(
        tmp_path / "x.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[0], [10]])}
    )
    assert "from 0 to 10, which must be 1 to 10" in refused(
        builders.svhn_arrays, tmp_path / "x.mat"
    )
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
    assert "is damaged" in refused(builders.svhn_arrays, tmp_path / "x.mat")


def test_png_bytes_decode_to_the_same_pixels():
    for channels in (1, 3):
        x = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
        np.testing.assert_array_equal(prepared.decode_image(builders.png(x).read()), x)
