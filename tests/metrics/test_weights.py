"""Weights: every layout that is read, what is refused, where files are found, and the download."""

import functools
import http.server
import json
import os
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given

import hostile
import seeded
from hostile import dump, same, write_zip
from jaxvae import safetensors
from jaxvae.cli import main as cli_main
from jaxvae.errors import UserError
from jaxvae.metrics import squeezenet, weights


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "a.bias": rng.standard_normal(5).astype(np.float32),
        "t": np.asarray(1.5, np.float32),
    }


def test_npz_and_safetensors(tmp_path, arrays):
    np.savez(tmp_path / "w.npz", **arrays)
    (tmp_path / "w.safetensors").write_bytes(safetensors.dump(arrays, {}))
    for name in ("w.npz", "w.safetensors"):
        found = weights.read(tmp_path / name)
        same({key: found[key] for key in arrays}, arrays)
        assert weights.digest(found) == weights.digest(arrays)


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["zip", "legacy", "npz", "safetensors"])
def test_truncated_files_are_refused(tmp_path, arrays, suffix):
    path = tmp_path / f"w.{'pth' if suffix in hostile.WRITERS else suffix}"
    if suffix in hostile.WRITERS:
        hostile.WRITERS[suffix](path, arrays)
    elif suffix == "npz":
        np.savez(path, **arrays)
    else:
        path.write_bytes(safetensors.dump(arrays, {}))
    intact = path.read_bytes()
    for length in sorted({0, 1, 3, 7, *range(9, len(intact), len(intact) // 40), len(intact) - 1}):
        path.write_bytes(intact[:length])
        with pytest.raises(UserError, match=r"is not a (whole )?file of weights|is damaged"):
            weights.read(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_npz_files_end_in_one_line(tmp_path, arrays, save):
    path = tmp_path / "w.npz"
    save(path, **arrays)

    @hostile.tries
    @given(hostile.damaged(path.read_bytes()))
    def check(content):
        found = hostile.outcome(weights.read, path, content)
        if found is not None:
            same(found, arrays)

    check()


def test_npz_files_that_hold_something_else(tmp_path):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(UserError, match="it holds 'readme', which is no array"):
        weights.read(path)
    np.savez(path, a=np.zeros(3))
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="parts of it are encrypted"):
        weights.read(path)


@pytest.mark.parametrize("kind", ["npz", "safetensors", *hostile.WRITERS])
def test_a_file_without_any_arrays_is_refused(tmp_path, kind):
    """As an archive is whose list of parts a flipped byte has hidden."""
    path = tmp_path / f"w.{kind if kind in ('npz', 'safetensors') else 'pth'}"
    if kind == "npz":
        np.savez(path)
    elif kind == "safetensors":
        path.write_bytes(safetensors.dump({}, {}))
    else:
        hostile.WRITERS[kind](path, {})
    with pytest.raises(UserError, match=r"\(it holds none\): fetch it again|damaged|not a whole"):
        weights.read(path)


def test_other_files(tmp_path):
    with pytest.raises(UserError, match="they end in .pth"):
        weights.read(tmp_path / "w.h5")
    with pytest.raises(UserError, match="cannot read"):
        weights.read(tmp_path / "none.pth")
    np.savez(tmp_path / "w.npz", a=np.array([object()], dtype=object))
    with pytest.raises(UserError, match="not a whole file"):
        weights.read(tmp_path / "w.npz")
    np.savez(tmp_path / "w.npz", a=np.array(["text"]))
    with pytest.raises(UserError, match="a.npy holds <U4, not numbers"):
        weights.read(tmp_path / "w.npz")


def bombs(folder):
    """Writes files that ask for far more memory than they have, or for deep recursion."""
    w = np.zeros(2**18, np.float32)
    memo = b"\x80\x02}r" + (2**28).to_bytes(4, "little") + b"."
    write_zip(folder / "memo.pth", {"a": w[:12]}, memo)
    hostile.write_legacy(folder / "memo-legacy.pth", {"a": w[:12]}, memo)
    shared = {
        f"t{i}": hostile.view(("FloatStorage", "0", w.size), 0, (w.size,), (1,)) for i in range(800)
    }
    write_zip(folder / "shared.pth", {"a": w}, dump(shared))
    for name, body in {
        "dictionaries": b"}" * 2**20,
        "few": b"}" * 2**17 + b"N",
        "marks": b"(" * 2**22,
        "memoized": b")" + b"\x94" * 2**20,
        "pairs": b"ccollections\nOrderedDict\nq\0(]q\1("
        + b"".join(b"](KaJ" + struct.pack("<i", i) + b"e" for i in range(4000))
        + b"e"
        + b"h\0h\1\x85R" * 4000
        + b"N",
        "text": b"X" + (2**20).to_bytes(4, "little") + b"a" * (2**20 - 4) + "\U0001f600".encode(),
    }.items():
        write_zip(folder / f"{name}.pth", {"a": w[:12]}, b"\x80\x02" + body + b".")
    with zipfile.ZipFile(folder / "parts.npz", "w") as archive:
        for i in range(2**14):
            archive.writestr(str(i), b"")
    with (
        zipfile.ZipFile(folder / "zeros.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as part,
    ):
        np.lib.format.write_array(part, np.zeros(2**26, np.uint8))
    for name, shape in {"large": 10**14, "huge": 10**30}.items():
        with zipfile.ZipFile(folder / f"{name}.npz", "w") as archive:
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape},), }}"
            size = len(header).to_bytes(2, "little")
            archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + size + header.encode() + bytes(80))
    for name, header in {
        "nested": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "lists": b'{"a":[' + b"[]," * 2**21 + b"[]]}",
        "characters": b'{"a":"' + b"a" * 2**23 + b'\\ud83d\\ude00"}',
        "length": b"",
    }.items():
        length = len(header) if header else 2**60
        (folder / f"{name}.safetensors").write_bytes(length.to_bytes(8, "little") + header)


READ = """
import json, resource, sys, tracemalloc
from pathlib import Path
from jaxvae.errors import UserError
from jaxvae.metrics import weights
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
tracemalloc.start()
for path in sorted(Path(sys.argv[1]).iterdir()):
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        weights.read(path)
        line = "read"
    except UserError as error:
        line = str(error)
    peak = tracemalloc.get_traced_memory()[1] - before
    print(json.dumps([path.name, path.stat().st_size, peak, line]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of Linux")
def test_hostile_files_take_little_memory(tmp_path):
    bombs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", READ, tmp_path], capture_output=True, text=True, check=False
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row[0] for row in rows} == set(os.listdir(tmp_path)), done.stderr
    for name, size, peak, line in rows:
        assert f"{name} is " in line and "\n" not in line, (name, line)
        assert peak <= 4 * size + 2**24, (name, size, peak)


def test_weights_of_another_model():
    good = seeded.state_dict(squeezenet.shapes())
    with pytest.raises(
        UserError,
        match=r"F: .*another model: 1 of 50 names are missing, such as 12.squeeze.bias \(it has 0",
    ):
        weights.select(
            {k: v for k, v in good.items() if k != "12.squeeze.bias"}, squeezenet.shapes(), "F"
        )
    with pytest.raises(UserError, match=r"0.bias has shape \(65,\) instead of \(64,\)"):
        weights.select({**good, "0.bias": np.zeros(65)}, squeezenet.shapes(), "F")
    with pytest.raises(UserError, match="0.bias holds values that are not finite"):
        weights.select(
            {**good, "0.bias": np.full(64, np.nan, np.float32)}, squeezenet.shapes(), "F"
        )
    with pytest.raises(UserError, match="50 of 50 names are missing"):
        squeezenet.from_state_dict({"conv1.weight": np.zeros(3)})


def test_names_of_a_file_stay_on_one_line():
    with pytest.raises(UserError, match="it has a b a b") as raised:
        weights.select({"a\nb\x1b" * 10_000: np.zeros(1)}, squeezenet.shapes(), "F")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_digest_is_of_names_shapes_and_values(arrays):
    first = weights.digest(arrays)
    assert first == weights.digest(dict(reversed(arrays.items())))
    for other in (
        {**arrays, "t": arrays["t"] + 1},
        {**arrays, "a.bias": arrays["a.bias"][None]},
        {"x": arrays["t"]},
    ):
        assert weights.digest(other) != first


# ---- where they are ----------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    """No weights anywhere, and a home folder of its own."""
    for variable in ("JAXVAE_DATA_DIR", "TFDS_DATA_DIR", weights.ENVIRONMENT):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_weights_are_found_in_the_usual_places(home, monkeypatch, arrays):
    assert weights.find("squeezenet") is None
    with pytest.raises(
        UserError,
        match=r"squeezenet1_1-b8a52dc0.pth are not here: run `jaxvae weights fetch squeezenet`",
    ):
        weights.locate("squeezenet")

    def put(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        return path

    first = put(home / ".cache/jaxvae/weights/squeezenet1_1-b8a52dc0.pth")
    assert weights.locate("squeezenet") == first and weights.target() == first.parent
    monkeypatch.setenv("JAXVAE_DATA_DIR", str(home / "data"))
    second = put(home / "data/lpips/squeezenet1_1_features.pth")
    assert weights.find("squeezenet") == second
    monkeypatch.setenv(weights.ENVIRONMENT, str(home / "own"))
    third = put(home / "own/squeezenet1_1-b8a52dc0.npz")
    assert weights.find("squeezenet") == third and weights.target() == third.parent
    assert (
        weights.locate("squeezenet", second) == second
        and weights.locate("squeezenet", second.parent) == second
    )
    rows = dict(weights.listing())
    assert (
        rows[third.name] == str(third)
        and "jaxvae weights fetch inception" in rows[weights.KNOWN["inception"].file]
    )
    with pytest.raises(UserError, match="has none of"):
        weights.locate("inception", home / "own")
    with pytest.raises(UserError, match="there is no file"):
        weights.locate("inception", home / "none.pth")
    with pytest.raises(UserError, match="unknown weights 'incepton'. Did you mean 'inception'"):
        weights.find("incepton")


# ---- the download ------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path.endswith("short"):  # breaks off
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"too little")
            return
        super().do_GET()


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    ) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield SimpleNamespace(folder=folder, url=f"http://127.0.0.1:{running.server_port}")
        running.shutdown()
        thread.join()


@pytest.fixture
def known(monkeypatch):
    """A published file of a few bytes, named after its checksum."""
    import hashlib

    body = b"weights" * 1000
    file = f"own-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    monkeypatch.setitem(
        weights.KNOWN, "own", weights.Weights(file, "http://127.0.0.1:9/own.pth", "a test")
    )
    return file, body


def nothing_left(folder):
    return not folder.exists() or not any(folder.rglob("*"))


def test_fetch_keeps_what_its_name_says(tmp_path, server, known):
    file, body = known
    (server.folder / file).write_bytes(body)
    said = []
    path = weights.fetch("own", tmp_path / "to", url=f"{server.url}/{file}", say=said.append)
    assert (
        path.read_bytes() == body
        and os.listdir(path.parent) == [file]
        and said[0] == f"downloading {server.url}/{file}"
    )
    assert (
        weights.fetch("own", tmp_path / "to", say=said.append) == path
        and said[-1] == f"own is there already: {path}"
    )
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="is not the published file"):
        weights.fetch("own", tmp_path / "to")


@pytest.mark.parametrize(
    "what,message",
    [
        ("other", "sent is not the published file"),
        ("none", "HTTPError"),
        ("short", "ChunkedEncodingError|ConnectionError|broke off"),
    ],
)
def test_fetch_keeps_nothing_else(tmp_path, server, known, what, message):
    (server.folder / "other").write_bytes(b"<html>")
    with pytest.raises(UserError, match=message) as caught:
        weights.fetch("own", tmp_path / "to", url=f"{server.url}/{what}", say=lambda line: None)
    assert (
        f"Get {server.url}/{what} by hand and put it into {tmp_path / 'to'} as {known[0]}"
        in str(caught.value)
    )
    assert nothing_left(tmp_path / "to")


def test_fetch_without_a_network(tmp_path, known, monkeypatch, capsys):
    monkeypatch.setenv(weights.ENVIRONMENT, str(tmp_path / "to"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(
        UserError, match=r"http://127.0.0.1:9/own.pth cannot be downloaded \(ConnectionError\)"
    ):
        weights.fetch("own")
    assert nothing_left(tmp_path / "to")
    with pytest.raises(UserError, match="published without a checksum, so it is not downloaded"):
        weights.fetch("lpips_squeeze")


def test_commands(home, capsys, monkeypatch):
    assert cli_main(["weights", "list"]) == 0
    assert "pt_inception-2015-12-05-6726825d.pth  not found" in capsys.readouterr().out
    assert cli_main(["weights", "fetch", "incepton"]) == 2
    assert "Did you mean 'inception'?" in capsys.readouterr().err
    assert cli_main(["weights"]) == 0
    assert cli_main(["weights", "ftech"]) == 2
    assert "unknown command weights 'ftech'. Did you mean 'fetch'?" in capsys.readouterr().err
    there = home / ".cache/jaxvae/weights/pt_inception-2015-12-05-6726825d.pth"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"not it")
    assert cli_main(["weights", "fetch", "inception"]) == 2
    assert "is not the published file" in capsys.readouterr().err


def test_checksums_are_those_of_the_published_names():
    assert {name: weights.checksum(known.file) for name, known in weights.KNOWN.items()} == {
        "inception": "6726825d",
        "squeezenet": "b8a52dc0",
        "lpips_squeeze": None,
        "alexnet": "7be5be79",
        "lpips_alex": None,
        "vgg16": "397923af",
        "lpips_vgg": None,
    }
    json.dumps([known.url for known in weights.KNOWN.values()])
