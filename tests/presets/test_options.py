"""The options that every preset has: their lengths, what goes on with a run, and what no run can
have."""

from pathlib import Path

import pytest

from jaxvae.errors import UserError
from jaxvae.presets.options import Options
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


def test_images_of_a_folder_have_the_size_that_is_asked_for():
    options(data="folder:faces", size=8, crop=9).check()


def test_a_longer_run_goes_on_for_as_long_again():
    longer = options(epochs=3).longer(50)
    assert (longer.steps, longer.epochs) == (100, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 3, "epochs": 2}, "give --steps or --epochs, not both"),
        ({"epochs": 0}, "--epochs must be at least 1, not 0"),
        ({"keep": 0}, "--keep must be at least 1"),
        ({"crop": 0}, "--crop must be at least 1"),
        ({"size": 8, "data": "mnist"}, "--size: only for a folder of images, --data folder:PATH"),
        ({"size": 8, "crop": 9}, "--size and --crop: only for a folder of .* not for digits"),
        ({"eval_every": 0}, "--eval-every must be at least 1"),
        ({"accumulate": 0}, "--accumulate must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be finite"),
    ],
)
def test_what_no_run_can_have(given, message):
    with pytest.raises(UserError, match=message):
        options(**given).check()


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
