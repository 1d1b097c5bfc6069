"""Introspective VAEs with linear nets, written out in NumPy in float64, and what compares a model's
losses and gradients with them for given noise.

What a convention holds fixed is fixed in the NumPy losses too (computed at the parameters `old`),
so that their finite differences are the gradients that the algorithm means."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import noise
from jaxvae.nets import mlp
from jaxvae.types import Batch

D, B = 2, 8
RNG = np.random.default_rng(0)
X = 0.7 * RNG.normal(size=(B, 2))
NOISE = RNG.normal(size=(6, B, D))
ZERO = jnp.asarray(0, jnp.int32)
SOFT = {
    "beta_rec": 0.6,
    "beta_kl": 0.3,
    "beta_neg": 0.9,
    "s": 0.4,
    "alpha": 1.5,
    "gamma": 0.8,
    "gamma_r": 0.7,
}
INTRO = {"beta_rec": 0.6, "beta_kl": 0.3, "beta_neg": 0.9}
BATCH = Batch(jnp.asarray(X, jnp.float32))


def nets(hidden=()):
    return mlp(hidden, 2 * D), mlp(hidden, 2)


def numpy_params(seed=1):
    """Returns float64 weights of the linear nets; the log-variances stay near zero."""
    rng = np.random.default_rng(seed)
    return {
        "encoder": (0.5 * rng.normal(size=(2, 4)), 0.2 * rng.normal(size=4)),
        "decoder": (rng.normal(size=(2, 2)), 0.2 * rng.normal(size=2)),
    }


def jax_params(params):
    return {
        name: {
            "Dense_0": {"kernel": jnp.asarray(w, jnp.float32), "bias": jnp.asarray(b, jnp.float32)}
        }
        for name, (w, b) in params.items()
    }


def encode(phi, x):
    mean, logvar = np.split(x @ phi[0] + phi[1], 2, axis=1)
    return mean, logvar


def decode(theta, z):
    return z @ theta[0] + theta[1]


def draw(q, eps):
    return q[0] + np.exp(q[1] / 2) * eps


def error(a, b):
    return ((a - b) ** 2).sum(axis=1)


def kl(q):
    return -0.5 * (1 + q[1] - q[0] ** 2 - np.exp(q[1])).sum(axis=1)


def differences(loss, weights):
    """Returns d mean(loss) / d weights by central differences."""
    grads = []
    for i, w in enumerate(weights):
        grad = np.zeros_like(w)
        for index in np.ndindex(w.shape):
            step = np.zeros_like(w)
            step[index] = 1e-5
            up, down = ([*weights[:i], w + sign * step, *weights[i + 1 :]] for sign in (1, -1))
            grad[index] = (np.mean(loss(up)) - np.mean(loss(down))) / 2e-5
        grads.append(grad)
    return grads


def give(monkeypatch, draws):
    """Makes `noise.normal` hand out `draws`, one after the other."""
    rest = [jnp.asarray(d, jnp.float32) for d in draws]

    def normal(rng, shape, dtype=jnp.float32, *, batch_axis=0):
        assert shape == rest[0].shape
        return rest.pop(0)

    monkeypatch.setattr(noise, "normal", normal)
    return rest


def loss_and_gradient(monkeypatch, model, i, params, draws, carry=None, batch=BATCH):
    """Returns loss, gradient (kernel, bias) of the group that objective i moves, and aux, for given
    noise."""
    objective = model.objectives[i]
    (group,) = objective.wrt
    state = {"encoder": {}, "decoder": {}}

    def scalar(moved):
        rest = give(monkeypatch, draws)
        loss, aux = objective.loss(
            {**params, group: moved}, state, jax.random.key(0), batch, ZERO, carry
        )
        assert not rest, "not all noise was used"
        return jnp.mean(loss), (loss, aux)

    grads, (loss, aux) = jax.grad(scalar, has_aux=True)(params[group])
    dense = grads["Dense_0"]
    return loss, (dense["kernel"], dense["bias"]), aux


def assert_grads(have, want):
    for a, b in zip(have, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
