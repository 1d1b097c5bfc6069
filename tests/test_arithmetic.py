"""The functions that densities are made of, against loops and formulas in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.ar1 import SAMPLERS
from jaxvae import arithmetic
from jaxvae.arithmetic import recursion


@pytest.mark.parametrize("d", [1, 2, 7, 64])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_form_of_the_recursion_is_the_loop(name, d):
    rng = np.random.default_rng(0)
    rho, e = rng.uniform(-1, 1, size=(5, 1)), rng.normal(size=(5, d))
    y = e.copy()
    for j in range(1, d):
        y[:, j] = rho[:, 0] * y[:, j - 1] + e[:, j]
    with jax.default_matmul_precision("highest"):
        have = SAMPLERS[name](jnp.asarray(rho, jnp.float32), jnp.asarray(e, jnp.float32))
    np.testing.assert_allclose(have, y, rtol=2e-4, atol=2e-5)


def test_the_recursion_does_not_drift_at_the_last_rho():
    """D = 512 steps of rho = 1 - 1e-6 in float32, where the sum of all is largest."""
    y = recursion(jnp.full((1, 1), arithmetic.MAX_RHO), jnp.ones((1, 512)))
    rho = np.float64(np.float32(arithmetic.MAX_RHO))
    np.testing.assert_allclose(y[0], np.cumsum(rho ** np.arange(512)), rtol=1e-5)


def test_the_derivative_of_the_bounded_tanh_is_its_own_everywhere():
    a = jnp.asarray([-1e4, -30.0, -9.0, -7.5, -2.0, 0.0, 0.3, 7.0, 7.5, 8.0, 12.0, 30.0, 1e30])
    rho, slope = jax.jvp(arithmetic.bounded_tanh, (a,), (jnp.ones_like(a),))
    bound = arithmetic.MAX_RHO
    np.testing.assert_array_equal(rho, jnp.clip(jnp.tanh(a), -bound, bound))  # values: clipping
    reverse = jax.vmap(jax.grad(arithmetic.bounded_tanh))(a)
    np.testing.assert_allclose(slope, reverse, rtol=1e-6)
    exact = np.maximum(1.0 - np.tanh(np.asarray(a, np.float64)) ** 2, 1.0 - bound**2)
    np.testing.assert_allclose(
        slope, exact, rtol=0.03
    )  # 1 - rho is 17 steps of float32 at the bound
    inside = np.abs(a) < 7.0
    np.testing.assert_allclose(slope[inside], jax.vmap(jax.grad(jnp.tanh))(a)[inside], rtol=1e-6)


def test_both_forms_of_the_recursion_agree():
    """A CPU takes the scan, other devices the product; D need not be a power of 2."""
    for d in (1, 2, 7, 64):
        rho = jax.random.uniform(jax.random.key(d), (5, 1), minval=-0.99, maxval=0.99)
        e = jax.random.normal(jax.random.key(d + 1), (5, d))
        scanned, doubled = (
            arithmetic.recursion_by_scan(rho, e),
            arithmetic.recursion_by_doubling(rho, e),
        )
        np.testing.assert_allclose(scanned, doubled, rtol=2e-5, atol=2e-5)
        np.testing.assert_array_equal(arithmetic.recursion(rho, e), scanned)


def test_differences_undo_the_recursion():
    rng = np.random.default_rng(1)
    rho, e = rng.uniform(-0.9, 0.9, size=(4, 1)), rng.normal(size=(4, 6))
    rho, e = jnp.asarray(rho, jnp.float32), jnp.asarray(e, jnp.float32)
    y = arithmetic.recursion_by_scan(rho, e)
    np.testing.assert_allclose(arithmetic.differences(rho, y), e, rtol=1e-5, atol=1e-6)


V = [-20.0, -1.5, -0.9, -1e-3, -1e-7, 0.0, 1e-7, 1e-3, 0.9, 1.5, 5.0]


def test_the_excess_and_its_derivative_keep_their_digits_near_zero():
    v = np.asarray(V, np.float32).astype(np.float64)
    series = sum(v**k / math.factorial(k) for k in range(2, 30))
    want = np.where(np.abs(v) < 1.0, series, np.expm1(v) - v)
    value, slope = jax.jvp(arithmetic.excess, (jnp.asarray(V),), (jnp.ones(len(V)),))
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(slope, np.expm1(v), rtol=1e-6)
    assert (np.asarray(value) >= 0.0).all()


def test_the_logarithm_of_one_minus_a_square_keeps_its_digits_up_to_the_last_rho():
    rho = [-arithmetic.MAX_RHO, -0.6, -0.4, -1e-4, 0.0, 1e-4, 0.4, 0.6, arithmetic.MAX_RHO]
    exact = np.asarray(rho, np.float32).astype(np.float64)
    value = arithmetic.log_one_minus_square(jnp.asarray(rho))
    np.testing.assert_allclose(value, np.log1p(-(exact**2)), rtol=1e-6)
    assert (np.asarray(value) <= 0.0).all()
