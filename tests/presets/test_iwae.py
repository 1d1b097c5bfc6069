"""The preset `iwae`: its options reach the model, and those in vain are refused."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import models, nets
from jaxvae.errors import UserError
from jaxvae.presets.iwae import IWAE, build
from jaxvae.types import Batch

OPTIONS = {"workdir": Path("run"), "hidden": (5,), "latent_dim": 2}


def test_options_reach_the_model():
    config = IWAE(**OPTIONS, k=3, gradient="dreg", likelihood="gaussian", gamma="learned")
    config.check()
    model, batch = build(config, (2, 2, 1), None).model, Batch(jnp.full((4, 2, 2, 1), 0.5))
    pair = nets.mlp((5,), 4, heads=2), nets.mlp((5,), (2, 2, 1))
    options = {"latent_dim": 2, "k": 3, "gradient": "dreg"}
    same = models.iwae(*pair, **options, likelihood="gaussian", gamma="learned")

    @jax.jit
    def grads():
        params, state = model.init(jax.random.key(0), batch)

        def mean(params, each):
            loss = each.objectives[0].loss
            return jnp.mean(loss(params, state, jax.random.key(1), batch, jnp.int32(0), None)[0])

        return [jax.grad(mean)(params, each) for each in (model, same)]

    found, want = grads()
    assert "likelihood" in found
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "--k must be at least 1"),
        ({"beta": 2.0}, "no KL of its own to weigh: leave out --beta"),
        ({"beta_warmup": 5, "free_bits": 0.1}, "leave out --beta-warmup, --free-bits"),
    ],
)
def test_options_in_vain_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        IWAE(**OPTIONS, **options).check()
