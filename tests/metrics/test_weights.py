"""Weights: every layout that is read, what is refused, where files are found, and the download."""

import collections
import functools
import http.server
import importlib.util
import io
import json
import os
import pickle
import struct
import threading
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

import seeded
from jaxvae import safetensors
from jaxvae.cli import main as cli
from jaxvae.errors import UserError
from jaxvae.metrics import squeezenet, torch_files, weights

TORCH = importlib.util.find_spec("torch")
RAN = []


# ---- files in torch's two layouts, written without torch ---------------------------------------


class Global:
    """Pickles as a name of another module."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


class Pickler(pickle._Pickler):
    """Writes names as they are, and storages by their number, as torch does."""

    def save_global(self, obj, name=None):
        self.write(pickle.GLOBAL + "{}\n{}\n".format(*obj.name.rsplit(".", 1)).encode())

    dispatch = {**pickle._Pickler.dispatch, Global: save_global}  # noqa: RUF012

    def persistent_id(self, obj):
        return (
            ("storage", Global("torch.FloatStorage"), obj[1], "cuda:0", obj[2], *obj[3:])
            if isinstance(obj, tuple) and obj[:1] == ("S",)
            else None
        )


class Call:
    """Pickles as a call of `name`."""

    def __init__(self, name, *args):
        self.name, self.args = name, args


def save_call(pickler, obj):
    pickler.save(Global(obj.name))
    pickler.save(obj.args)
    pickler.write(pickle.REDUCE)


Pickler.dispatch[Call] = save_call


def dump(obj) -> bytes:
    file = io.BytesIO()
    Pickler(file, 2).dump(obj)
    return file.getvalue()


def as_calls(arrays, extra=()):
    """Returns the pickled form of a state dictionary."""
    return {
        name: Call(
            "torch._utils._rebuild_tensor_v2",
            ("S", str(i), x.size, *extra),
            0,
            x.shape,
            tuple(s // 4 for s in x.strides),
            False,
            {},
        )
        for i, (name, x) in enumerate(arrays.items())
    }


def write_zip(path, arrays, body=None, order="little"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", dump(as_calls(arrays)) if body is None else body)
        archive.writestr("model/byteorder", order)
        for i, x in enumerate(arrays.values()):
            archive.writestr(
                f"model/data/{i}", x.astype("<f4" if order == "little" else ">f4").tobytes()
            )


def write_legacy(path, arrays, body=None):
    raw = [
        dump(torch_files.MAGIC),
        dump(1001),
        dump({"little_endian": True}),
        dump(as_calls(arrays, (None,))) if body is None else body,
        dump([str(i) for i in range(len(arrays))]),
    ]
    raw += [struct.pack("<q", x.size) + x.tobytes() for x in arrays.values()]
    path.write_bytes(b"".join(raw))


WRITERS = {"zip": write_zip, "legacy": write_legacy}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "a.bias": rng.standard_normal(5).astype(np.float32),
        "t": np.asarray(1.5, np.float32),
    }


def same(found, want):
    assert list(found) == list(want)
    for name, value in want.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype and found[name].shape == value.shape


@pytest.mark.parametrize("layout", WRITERS)
def test_both_layouts(tmp_path, arrays, layout):
    path = tmp_path / "w.pth"
    WRITERS[layout](path, arrays)
    same(weights.read(path), arrays)


def test_big_endian_archives(tmp_path, arrays):
    write_zip(tmp_path / "w.pth", arrays, order="big")
    same(weights.read(tmp_path / "w.pth"), arrays)


def test_npz_and_safetensors(tmp_path, arrays):
    np.savez(tmp_path / "w.npz", **arrays)
    (tmp_path / "w.safetensors").write_bytes(safetensors.dump(arrays, {}))
    for name in ("w.npz", "w.safetensors"):
        found = weights.read(tmp_path / name)
        same({key: found[key] for key in arrays}, arrays)
        assert weights.digest(found) == weights.digest(arrays)


@pytest.mark.skipif(not TORCH, reason="needs torch")
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_itself_writes(tmp_path, zipped):
    import torch

    base = torch.arange(24.0).reshape(2, 3, 4)
    made = collections.OrderedDict(
        plain=base,
        turned=base.permute(2, 0, 1),
        part=base[1, 1:],
        half=base.half(),
        brain=base.bfloat16(),
        whole=torch.nn.Parameter(base),
        count=torch.tensor(7),
        flags=base > 3,
        empty=base[:0],
        double=base.double(),
    )
    made._metadata = {"": {"version": 1}}
    path = tmp_path / "w.pth"
    torch.save(made, path, _use_new_zipfile_serialization=zipped)
    found = weights.read(path)
    assert list(found) == list(made)
    for name, value in made.items():
        value = value.detach()
        np.testing.assert_array_equal(
            found[name], (value.float() if name == "brain" else value).numpy()
        )
        assert found[name].shape == tuple(value.shape)


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.getattr", "torch.load", "torch.nn.Module"]
)
def test_a_pickle_that_asks_for_code_is_refused(tmp_path, arrays, layout, name):
    path, witness = tmp_path / "w.pth", tmp_path / "ran"
    body = dump({"a": Call(name, f"touch {witness}")})
    WRITERS[layout](path, arrays, body)
    with pytest.raises(UserError, match=f"asks for {name.rsplit('.', 1)[0]}"):
        weights.read(path)
    assert not witness.exists()


def test_stand_ins_cannot_be_changed_by_a_pickle(tmp_path, arrays):
    """BUILD sets attributes: of none of the names that a file may ask for."""
    for module, name in torch_files.ALLOWED:
        for state in (b"}U\x08__call__U\x01xs", b"N}U\x08__call__U\x01xs\x86"):
            body = b"\x80\x02c" + f"{module}\n{name}\n".encode() + state + b"b."
            write_zip(tmp_path / "w.pth", arrays, body)
            with pytest.raises(UserError, match="not a (whole )?file of weights"):
                weights.read(tmp_path / "w.pth")
    write_zip(tmp_path / "w.pth", arrays)
    same(weights.read(tmp_path / "w.pth"), arrays)


@pytest.mark.parametrize(
    "offset,shape,stride",
    [
        (0, (4, 4), (4, 1)),
        (10, (3,), (1,)),
        (0, (2, 2), (0, 100)),
        (-4, (2,), (1,)),
        (0, (2**40,), (0,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, ("a",), (1,)),
    ],
)
def test_views_outside_their_storage_are_refused(tmp_path, arrays, offset, shape, stride):
    body = dump(
        {
            "a": Call(
                "torch._utils._rebuild_tensor_v2", ("S", "0", 12), offset, shape, stride, False, {}
            )
        }
    )
    write_zip(tmp_path / "w.pth", arrays, body)
    with pytest.raises(UserError, match="not a whole file of weights"):
        weights.read(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", ["zip", "legacy", "npz", "safetensors"])
def test_truncated_files_are_refused(tmp_path, arrays, suffix):
    path = tmp_path / f"w.{'pth' if suffix in WRITERS else suffix}"
    if suffix in WRITERS:
        WRITERS[suffix](path, arrays)
    elif suffix == "npz":
        np.savez(path, **arrays)
    else:
        path.write_bytes(safetensors.dump(arrays, {}))
    whole = path.read_bytes()
    for cut in sorted({0, 1, 3, 7, *range(9, len(whole), len(whole) // 40), len(whole) - 1}):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"is not a (whole )?file of weights|is damaged"):
            weights.read(path)


@pytest.mark.parametrize(
    "body,message",
    [
        (dump([1, 2]), "something else than tensors"),
        (dump({"model": {"a": 1}}), "something else than tensors"),
        (b"", "EOFError"),
        (b"\x80\x02}.", None),
        (b"junk", "whole file"),
    ],
)
def test_archives_that_hold_something_else(tmp_path, arrays, body, message):
    write_zip(tmp_path / "w.pth", arrays, body)
    if message is None:
        assert weights.read(tmp_path / "w.pth") == {}
        return
    with pytest.raises(UserError, match=message):
        weights.read(tmp_path / "w.pth")


def test_packed_archives_other_archives_and_other_files(tmp_path, arrays):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", dump({}) + b"0" * 1000)
    with pytest.raises(UserError, match="compressed"):
        weights.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", dump({}))
        archive.writestr("model/byteorder", "little", zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        weights.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(UserError, match="without data.pkl"):
        weights.read(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="does not begin as torch's files do"):
        weights.read(path)
    with pytest.raises(UserError, match="they end in .pth"):
        weights.read(tmp_path / "w.h5")
    with pytest.raises(UserError, match="cannot read"):
        weights.read(tmp_path / "none.pth")
    np.savez(tmp_path / "w.npz", a=np.array([object()], dtype=object))
    with pytest.raises(UserError, match="not a whole file"):
        weights.read(tmp_path / "w.npz")


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
    assert cli.main(["weights", "list"]) == 0
    assert "pt_inception-2015-12-05-6726825d.pth  not found" in capsys.readouterr().out
    assert cli.main(["weights", "fetch", "incepton"]) == 2
    assert "Did you mean 'inception'?" in capsys.readouterr().err
    assert cli.main(["weights"]) == 0
    assert cli.main(["weights", "ftech"]) == 2
    assert "unknown command weights 'ftech'. Did you mean 'fetch'?" in capsys.readouterr().err
    there = home / ".cache/jaxvae/weights/pt_inception-2015-12-05-6726825d.pth"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"not it")
    assert cli.main(["weights", "fetch", "inception"]) == 2
    assert "is not the published file" in capsys.readouterr().err


def test_checksums_are_those_of_the_published_names():
    assert {name: weights.checksum(known.file) for name, known in weights.KNOWN.items()} == {
        "inception": "6726825d",
        "squeezenet": "b8a52dc0",
        "lpips_squeeze": None,
    }
    json.dumps([known.url for known in weights.KNOWN.values()])
