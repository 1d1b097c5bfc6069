"""`jaxvae push` and `jaxvae pull`: a model goes to a stand-in for the Hugging Face Hub and comes back to
the bit; what cannot be used is refused before it is written or sent."""

import json

import jax
import numpy as np
import pytest

import fake_hub
import jaxvae
import untrained
from commands import refused
from jaxvae.cli import hub as commands
from jaxvae.cli.main import main
from jaxvae.presets import export as exporting
from jaxvae.presets import released

# huggingface_hub uploads by a call that its own HTTP library has replaced
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAME = "me/vae"


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with fake_hub.instead(monkeypatch, tmp_path / "cache") as found:
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model in its released form, its parameters, and its files."""
    folder = tmp_path_factory.mktemp("released")
    files, params = untrained.files()
    released.write(folder, files)
    return folder, params, files


def same(found, params):
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


def test_a_model_goes_there_and_comes_back(there, model, capsys):
    folder, params, files = model
    assert main(["push", str(folder), NAME, "--message", "the first"]) == 0
    assert f"/{NAME}; load it with jaxvae.load('hf:{NAME}')" in capsys.readouterr().out
    sent = dict(there.repos[NAME])
    assert f'jaxvae.load("hf:{NAME}")' in sent[released.CARD].decode()
    assert json.loads(sent[released.EVALUATION])["metrics"][0]["metric"] == "elbo"
    assert b"/home/me" not in b"".join(sent.values())  # where it was evaluated
    for name in (released.MODEL, released.CONFIG):
        assert sent[name] == files[name]
    same(jaxvae.load(f"hf:{NAME}"), params)
    assert main(["pull", NAME]) == 0
    assert "jaxvae.load('vae')" in capsys.readouterr().out
    same(jaxvae.load("vae"), params)
    assert main(["pull", f"hf:{NAME}", "--out", "vae"]) == 0  # again, over itself


def test_what_is_there_and_cannot_be_used_is_refused_and_nothing_written(
    there, model, tmp_path, capsys
):
    files = model[2]
    page = json.loads(files[released.CONFIG])
    other = {**page, "config": {**page["config"], "hidden": [5]}}
    for change, message in (
        ({released.MODEL: files[released.MODEL][:-3]}, "model.safetensors is damaged"),
        ({released.CONFIG: b"{"}, "config.json is not a JSON file"),
        ({released.CONFIG: json.dumps({**page, "format": 2}).encode()}, "--upgrade jaxvae"),
        ({released.CONFIG: json.dumps(other).encode()}, "is of another model"),
        ({released.CONFIG: b'{"model_type": "bert"}'}, "is not the config of a run of jaxvae"),
    ):
        there.repos[NAME] = {**files, **change}
        said = refused(capsys, "pull", NAME)
        assert said.startswith(f"jaxvae: {NAME} on the Hub cannot be used: ") and message in said
        assert message in refused(capsys, "sample", f"hf:{NAME}")
    assert not (tmp_path / "vae").exists()


def test_what_is_not_pushed(there, model, tmp_path, capsys):
    folder, _, files = model
    said = refused(capsys, "push", folder, NAME, "--step", "best")
    assert "is an exported model, whose weights are pushed as they are: leave out --step." in said
    assert "leave out --data-dir." in refused(capsys, "push", folder, NAME, "--data-dir", "x")
    assert "give USER/NAME" in refused(capsys, "push", folder, "vae")
    assert "give USER/NAME" in refused(capsys, "pull", "vae")
    assert "holds no run of jaxvae" in refused(capsys, "push", tmp_path / "nowhere", NAME)
    released.write(tmp_path / "damaged", {**files, released.MODEL: b"x"})
    assert "damaged cannot be used" in refused(capsys, "push", tmp_path / "damaged", NAME)
    assert there.requests == []


def test_a_folder_with_other_things_is_not_overwritten(there, model, tmp_path, capsys):
    there.repos[NAME] = model[2]
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "thesis.tex").touch()
    assert "vae holds other files" in refused(capsys, "pull", NAME)
    assert there.requests == []


def test_a_run_is_exported_under_its_name_and_pushed(tmp_path, monkeypatch, capsys):
    seen = []

    def export(run, out, **options):
        seen.append((run, options))
        (commands.Path(out) / "model.safetensors").touch()

    def send(folder, name, **options):
        seen.append((sorted(path.name for path in folder.iterdir()), name, options))
        return f"https://hub/{name}"

    monkeypatch.setattr(exporting, "export", export)
    monkeypatch.setattr(commands.hub, "send", send)
    words = ["push", str(tmp_path), NAME, "--step", "30", "--license", "mit", "--private"]
    assert main(words) == 0
    options = {"step": 30, "stats": None, "data_dir": None, "name": f"hf:{NAME}", "license": "mit"}
    assert seen[0] == (tmp_path, options)
    assert seen[1] == (["model.safetensors"], NAME, {"private": True, "message": ""})
    assert f"https://hub/{NAME}; load it" in capsys.readouterr().out
