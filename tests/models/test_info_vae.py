"""InfoVAE and its limits: the VAE, the beta-VAE, WAE-MMD."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import models, nets, noise, objectives
from jaxvae.errors import UserError
from jaxvae.testing import check_model
from jaxvae.train.step import make_train_step
from jaxvae.types import Batch

D, SHAPE, ZERO = 3, (2, 2, 1), jnp.asarray(0, jnp.int32)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(8, *SHAPE)), jnp.float32)


def loss_of(model, params, state, rng, x=X):
    return model.objectives[0].loss(params, state, rng, Batch(x), ZERO, None)


def info_vae(alpha, lambda_, **options):
    encoder = nets.mlp((), 2 * D if options.get("posterior", "normal") == "normal" else D + 2)
    return models.info_vae(
        encoder, nets.mlp((), SHAPE), latent_dim=D, alpha=alpha, lambda_=lambda_, **options
    )


@pytest.mark.parametrize(("alpha", "lambda_", "beta"), [(0.0, 1.0, 1.0), (-2.0, 3.0, 3.0)])
def test_without_mmd_it_is_the_beta_vae(alpha, lambda_, beta):
    model, rng = info_vae(alpha, lambda_), jax.random.key(2)
    params, state = model.init(jax.random.key(1), Batch(X))
    loss, aux = loss_of(model, params, state, rng)
    plain = models.vae(nets.mlp((), 2 * D), nets.mlp((), SHAPE), latent_dim=D, beta=beta)
    want, _ = loss_of(plain, params, state, rng)
    assert loss.shape == () and model.objectives[0].coupled
    np.testing.assert_allclose(loss, np.mean(want), rtol=1e-6)
    assert float(aux.metrics["aggregate"]) == 0.0


@pytest.mark.parametrize(("alpha", "lambda_"), [(-0.4, 1.4), (-0.9, 1.9), (-3.1, 4.1), (-3.6, 4.6)])
def test_the_beta_vae_limit_is_there_though_floats_round(alpha, lambda_):
    assert alpha + lambda_ < 1.0
    model = info_vae(alpha, lambda_)
    params, state = model.init(jax.random.key(1), Batch(X))
    assert float(loss_of(model, params, state, jax.random.key(2))[1].metrics["aggregate"]) == 0.0


def test_with_alpha_one_it_is_wae_mmd():
    model, rng = info_vae(1.0, 50.0, kernel="imq"), jax.random.key(2)
    params, state = model.init(jax.random.key(1), Batch(X))
    loss, aux = loss_of(model, params, state, rng)
    z = model.encode(params, state, X).sample(jax.random.split(rng, 3)[0])
    prior = noise.normal(jax.random.fold_in(rng, 3), z.shape)
    want = np.mean(aux.metrics["rec"]) + 50.0 * float(objectives.mmd(z, prior, kernel="imq"))
    np.testing.assert_allclose(loss, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5, "lambda_": 1.0}, "alpha must be at most 1"),
        ({"alpha": 0.5, "lambda_": 0.2}, "lambda must be at least 1 - alpha = 0.5, not 0.2"),
        ({"alpha": float("nan"), "lambda_": 0.2}, "alpha must be finite"),
        ({"alpha": 0.0, "lambda_": 2.0, "kernel": "rbf"}, "unknown kernel 'rbf'"),
        ({"alpha": 0.0, "lambda_": 2.0, "bandwidth": 0.0}, "bandwidth must be greater than 0"),
        ({"alpha": 0.0, "lambda_": 2.0, "beta": 2.0}, "info_vae has no beta"),
    ],
)
def test_what_info_vae_refuses(options, message):
    with pytest.raises(UserError, match=message):
        info_vae(**options)


@pytest.mark.long
def test_info_vae_with_an_ar1_posterior_keeps_the_contracts():
    check_model(info_vae(0.5, 10.0, posterior="ar1"), Batch(X))


def test_a_coupled_loss_refuses_accumulation():
    with pytest.raises(UserError, match="coupled"):
        make_train_step(info_vae(0.0, 2.0), optax.sgd(0.1), accumulate=2)
