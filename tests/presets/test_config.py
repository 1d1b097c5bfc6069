"""Options as plain data: their lengths, what goes on with a run, and what no run can have."""

import json
from pathlib import Path

import pytest

from jaxvae import data
from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, record
from jaxvae.presets.config import VAE, Options, source
from jaxvae.presets.two_stage_options import TwoStageVAE


def options(**given):
    return Options(workdir=Path("run"), **given)


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, 157),  # 20 epochs of 1000 examples, 128 at a time: the last pass is not cut short
        ({"epochs": 1, "batch_size": 300}, 4),
        ({"steps": 7}, 7),
    ],
)
def test_steps_of_a_run(given, steps):
    assert options(**given).lengths(1000) == (steps,)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_quick_run_of_any_preset_has_200_steps_a_stage_or_resolution(preset):
    quick = PRESETS[preset].options(workdir=Path("run"), quick=True)
    stages = 2 if PRESETS[preset].stages else len(getattr(quick, "resolutions", "1"))
    assert sum(quick.lengths(10**6)) == 200 * stages


def test_a_longer_run_goes_on_for_as_long_again():
    longer = options(epochs=3).longer(50)
    assert (longer.steps, longer.epochs) == (100, None)


@pytest.mark.parametrize(
    ("net", "convolves"), [("mlp", False), ("conv", True), ("infogan", True), ("intro", True)]
)
def test_nets_that_convolve_say_so(net, convolves):
    assert VAE(workdir=Path("run"), net=net).convolves == convolves
    assert not options().convolves


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 3, "epochs": 2}, "give --steps or --epochs, not both"),
        ({"epochs": 0}, "--epochs must be at least 1, not 0"),
        ({"keep": 0}, "--keep must be at least 1"),
        ({"crop": 0}, "--crop must be at least 1"),
        ({"eval_every": 0}, "--eval-every must be at least 1"),
        ({"accumulate": 0}, "--accumulate must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be finite"),
    ],
)
def test_what_no_run_can_have(given, message):
    with pytest.raises(UserError, match=message):
        options(**given).check()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"net": "mlp", "channels": (4,)}, "leave out --channels, or use --net conv or intro"),
        ({"net": "conv", "norm": "none"}, "leave out --norm, or use --net intro"),
        ({"net": "infogan", "init": "xavier"}, "has layers of its own: leave out --init, or use"),
        ({"latent_dim": 0}, "--latent-dim must be at least 1"),
        ({"beta_warmup": -1}, "--beta-warmup must be at least 0"),
        ({"free_bits": -0.1}, "--free-bits must be at least 0"),
    ],
)
def test_what_no_vae_can_have(given, message):
    with pytest.raises(UserError, match=message):
        VAE(workdir=Path("run"), **given).check()


def test_split_names_of_a_config_are_those_of_its_data():
    page = record.as_dict(VAE(workdir=Path("run")), (8, 8, 1), 10)
    settings = record.from_dict(json.loads(json.dumps(page))).config
    assert source(settings, "valid").size == data.load("digits", "train[1293:]").size
    assert source(settings, "train[:7]").size == 7


def test_a_quick_run_has_a_length_of_its_own():
    quick = options(quick=True)
    assert quick.lengths(10**6) == (200,)
    full = quick.longer(200)
    assert (full.quick, full.workdir, full.steps) == (False, Path("run-full"), None)
    for given in ({"steps": 3}, {"epochs": 2}):
        with pytest.raises(UserError, match=f"leave out --{next(iter(given))}, or --quick"):
            options(quick=True, **given).check()
    with pytest.raises(UserError, match="leave out --second-steps, or --quick"):
        TwoStageVAE(workdir=Path("run"), quick=True, second_steps=5).check()
    two = TwoStageVAE(workdir=Path("run"), quick=True)
    assert two.lengths(10**6) == (200, 200) and not two.longer(400).quick
