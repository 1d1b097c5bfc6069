"""The preset `autoencoder` by the command line: it reconstructs, and has no bound and no samples."""

from pathlib import Path

import jax
import numpy as np
import pytest

import jaxvae
from jaxvae import data, writers
from jaxvae.cli.main import main
from jaxvae.errors import UserError
from jaxvae.presets.autoencoder import Autoencoder, build

WORDS = ["--hidden", "6", "--latent-dim", "3", "--corruption", "gaussian", "--amount", "0.2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder") / "run"
    words = ["train", "autoencoder", *WORDS, "--steps", "4", "--no-progress", "--log-every", "2"]
    assert main([*words, "--workdir", str(folder)]) == 0
    return folder


@pytest.mark.long
def test_a_run_has_reconstructions_and_no_samples(run):
    lines = writers.read(run / "metrics.jsonl")
    assert {line["split"] for line in lines} == {"train"} and np.isfinite(lines[-1]["loss"])
    for name, there in (("reconstructions", True), ("interpolation", True), ("samples", False)):
        assert (run / f"{name}.png").is_file() == there
    model, params, state = jaxvae.load(run)
    x = data.load("digits", "test[:5]").arrays["x"] / np.float32(255)
    assert model.encode(params, state, x).mean.shape == (5, 3)


@pytest.mark.long
def test_what_it_cannot_do_is_one_line(run, capsys):
    for words, message in (
        (["sample"], "does not sample"),
        (["evaluate"], "no likelihood to evaluate: ask for --metrics lpips, of its"),
        (["evaluate", "--metrics", "elbo"], "no evidence lower bound"),
    ):
        assert main([words[0], str(run), *words[1:]]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("net", ["conv", "intro"])
def test_other_nets_have_an_output_for_each_latent(net):
    size = 8 if net == "conv" else 28
    channels = None if net == "conv" else (2, 2)
    config = Autoencoder(workdir=Path("run"), net=net, latent_dim=3, channels=channels)
    model, x = build(config, (size, size, 1), None).model, np.zeros((2, size, size, 1), np.float32)

    def codes():
        params, state = model.init(jax.random.key(0), jaxvae.Batch(x))
        return model.encode(params, state, x).mean

    assert jax.eval_shape(codes).shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 2.0, "posterior": "ar1"}, "leave out --posterior, --beta"),
        ({"amount": 0.5}, "--amount is of --corruption gaussian or mask"),
        ({"corruption": "mask", "amount": 1.5}, "--amount must be at most 1"),
    ],
)
def test_options_in_vain_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Autoencoder(workdir=Path("run"), **options).check()


def test_a_net_that_ends_in_a_scale_is_refused():
    with pytest.raises(UserError, match="--net infogan ends in a scale"):
        build(Autoencoder(workdir=Path("run"), net="infogan"), (8, 8, 1), None)
