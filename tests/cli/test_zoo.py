"""`jaxvae zoo`: what it says of each model."""

import pytest

from jaxvae.cli import zoo as commands
from jaxvae.cli.main import main
from jaxvae.presets import zoo


def entry(folder, name, number):
    return zoo.Entry(name, folder, "vae", "mnist", 2_560_000, number, "jaxvae train vae --seed 1")


def test_a_line_for_each_model_and_how_to_use_one(tmp_path, monkeypatch, capsys):
    number = {"metric": "elbo", "value": -98.7049, "protocol": "nats per example, one draw of z"}
    found = [entry(tmp_path, "vae/mnist", number), entry(tmp_path, "gan/mnist", None)]
    monkeypatch.setattr(zoo, "entries", lambda: found)
    assert main(["zoo"]) == 0
    head, first, second, _, use = capsys.readouterr().out.splitlines()
    assert head.split() == ["preset", "data", "size", "number", "made", "by"]
    words = "vae/mnist vae mnist 2.56 MB elbo -98.70 nats per example jaxvae train vae --seed 1"
    assert " ".join(first.split()) == words
    assert second.split()[:5] == ["gan/mnist", "vae", "mnist", "2.56", "MB"]
    assert "  -  " in second and "jaxvae.load('zoo:vae/mnist')" in use


def test_a_small_number_keeps_its_digits(tmp_path):
    number = {"metric": "lpips", "value": 0.072134, "protocol": "LPIPS(squeeze) 0.1 of images"}
    assert commands.number(entry(tmp_path, "x", number)) == "lpips 0.0721 LPIPS(squeeze) 0.1"


@pytest.mark.parametrize(
    ("value", "shown"), [(12, "fid 12 of 10"), (0.25, "fid 0.25 of 10"), ("nan", "fid nan of 10")]
)
def test_a_number_has_its_unit(tmp_path, value, shown):
    number = {"metric": "fid", "value": value, "protocol": "of 10, standard"}
    assert commands.number(entry(tmp_path, "x", number)) == shown


def test_a_package_without_models_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    assert main(["zoo"]) == 0
    assert "no trained models; `jaxvae pull USER/NAME`" in capsys.readouterr().out
