"""Options as the words of a command, as config.json, and back."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxvae.cli.main import parse
from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, record
from jaxvae.presets.config import VAE
from jaxvae.train import folder
from jaxvae.train.folder import Identity


def test_defaults_that_depend_on_the_net(tmp_path):
    for net, channels in (("mlp", (32, 64)), ("conv", (32, 64)), ("intro", None)):
        config = VAE(tmp_path, net=net)
        assert config.channels == channels
        assert "--channels" not in record.command(config)
        page = json.loads(json.dumps(record.as_dict(config, (8, 8, 1), None)))
        assert record.from_dict(page).config.channels == channels
    assert "--channels 8 8" in record.command(VAE(tmp_path, net="conv", channels=(8, 8)))
    page = record.as_dict(VAE(tmp_path, net="mlp", channels=(8, 8)), (8, 8, 1), None)
    page = json.loads(json.dumps(page))  # of a run from when --net mlp took them, in vain
    assert record.from_dict(page).config.channels == VAE(tmp_path, net="mlp").channels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"preset": None},
            "was made by fit, not by a preset: pass its model and an example batch: load",
        ),
        ({"preset": "vea"}, "unknown preset 'vea'. Did you mean 'vae'"),
        ({"preset": ["vae"]}, r"unknown preset \['vae'\]"),
        ({"colour": 1, "size_of_z": 2}, "does not know: colour, size_of_z"),
        ({"shape": [8, 0, 1]}, r"config.json is damaged: the shape of the data is \[8, 0, 1\]"),
        ({"num_classes": "ten"}, "the number of classes 'ten'"),
        ({"optimizer": "multi_transform"}, "unknown optimizer 'multi_transform'"),
        ({"precision": "float99"}, "unknown precision 'float99'"),
        ({"net": ["mlp"]}, "unknown net"),
        ({"latent_dim": {}}, r"config.json is damaged: latent_dim is \{\}\."),
        ({"latent_dim": 2.0}, "is damaged: latent_dim is 2.0."),
        ({"latent_dim": True}, "is damaged: latent_dim is True."),
        ({"hidden": None}, "is damaged: hidden is None."),
        ({"hidden": 8}, "is damaged: hidden is 8."),
        ({"hidden": [8, "8"]}, r"is damaged: hidden is \(8, '8'\)\."),
        ({"data": 3}, "is damaged: data is 3."),
        ({"conditional": 1}, "is damaged: conditional is 1."),
        ({"gamma": "learnt"}, "is damaged: gamma is 'learnt'."),
    ],
)
def test_a_page_that_no_run_of_ours_wrote(change, message):
    page = record.as_dict(VAE(workdir=Path("run")), (8, 8, 1), 10) | change
    with pytest.raises(UserError, match=message):
        record.from_dict(page, Path("run"))


@pytest.mark.parametrize("name", PRESETS)
def test_every_default_is_of_the_type_of_its_option(name):
    for field in dataclasses.fields(PRESETS[name].options):
        if field.default is not dataclasses.MISSING:
            assert record._is(field.default, field.type), field.name


def test_a_whole_number_is_a_float_and_a_pair_is_no_triple(tmp_path):
    page = record.as_dict(PRESETS["vae"].options(Path()), (8, 8, 1), None)
    assert (
        record.from_dict(
            {**page, "beta": 4, "likelihood": "gaussian", "gamma": "learned"}
        ).config.beta
        == 4
    )
    page = record.as_dict(PRESETS["cvae"].options(Path()), (28, 28, 1), None)
    with pytest.raises(UserError, match=r"hidden is \(8, 8\)"):
        record.from_dict({**page, "hidden": [8, 8]})


def test_every_option_with_a_default_has_it_recorded_but_for_places():
    config = VAE(workdir=Path("run"))
    assert record.name_of(config) == "vae"
    assert record.command(config) == "train vae --workdir run"
    defaults = record.defaults(config)
    assert defaults["latent_dim"] == 10 and not {"workdir", "data_dir"} & set(defaults)
    page = record.as_dict(config, (8, 8, 1), 10)
    assert set(defaults) | {"preset", "shape", "num_classes"} == set(page)


def test_command_and_record_of_a_config_are_inverse(tmp_path):
    made = VAE(
        workdir=tmp_path,
        steps=5,
        hidden=(3, 4),
        gamma="learned",
        likelihood="gaussian",
        conditional=True,
        progress=False,
    )
    assert parse(VAE, record.command(made).split()[2:], "x") == made
    _, again, shape, classes = record.from_dict(
        json.loads(json.dumps(record.as_dict(made, (8, 8, 1), 10)))
    )
    assert (again, shape, classes) == (
        VAE(**{**vars(made), "workdir": again.workdir}),
        (8, 8, 1),
        10,
    )


@pytest.mark.parametrize(
    ("dtype", "precision", "now"),
    [
        ("float32", "highest", "float32"),
        ("float32", "high", "high"),
        ("float32", "default", "default"),
        ("bfloat16", "highest", "bfloat16"),
        ("bfloat16", "default", "bfloat16"),
    ],
)
def test_a_run_of_two_options_of_precision_is_one_of_their_one_name(
    tmp_path, dtype, precision, now
):
    """Its config.json loads, and the run goes on."""
    config = VAE(tmp_path, precision=now)
    page = record.as_dict(config, (8, 8, 1), 10)
    old = {**page, "dtype": dtype, "precision": precision}
    assert record.from_dict(old).config.precision == now
    assert record.renewed(page) == page
    (tmp_path / "config.json").write_text(json.dumps({"config": old}))
    mark = Identity(page, renewed=record.renewed)
    folder.check(tmp_path, mark)
    with pytest.raises(UserError, match=f"precision is '{now}' there and 'other' here"):
        folder.check(tmp_path, mark._replace(config={**page, "precision": "other"}))


@pytest.mark.parametrize("preset", ["soft_intro_vae", "intro_vae", "vae"])
def test_a_run_from_before_an_option_has_its_default(tmp_path, preset):
    """Its config.json loads, and the run goes on."""
    more = {"m": 1.0} if preset == "intro_vae" else {}
    config = PRESETS[preset].options(tmp_path, net="intro", **more)
    page = record.as_dict(config, (28, 28, 1), 10)
    old = {name: value for name, value in page.items() if name != "remat"}
    assert len(old) == len(page) - 1
    assert record.from_dict(json.loads(json.dumps(old)), tmp_path).config == config
    (tmp_path / "config.json").write_text(json.dumps({"config": old}))
    mark = Identity(page, defaults=record.defaults(config))
    folder.check(tmp_path, mark)
    with pytest.raises(UserError, match="remat is False there and True here"):
        folder.check(tmp_path, mark._replace(config={**page, "remat": True}))


def test_which_presets_take_a_data_set_with_no_option_but_its_name():
    mnist = ("mnist", (28, 28, 1), 10)
    assert {name for name in PRESETS if not record.builds(name, *mnist)} == {
        "intro_vae",  # needs --m
        "style_soft_intro_vae",  # 28 pixels are not 32
    }
