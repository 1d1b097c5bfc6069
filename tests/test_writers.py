import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxvae import writers
from jaxvae.errors import UserError


def one_line(info) -> str:
    text = str(info.value)
    assert "\n" not in text
    return text


def test_append_and_read_keep_every_digit(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    writers.append(path, {"step": 1, "loss": 0.1 + 0.2, "name": "a\nb"})
    writers.append(
        str(path), {"step": 2, "loss": np.float32(0.1), "n": np.int64(7), "z": np.arange(3)}
    )
    assert path.read_text() == (
        '{"step": 1, "loss": 0.30000000000000004, "name": "a\\nb"}\n'
        '{"step": 2, "loss": 0.10000000149011612, "n": 7, "z": [0, 1, 2]}\n'
    )
    first, second = writers.read(path)
    assert first == {"step": 1, "loss": 0.30000000000000004, "name": "a\nb"}
    assert np.float32(second["loss"]) == np.float32(0.1)


def test_what_is_not_finite_is_strict_json_and_comes_back_as_floats(tmp_path):
    path = tmp_path / "log.jsonl"
    writers.append(
        path, {"a": math.nan, "b": np.float32(np.inf), "c": [-math.inf, {"d": np.float64("nan")}]}
    )
    text = path.read_text()
    assert text == '{"a": "nan", "b": "inf", "c": ["-inf", {"d": "nan"}]}\n'

    def forbid(name):
        raise AssertionError(name)

    json.loads(text, parse_constant=forbid)
    [record] = writers.read(path)
    assert math.isnan(record["a"])
    assert record["b"] == math.inf
    assert record["c"][0] == -math.inf
    assert math.isnan(record["c"][1]["d"])


@pytest.mark.parametrize(
    "tail", [b'{"step": 3, "lo', b'{"step": 3}', b'{"step": 3, "lo\n', b"\x00\xff\n", b"17\n"]
)
def test_a_broken_last_line_is_ignored(tmp_path, tail):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + tail)
    assert writers.read(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("after", [b'{"step": 3}\n', b'{"st'])
def test_a_broken_line_elsewhere_is_named(tmp_path, after):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": \n' + after)
    for use in (writers.read, writers.read_curves, lambda p: writers.cut_back(p, 5)):
        with pytest.raises(UserError, match=r"log\.jsonl, line 2 ") as info:
            use(path)
        one_line(info)
    assert path.read_bytes() == b'{"step": 1}\n{"step": \n' + after


def test_append_after_a_cut_off_line_starts_afresh(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "x')
    writers.append(path, {"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    path.write_bytes(b'{"ste')
    writers.append(path, {"step": 1})
    assert path.read_bytes() == b'{"step": 1}\n'


def test_cut_back_keeps_the_steps_before_byte_by_byte(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b'{"step":1,"x":1.50}\n{"step":2}\n{"note":"no '
        b'step"}\n{"step":3}\n{"step":2,"split":"v"}\n{"st'
    )
    writers.cut_back(str(path), 2)
    assert path.read_bytes() == b'{"step":1,"x":1.50}\n{"step":2}\n{"step":2,"split":"v"}\n'
    before = path.stat().st_ino
    writers.cut_back(path, 2)
    assert path.stat().st_ino == before  # nothing to do, nothing replaced
    writers.cut_back(path, 0)
    assert path.read_bytes() == b""
    assert os.listdir(tmp_path) == ["log.jsonl"]
    writers.cut_back(tmp_path / "missing.jsonl", 2)
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_cut_back_that_fails_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n')

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"Read-only file system\. Choose a folder") as info:
        writers.cut_back(path, 1)
    assert str(path) in one_line(info)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_read_curves_by_hand(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for record in (
        {"step": 10, "split": "train", "loss": 3.5, "elbo": -3.5},
        {"step": 20, "split": "train", "loss": math.nan, "good": True, "word": "x"},
        {"step": 20, "split": "validation", "loss": 2},
        {"event": "resumed"},
    ):
        writers.append(path, record)
    curves = writers.read_curves(path)
    assert {split: sorted(metrics) for split, metrics in curves.items()} == {
        "train": ["elbo", "loss"],
        "validation": ["loss"],
    }
    steps, values = curves["train"]["loss"]
    assert steps.dtype == np.int64
    assert values.dtype == np.float64
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal(values, [3.5, np.nan])
    np.testing.assert_array_equal(curves["train"]["elbo"], ([10], [-3.5]))
    np.testing.assert_array_equal(curves["validation"]["loss"], ([20], [2.0]))


def test_json_files_are_replaced_in_one_move(tmp_path, monkeypatch):
    path = tmp_path / "run" / "config.json"
    writers.write_json(
        path, {"beta": 1.5, "shape": (28, 28), "best": -math.inf, "data": Path("x") / "y"}
    )
    assert writers.read_json(str(path)) == {
        "beta": 1.5,
        "shape": [28, 28],
        "best": -math.inf,
        "data": "x/y",
    }
    old = path.read_bytes()
    monkeypatch.setattr(
        os,
        "fsync",
        lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
    )
    with pytest.raises(UserError, match=r"No space left on device\. Free some space") as info:
        writers.write_json(path, {"beta": 2.0})
    one_line(info)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == ["config.json"]


def test_what_is_not_json_is_an_error_of_one_line(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"beta": 1.5,\n')
    with pytest.raises(UserError, match=r"config\.json is not a JSON file") as info:
        writers.read_json(path)
    one_line(info)


@pytest.mark.parametrize(
    "use",
    [
        lambda p: writers.append(p, {}),
        lambda p: writers.write_json(p, {}),
        lambda p: writers.cut_back(p / "log.jsonl", 1) or writers.read(p / "log.jsonl"),
        lambda p: writers.read_json(p / "config.json"),
        lambda p: writers.make_folder(p / "run" / "deeper"),
    ],
)
def test_errors_of_the_disk_are_the_users(tmp_path, use):
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot (read|write|write in) ") as info:
        use(file / "x")
    assert str(file) in one_line(info)
    assert file.read_text() == "not a folder"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk():
    with pytest.raises(UserError, match=r"No space left on device\. Free some space") as info:
        writers.append("/dev/full", {"step": 1})
    one_line(info)


def test_a_short_write_is_taken_back(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "log.jsonl"
    writers.append(path, {"step": 1})
    size = path.stat().st_size
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (size + 5, old[1])
    )  # the next line fits by 5 bytes only
    try:
        with pytest.raises(UserError, match="No space left"):
            writers.append(path, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b'{"step": 1}\n'


def test_make_folder(tmp_path):
    assert writers.make_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert os.listdir(tmp_path / "a" / "b") == []
    writers.make_folder(tmp_path / "a")


def test_only_records_are_appended(tmp_path):
    with pytest.raises(UserError, match="a record must be a mapping"):
        writers.append(tmp_path / "log.jsonl", [1, 2])
    with pytest.raises(TypeError):
        writers.append(tmp_path / "log.jsonl", {"x": object()})
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_kill_9_leaves_whole_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    code = (
        "import itertools, sys\nfrom jaxvae import writers\n"
        "for i in itertools.count(): writers.append(sys.argv[1], {'step': i, 'x': 'y' * 5000})"
    )
    root = Path(writers.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=root) as process:
        deadline = time.time() + 30
        while (not path.exists() or path.stat().st_size < 200_000) and time.time() < deadline:
            time.sleep(0.01)
        process.kill()
    steps = [record["step"] for record in writers.read(path)]
    assert len(steps) > 20
    assert steps == list(range(len(steps)))
    writers.cut_back(path, 9)
    writers.append(path, {"step": 10})
    assert [record["step"] for record in writers.read(path)] == list(range(11))


@pytest.mark.parametrize("module", ["writers", "table"])
def test_nothing_heavy_is_imported(module):
    code = f"import sys, jaxvae.{module}; print([m for m in ('jax', 'flax', 'matplotlib', 'PIL') if m in sys.modules])"
    root = Path(writers.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# ---- in a bucket ---------------------------------------------------------------------------------

LOG = "s3://bucket/run/metrics.jsonl"


def test_files_in_a_bucket_are_written_whole(shelf):
    writers.write_json(f"{LOG}.json", {"a": [1, math.nan]})
    assert math.isnan(writers.read_json(f"{LOG}.json")["a"][1])
    for step in (1, 2, 3):
        writers.append(LOG, {"step": step, "split": "train", "loss": step / 2})
    assert [line["step"] for line in writers.read(LOG)] == [1, 2, 3]
    assert writers.read_curves(LOG)["train"]["loss"][1].tolist() == [0.5, 1.0, 1.5]
    writers.cut_back(LOG, 2)
    assert [line["step"] for line in writers.read(LOG)] == [1, 2]
    count = len(shelf.written)
    writers.cut_back(LOG, 2)
    writers.cut_back("s3://bucket/run/missing.jsonl", 2)
    assert len(shelf.written) == count  # nothing to cut


def test_a_log_in_a_bucket_collects_its_lines(shelf, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: clock[0])
    writers.append(LOG, {"step": 1})
    log, count = writers.Log(LOG), len(shelf.written)
    for step in (2, 3, 4):
        log.write({"step": step})
    assert [line["step"] for line in writers.read(LOG)] == [1] and len(shelf.written) == count
    log.flush()
    log.flush()
    assert [line["step"] for line in writers.read(LOG)] == [1, 2, 3, 4]
    assert len(shelf.written) == count + 1
    clock[0] = writers.SECONDS
    log.write({"step": 5})
    assert [line["step"] for line in writers.read(LOG)] == [1, 2, 3, 4, 5]


def test_a_bucket_that_refuses_keeps_what_it_had_and_the_log_keeps_its_lines(shelf):
    log = writers.Log(LOG, seconds=0.0)
    log.write({"step": 1})
    shelf.refuses = staticmethod(lambda name: True)
    with pytest.raises(UserError, match=rf"cannot write {LOG} \(PermissionError: .*\)\. Check the"):
        log.write({"step": 2})
    with pytest.raises(UserError, match="cannot write"):
        writers.append(LOG, {"step": 2})
    assert [line["step"] for line in writers.read(LOG)] == [1]
    shelf.refuses = staticmethod(lambda name: False)
    log.flush()
    assert [line["step"] for line in writers.read(LOG)] == [1, 2]


def test_a_line_that_was_cut_off_in_a_bucket_is_dropped(shelf):
    writers.write_bytes(LOG, b'{"step": 1}\n{"step": 2, "lo')
    log = writers.Log(LOG, seconds=0.0)
    log.write({"step": 3})
    assert [line["step"] for line in writers.read(LOG)] == [1, 3]


def test_a_log_on_a_disk_is_appended_to_at_once(tmp_path):
    log = writers.Log(tmp_path / "log.jsonl")
    log.write({"step": 1})
    assert writers.read(tmp_path / "log.jsonl") == [{"step": 1}]
    log.flush()
    assert writers.read(tmp_path / "log.jsonl") == [{"step": 1}]
