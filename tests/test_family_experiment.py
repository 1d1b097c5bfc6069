"""The family on the same data: its cells are the zoo's settings, run by commands; its pictures and its
gallery are of what is there."""

import numpy as np
import pytest

from experiments import zoo
from experiments.family import cells, figures, gallery, setting
from jaxvae import data, plots, table, writers
from jaxvae.cli.main import main
from jaxvae.cli.use import open_run
from jaxvae.errors import UserError
from jaxvae.metrics import weights
from jaxvae.presets import zoo as packaged

MODELS = setting.models()


@pytest.mark.parametrize("each", MODELS, ids=lambda each: each.name)
def test_settings_are_words_of_the_commands(each):
    preset, config = setting.options(each)
    config.check()
    said = cells.needs(each)
    assert said.data == (config.data,) and setting.name(each).startswith(f"{config.data}/")
    assert said.steps == config.lengths(setting.examples(config.data))[-1] > 1000
    assert set(said.weights) <= set(weights.KNOWN)
    if preset.stages:
        assert said.parts is None
    else:
        found = said.parts()
        assert sum(part.steps for part in found) == said.steps
        height, width, channels = setting.shape(config.data)
        more = 2 * getattr(config, "pad", 0)
        assert found[-1].batch.x.shape == (config.batch_size, height + more, width + more, channels)


def test_other_data_change_nothing_else():
    """Each model of the zoo is there, and on Fashion-MNIST; nothing is there twice."""
    names = [each.name for each in MODELS]
    assert len(set(names)) == len(names) and {each.name for each in zoo.wanted()} <= set(names)
    assert {f"{name.split('/')[0]}/fashion_mnist" for name in names} <= set(names)
    first, again = (next(e for e in MODELS if e.name == f"fsq/{of}") for of in ("mnist", "cifar10"))
    assert again.train.split() == ["cifar10" if w == "mnist" else w for w in first.train.split()]
    assert again.evaluate == first.evaluate
    assert setting.models(["fsq/c*", "vae/mnist"]) == [setting.models(["vae/mnist"])[0], again]
    with pytest.raises(UserError, match=r"Did you mean 'fsq/cifar10'\?"):
        setting.models(["fsq/cifar"])


def test_protocols_say_the_size_of_images():
    grey, colour = (setting.protocol(each) for each in setting.models(["vae_gan/[mc]*"]))
    assert "means, 28x28 as three equal channels, grey" in grey and "means, 32x32, grey" in colour


def test_a_smoke_run_has_its_own_data_and_length(tmp_path):
    each = next(e for e in MODELS if e.name == "soft_intro_vae/mnist")
    assert {"--epochs", "--num-vae"} <= set(setting.train_words(each, 2))
    words = setting.smoke_words(each, 2, tmp_path / "digits.npz")
    assert not {"--epochs", "mnist", "30", "5"} & set(words)
    assert words[words.index("--num-vae") + 1] == "0"
    assert words.count("--data") == 1 and words[-1] == f"npz:{tmp_path / 'digits.npz'}"
    assert words[words.index("--seed") + 1] == "2" and "--hidden" in words
    assert "--k" not in setting.evaluate_words(each, True)
    iwae = next(e for e in MODELS if e.name == "iwae/mnist")
    assert setting.evaluate_words(iwae, True)[-4:] == ["--k", "100", "--k", "2"]
    assert setting.evaluate_words(iwae, False)[-2:] == ["--k", "100"]
    grows = next(e for e in MODELS if e.name == "style_soft_intro_vae/fashion_mnist")
    words = setting.smoke_words(grows, 2, tmp_path / "digits.npz")
    assert not {"2400", "7200"} & set(words) and words.count("--steps") == 1
    assert words[words.index("--level-steps") + 1] == "2"
    images = setting.enlarged_digits()["x"]
    assert images.shape == (500, 28, 28, 1) and images.dtype == np.uint8
    small = data.load("digits", "train[:500]").read(np.arange(500))["x"]
    assert np.array_equal(images[:, 3:26:3, 3:26:3], small) and not images[:, :2].any()


def test_a_seed_that_is_done_has_a_number_of_its_protocol():
    lines, _ = table.load(cells.FOLDER)
    for each in MODELS:
        mine = [line for line in lines if line["cell"] == setting.name(each)]
        protocols = {s: {line["protocol"] for line in mine if line["seed"] == s} for s in range(3)}
        assert all(setting.protocol(each) in found for found in protocols.values() if found)


def smoke(each, seed, tmp_path, monkeypatch):
    """Returns the numbers of a smoke run, its commands run in this process, and its folder."""

    def command(*words):
        assert main(list(words)) == 0

    monkeypatch.setattr(cells, "FOLDER", tmp_path)
    monkeypatch.setattr(zoo, "command", command)
    return cells.run(each, seed, True), cells.folder(each, seed, True)


@pytest.mark.long
def test_a_cell_keeps_what_the_commands_measured(tmp_path, monkeypatch):
    each = next(e for e in MODELS if e.name == "vae/mnist")
    measures, place = smoke(each, 1, tmp_path, monkeypatch)
    assert place == tmp_path / "smoke" / "runs" / "vae" / "mnist.seed1"
    found = writers.read_json(place / cells.EVALUATION)
    assert [(m.metric, m.value, m.n) for m in measures] == [
        (row["metric"], row["value"], row["n"]) for row in found["metrics"]
    ]
    assert {m.metric for m in measures} == {"elbo", "rec", "kl", "active_units", "iw_nll"}
    assert {m.steps for m in measures} == {8} and {m.precision for m in measures} == {
        "float32, highest"
    }
    assert "K=2" in next(m.protocol for m in measures if m.metric == "iw_nll")


@pytest.mark.slow
@pytest.mark.parametrize("each", zoo.wanted(["*/mnist"]), ids=lambda each: each.name)
def test_every_cell_has_its_numbers(each, tmp_path, monkeypatch):
    try:
        cells.check(each, True)
    except UserError as error:
        pytest.skip(str(error))
    measures, place = smoke(each, 0, tmp_path, monkeypatch)
    assert any(m.protocol.startswith(setting.protocol(each)) for m in measures)
    assert all(np.isfinite(m.value) for m in measures)
    test = data.from_arrays(**setting.enlarged_digits())
    monkeypatch.setattr(figures, "source", lambda config, split: test)
    assert all(np.isfinite(part).all() for part in figures.parts(open_run(place)))


def test_runs_of_the_first_seed_are_the_zoos():
    each = MODELS[0]
    assert cells.folder(each, 0, False) == zoo.RUNS / each.name
    assert cells.folder(each, 1, False) == zoo.RUNS / f"{each.name}.seed1"


def test_missing_weights_are_said_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXVAE_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr(weights, "folders", lambda data_dir=None: [tmp_path])
    gan = next(e for e in MODELS if e.name == "gan/mnist")
    with pytest.raises(UserError, match="weights fetch squeezenet"):
        cells.check(gan, False)
    cells.check(MODELS[0], False)  # needs none


# ---- pictures --------------------------------------------------------------------------------------


def test_a_strip_has_all_that_a_model_can_do(tmp_path, monkeypatch):
    test = data.from_arrays(**setting.enlarged_digits())
    monkeypatch.setattr(figures, "source", lambda config, split: test)
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    found = figures.parts(open_run("zoo:vae/mnist"))
    n = figures.ROWS * figures.COLUMNS
    assert [x.shape for x in found] == [(n, 28, 28, 1)] * 3
    samples, pairs, ways = (x.reshape(figures.ROWS, figures.COLUMNS, 28, 28) for x in found)
    originals = test.read(np.arange(n))["x"].reshape(-1, 28, 28) / np.float32(255)
    assert np.allclose(pairs[0], originals[:8]) and np.allclose(pairs[2], originals[8:16])
    assert 0 < np.abs(pairs[1] - pairs[0]).mean() < 0.5  # decoded, below what it is of
    assert np.abs(np.diff(ways, axis=1)).max(axis=(1, 2, 3)).min() > 0.01  # each row moves
    assert samples.std(axis=(0, 1)).max() > 0.1
    strip = figures.strip(found)
    grid = plots.grid(found[0], columns=figures.COLUMNS, pad=1, scale=1)
    assert strip.shape[1] == 3 * grid.shape[1] + 2 * figures.GAP
    figures.main(["--only", "vae/mnist"])
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mnist.vae.png"]


def test_what_is_drawn_is_in_the_zoo_or_trained_here(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "RUNS", tmp_path)
    there, other = (next(e for e in MODELS if e.name == f"fsq/{of}") for of in ("mnist", "cifar10"))
    assert figures.place_of(there) == packaged.folder_of("fsq/mnist")
    run = tmp_path / "fsq" / "cifar10"
    run.mkdir(parents=True)
    assert figures.place_of(other) is None  # begun, not measured
    (run / cells.EVALUATION).write_text("{}")
    assert figures.place_of(other) == run


def test_the_gallery_has_a_row_for_each_model_that_is_there(capsys, monkeypatch):
    lines = [
        {"cell": "mnist/vae", "seed": s, "metric": m, "protocol": "p", "value": v + s, "n": 10}
        | {"seconds": 60.0 + 60 * s, "device": "a core (cpu)"}
        for s in (0, 1)
        for m, v in (("kl", 20.0), ("iw_nll", 99.0), ("elbo", -100.0))
    ]
    monkeypatch.setattr(gallery.table, "load", lambda folder: (lines, {"cells": []}))
    gallery.main(["--only", "vae/mnist"])
    title, _, _, _, row, _, about = capsys.readouterr().out.splitlines()
    assert title == "### MNIST"
    assert "`zoo:vae/mnist`" in row and 'src="../experiments/family/figures/mnist.vae.png"' in row
    shown, _ = row.removeprefix("| ").split(" | ")
    assert shown.startswith("`zoo:vae/mnist`<br>elbo -99.5") and "<br>iw_nll 99.5" in shown
    assert "kl" not in shown and shown.endswith("<br>60 s, 0.9 MB")
    assert "(2)" in shown and about.endswith("a core (cpu).")
