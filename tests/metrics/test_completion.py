"""Numbers of completions against NumPy, and what they say of draws that do not differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.metrics.completion import compare, make_completions
from jaxvae.types import Batch, Model

X = np.random.default_rng(0).uniform(size=(3, 4, 5, 1)).astype(np.float32)
DRAWS = np.random.default_rng(1).uniform(size=(6, 3, 4, 5, 1)).astype(np.float32)


def test_numbers_are_those_of_the_definition():
    found = compare(jnp.asarray(X), jnp.asarray(DRAWS))
    error = np.square(DRAWS.astype(np.float64) - X).sum(axis=(2, 3, 4))
    np.testing.assert_allclose(found["best_of_k"], error.min(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["mean_error"], error.mean(axis=0), rtol=1e-5)
    variance = DRAWS.astype(np.float64).var(axis=0, ddof=1).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found["diversity"], variance, rtol=1e-5)
    off = np.square(DRAWS.mean(axis=0) - X).sum(axis=(1, 2, 3))  # error = off + spread
    np.testing.assert_allclose(found["mean_error"], off + 5 / 6 * variance, rtol=1e-4)


def model(noisy):
    def sample(params, state, rng, n, cond=None, *, stats="running"):
        return cond + noisy * jax.random.normal(rng, cond.shape)

    return Model(init=lambda rng, batch: ({}, {}), sample=sample)


@pytest.mark.parametrize("noisy", [0.0, 0.5])
def test_each_example_is_completed_from_its_own_condition(noisy):
    of = make_completions(model(noisy), 400)
    batch = Batch(jnp.asarray(X), jnp.asarray(X + 0.1))
    found = jax.jit(of)({}, {}, jax.random.key(0), batch)
    np.testing.assert_allclose(found["diversity"], 20 * noisy**2, rtol=0.1, atol=1e-6)
    np.testing.assert_allclose(found["mean_error"], 20 * (0.01 + noisy**2), rtol=0.1)
    if not noisy:
        np.testing.assert_allclose(found["best_of_k"], found["mean_error"], rtol=1e-5)
    else:
        assert (np.asarray(found["best_of_k"]) < 0.8 * np.asarray(found["mean_error"])).all()


def test_what_cannot_be_measured():
    with pytest.raises(UserError, match="k must be at least 2"):
        make_completions(model(0.0), 1)
    with pytest.raises(UserError, match="does not sample"):
        make_completions(Model(init=lambda rng, batch: ({}, {})))
    with pytest.raises(UserError, match="need a condition"):
        make_completions(model(0.0))({}, {}, jax.random.key(0), Batch(jnp.asarray(X)))
