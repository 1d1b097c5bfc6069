"""Functions of arrays that densities are made of, precise where the plain formulas cancel."""

import math

import jax
import jax.numpy as jnp

from jaxvae.types import Array

MAX_RHO = 1.0 - 1e-6  # beyond it float32 cannot tell |rho| from 1


@jax.custom_jvp
def excess(v: Array) -> Array:
    """Returns e^v - 1 - v >= 0, to the last digits near v = 0: v^2 (1/2! + v/3! + v^2/4! + ...)."""
    near_zero = jnp.square(v) * jnp.polyval(jnp.asarray(EXCESS_SERIES, v.dtype), v)
    return jnp.where(jnp.abs(v) < 1.0, near_zero, jnp.expm1(v) - v)


EXCESS_SERIES = [1.0 / math.factorial(k) for k in range(19, 1, -1)]  # enough for float64
excess.defjvps(lambda dv, _, v: jnp.expm1(v) * dv)


@jax.custom_jvp
def bounded_tanh(a: Array) -> Array:
    """Returns rho = tanh(a), kept inside [-MAX_RHO, MAX_RHO]; its derivative is 1 - rho^2 everywhere.

    At the bound that is the derivative of tanh where it gets there, about 2e-6: clipping alone has
    none, and tanh itself none beyond |a| = 9 in float32, so that a saturated rho could not return.
    """
    return jnp.clip(jnp.tanh(a), -MAX_RHO, MAX_RHO)


@bounded_tanh.defjvp
def _bounded_tanh_jvp(primals, tangents):
    rho, (da,) = bounded_tanh(*primals), tangents
    return rho, (da + da * rho) * (1.0 - rho)  # as JAX writes tanh's own


def recursion(rho: Array, e: Array) -> Array:
    """Returns y [B, D], y_1 = e_1 and y_j = rho y_{j-1} + e_j, for `rho [B, 1]` and `e [B, D]`.

    A scan over D on CPU, where it is faster; elsewhere a product of log2(D) factors instead of D
    steps in a row. Neither makes a D x D matrix. benchmarks/ar1.py compares them.
    """
    return jax.lax.platform_dependent(rho, e, cpu=recursion_by_scan, default=recursion_by_doubling)


def recursion_by_scan(rho: Array, e: Array) -> Array:
    """Returns `recursion`, one dimension after the other."""

    def body(y, e_j):
        y = rho[:, 0] * y + e_j
        return y, y

    return jax.lax.scan(body, jnp.zeros_like(e[:, 0]), e.T)[1].T


def recursion_by_doubling(rho: Array, e: Array) -> Array:
    """Returns `recursion` as a product, with S the shift by one.

    y = (1 - rho S)^-1 e = prod_k (1 + rho^(2^k) S^(2^k)) e
    """
    y, shift = e, 1
    while shift < e.shape[-1]:
        y = y + rho * jnp.pad(y[:, :-shift], ((0, 0), (shift, 0)))
        rho, shift = rho * rho, 2 * shift
    return y


def differences(rho: Array, y: Array) -> Array:
    """Returns e [B, D] with e_1 = y_1 and e_j = y_j - rho y_{j-1}: undoes `recursion`."""
    return y - rho * jnp.pad(y[:, :-1], ((0, 0), (1, 0)))


def log_one_minus_square(rho: Array) -> Array:
    """Returns log(1 - rho^2) <= 0, precise from rho = 0 up to |rho| = 1 in float32."""
    near_zero = jnp.abs(rho) < 0.5  # there the sum of the two logarithms cancels
    return jnp.where(near_zero, jnp.log1p(-rho * rho), jnp.log1p(-rho) + jnp.log1p(rho))
