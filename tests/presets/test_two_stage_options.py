"""Options of two stages: how long each is, when rates are halved, and what goes on."""

from pathlib import Path

import pytest

from jaxvae import writers
from jaxvae.errors import UserError
from jaxvae.presets.two_stage_options import FIRST_STEP, SECOND, TwoStageVAE


def options(**given):
    return TwoStageVAE(workdir=Path("run"), **given)


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, (157, 314)),  # 20 epochs of 1000 examples, 128 at a time; twice as many
        ({"steps": 10}, (10, 20)),
        ({"steps": 10, "second_steps": 3}, (10, 3)),
        ({"epochs": 1, "second_epochs": 3, "batch_size": 300}, (4, 10)),
    ],
)
def test_steps_of_both_stages(given, steps):
    assert options(**given).lengths(1000) == steps


@pytest.mark.parametrize(
    ("given", "period"),
    [
        ({}, None),
        ({"lr_halve_every": 150}, 300),
        ({"lr_halve_every": 150, "second_lr_halve_every": 40}, 40),
        ({"second_lr_halve_every": 40}, 40),
    ],
)
def test_the_second_stage_halves_its_rates_half_as_often_unless_told(given, period):
    config = options(**given)
    config.check()
    assert config.second_period == period


def test_a_longer_run_is_one_of_a_longer_second_stage(tmp_path):
    writers.write_json(tmp_path / SECOND / "config.json", {"config": {FIRST_STEP: 20}})
    longer = TwoStageVAE(workdir=tmp_path, steps=20, second_epochs=5).longer(50)
    assert (longer.steps, longer.second_steps, longer.second_epochs) == (20, 60, None)


def test_a_resumed_run_may_have_another_length_of_its_second_stage_alone():
    assert TwoStageVAE.may_differ == ("second_steps", "second_epochs")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"second_steps": 3, "second_epochs": 2}, "give --second-steps or --second-epochs, not"),
        ({"second_epochs": 0}, "--second-epochs must be at least 1, not 0"),
        ({"second_width": 0}, "--second-width must be at least 1"),
        ({"second_depth": 0}, "--second-depth must be at least 1"),
        ({"hidden": (16,)}, "leave out --hidden"),
    ],
)
def test_what_no_run_can_have(given, message):
    with pytest.raises(UserError, match=message):
        options(**given).check()
