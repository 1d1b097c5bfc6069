"""Finite scalar quantisation: every level can be reached, indices and codes are one, and gradients are
those of tanh."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.models import finite_scalar

LEVELS = (8, 5, 4, 2)


def bounded(h):
    """The paper's bound of each dimension, in float64."""
    h, out = np.float64(h), []
    for j, level in enumerate(LEVELS):
        half = (level - 1) * 0.999 / 2
        offset = 0.5 if level % 2 == 0 else 0.0
        out.append(half * np.tanh(h[..., j] + np.tan(offset / half)) - offset)
    return np.stack(out, axis=-1)


def test_codes_are_rounded_and_indices_go_back_to_them():
    quantiser = finite_scalar(LEVELS)
    assert (quantiser.codes, quantiser.size, quantiser.init(jax.random.key(0))) == (
        320,
        4,
        (None, None),
    )
    h = 3.0 * jax.random.normal(jax.random.key(0), (40, 50, 4))
    found = jax.jit(lambda h: quantiser.quantise(None, None, h, True))(h)
    want = np.round(bounded(h)) / (np.asarray(LEVELS) // 2)
    np.testing.assert_allclose(found.z, want, atol=1e-6)
    np.testing.assert_allclose(quantiser.lookup(None, None, found.index), want, atol=1e-6)
    np.testing.assert_array_equal(found.paid, 0.0)
    for j, level in enumerate(LEVELS):
        middle = level // 2
        np.testing.assert_allclose(
            np.unique(np.asarray(found.z[..., j]).round(5)),
            np.round((np.arange(level) - middle) / middle, 5),
        )


def test_all_indices_are_different_codes():
    z = np.asarray(finite_scalar(LEVELS).lookup(None, None, jnp.arange(320)))
    grid = itertools.product(*((np.arange(n) - n // 2) / (n // 2) for n in LEVELS))
    np.testing.assert_allclose(z[np.lexsort(z.T[::-1])], sorted(grid), atol=1e-6)
    np.testing.assert_allclose(z[1] - z[0], (0.25, 0.0, 0.0, 0.0))  # the first goes fastest


def test_the_gradient_is_that_of_the_bound():
    quantiser, h = finite_scalar(LEVELS), jax.random.normal(jax.random.key(1), (1, 3, 4))
    grad = jax.jit(jax.grad(lambda h: jnp.sum(quantiser.quantise(None, None, h, True).z)))(h)
    step, at = 1e-6, np.float64(h)
    want = (bounded(at + step) - bounded(at - step)) / (2 * step)
    np.testing.assert_allclose(grad, want / (np.asarray(LEVELS) // 2), rtol=1e-3, atol=1e-4)


def test_what_is_refused():
    with pytest.raises(UserError, match="needs levels"):
        finite_scalar(())
    with pytest.raises(UserError, match="levels must be at least 2"):
        finite_scalar((8, 1))
