"""The preset `soft_intro_vae`: every weight is an option; it trains, loads and samples."""

import jax
import pytest

import jaxvae
from commands import TINY, refused_training
from jaxvae import models, writers
from jaxvae.cli.main import main
from jaxvae.presets.soft_intro_vae import SoftIntroVAE, build


def test_every_weight_of_the_objective_is_an_option_with_the_published_default(
    tmp_path, monkeypatch
):
    seen = {}
    real = models.soft_intro_vae
    monkeypatch.setattr(
        models,
        "soft_intro_vae",
        lambda *nets, **options: seen.update(options) or real(*nets, **options),
    )
    build(SoftIntroVAE(tmp_path, net="intro"), (28, 28, 1), 10)
    published = {"beta_rec": 1.0, "beta_kl": 1.0, "beta_neg": None, "s": None, "alpha": 2.0}
    published |= {"gamma": 1.0, "gamma_r": 1e-8, "convention": "released"}
    assert seen == {**published, "latent_dim": 10, "posterior": "normal"}
    given = {"beta_rec": 0.5, "beta_kl": 0.4, "beta_neg": 3.0, "s": 0.1, "alpha": 1.5}
    given |= {"gamma_r": 0.1, "convention": "paper", "latent_dim": 4, "posterior": "ar1"}
    build(SoftIntroVAE(tmp_path, net="intro", gamma_fakes=0.7, **given), (28, 28, 1), 10)
    assert seen == {**given, "gamma": 0.7}


@pytest.mark.long
def test_it_trains_loads_and_samples(tmp_path):
    words = ["--data", "digits", "--workdir", str(tmp_path / "run"), "--steps", "4", *TINY]
    assert main(["train", "soft_intro_vae", *words]) == 0
    model, params, state = jaxvae.load(tmp_path / "run")
    assert [objective.name for objective in model.objectives] == ["encoder_loss", "decoder_loss"]
    assert model.sample(params, state, jax.random.key(0), 3).shape == (3, 8, 8, 1)
    train = [
        line
        for line in writers.read(tmp_path / "run" / "metrics.jsonl")
        if line["split"] == "train"
    ]
    assert {"kl", "kl_rec", "kl_fake", "squared_error"} <= set(train[0])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--beta", "2"], "no --beta, --beta-warmup and --free-bits: use --beta-rec"),
        (["--beta-neg", "-2"], "--beta-neg must be at least 0"),
        (["--likelihood", "bernoulli"], "likelihood"),
        (["--convention", "relased"], "convention"),
    ],
)
def test_what_it_refuses(argv, message, tmp_path, capsys):
    assert message in refused_training(capsys, tmp_path, "soft_intro_vae", *argv)
