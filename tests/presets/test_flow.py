"""The preset `flow` by the command line, and what its options become."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from jaxvae import writers
from jaxvae.cli.main import main
from jaxvae.presets import load
from jaxvae.presets.flow import Flow, build
from jaxvae.types import Batch

WORDS = ["--steps", "6", "--batch-size", "32", "--no-progress", "--hidden", "16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow") / "run"
    words = ["train", "flow", "--data", "digits", *WORDS, "--workdir", str(folder)]
    assert main([*words, "--log-every", "2", "--couplings", "4"]) == 0
    return folder


@pytest.mark.long
def test_a_run_has_its_densities_and_its_samples(run):
    lines = writers.read(run / "metrics.jsonl")
    assert {line["split"] for line in lines} == {"train", "valid", "test"}
    assert all(math.isfinite(line["log_prob"]) for line in lines)
    assert (run / "samples.png").is_file() and (run / "curves.png").is_file()
    assert not (run / "reconstructions.png").exists()


@pytest.mark.long
def test_it_loads_and_samples_images(run, tmp_path):
    model, params, state = jaxvae.load(run)
    x = np.asarray(model.sample(params, state, jax.random.key(0), 5))
    assert x.shape == (5, 8, 8, 1) and x.min() >= 0.0 and x.max() <= 1.0
    assert main(["sample", str(run), "--n", "7", "--npz", str(tmp_path / "x.npz")]) == 0
    assert np.load(tmp_path / "x.npz")["x"].shape == (7, 8, 8, 1)


@pytest.mark.long
def test_couplings_of_a_run_are_arrays_of_their_own(run):
    _, params, state = jaxvae.load(run)
    wanted = load.flatten({"params": params, "state": state})
    held = load.open_run(run).held
    assert held is not None and held.shapes == {name: x.shape for name, x in wanted.items()}
    assert len(held.shapes) == 4 * 4  # kernels and biases of two layers each


@pytest.mark.long
def test_bits_per_dimension_are_those_of_the_density_of_bytes(run, capsys):
    assert main(["evaluate", str(run), "--metrics", "log_prob", "bpd"]) == 0
    said = capsys.readouterr().out
    assert "uniform dequantisation" in said and "exact density" in said
    rows = json.loads((run / "evaluation.json").read_text())["metrics"]
    found = {row["metric"]: row["value"] for row in rows}
    assert found["bpd"] == pytest.approx(8.0 - found["log_prob"] / (64 * math.log(2.0)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reconstruct"], "this model does not encode"),
        (["traverse"], "this model does not encode"),
        (["evaluate", "--metrics", "elbo"], "no evidence lower bound"),
    ],
)
def test_what_it_cannot_do_is_one_line(run, words, message, capsys):
    assert main([words[0], str(run), *words[1:]]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_defaults_are_the_reports():
    config = Flow(workdir=Path("run"))
    assert (config.learning_rate, config.batch_size, config.max_grad_norm) == (1e-3, 128, 0.6)
    model = build(config, (28, 28, 1), None).model
    x = Batch(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32))
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 27_685_120


def test_numbers_of_any_size_go_without_a_logit(tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=5.0 * x)
    words = ["train", "flow", "--data", f"npz:{tmp_path / 'x.npz'}", *WORDS]
    assert main([*words, "--pixels", "grey", "--workdir", str(tmp_path / "run")]) == 0
    model, params, state = jaxvae.load(tmp_path / "run")
    assert np.abs(model.sample(params, state, jax.random.key(0), 100)).max() > 1.5


@pytest.mark.parametrize(
    ("x", "words", "message"),
    [
        (np.zeros((40, 5, 5, 1), np.uint8), [], "sides must be even, not 5x5"),
        (np.zeros((40, 3), np.float32), [], "dequantised pixels need bytes"),
        (np.zeros((40, 4, 4, 1), np.uint8), ["--alpha", "1"], "alpha must be below 1"),
        (np.zeros((40, 4, 4, 1), np.uint8), ["--couplings", "1"], "couplings must be at least 2"),
        (np.zeros((40, 4, 4, 1), np.uint8), ["--precision", "bfloat16"], "need float32"),
    ],
    ids=["odd sides", "no bytes", "alpha", "couplings", "bfloat16"],
)
def test_mistakes_are_one_line(x, words, message, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=x)
    words = ["train", "flow", "--data", f"npz:{tmp_path / 'x.npz'}", *WORDS, *words]
    assert main([*words, "--workdir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
