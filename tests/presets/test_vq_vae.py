"""The preset `vq_vae` by the command line, with a table of moving averages; and its other options."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from jaxvae import writers
from jaxvae.cli.main import main
from jaxvae.errors import UserError
from jaxvae.presets.vq_vae import VQVAE, build
from jaxvae.types import Batch

SMALL = {"channels": 4, "halvings": 1, "blocks": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vq") / "run"
    words = [
        "train",
        "vq_vae",
        "--quantiser",
        "ema",
        "--codes",
        "6",
        "--code-size",
        "2",
        "--steps",
        "4",
        "--no-progress",
    ]
    words += [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    assert main([*words, "--log-every", "2", "--workdir", str(folder)]) == 0
    return folder


@pytest.mark.long
def test_a_run_has_its_bound_its_pictures_and_its_codes(run):
    lines = writers.read(run / "metrics.jsonl")
    test = lines[-1]
    assert test["split"] == "test" and test["kl"] == pytest.approx(16 * np.log(6), rel=1e-5)
    trained = [line for line in lines if line["split"] == "train"][-1]
    assert 1.0 <= trained["perplexity"] <= 6.0 and trained["quantisation"] > 0.0
    for name in ("samples", "reconstructions", "interpolation", "curves"):
        assert (run / f"{name}.png").is_file()
    model, params, state = jaxvae.load(run)
    assert state["codebook"]["entries"].shape == (6, 2) and "codebook" not in params
    assert model.encode(params, state, jnp.zeros((3, 8, 8, 1))).index.shape == (3, 16)


@pytest.mark.parametrize(
    ("options", "size", "group"),
    [
        ({"quantiser": "loss", "codes": 7}, 64, True),
        ({"quantiser": "fsq", "levels": (4, 3)}, 2, False),
    ],
    ids=["loss", "fsq"],
)
def test_the_quantisers(options, size, group):
    config = VQVAE(workdir=Path("run"), **SMALL, **options)
    config.check()
    model = build(config, (8, 8, 1), None).model
    x = Batch(jnp.zeros((2, 8, 8, 1)))

    def codes():
        params, state = model.init(jax.random.key(0), x)
        return params, model.encode(params, state, x.x)

    params, q = jax.eval_shape(codes)
    assert q.mean.shape == (2, 16 * size)
    assert ("codebook" in params) == group == ("codebook" in model.objectives[0].wrt)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (4, 4)}, "--levels is of --quantiser fsq"),
        ({"quantiser": "fsq", "codes": 5}, "--codes is of --quantiser loss or ema"),
        ({"quantiser": "loss", "decay": 0.5}, "--decay is of --quantiser ema"),
        ({"quantiser": "ema", "decay": 1.0}, "--decay must be below 1"),
        ({"commitment": -1.0}, "--commitment must be at least 0"),
        ({"likelihood": "bernoulli", "gamma": 0.1}, "--gamma is of --likelihood gaussian"),
        ({"halvings": 0}, "--halvings must be at least 1"),
    ],
)
def test_options_in_vain_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        VQVAE(workdir=Path("run"), **options).check()
