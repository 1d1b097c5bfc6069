"""A system without an encoder and one without a decoder go through the command line as they are."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest

import jaxvae
import systems
from jaxvae import presets, writers
from jaxvae.cli.main import main
from jaxvae.data.preprocess import make_preprocess
from jaxvae.presets.config import Options, Preset, System

pytestmark = pytest.mark.long  # they use two runs that the fixture trains


@dataclasses.dataclass(frozen=True)
class Adversarial(Options):
    """Train a GAN of points in the plane."""

    latent_dim: int = 2
    """Size of z."""


@dataclasses.dataclass(frozen=True)
class Coupling(Options):
    """Train a flow of points in the plane."""

    couplings: int = 2
    """Affine couplings."""


def build_gan(config, shape, num_classes):
    model = systems.gan(config.latent_dim)
    return System(model, optax.adam(config.learning_rate), make_preprocess())


def build_flow(config, shape, num_classes):
    return System(systems.flow(config.couplings), optax.adam(config.learning_rate))


@pytest.fixture(scope="module", params=["tiny_gan", "tiny_flow"])
def run(request, tmp_path_factory):
    """A preset of the test's own, and a run of it made by the command line."""
    folder = tmp_path_factory.mktemp(request.param)
    np.savez(folder / "points.npz", x=np.asarray(systems.points(400).x))
    tiny = {"tiny_gan": Preset(Adversarial, build_gan), "tiny_flow": Preset(Coupling, build_flow)}
    with pytest.MonkeyPatch.context() as patch:
        for name, preset in tiny.items():
            patch.setitem(presets.PRESETS, name, preset)
        words = ["train", request.param, "--data", f"npz:{folder / 'points.npz'}", "--steps", "20"]
        words += ["--workdir", str(folder / "run"), "--batch-size", "64", "--no-progress"]
        assert main(words) == 0
        assert main(words) == 0  # a finished run
        yield request.param, folder / "run"


def has_density(name):
    return name == "tiny_flow"


def test_the_run_has_its_log_its_pictures_and_its_config(run):
    name, folder = run
    assert json.loads((folder / "config.json").read_text())["config"]["preset"] == name
    splits = {line["split"] for line in writers.read(folder / "metrics.jsonl")}
    assert splits == ({"train", "valid", "test"} if has_density(name) else {"train"})
    assert (folder / "samples.png").is_file() and (folder / "curves.png").is_file()
    assert not (folder / "reconstructions.png").exists()


def test_help_and_report_speak_of_it(run, capsys):
    name, folder = run
    assert main(["--help"]) == 0
    assert name in capsys.readouterr().out
    words = ["train", name, "--steps", "20", "--workdir", str(folder), "--batch-size", "64"]
    data = json.loads((folder / "config.json").read_text())["config"]["data"]
    assert main([*words, "--data", data, "--no-progress"]) == 0
    out = capsys.readouterr().out
    assert ("log_prob" in out) == has_density(name)
    assert "elbo" not in out
    assert f"train {name}" in out


def test_load_sample_and_export(run, tmp_path):
    folder = run[1]
    model, params, state = jaxvae.load(folder)
    assert model.sample(params, state, jax.random.key(0), 5).shape == (5, 2)
    assert main(["sample", str(folder), "--n", "7", "--npz", str(tmp_path / "x.npz")]) == 0
    assert np.load(tmp_path / "x.npz")["x"].shape == (7, 2)
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0
    exported = jaxvae.load(tmp_path / "out").params
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(exported), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("verb", ["reconstruct", "interpolate", "traverse"])
def test_what_it_cannot_do_is_one_line(run, verb, capsys):
    assert main([verb, str(run[1])]) == 2
    assert capsys.readouterr().err == "jaxvae: this model does not encode.\n"


def test_evaluation_measures_what_there_is(run, capsys):
    name, folder = run
    code = main(["evaluate", str(folder)])
    said = capsys.readouterr()
    if has_density(name):
        assert code == 0
        assert "log_prob" in said.out and "exact density" in said.out
        lines = writers.read(folder / "metrics.jsonl")
        (line,) = [line for line in lines if line["split"] == "test"]
        row = json.loads((folder / "evaluation.json").read_text())["metrics"][0]
        assert row["value"] == pytest.approx(line["log_prob"], rel=1e-5)
    else:
        assert (code, said.err.count("\n")) == (2, 1)
        assert "ask for --metrics fid or kid" in said.err
    assert main(["evaluate", str(folder), "--metrics", "elbo"]) == 2
    assert "no evidence lower bound" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        {"shape": None},
        {"shape": "x"},
        {"preset": ["tiny_gan"]},
        {"num_classes": "ten"},
        {"latent_dim": {}, "couplings": {}},
        {"seed": []},
    ],
    ids=["none", "text", "list", "classes", "option", "seed"],
)
def test_a_damaged_config_is_one_line(run, tmp_path, capsys, damage):
    _, folder = run
    page = json.loads((folder / "config.json").read_text())
    known = {name: value for name, value in damage.items() if name in page["config"]}
    page["config"].update(known)
    (tmp_path / "config.json").write_text(json.dumps(page))
    assert main(["sample", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("jaxvae: ") and err.count("\n") == 1


def test_a_damaged_export_and_an_odd_step_are_one_line(run, tmp_path, capsys):
    _, folder = run
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0
    page = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**page, "step": "abc"}))
    capsys.readouterr()
    for words in (["sample", str(tmp_path / "out")], ["sample", str(folder), "--step", "²"]):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") == 1
