"""Cards of models that do other things than a plain VAE; those of one are beside a run
(test_released.py)."""

from pathlib import Path

import jax
import pytest
import yaml

from jaxvae.presets import PRESETS, card
from jaxvae.presets.record import Saved

PAGE = {"step": 1200, "parameters": 5, "command": "jaxvae train x --workdir RUN", "versions": {}}
ROW = {"metric": "bpd", "value": 1.5, "error": None, "n": 10_000, "protocol": "bits | per dim"}


def make(name, evaluation=None, **options):
    """Returns the header and the text of the card of a preset with small nets."""
    preset, shape = PRESETS[name], (8, 8, 1)
    config = preset.options(workdir=Path("x"), data="mnist", **options)
    about = card.About("hf:me/x", "apache-2.0", PAGE, evaluation, False)
    text = card.text(Saved(preset, config, shape, 10), preset.build(config, shape, 10), about)
    _, header, text = text.split("---\n", 2)
    return yaml.safe_load(header), text


def code_of(text):
    return text.split("```python\n")[1].split("```")[0]


def test_a_model_of_classes_draws_each():
    header, text = make("vae", hidden=(3,), conditional=True)
    assert "pipeline_tag" not in header and header["datasets"] == ["ylecun/mnist"]
    lines = code_of(text).splitlines()
    assert (
        lines[-1] == "x = model.sample(params, state, jax.random.key(0), 16, cond)  # [16, 8, 8, 1]"
    )
    assert eval(lines[-2].removeprefix("cond = "), {"jax": jax}).shape == (16, 10)


def test_samples_have_the_shape_that_the_model_sees():
    nets = {"latent_dim": 2, "start_channels": 2, "mapping_layers": 1}
    _, text = make("style_soft_intro_vae", resolutions=(4, 8, 16), pad=4, **nets)
    assert "examples of shape [8, 8, 1]" in text
    assert code_of(text).splitlines()[-1].endswith("16)  # [16, 16, 16, 1]")


def test_a_model_that_completes_or_draws_nothing_is_used_by_what_it_can_do():
    _, text = make("cvae", hidden=(3, 3, 3))
    assert "sample(" not in code_of(text) and "jaxvae sample hf:me/x" in text
    _, text = make("autoencoder", hidden=(3,))
    assert "sample" not in text and "jaxvae reconstruct hf:me/x" in text
    assert "jaxvae evaluate" not in text  # it has nothing to evaluate


def test_a_model_without_numbers_says_how_to_get_them_or_that_there_are_none():
    header, text = make("vae", hidden=(3,))
    assert "has not been evaluated: `jaxvae evaluate RUN`" in text and "metrics" not in header
    assert "It has no likelihood to evaluate." in make("gan", shrink=64)[1]


def test_numbers_are_in_a_table_whatever_their_protocol_says():
    header, text = make("vae", {"metrics": [ROW]}, hidden=(3,))
    assert "| bpd | 1.5000 | 10,000 | bits \\| per dim |" in text
    assert header["metrics"] == ["bpd"] and "with an unknown version" in text


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_minimises_in_a_line(name):
    assert 5 < len(PRESETS[name].equation) < 110 and "\n" not in PRESETS[name].equation
