import dataclasses
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import official
import pytest
import tensorflow_datasets as tfds
from official import quiet, refused

from jaxvae import data
from jaxvae.cli import main
from jaxvae.data import builders, prepare, prepared, sets
from jaxvae.data import official as official_files

MADE = ["--hidden", "4", "--latent-dim", "3", "--no-progress"]


def small_splits(name):
    """The data set with splits that the few examples of `official.COUNTS` have."""
    parts = sets.Splits("train[:30]", "train[30:]", "test")
    return sets.DATA_SETS[name]._replace(splits=parts)


pytestmark = pytest.mark.usefixtures("alone")


@pytest.mark.parametrize("made", ["celeb_a"], indirect=True)
def test_extracted_celeb_a_and_a_lost_image(made, tmp_path):
    _, raw, _ = made
    shutil.unpack_archive(raw / "img_align_celeba.zip", raw)
    (raw / "img_align_celeba.zip").unlink()
    quiet("celeb_a", data_dir=tmp_path / "tfds", source=raw)
    for number in (3, 5, 14, 16):
        (raw / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    truncated = raw / "img_align_celeba" / "000007.jpg"
    truncated.write_bytes(truncated.read_bytes()[:200])
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


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_what_is_not_here_is_fetched_once_and_said_first(made, tmp_path, monkeypatch, capsys):
    """By `train`, from a server on this machine."""
    name, raw, _ = made
    cls, fetched = builders.BUILDERS[name], []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            fetched.append(self.path)

    handler = functools.partial(Handler, directory=str(raw))
    folder = ["--data-dir", str(tmp_path / "tfds"), "--workdir", str(tmp_path / "run")]
    words = ["train", "vae", "--data", name, *folder, "--steps", "2", "--batch-size", "8", *MADE]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        infos = {f"http://{host}/{i.filename}": i for i in cls.url_infos.values()}
        monkeypatch.setattr(cls, "url_infos", infos)
        monkeypatch.setattr(sets, "DATA_SETS", sets.DATA_SETS | {name: small_splits(name)})
        for extra in ((), ("--no-download",)):  # forbidden by the environment, by the option
            assert main([*words, *extra]) == 2
            assert "mnist needs train-images-idx3-ubyte.gz" in capsys.readouterr().err
            monkeypatch.delenv("JAXVAE_OFFLINE", raising=False)
        assert fetched == [] and not (tmp_path / "run").exists()
        assert main(words) == 0
        out = capsys.readouterr().out
        size = sum(file.stat().st_size for file in raw.iterdir()) / 2**20
        said = f"mnist is not here: downloading 4 files, {size:,.1f} MiB, from {host}, into "
        assert out.startswith(f"{said}{tmp_path / 'tfds'} (--no-download refuses)\n")
        fetched.clear()
        assert main(words) == 0
        assert fetched == [] and "downloading" not in capsys.readouterr().out
        server.shutdown()


@pytest.mark.parametrize("made", ["svhn_cropped"], indirect=True)
def test_too_little_space_is_said_before_the_work(made, tmp_path, monkeypatch):
    _, raw, _ = made
    monkeypatch.setitem(prepare.SPACE, "svhn_cropped", 10**9)
    assert "needs about 1,000,000,000 MiB" in refused(
        quiet, "svhn_cropped", data_dir=tmp_path / "tfds", source=raw
    )


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


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_a_bucket_gets_the_whole_or_nothing_that_looks_like_it(made, shelf):
    name, raw, arrays = made
    where = {"data_dir": "s3://bucket/data", "source": raw}
    shelf.refuses = staticmethod(lambda path: "train.array_record" in path)
    message = refused(quiet, name, **where)
    assert "cannot write s3://bucket/data/mnist/3.0.1 (PermissionError: " in message
    assert any("test.array_record" in path for path in shelf.store)
    assert not any(path.endswith("dataset_info.json") for path in shelf.store)
    shelf.refuses = staticmethod(lambda path: False)
    copy = quiet(name, **where)
    assert copy.folder == "s3://bucket/data/mnist/3.0.1"
    assert shelf.written[-1].endswith("dataset_info.json")
    loaded = data.load(name, "train", data_dir="s3://bucket/data")
    np.testing.assert_array_equal(loaded.arrays["x"], arrays["train"][0])
    assert quiet(name, **where).folder == copy.folder  # it is there already


@pytest.mark.parametrize("made", ["mnist"], indirect=True)
def test_a_file_that_arrives_in_part_is_seen(made, shelf, monkeypatch):
    name, raw, _ = made

    def half(source, target, length):
        target.write(source.read()[:100])

    monkeypatch.setattr(prepare.shutil, "copyfileobj", half)
    message = refused(quiet, name, data_dir="s3://bucket/data", source=raw)
    assert "did not arrive whole" in message
    assert not any(path.endswith("dataset_info.json") for path in shelf.store)
