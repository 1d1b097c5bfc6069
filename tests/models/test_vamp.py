"""The VampPrior: its density, its loss and its samples against NumPy and an integral."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import nets
from jaxvae.distributions import Normal
from jaxvae.errors import UserError
from jaxvae.models import vamp
from jaxvae.types import Batch, Posterior
from small import _Normed

DIM, K, STEP = 2, 3, jnp.int32(0)
BATCH = Batch(jax.random.uniform(jax.random.key(9), (5, 4)))


def log_normal(x, mean, variance):
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))


def log_mixture(z, mean, variance):
    by_component = log_normal(z[:, None], mean, variance).sum(axis=-1)
    return np.log(np.mean(np.exp(by_component), axis=1))


def model_of(**options):
    pair = nets.mlp((), 2 * DIM), nets.mlp((), 4)
    return vamp(*pair, **{"latent_dim": DIM, "components": K, "likelihood": "gaussian", **options})


def sizes_of(params, x):
    """Returns mean and variance of q(z|x) of a linear encoder, in float64."""
    dense = {name: np.float64(v) for name, v in params["encoder"]["Dense_0"].items()}
    mean, logvar = np.split(np.float64(x) @ dense["kernel"] + dense["bias"], 2, axis=-1)
    return mean, np.exp(logvar)


@pytest.mark.parametrize("domain", ["unit", "real"])
def test_the_loss_is_that_of_the_paper(domain):
    model, rng = model_of(domain=domain, beta=0.5), jax.random.key(3)

    @jax.jit
    def walk():
        params, state = model.init(jax.random.key(0), BATCH)
        args = (params, state, rng, BATCH)
        z = model.encode(params, state, BATCH.x).sample(rng)
        trained = model.objectives[0].loss(*args, STEP, None)
        return params, z, trained, model.terms(*args), model.log_weight(*args)

    params, z, (loss, aux), found, weight = walk()
    v, z = np.float64(params["pseudo_inputs"]), np.float64(z)
    assert v.shape == (K, 4)
    mixture = sizes_of(params, 1 / (1 + np.exp(-v)) if domain == "unit" else v)
    log_q = log_normal(z, *sizes_of(params, BATCH.x)).sum(axis=1)
    np.testing.assert_allclose(found.kl, log_q - log_mixture(z, *mixture), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weight, -found.rec - found.kl, rtol=1e-6)
    np.testing.assert_allclose(loss, aux.metrics["rec"] + 0.5 * aux.metrics["kl"], rtol=1e-6)
    assert model.objectives[0].wrt == ("encoder", "decoder", "pseudo_inputs")


def test_pseudo_inputs_start_at_the_data_apart_from_each_other():
    params, _ = model_of(components=12).init(jax.random.key(0), BATCH)
    u = np.asarray(jax.nn.sigmoid(params["pseudo_inputs"]))
    want = np.clip(np.asarray(BATCH.x)[np.arange(12) % 5], 0.05, 0.95)
    assert 0 < np.abs(u - want).mean() < 0.05
    gaps = np.abs(u[:, None] - u).max(axis=-1)
    assert np.min(gaps + np.eye(12)) > 1e-3
    params, _ = model_of(domain="real").init(jax.random.key(0), Batch(30.0 * BATCH.x))
    assert np.abs(np.asarray(params["pseudo_inputs"]) - 30.0 * np.asarray(BATCH.x)[:K]).max() < 0.5


def test_one_component_at_the_example_is_no_divergence_and_far_ones_learn():
    """Where the only pseudo-input is the only example, p(z) = q(z|x); and pseudo-inputs far from it
    have a gradient."""
    model = model_of(components=1, domain="real")
    params, state = model.init(jax.random.key(0), BATCH)
    one = Batch(BATCH.x[:1])

    @jax.jit
    @jax.value_and_grad
    def kl(pseudo_inputs):
        at = {**params, "pseudo_inputs": pseudo_inputs}
        return jnp.sum(model.terms(at, state, jax.random.key(1), one).kl)

    assert abs(float(kl(one.x)[0])) < 1e-5
    far, gradient = kl(one.x + 40.0)
    assert far > 100.0 and np.isfinite(gradient).all() and np.abs(gradient).max() > 1.0


def test_the_mean_kl_is_the_integral_and_samples_are_of_the_mixture():
    model = vamp(
        nets.mlp((), 2),
        nets.mlp((), 1),
        latent_dim=1,
        components=2,
        domain="real",
        likelihood="gaussian",
    )
    many = Batch(jnp.full((20_000, 1), 0.4))
    params, state = jax.jit(model.init)(jax.random.key(5), many)
    params = {**params, "pseudo_inputs": jnp.asarray([[-2.0], [3.0]])}
    params["encoder"] = {
        "Dense_0": {"kernel": jnp.asarray([[0.8, 0.2]]), "bias": jnp.asarray([0.1, -1.0])}
    }
    params["decoder"] = {"Dense_0": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}
    grid = np.linspace(-9, 9, 20_001)
    (mean,), (variance,) = (v[0] for v in sizes_of(params, [[0.4]]))
    mixture = sizes_of(params, [[-2.0], [3.0]])
    q, log_p = log_normal(grid, mean, variance), log_mixture(grid[:, None], *mixture)
    want = np.sum(np.exp(q) * (q - log_p)) * (grid[1] - grid[0])
    kl = np.asarray(jax.jit(model.terms)(params, state, jax.random.key(1), many).kl, np.float64)
    assert abs(kl.mean() - want) < 4 * kl.std() / np.sqrt(len(kl)) and want > 0.1
    draw = jax.jit(lambda rng: model.sample(params, state, rng, 20_000))
    x = np.asarray(draw(jax.random.key(2)))[:, 0]  # the decoder's mean is z
    assert x.mean() == pytest.approx(mixture[0].mean(), abs=0.05)
    second = np.mean(mixture[0] ** 2 + mixture[1])
    assert np.mean(x**2) == pytest.approx(second, rel=0.05)


@pytest.mark.parametrize("shape", [(), (K,), (1, K)])
def test_a_variance_that_examples_share_is_that_of_every_component(shape):
    """K = D: a row of the variance could be taken for a component's."""
    logvar = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, K), shape) if shape else jnp.float32(0.5)
    found = []
    for rows in (lambda mean: logvar, lambda mean: jnp.broadcast_to(logvar, mean.shape)):
        q = Posterior(lambda dim: dim, lambda output, rows=rows: Normal(output, rows(output)))
        pair = nets.mlp((), K), nets.mlp((), 4)
        model = vamp(*pair, latent_dim=K, components=K, likelihood="gaussian", posterior=q)

        @jax.jit
        def walk(model=model):
            params, state = model.init(jax.random.key(0), BATCH)
            args, rng = (params, state), jax.random.key(1)
            return model.terms(*args, rng, BATCH).kl, model.sample(*args, rng, 5)

        found.append(walk())
    for shared, alone in zip(*found, strict=True):
        np.testing.assert_allclose(shared, alone, rtol=1e-5, atol=1e-6)


def test_moments_over_samples_are_of_the_mixture():
    """The decoder's BatchNorm is to see z as `sample` draws it, far from N(0, I)."""
    pair = nets.from_linen(_Normed((2 * DIM,))), nets.from_linen(_Normed((4,)))
    model = vamp(*pair, latent_dim=DIM, components=K, likelihood="gaussian")
    many = Batch(jax.random.uniform(jax.random.key(2), (4000, 4)))
    params, state = jax.jit(model.init)(jax.random.key(0), many)
    last = params["encoder"]["Dense_1"]
    last["bias"] = jnp.asarray([6.0, -3.0, -2.0, -2.0])
    found = jax.jit(functools.partial(model.moments, over="samples"))(
        params, state, jax.random.key(1), many
    )
    inner = found["decoder"]["batch_stats"]["BatchNorm_0"]
    u = jax.nn.sigmoid(params["pseudo_inputs"])
    q = model.encode(params, {**state, "encoder": found["encoder"]}, u)
    mean, variance = np.float64(q.mean), np.exp(np.float64(q.logvar))
    dense = {name: np.float64(v) for name, v in params["decoder"]["Dense_0"].items()}
    means = mean @ dense["kernel"] + dense["bias"]
    within = variance @ dense["kernel"] ** 2
    np.testing.assert_allclose(inner["mean"], means.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(inner["var"], within.mean(axis=0) + means.var(axis=0), rtol=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "components must be at least 1"),
        ({"domain": "bytes"}, "unknown domain 'bytes'"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"posterior": "ar1-readme"}, "VAEs with a VampPrior pay the KL"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        model_of(**options)


def test_a_condition_is_refused():
    with pytest.raises(UserError, match="leave the condition out"):
        jax.eval_shape(model_of().init, jax.random.key(0), Batch(BATCH.x, jnp.zeros((5, 2))))
