"""The preset `info_vae`: with a discriminator it is the WAE-GAN; options of the other divergence are refused."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from abstract import parameters_of
from jaxvae.errors import UserError
from jaxvae.presets.info_vae import InfoVAE, build
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch


def config_of(**options):
    return InfoVAE(workdir=Path("run"), divergence="gan", hidden=(5,), **options)


def test_the_preset_trains_both_with_rates_of_their_own():
    options = {"alpha": 1.0, "lambda_mmd": 10.0, "adversary_hidden": (6, 4), "latent_dim": 2}
    config = config_of(likelihood="gaussian", gamma="learned", gamma_learning_rate=0.1, **options)
    config.check()
    system = build(config, (4, 4, 1), None)
    x = Batch(jnp.full((8, 4, 4, 1), 0.5))

    def one():
        state = init_state(system.model, system.tx, jax.random.key(0), x)
        return state, *make_train_step(system.model, system.tx)(state, x)

    before, after, metrics = jax.jit(one)()
    assert {"loss", "adversary", "discriminator_loss", "gamma"} <= set(metrics)
    rates = {"encoder": 1e-3, "decoder": 1e-3, "discriminator": 5e-4, "likelihood": 0.1}
    for group, rate in rates.items():  # Adam's first step is its rate
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after.params, before.params)
        largest = max(float(v) for v in jax.tree.leaves(moved[group]))
        assert largest == pytest.approx(rate, rel=1e-2)
    assert [v.shape for v in jax.tree.leaves(after.params["discriminator"])][1::2] == [
        (2, 6),
        (6, 4),
        (4, 1),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "imq"}, "--kernel is of --divergence mmd"),
        ({"divergence": "mmd", "adversary_hidden": (4,)}, "--adversary-hidden is of --divergence"),
        ({"divergence": "mmd", "adversary_learning_rate": 0.1}, "leave it out with mmd"),
        ({"adversary_learning_rate": 0.0}, "must be greater than 0"),
        ({"alpha": 0.5, "lambda_mmd": 0.2}, "--lambda-mmd must be at least 0.5"),
        ({"alpha": 1.5}, "--alpha must be at most 1"),
        ({"free_bits": 0.1}, "has no --free-bits"),
    ],
)
def test_options_in_vain_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        InfoVAE(**{"workdir": Path("run"), "divergence": "gan", **options}).check()


@pytest.mark.parametrize("divergence", ["mmd", "gan"])
def test_weights_that_add_up_to_1_are_a_beta_vae_whatever_floats_say(divergence):
    InfoVAE(Path("run"), divergence=divergence, alpha=0.7, lambda_mmd=0.3).check()
    with pytest.raises(UserError, match="--lambda-mmd must be at least 0.3, not 0.2"):
        InfoVAE(Path("run"), divergence=divergence, alpha=0.7, lambda_mmd=0.2).check()


def test_it_builds_the_papers_net():
    assert parameters_of(build(InfoVAE(workdir=Path("run")), (28, 28, 1), 10).model) == 640_804
