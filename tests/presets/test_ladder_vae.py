"""The preset `ladder_vae`: its options reach the model, and those in vain are refused."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import models, nets
from jaxvae.errors import UserError
from jaxvae.presets.ladder_vae import LadderVAE, build
from jaxvae.types import Batch

OPTIONS = {"workdir": Path("run"), "hidden": (5, 4), "latents": (2, 1)}


@pytest.mark.long
def test_options_reach_the_model():
    chosen = {"depth": 1, "activation": "elu", "beta": 2.0, "beta_warmup": 4, "free_bits": 0.01}
    config = LadderVAE(**OPTIONS, **chosen, likelihood="gaussian", gamma="learned")
    config.check()
    system = build(config, (2, 2, 1), None)
    assert system.latent_dim == 3
    trio = nets.ladder((5, 4), (2, 1), (2, 2, 1), depth=1, act="elu")
    options = {"latent_dims": (2, 1), "beta": 1.5, "free_bits": 0.01}  # at step 3 of 4
    same = models.ladder_vae(*trio, **options, likelihood="gaussian", gamma="learned")
    batch = Batch(jnp.full((4, 2, 2, 1), 0.5))

    @jax.jit
    def losses():
        params, state = system.model.init(jax.random.key(0), batch)
        args = (params, state, jax.random.key(1), batch, jnp.int32(3), None)
        return [each.objectives[0].loss(*args) for each in (system.model, same)]

    (found, aux), (want, _) = losses()
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert {"kl_1", "kl_2", "beta", "gamma"} <= aux.metrics.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": (2,)}, "--latents names 1 layers and --hidden 2"),
        ({"latents": (), "hidden": ()}, "--latents names 0 layers"),
        ({"latents": (2, 0)}, "--latents must be at least 1"),
        ({"hidden": (0, 2)}, "--hidden must be at least 1"),
        ({"depth": 0}, "--depth must be at least 1"),
        ({"net": "conv"}, "leave out --net"),
        ({"latent_dim": 3}, "leave out --latent-dim"),
        ({"posterior": "ar1"}, "leave out --posterior"),
    ],
)
def test_options_in_vain_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        LadderVAE(**{**OPTIONS, **options}).check()


def test_labels_that_the_data_lack_are_asked_for_in_vain():
    with pytest.raises(UserError, match="--conditional needs labels"):
        build(LadderVAE(**OPTIONS, conditional=True), (2, 2, 1), None)
