"""Options of VAEs as plain data, quick runs of every preset, and the splits that options name."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxvae import data
from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, record
from jaxvae.presets.config import VAE, Count, Number, Options, source

PAY_KL = {  # presets whose loss is of a KL, and what they cannot do without
    **{name: {} for name in ("iwae", "vamp_vae", "vae_gan", "tc_vae", "factor_vae")},
    "soft_intro_vae": {},
    "intro_vae": {"m": 1.0},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_quick_run_of_any_preset_has_200_steps_a_stage_or_resolution(preset):
    quick = PRESETS[preset].options(workdir=Path("run"), quick=True)
    stages = 2 if PRESETS[preset].stages else len(getattr(quick, "resolutions", "1"))
    assert sum(quick.lengths(10**6)) == 200 * stages


@pytest.mark.parametrize(
    ("net", "convolves"), [("mlp", False), ("conv", True), ("infogan", True), ("intro", True)]
)
def test_nets_that_convolve_say_so(net, convolves):
    assert VAE(workdir=Path("run"), net=net).convolves == convolves
    assert not Options(workdir=Path("run")).convolves


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"net": "mlp", "channels": (4,)}, "leave out --channels, or use --net conv or intro"),
        ({"net": "conv", "norm": "none"}, "leave out --norm, or use --net intro"),
        ({"net": "conv", "remat": True}, "leave out --remat, or use --net intro"),
        ({"net": "infogan", "init": "xavier"}, "has layers of its own: leave out --init, or use"),
        ({"latent_dim": 0}, "--latent-dim must be at least 1"),
        ({"beta_warmup": -1}, "--beta-warmup must be at least 0"),
        ({"free_bits": -0.1}, "--free-bits must be at least 0"),
        ({"free_bits": 0.1, "posterior": "ar1"}, "--posterior ar1 does not have: leave it out, or"),
        ({"gamma": 0.3}, "--gamma is the variance of a Gaussian .* use --likelihood gaussian with"),
        ({"gamma": -0.3, "likelihood": "gaussian"}, "--gamma must be greater than 0, not -0.3"),
    ],
)
def test_what_no_vae_can_have(given, message):
    with pytest.raises(UserError, match=message):
        VAE(workdir=Path("run"), **given).check()


@pytest.mark.parametrize("preset", [name for name in PRESETS if name in PAY_KL])
def test_a_loss_that_pays_a_kl_refuses_other_posteriors_in_the_words_of_the_command(preset):
    given = PAY_KL[preset]
    for posterior in ("ar1-readme", "ar1-released"):
        config = PRESETS[preset].options(workdir=Path("run"), posterior=posterior, **given)
        with pytest.raises(UserError, match=f"--posterior {posterior} pays .* use --posterior ar1"):
            config.check()
    PRESETS[preset].options(workdir=Path("run"), posterior="ar1", **given).check()


@pytest.mark.parametrize("preset", PRESETS)
def test_numbers_out_of_range_are_called_as_on_the_command_line(preset):
    kind = PRESETS[preset].options
    numbers = [f.name for f in dataclasses.fields(kind) if f.type in (int, float, Count, Number)]
    assert {"steps", "learning_rate"} <= set(numbers)
    for name in numbers:
        if (preset, name) == ("info_vae", "alpha"):
            continue  # any number below 1
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
            kind(workdir=Path("run"), **{**PAY_KL.get(preset, {}), name: -1}).check()


def test_split_names_of_a_config_are_those_of_its_data():
    page = record.as_dict(VAE(workdir=Path("run")), (8, 8, 1), 10)
    settings = record.from_dict(json.loads(json.dumps(page))).config
    assert source(settings, "valid").size == data.load("digits", "train[1293:]").size
    assert source(settings, "train[:7]").size == 7
