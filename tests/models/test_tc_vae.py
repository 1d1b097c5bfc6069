"""The beta-TCVAE's parts and estimators against sums written out in NumPy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import distributions, nets, parallel
from jaxvae.distributions import Normal
from jaxvae.errors import UserError
from jaxvae.models import tc_vae
from jaxvae.models.tc_vae import decomposition, log_weights
from jaxvae.train.step import make_train_step
from jaxvae.types import Batch, Posterior

STEP = jnp.int32(0)
BATCH = Batch(jax.random.uniform(jax.random.key(9), (6, 4)))


def model_of(**options):
    dim, size = 3, 5 if options.get("posterior") == "ar1" else 6
    pair = nets.mlp((), size), nets.mlp((), 4)
    return tc_vae(*pair, **{"latent_dim": dim, "data_size": 20, **options})


def walked(model, rng):
    """Returns the loss, what it hands on, the posteriors, and the draws that it sees."""

    def walk():
        params, state = model.init(jax.random.key(0), BATCH)
        loss, aux = model.objectives[0].loss(params, state, rng, BATCH, STEP, None)
        q = model.encode(params, state, BATCH.x)
        # a loss draws its first key for the encoder's pass, the second for z
        return loss, aux, q, q.sample(jax.random.split(jax.random.split(rng)[0])[1])

    return jax.jit(walk)()


def dense_density(z, q):
    """Returns log q(z_i|x_b) [B, B] by dense covariances, and log q(z_ij|x_b) [B, B, D]."""
    mean = np.float64(q.mean)
    dim = mean.shape[1]
    covariance = np.stack([np.diag(v) for v in np.float64(q.variance)])
    if hasattr(q, "rho"):
        lag = np.abs(np.arange(dim)[:, None] - np.arange(dim))
        covariance = np.float64(q.variance)[:, :1, None] * np.float64(q.rho)[..., None] ** lag
    apart = z[:, None] - mean
    square = np.einsum("ibd,bde,ibe->ib", apart, np.linalg.inv(covariance), apart)
    log_det = np.linalg.slogdet(covariance)[1]
    joint = -0.5 * (square + log_det + dim * math.log(2 * math.pi))
    variance = np.float64(q.variance)
    return joint, -0.5 * (apart**2 / variance + np.log(2 * np.pi * variance))


def released_weights(size, data_size):
    """The weights of mss as the released code fills them in, entry by entry."""
    m = size - 1
    w = [[1.0 / m] * size for _ in range(size)]
    for row in range(size):
        w[row][0], w[row][1] = 1.0 / data_size, (data_size - m) / (data_size * m)
    w[m - 1][0] = (data_size - m) / (data_size * m)
    return np.asarray(w)


def paper_weights(size, data_size):
    m = size - 1
    w = np.full((size, size), 1.0 / m)
    for i in range(size):
        w[i, i], w[i, (i + 1) % size] = 1.0 / data_size, (data_size - m) / (data_size * m)
    return w


CASES = {
    "mws": ({}, np.full((6, 6), 1.0 / 120)),
    "mss": ({"estimator": "mss"}, paper_weights(6, 20)),
    "released": ({"estimator": "mss", "convention": "released"}, released_weights(6, 20)),
    "ar1": ({"posterior": "ar1"}, np.full((6, 6), 1.0 / 120)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_that_of_the_paper(name):
    options, weights = CASES[name]
    model, rng = model_of(alpha=0.7, beta=5.0, marginal=1.3, **options), jax.random.key(3)
    loss, aux, q, z = walked(model, rng)
    z = np.float64(z)
    joint, by_dim = dense_density(z, q)
    log_q = np.log(np.sum(weights * np.exp(joint), axis=1))
    log_dims = np.log(np.sum(weights[..., None] * np.exp(by_dim), axis=1)).sum(axis=1)
    log_p = -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1)
    parts = {
        "mutual_information": np.diag(joint) - log_q,
        "total_correlation": log_q - log_dims,
        "marginal_kl": log_dims - log_p,
    }
    for part, values in parts.items():
        np.testing.assert_allclose(aux.metrics[part], values.mean(), rtol=1e-4, err_msg=part)
    paid = [w * v.mean() for w, v in zip((0.7, 5.0, 1.3), parts.values(), strict=True)]
    np.testing.assert_allclose(loss, np.mean(aux.metrics["rec"]) + sum(paid), rtol=1e-5)
    assert loss.shape == () and model.objectives[0].coupled


@pytest.mark.parametrize("name", CASES)
def test_with_weights_of_one_it_is_the_vae(name):
    """MI + TC + sum KL_j = log q(z|x) - log p(z), whatever the estimator."""
    model, rng = model_of(beta=1.0, **CASES[name][0]), jax.random.key(3)
    loss, aux, q, z = walked(model, rng)
    ratio = distributions.log_prob(q, z) - Normal(jnp.zeros_like(z), jnp.zeros(())).log_prob(z)
    np.testing.assert_allclose(loss, np.mean(aux.metrics["rec"] + ratio), rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (3,), (1, 3)])
def test_a_variance_that_examples_share_is_the_same_under_pmap(shape):
    logvar = jnp.full(shape, -1.0)
    shared = Posterior(lambda dim: dim, lambda output: Normal(output, logvar))
    model = tc_vae(nets.mlp((), 3), nets.mlp((), 4), latent_dim=3, data_size=20, posterior=shared)
    params, state = model.init(jax.random.key(0), BATCH)

    def loss(batch):
        return model.objectives[0].loss(params, state, jax.random.key(1), batch, STEP, None)[0]

    mapped = jax.pmap(loss, axis_name=parallel.AXIS, devices=jax.devices()[:2])
    want, found = jax.jit(loss)(BATCH), mapped(parallel.shard(BATCH, 2))
    np.testing.assert_allclose(found, [want, want], rtol=1e-5)


def test_mss_is_unbiased_over_all_batches_and_mws_of_all_data_is_off_by_a_constant():
    """Of N = 5 examples, each batch of 3 that has the first one first, in every order."""
    n, size, dim = 5, 3, 2
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(n, dim)), 0.5 * rng.normal(size=(n, dim))
    z = np.tile(rng.normal(size=dim), (size, 1))
    densities = np.exp(-0.5 * ((z[0] - mean) ** 2 / np.exp(logvar) + logvar + np.log(2 * np.pi)))
    estimates = []
    log_w = np.asarray(log_weights(size, n, "mss"))[0]
    for others in itertools.permutations(range(1, n), size - 1):
        chosen = [0, *others]
        estimates.append(np.exp(log_w) @ densities[chosen].prod(axis=1))
    assert np.mean(estimates) == pytest.approx(densities.prod(axis=1).mean(), rel=1e-5)
    assert np.std(estimates) > 1e-3
    q = Normal(jnp.asarray(mean, jnp.float32), jnp.asarray(logvar, jnp.float32))
    everywhere = jnp.asarray(np.tile(z[0], (n, 1)), jnp.float32)
    found = decomposition(q, everywhere, log_weights(n, n, "mws"))
    exact = np.log(densities.prod(axis=1).mean()) - np.log(densities.mean(axis=0)).sum()
    want = exact + (dim - 1) * np.log(n)
    np.testing.assert_allclose(found.total_correlation, np.full(n, want), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_size": 1}, "data_size must be at least 2"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"alpha": -1.0}, "alpha must be at least 0"),
        ({"marginal": float("nan")}, "marginal must be finite"),
        ({"estimator": "kde"}, "unknown estimator 'kde'"),
        ({"convention": "released"}, "convention is of mss"),
        ({"posterior": "ar1-released"}, "beta-TCVAEs pay the KL"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        model_of(**options)


def test_batches_that_do_not_fit_and_accumulation_are_refused():
    with pytest.raises(UserError, match="batches of 2 to 4 examples"):
        log_weights(5, 4, "mss")
    with pytest.raises(UserError, match="coupled"):
        make_train_step(model_of(), optax.sgd(0.1), accumulate=2)
