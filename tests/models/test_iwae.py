"""IWAE on a linear Gaussian model, whose log p(x) is known, and whose bounds of two draws and their
gradients are integrals on a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial.hermite_e import hermegauss

from jaxvae import nets
from jaxvae.errors import UserError
from jaxvae.models import iwae, vae
from jaxvae.types import Batch, Net

# x = W z + C + sqrt(GAMMA) noise, q(z|x) = N(a x + b, exp(l)); one number each
W, C, GAMMA, X = 1.5, 0.2, 0.4, 0.9
A, B, L = 0.4, 0.3, -0.7
STEP = jnp.int32(0)
NAMES = ("a", "b", "l", "w", "c")
EXACT_Q = (W / (W**2 + GAMMA), -C * W / (W**2 + GAMMA), np.log(GAMMA / (W**2 + GAMMA)))


def linear(encode, **start):
    def apply(params, state, x, *, cond=None, rng=None, train):
        return encode(params, x), state

    params = {name: jnp.float32(value) for name, value in start.items()}
    return Net(lambda rng, x, cond=None: (params, {}), apply)


def pair(a=A, b=B, l=L):  # noqa: E741
    def encode(p, x):
        mean = p["a"] * x + p["b"]
        return jnp.concatenate([mean, jnp.broadcast_to(p["l"], mean.shape)], axis=-1)

    return linear(encode, a=a, b=b, l=l), linear(lambda p, z: p["w"] * z + p["c"], w=W, c=C)


def linear_iwae(k, gradient="standard", **start):
    return iwae(
        *pair(**start), latent_dim=1, k=k, gradient=gradient, likelihood="gaussian", gamma=GAMMA
    )


def log_normal(x, mean, variance):
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))


def log_weight(eps, a=A, b=B, l=L, w=W, c=C):  # noqa: E741
    mean, variance = a * X + b, np.exp(l)
    z = mean + np.sqrt(variance) * eps
    joint = log_normal(X, w * z + c, GAMMA) + log_normal(z, 0.0, 1.0)
    return joint - log_normal(z, mean, variance)


def bound(k, **values):
    """Returns E[iw_k] for k of 1 or 2, by Gauss and Hermite's rule."""
    eps, mass = hermegauss(80)
    log_w, mass = log_weight(eps, **values), mass / mass.sum()
    if k == 1:
        return mass @ log_w
    return mass @ (np.logaddexp(log_w[:, None], log_w) - np.log(2.0)) @ mass


def gradients(k):
    """Returns the exact gradient of -E[iw_k] by name."""
    start, h = dict(zip(NAMES, (A, B, L, W, C), strict=True)), 1e-5
    return {
        name: (bound(k, **start | {name: v - h}) - bound(k, **start | {name: v + h})) / (2 * h)
        for name, v in start.items()
    }


def by_key(model, size, keys=16):
    """Returns losses [keys] and gradients {name: [keys]} of batches of `size` equal examples."""
    batch = Batch(jnp.full((size, 1), X))
    params, state = model.init(jax.random.key(0), batch)

    def one(params, rng):
        return jnp.mean(model.objectives[0].loss(params, state, rng, batch, STEP, None)[0])

    rngs = jax.random.split(jax.random.key(1), keys)
    losses, grads = jax.jit(jax.vmap(jax.value_and_grad(one), in_axes=(None, 0)))(params, rngs)
    return np.asarray(losses, np.float64), {
        name: np.asarray(v, np.float64) for group in grads.values() for name, v in group.items()
    }


def z_scores(values, want):
    return abs(values.mean() - want) / (values.std(ddof=1) / np.sqrt(len(values)))


@pytest.fixture(scope="module")
def measured():
    cases = [(2, "standard"), (2, "dreg"), (2, "stl"), (1, "stl"), (1, "standard")]
    return {case: by_key(linear_iwae(*case), 8192) for case in cases}


def test_the_bound_rises_with_k_to_log_p(measured):
    log_p = log_normal(X, C, W**2 + GAMMA)
    assert z_scores(measured[1, "standard"][0], -bound(1)) < 4  # K = 1: the ELBO
    assert z_scores(measured[2, "standard"][0], -bound(2)) < 4
    many = -by_key(linear_iwae(64), 512)[0]
    assert bound(1) + 0.05 < bound(2) < many.mean() - 0.02
    assert log_p - 0.03 < many.mean() < log_p + 4 * many.std(ddof=1) / 4


@pytest.mark.parametrize(
    "case", [(2, "standard"), (2, "dreg"), (1, "stl")], ids=lambda case: f"{case[1]}-{case[0]}"
)
def test_gradients_are_unbiased(measured, case):
    """Within the error of 131,072 examples, for encoder and decoder."""
    want = gradients(case[0])
    for name, found in measured[case][1].items():
        assert z_scores(found, want[name]) < 4, name
        assert abs(want[name]) > 4 * found.std(ddof=1) / 4, name  # or it would say nothing


def test_stl_of_two_draws_is_biased_and_its_decoder_is_not(measured):
    want, found = gradients(2), measured[2, "stl"][1]
    assert max(z_scores(found[name], want[name]) for name in ("a", "b", "l")) > 10
    assert all(z_scores(found[name], want[name]) < 4 for name in ("w", "c"))


@pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
def test_at_the_posterior_the_weights_are_p_of_x_and_two_gradients_vanish(gradient):
    start = dict(zip(("a", "b", "l"), EXACT_Q, strict=True))
    losses, grads = by_key(linear_iwae(3, gradient, **start), 4, keys=5)
    np.testing.assert_allclose(losses, -log_normal(X, C, W**2 + GAMMA), rtol=1e-5)
    largest = max(abs(grads[name]).max() for name in ("a", "b", "l"))
    assert largest > 1e-2 if gradient == "standard" else largest < 1e-5


def test_the_loss_is_the_bound_of_its_draws_whatever_the_gradient():
    """Worked out in NumPy, with labels and 0 and 1 pixels; K = 1 without KL's closed form is the
    VAE."""
    k, dim, rng = 3, 2, jax.random.key(4)
    trio = nets.mlp((5,), 2 * dim), nets.mlp((5,), 3)
    x = (jax.random.uniform(rng, (6, 3)) < 0.5).astype(jnp.float32)
    batch = Batch(x, jnp.eye(2)[jnp.arange(6) % 2])
    models = {g: iwae(*trio, latent_dim=dim, k=k, gradient=g) for g in ("standard", "stl", "dreg")}
    plain = vae(*trio, latent_dim=dim)

    @jax.jit
    def walk():
        params, state = models["stl"].init(jax.random.key(0), batch)
        found = {
            name: model.objectives[0].loss(params, state, rng, batch, STEP, None)
            for name, model in models.items()
        }
        q = plain.encode(params, state, batch.x, batch.cond)
        z = jax.vmap(q.sample)(jax.random.split(jax.random.split(rng, 3)[0], k))
        logits = [plain.decode(params, state, each, batch.cond).logits for each in z]
        return found, q, z, logits

    found, q, zs, all_logits = walk()
    np.testing.assert_array_equal(found["standard"][0], found["stl"][0])
    np.testing.assert_array_equal(found["standard"][0], found["dreg"][0])
    mean, variance = np.float64(q.mean), np.exp(np.float64(q.logvar))
    log_w, recs = [], []
    for z, logits in zip(np.float64(zs), np.float64(all_logits), strict=True):
        x = np.float64(batch.x)
        recs.append(np.sum(np.log1p(np.exp(logits)) - x * logits, axis=1))
        ratio = log_normal(z, 0.0, 1.0) - log_normal(z, mean, variance)
        log_w.append(ratio.sum(axis=1) - recs[-1])
    weights, metrics = np.exp(log_w), found["stl"][1].metrics
    np.testing.assert_allclose(found["stl"][0], -np.log(weights.mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(metrics["rec"], np.mean(recs, axis=0), rtol=1e-5)
    ess = weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0)
    np.testing.assert_allclose(metrics["ess"], ess, rtol=1e-4)
    kl = 0.5 * np.sum(mean**2 + variance - 1.0 - np.log(variance), axis=1)
    np.testing.assert_allclose(metrics["elbo"], -metrics["rec"] - kl, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"gradient": "vimco"}, "unknown gradient 'vimco'"),
        ({"posterior": "ar1-released"}, "importance-weighted auto-encoders pay the KL"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        iwae(*pair(), **{"latent_dim": 2, **options})
