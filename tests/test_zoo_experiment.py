"""`python -m experiments.zoo`: what is missing is trained as its settings say, exported and taken; what is
there is skipped, and what the zoo does not take stays outside."""

import json

import pytest

import untrained
from experiments import zoo as making
from jaxvae.cli.main import parse
from jaxvae.cli.options import Evaluate
from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, load, released, zoo
from jaxvae.presets import export as exporting


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Settings of two models, and what runs commands and exports; returns the file of the settings, the
    folder of the zoo, and what was called."""
    path, called = tmp_path / "zoo.json", []
    vae = {"name": "vae/toy", "train": "vae --seed 2", "evaluate": "--metrics elbo", "seconds": 90}
    gan = {"name": "gan/toy", "train": "gan --data toy", "evaluate": None, "seconds": 9000}
    path.write_text(json.dumps({"license": "mit", "entries": [vae, gan]}))

    def export(run, out, **options):
        called.append(("export", str(run), options))
        released.write(out, untrained.files()[0])

    monkeypatch.setattr(making, "SETTINGS", path)
    monkeypatch.setattr(making, "command", lambda *words: called.append(words))
    monkeypatch.setattr(exporting, "export", export)
    return path, tmp_path / "zoo", called


def run(settings, *words):
    making.main([*words, "--runs", str(settings[0].parent / "runs")], root=settings[1])


def test_what_is_missing_is_trained_once(settings, capsys):
    path, root, called = settings
    run(settings, "--only", "vae/*")
    folder, place = root / "vae" / "toy", str(path.parent / "runs" / "vae" / "toy")
    assert called == [
        ("train", "vae", "--seed", "2", "--workdir", place, "--no-progress"),
        ("evaluate", place, "--metrics", "elbo"),
        ("export", place, {"license": "mit", "name": "zoo:vae/toy"}),
    ]
    there = {*released.FILES, making.SETTING} - {released.PICTURE}
    assert {path.name for path in folder.iterdir()} == there
    assert making.problems(folder) == [] and zoo.entries(root)[0].number["metric"] == "elbo"
    assert load.open_run(folder).saved.config.hidden == (3,)
    capsys.readouterr()
    run(settings, "--only", "vae/toy")
    assert len(called) == 3 and "there, with these settings" in capsys.readouterr().out
    run(settings, "--list")
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["vae/toy", "there"] and " MB " in first and "about 90 s" in first
    assert second.split()[:2] == ["gan/toy", "missing"] and "about 2.5 h" in second
    page = json.loads(path.read_text())
    page["entries"][0]["train"] += " --seed 3"
    path.write_text(json.dumps(page))
    run(settings, "--list")
    assert "of another setting" in capsys.readouterr().out
    # what the zoo does not take
    (folder / "weights.pkl").write_bytes(bytes(making.LARGEST))
    (folder / "README.md").unlink()
    (folder / "model.safetensors").write_bytes(b"x")
    missing, others, large, damaged = making.problems(folder)
    assert (missing, others) == ("README.md missing", "weights.pkl too many")
    assert large.endswith("bytes, more than 3,000,000") and "is damaged" in damaged


def test_what_the_zoo_does_not_take_stays_outside(settings, capsys, monkeypatch):
    _, root, called = settings

    def export(run, out, **options):
        released.write(out, {released.MODEL: b"x" * 100})

    monkeypatch.setattr(exporting, "export", export)
    monkeypatch.setattr(making, "ALL", 50)
    with pytest.raises(SystemExit) as end:
        run(settings, "--only", "gan/toy")
    assert end.value.code == 2 and [words[0] for words in called] == ["train"]
    said = capsys.readouterr().err
    assert said.startswith("gan/toy: README.md, config.json missing; ")
    assert "bytes, more than 50" in said and said.count("\n") == 1
    assert not root.exists()


def test_unknown_names_and_commands_that_fail(settings, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        run(settings, "--only", "vea/toy")
    assert "Did you mean 'vae/toy'?" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(
        making.subprocess, "run", lambda *_, **__: type("Done", (), {"returncode": 3})
    )
    with pytest.raises(UserError, match=r"`jaxvae train x` ends with exit code 3\."):
        making.command("train", "x")


def test_settings_of_the_package_are_whole_and_fit_together(tmp_path):
    """Each is understood by the commands that it is for, and takes minutes."""
    models = making.wanted()
    assert len({each.name for each in models}) == len(models)
    for each in models:
        preset, *words = each.train.split()
        options = parse(PRESETS[preset].options, [*words, "--workdir", "x"], "train")
        options.check()
        assert options.data == each.name.split("/")[1] and each.seconds <= 1800
        if each.evaluate is not None:
            parse(Evaluate, ["x", *each.evaluate.split()], "evaluate")
