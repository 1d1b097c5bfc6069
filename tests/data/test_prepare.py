import dataclasses
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import official
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxvae import data
from jaxvae import data as data_sets
from jaxvae.cli import main
from jaxvae.data import builders, images, places, prepare, prepared, sets
from jaxvae.data import official as official_files
from jaxvae.errors import UserError

NAMES = list(official.COUNTS)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    official.hide_machine(monkeypatch, tmp_path)


@pytest.fixture
def made(monkeypatch, tmp_path, request):
    """The folder of official files, and what is in them."""
    name = request.param
    arrays = official.make(name, tmp_path / "raw")
    official.pass_as_official(monkeypatch, name, tmp_path / "raw", arrays)
    return name, tmp_path / "raw", arrays


def quiet(*args, **options):
    return prepare.prepare(*args, say=lambda line: None, **options)


def refused(function, *args, **options):
    with pytest.raises(UserError) as raised:
        function(*args, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("made", NAMES, indirect=True)
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


def test_celeb_a_crops_are_those_of_the_papers():
    image = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
    for side, rows, columns in (
        (128, slice(45, 173), slice(25, 153)),
        (140, slice(39, 179), slice(19, 159)),
    ):
        want = Image.fromarray(image[rows, columns]).resize((64, 64), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(images.celeb_a_crop(image, side), want)


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_batches_are_the_same_however_the_data_came(made, tmp_path):
    name, raw, arrays = made
    quiet(name, data_dir=tmp_path / "tfds", source=raw)
    np.savez(tmp_path / "mnist.npz", x=arrays["train"][0], label=arrays["train"][1])
    sources = [
        data.load(name, "train[:90%]", data_dir=folder) for folder in (raw, tmp_path / "tfds")
    ]
    sources.append(data.npz(tmp_path / "mnist.npz", split="all[:90%]"))
    assert len({source.origin for source in sources}) == 3
    for step in range(4):
        batches = [data.batch_at(s, 3, step, 16) for s in sources]
        for batch in batches[1:]:
            for key in ("x", "label"):
                np.testing.assert_array_equal(batch[key], batches[0][key])


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


@pytest.mark.parametrize("made", ["celeb_a"], indirect=True)
def test_extracted_celeb_a_and_a_lost_image(made, tmp_path):
    _, raw, _ = made
    shutil.unpack_archive(raw / "img_align_celeba.zip", raw)
    (raw / "img_align_celeba.zip").unlink()
    quiet("celeb_a", data_dir=tmp_path / "tfds", source=raw)
    for number in (3, 5, 14, 16):
        (raw / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    cut = raw / "img_align_celeba" / "000007.jpg"
    cut.write_bytes(cut.read_bytes()[:200])
    message = refused(
        quiet, "celeb_a", data_dir=tmp_path / "other", source=raw
    )  # all of them, before the work
    assert (
        "lacks 000003.jpg, 000005.jpg, 000014.jpg, ... (4 of 18 images), cannot decode 000007.jpg "
        "(1 of 18" in message
    )
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("made", ["svhn_cropped", "mnist"], indirect=True)
def test_every_missing_and_damaged_file_is_named_before_the_work(made, tmp_path, capsys):
    name, raw, _ = made
    files = sorted(raw.iterdir())
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-7])
    files[1].unlink()
    assert (
        main(["data", "prepare", name, "--from", str(raw), "--data-dir", str(tmp_path / "tfds")])
        == 2
    )
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1
        and f"missing: {files[1].name}" in error
        and f"damaged: {files[0]}" in error
    )
    assert "Fetch by hand" in error and not (tmp_path / "tfds").exists()


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_only_the_files_in_question_are_to_be_fetched(made, tmp_path):
    name, raw, _ = made
    file = raw / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    message = refused(quiet, name, data_dir=tmp_path / "t", source=raw)
    assert (
        message.count(str(file)) == 1
        and message.count("https://") == 1
        and "gzip" in message
        and "t10k" not in message
    )


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_two_at_once_and_a_place_that_is_taken(made, tmp_path, monkeypatch):
    name, raw, _ = made
    build, said = prepare._build, []

    def slow(*args):  # the other process finishes while this one works
        copy = build(*args)
        with monkeypatch.context() as patch:
            patch.setattr(prepare, "_build", build)
            quiet(name, data_dir=tmp_path / "tfds", source=raw)
        return copy

    monkeypatch.setattr(prepare, "_build", slow)
    copy = prepare.prepare(name, data_dir=tmp_path / "tfds", source=raw, say=said.append)
    assert copy.counts == official.COUNTS[name] and "another process was faster" in said[-1]
    assert os.listdir(tmp_path / "tfds") == [name]
    monkeypatch.setattr(prepare, "_build", lambda *args: pytest.fail("work that is lost"))
    (Path(copy.folder) / "dataset_info.json").unlink()
    assert "is taken by something else" in refused(
        quiet, name, data_dir=tmp_path / "tfds", source=raw
    )


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


@pytest.mark.parametrize("made", ["cifar10"], indirect=True)
def test_a_lost_connection_is_no_full_disk(made, tmp_path, monkeypatch):
    import requests

    def lost(self, *args, **options):
        raise requests.ConnectionError("connection reset")

    monkeypatch.setattr(prepare, "check_network", lambda cls: None)
    monkeypatch.setattr(builders.BUILDERS["cifar10"], "download_and_prepare", lost)
    message = refused(quiet, "cifar10", data_dir=tmp_path / "t")
    assert (
        "could not be downloaded (ConnectionError: connection reset)" in message
        and "free some space" not in message
    )


@pytest.mark.parametrize("made", ["svhn_cropped"], indirect=True)
def test_an_altered_file_of_the_right_size_is_refused(made, tmp_path):
    _, raw, _ = made
    content = bytearray((raw / "test_32x32.mat").read_bytes())
    content[-3] ^= 1
    (raw / "test_32x32.mat").write_bytes(content)
    assert "test_32x32.mat: its checksum is not" in refused(
        quiet, "svhn_cropped", data_dir=tmp_path / "t", source=raw
    )


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


@pytest.mark.parametrize("made", ["cifar10"], indirect=True)
def test_no_network_is_said_within_seconds(made, tmp_path, monkeypatch, capsys):
    infos = {
        f"http://127.0.0.1:9/{i.filename}": i
        for i in builders.BUILDERS["cifar10"].url_infos.values()
    }
    monkeypatch.setattr(builders.BUILDERS["cifar10"], "url_infos", infos)
    start = time.perf_counter()
    assert main(["data", "prepare", "cifar10", "--data-dir", str(tmp_path / "tfds")]) == 2
    assert time.perf_counter() - start < 20
    error = capsys.readouterr().err
    assert (
        "127.0.0.1:9 does not answer" in error
        and "cifar-10-binary.tar.gz from http" in error
        and "--from DIR" in error
    )


@pytest.mark.parametrize("made", ["cifar10"], indirect=True)
def test_downloads_check_the_checksum(made, tmp_path, monkeypatch):
    """From a server on this machine."""
    import functools
    import http.server
    import threading

    _, raw, arrays = made
    handler = functools.partial(
        type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None}),
        directory=str(raw),
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cls = builders.BUILDERS["cifar10"]
        address = f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz"
        (info,) = cls.url_infos.values()
        monkeypatch.setattr(cls, "url_infos", {address: info})
        quiet("cifar10", data_dir=tmp_path / "tfds")
        np.testing.assert_array_equal(
            data.load("cifar10", "test", data_dir=tmp_path / "tfds").arrays["x"], arrays["test"][0]
        )
        wrong = dataclasses.replace(info, checksum="0" * 64)
        monkeypatch.setattr(cls, "url_infos", {address: wrong})
        message = refused(quiet, "cifar10", data_dir=tmp_path / "other")
        assert "NonMatchingChecksumError" in message and "Fetch by hand" in message
        server.shutdown()


@pytest.mark.parametrize("made", ["svhn_cropped"], indirect=True)
def test_too_little_space_is_said_before_the_work(made, tmp_path, monkeypatch):
    _, raw, _ = made
    monkeypatch.setitem(prepare.SPACE, "svhn_cropped", 10**9)
    assert "needs about 1,000,000,000 MiB" in refused(
        quiet, "svhn_cropped", data_dir=tmp_path / "tfds", source=raw
    )


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


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    """A limit on the size of files stands in for the full disk: a process of its own prepares under
    it."""
    script = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
import official, pytest
from pathlib import Path
from jaxvae.data import prepare
from jaxvae.errors import UserError
place = Path({str(tmp_path)!r})
with pytest.MonkeyPatch.context() as patch:
    arrays = official.make("svhn_cropped", place / "raw")
    official.pass_as_official(patch, "svhn_cropped", place / "raw", arrays)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    try:
        prepare.prepare("svhn_cropped", data_dir=place / "tfds", source=place / "raw", say=lambda line: None)
    except UserError as error:
        print("REFUSED", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "REFUSED" in done.stdout, done.stdout + done.stderr
    assert not list((tmp_path / "tfds").glob("svhn_cropped/**/*"))
    assert [p.name for p in (tmp_path / "tfds").iterdir() if p.name.startswith(".preparing")] == []


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
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in refused(data.load, name, "train", data_dir=tmp_path / "tfds")
    middle = len(whole) // 2
    shard.write_bytes(whole[:middle] + bytes(16) + whole[middle + 16 :])
    assert "is damaged" in refused(data.load, name, "train", data_dir=tmp_path / "tfds")
    shard.write_bytes(whole)
    page = Path(copy.folder) / "dataset_info.json"
    page.write_text("{")
    assert any(
        "dataset_info.json is damaged" in row[-1] for row in data_sets.listing(tmp_path / "tfds")
    )
    assert "dataset_info.json is damaged" in refused(
        data.load, name, "train", data_dir=tmp_path / "tfds"
    )


@pytest.mark.parametrize("made", ["cifar10"], indirect=True)
def test_a_copy_with_other_counts_is_refused(made, tmp_path, monkeypatch):
    name, raw, _ = made
    quiet(name, data_dir=tmp_path / "tfds", source=raw)
    monkeypatch.setitem(sets.DATA_SETS[name].counts, "train", 40)
    message = refused(data.load, name, "train", data_dir=tmp_path / "tfds")
    assert (
        "holds 35 examples of train, the official cifar10 40" in message
        and "tfds:cifar10" in message
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
def test_preparing_again_keeps_what_is_there_and_list_shows_it(made, tmp_path, capsys):
    name, raw, _ = made
    for _ in range(2):
        assert (
            main(
                ["data", "prepare", name, "--from", str(raw), "--data-dir", str(tmp_path / "tfds")]
            )
            == 0
        )
    assert "mnist is there already" in capsys.readouterr().out
    assert main(["data", "list", "--data-dir", str(tmp_path / "tfds")]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert any(
        "mnist" in row and "train 37, test 11" in row and str(tmp_path / "tfds") in row
        for row in rows
    )
    assert any("cifar10" in row and "not found: jaxvae data prepare cifar10" in row for row in rows)
    assert len(rows) >= len(data.names())


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


def test_png_bytes_decode_to_the_same_pixels():
    for channels in (1, 3):
        x = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
        np.testing.assert_array_equal(prepared.decode_image(builders.png(x).read()), x)


@pytest.mark.parametrize("name", data.names())
def test_fake_data_have_the_shape_of_the_real(name):
    if name.startswith("fake_"):
        real = sets.DATA_SETS[name.removeprefix("fake_")]
        splits = data.splits(name)
        for split in splits:
            loaded = data.load(name, split)
            assert loaded.shape == real.shape and loaded.num_classes == real.num_classes
            assert loaded.arrays["x"].std() > 10
        np.testing.assert_array_equal(loaded.arrays["x"], data.load(name, split).arrays["x"])


@pytest.mark.slow
@pytest.mark.skipif(
    "JAXVAE_TEST_DATA" not in os.environ,
    reason="JAXVAE_TEST_DATA names no folder of official files",
)
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_official_files_in_full(name, tmp_path):
    """JAXVAE_TEST_DATA holds mnist/, fashion_mnist/ and, as files or archive, cifar-10."""
    raw = Path(os.environ["JAXVAE_TEST_DATA"])
    if name == "cifar10" and official_files.find(name, "cifar-10-binary.tar.gz", raw) is None:
        pytest.skip("no CIFAR-10 there")
    copy = quiet(name, data_dir=tmp_path, source=raw)
    counts = sets.DATA_SETS[name].counts
    assert copy.counts == counts
    for split, count in counts.items():
        public = tfds.data_source(name, split=split, data_dir=tmp_path, download=False)
        loaded = data.load(name, split, data_dir=tmp_path)
        assert len(public) == loaded.size == count
        if name != "mnist":
            assert (np.bincount(loaded.arrays["label"]) == count // 10).all()
        order = prepared.stored_order(count, split, int)
        for i in (0, count // 2, count - 1):
            np.testing.assert_array_equal(public[i]["image"], loaded.arrays["x"][order[i]])
            assert public[i]["label"] == loaded.arrays["label"][order[i]]
        if name in ("mnist", "fashion_mnist"):
            np.testing.assert_array_equal(
                loaded.arrays["x"], data.load(name, split, data_dir=raw).arrays["x"]
            )


def test_decoding_refuses_what_is_no_image():
    with pytest.raises(Exception, match="cannot identify"):
        prepared.decode_image(io.BytesIO(b"no image").read())
