"""The preset `intro_vae`: it needs a margin, and passes every weight on."""

import pytest

from commands import refused_training
from jaxvae import models
from jaxvae.presets.intro_vae import IntroVAE, build


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_every_weight_of_the_objective_is_an_option(convention, tmp_path, monkeypatch):
    seen, real = {}, models.intro_vae

    def noted(*nets, **options):
        seen.update(options)
        return real(*nets, **options)

    monkeypatch.setattr(models, "intro_vae", noted)
    given = {"m": 3.0, "beta_rec": 0.5, "beta_kl": 0.4, "beta_neg": 0.7, "convention": convention}
    given |= {"latent_dim": 4, "posterior": "ar1"}
    system = build(IntroVAE(tmp_path, **given), (8, 8, 1), None)
    assert seen == given
    assert [o.coupled for o in system.model.objectives] == [convention == "released", False]
    build(IntroVAE(tmp_path, m=1.0), (8, 8, 1), None)
    usual = {"m": 1.0, "beta_rec": 1.0, "beta_kl": 1.0, "beta_neg": 1.0, "convention": "paper"}
    assert seen == {**usual, "latent_dim": 10, "posterior": "normal"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [([], "an IntroVAE needs --m, the margin"), (["--m", "-1"], "--m must be at least 0, not -1")],
)
def test_what_it_refuses(argv, message, tmp_path, capsys):
    assert message in refused_training(capsys, tmp_path, "intro_vae", *argv)
