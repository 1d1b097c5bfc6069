"""The preset `cvae` by the command line: completions of held-out images, their numbers, and what a
model of images as conditions passes through."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from jaxvae import data, writers
from jaxvae.cli.main import main
from jaxvae.errors import UserError
from jaxvae.presets.cvae import CVAE, build, optimiser
from jaxvae.types import Batch

WORDS = ["--data", "digits", "--steps", "4", "--batch-size", "32", "--no-progress"]
WORDS += ["--hidden", "8", "7", "6"]


def train(folder, *words):
    assert main(["train", "cvae", *WORDS, *words, "--workdir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("cvae") / "run", "--latent-dim", "2")


@pytest.fixture(scope="module")
def regressor(tmp_path_factory):
    words = ["--method", "regressor", "--part", "left", "--pixels", "binarised"]
    return train(tmp_path_factory.mktemp("cvae") / "regressor", *words)


def arrays(folder, tmp_path, *words):
    assert main([words[0], str(folder), *words[1:], "--npz", str(tmp_path / "x.npz")]) == 0
    with np.load(tmp_path / "x.npz") as found:
        return dict(found)


@pytest.mark.long
def test_a_run_has_numbers_and_every_picture(run, regressor):
    names = ("samples", "reconstructions", "interpolation", "curves", "manifold")
    assert all((run / f"{name}.png").is_file() for name in names)
    assert {line["split"] for line in writers.read(run / "metrics.jsonl")} == {
        "train",
        "valid",
        "test",
    }
    assert (regressor / "samples.png").is_file()
    assert not (regressor / "reconstructions.png").exists()


@pytest.mark.long
def test_samples_complete_held_out_images(run, tmp_path):
    x = arrays(run, tmp_path, "sample", "--n", "16")["x"]
    assert x.shape == (16, 8, 8, 1)
    grey = data.load("digits", "test").read(np.arange(8))["x"][:, :, 3] / 255.0
    given = x[:8, :, 3]  # the centre of 8 columns, drawn as 0 or 1
    np.testing.assert_array_equal(given, x[8:, :, 3])
    assert set(np.unique(given)) == {0.0, 1.0}
    assert not given[grey == 0.0].any() and given[grey == 1.0].all()
    assert (x[:8] != x[8:]).any()
    one = arrays(run, tmp_path, "sample", "--n", "5", "--example", "2", "--split", "train")["x"]
    assert (one[:, :, 3] == one[:1, :, 3]).all() and (one[0] != one[1]).any()


@pytest.mark.long
def test_commands_that_decode_show_what_is_given(run, tmp_path):
    found = arrays(run, tmp_path, "reconstruct", "--n", "6")
    np.testing.assert_array_equal(found["x"][:, :, 3], found["x_hat"][:, :, 3])
    path = arrays(run, tmp_path, "interpolate", "--n", "2", "--points", "3")["x"]
    assert (path[:, :, :, 3] == path[:, :1, :, 3]).all()
    assert arrays(run, tmp_path, "traverse", "--n", "2")["x"].shape == (2, 11, 8, 8, 1)


@pytest.mark.long
def test_evaluation_has_bounds_of_what_is_missing_and_completions(run, regressor, capsys):
    assert main(["evaluate", str(run), "--draws", "4"]) == 0
    rows = json.loads((run / "evaluation.json").read_text())["metrics"]
    found = {row["metric"]: row for row in rows}
    assert set(found) >= {"elbo", "rec", "kl", "best_of_k", "mean_error", "diversity"}
    assert "K=4" in found["best_of_k"]["protocol"]
    assert "given column 3 drawn as 0 or 1" in found["elbo"]["protocol"]
    assert found["best_of_k"]["value"] < found["mean_error"]["value"]
    assert found["diversity"]["value"] > 0.0
    capsys.readouterr()
    assert main(["evaluate", str(regressor), "--metrics", "log_prob", "completions", "bpd"]) == 0
    rows = json.loads((regressor / "evaluation.json").read_text())["metrics"]
    found = {row["metric"]: row["value"] for row in rows}
    assert found["diversity"] == pytest.approx(0.0, abs=1e-6)
    assert found["best_of_k"] == pytest.approx(found["mean_error"], rel=1e-5)
    assert found["bpd"] == pytest.approx(-found["log_prob"] / (32 * np.log(2.0)))  # 32 are missing


@pytest.mark.long
def test_it_loads_and_is_exported(run, tmp_path):
    model, params, state = jaxvae.load(run)
    assert set(params) == {"encoder", "decoder", "condition"}
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    again = jaxvae.load(tmp_path / "out")
    cond = jnp.zeros((3, 8, 8, 1)).at[:, :, 3].set(1.0)
    first, second = (
        m.sample(p, s, jax.random.key(0), 3, cond) for m, p, s in ((model, params, state), again)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reconstruct"], "this model does not encode"),
        (["traverse"], "this model does not encode"),
        (["evaluate", "--metrics", "elbo"], "no evidence lower bound"),
        (["evaluate", "--metrics", "fid", "--protocol", "standard"], "this model completes them"),
        (["evaluate", "--metrics", "log_prob", "--draws", "3"], "--draws is of --metrics"),
        (["sample", "--label", "1"], "--label is for a conditional model"),
        (["sample", "--example", "999"], "digits test has 360 examples"),
    ],
)
def test_what_it_cannot_do_is_one_line(regressor, words, message, capsys):
    assert main([words[0], str(regressor), *words[1:]]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": 2, "part": "top"}, "--column goes with --part column"),
        ({"latent_dim": 3, "method": "regressor"}, "a regressor has no latent"),
        ({"pixels": "binarised", "given": "grey"}, "leave out --given grey"),
        ({"flip": True}, "--flip would move the pixels that are given"),
        ({"beta1": 1.0}, "--beta1 must be below 1"),
        ({"weight_decay": -1.0}, "--weight-decay must be at least 0"),
    ],
)
def test_options_in_vain_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        CVAE(workdir=Path("run"), **options).check()


def test_a_column_that_does_not_exist_is_one_line(tmp_path, capsys):
    words = ["train", "cvae", *WORDS, "--column", "8", "--workdir", str(tmp_path / "run")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "there is no column 8" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_defaults_are_the_tutorials():
    config = CVAE(workdir=Path("run"))
    assert (config.learning_rate, config.beta1, config.batch_size) == (1e-3, 0.0, 100)
    system = build(config, (28, 28, 1), 10)
    x = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    params, _ = jax.eval_shape(system.model.init, jax.random.key(0), Batch(x, x))
    sizes = {name: sum(v.size for v in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert sizes == {"encoder": 1_397_810, "decoder": 1_391_006, "condition": 717_500}
    assert (system.latent_dim, system.dims) == (30, 756)


def test_weights_decay_and_biases_do_not():
    params = {"kernel": jnp.full((2, 2), 4.0), "bias": jnp.full(2, 4.0)}
    tx, zero = optimiser(1e-3), jax.tree.map(jnp.zeros_like, params)
    with jax.numpy_dtype_promotion("standard"):  # as optax needs
        state = tx.init(params)
        updates, _ = tx.update(zero, state, params)
        plain, _ = optimiser(1e-3, weight_decay=0.0).update(
            zero, optimiser(1e-3, weight_decay=0.0).init(params), params
        )
    # a gradient of 5e-4 * 4; without momentum Adam's first step is lr times its sign
    np.testing.assert_allclose(updates["kernel"], -1e-3, rtol=1e-4)
    assert not np.any(updates["bias"]) and not np.any(plain["kernel"])
