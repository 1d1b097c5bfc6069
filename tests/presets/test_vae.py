"""The preset `vae`: the published net, the decoder's output, the rate of a learned gamma."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from abstract import parameters_of
from commands import refused
from jaxvae import Batch
from jaxvae.presets.config import VAE
from jaxvae.presets.vae import build


def test_output_of_the_infogan_net_follows_the_likelihood():
    for likelihood in ("bernoulli", "gaussian"):
        settings = VAE(workdir=Path("run"), net="infogan", likelihood=likelihood, latent_dim=3)
        model = build(settings, (4, 4, 1), None).model
        params, state = model.init(jax.random.key(0), Batch(jnp.zeros((2, 4, 4, 1))))
        p = model.decode(params, state, jnp.zeros((2, 3)))
        np.testing.assert_allclose(
            p.mean, 0.5, atol=1e-6
        )  # of z = 0, before training: the logit 0 as a mean
        assert type(p).__name__ == likelihood.title().replace("Gaussian", "Normal")


def test_a_learning_rate_of_gamma_needs_a_learned_one(tmp_path, capsys):
    argv = ["train", "vae", "--workdir", tmp_path / "run", "--gamma-learning-rate", "0.01"]
    assert "is for a learned gamma: use it with --likelihood gaussian --gamma learned" in refused(
        capsys, *argv
    )


def test_it_builds_the_papers_net():
    assert parameters_of(build(VAE(workdir=Path("run")), (28, 28, 1), 10).model) == 640_804
