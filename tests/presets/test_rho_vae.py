"""The preset `rho_vae`: the VAE's options with an AR(1) posterior."""

from pathlib import Path

import jax
import pytest

from abstract import parameters_of
from jaxvae.distributions import AR1Normal, ReadmeAR1, ReleasedAR1
from jaxvae.presets.rho_vae import RhoVAE, build
from jaxvae.types import Batch


def test_it_builds_the_papers_net():
    assert parameters_of(build(RhoVAE(workdir=Path("run")), (28, 28, 1), 10).model) == 637_596


@pytest.mark.parametrize(
    ("posterior", "kind"),
    [("ar1", AR1Normal), ("ar1-readme", ReadmeAR1), ("ar1-released", ReleasedAR1)],
)
def test_its_posterior_has_a_correlation(posterior, kind):
    assert RhoVAE(workdir=Path("run")).posterior == "ar1"
    config = RhoVAE(workdir=Path("run"), posterior=posterior, hidden=(4,), latent_dim=3)
    model = build(config, (4, 4, 1), None).model
    x = jax.ShapeDtypeStruct((2, 4, 4, 1), "float32")
    q = jax.eval_shape(lambda rng, x: encoded(model, rng, x), jax.random.key(0), x)
    assert type(q) is kind and q.mean.shape == (2, 3) and q.rho.shape == (2, 1)


def encoded(model, rng, x):
    params, state = model.init(rng, Batch(x))
    return model.encode(params, state, x)
