"""Finite scalar quantisation: codes are the points of a small grid, which nobody has to learn.

    z_j = round(b_j(h_j)) / floor(L_j / 2),   b_j(h) = half_j tanh(h + shift_j) - offset_j

with L_j levels in dimension j, half_j = (L_j - 1) (1 - 1e-3) / 2, offset_j = 1/2 for an even L_j else
0, and shift_j = tan(offset_j / half_j), by which h = 0 is near 0 (atanh would bring it there). There
are prod L_j codes, no table that could go unused, and nothing to pay beside rec. The gradient of the
rounding is taken to be 1; that of tanh vanishes where h is far out.

Source: Mentzer et al. 2024 (arXiv 2309.15505), section 3.1, Listing in appendix A.1.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.errors import UserError, check_count
from jaxvae.models.vq_vae import Found, Quantiser
from jaxvae.types import Array, Tree


def finite_scalar(levels: Sequence[int] = (8, 5, 5, 5)) -> Quantiser:
    """Returns the quantiser of these levels, for `vq_vae`.

    Args:
        levels: L_j, at least 2 each; the paper has (8, 6, 5) for 2^8 codes, (8, 5, 5, 5) for 2^10,
            (7, 5, 5, 5, 5) for 2^12.

    Raises:
        UserError: for no levels, or fewer than 2 of a dimension.
    """
    levels = tuple(levels)
    if not levels:
        raise UserError("finite scalar quantisation needs levels, such as (8, 5, 5, 5).")
    for level in levels:
        check_count("a dimension's levels", level, least=2)
    count = np.asarray(levels)
    width = count // 2
    half = (count - 1) * (1 - 1e-3) / 2
    offset = np.where(count % 2 == 0, 0.5, 0.0)
    shift = np.tan(offset / half)
    steps = np.concatenate([[1], np.cumprod(count[:-1])])  # of the index, the first one fastest

    def quantise(params: Tree, state: Tree, h: Array, train: bool) -> Found:
        half_, offset_, shift_ = (jnp.asarray(v, h.dtype) for v in (half, offset, shift))
        bounded = half_ * jnp.tanh(h + shift_) - offset_
        rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
        digits = jnp.round(bounded).astype(jnp.int32) + jnp.asarray(width, jnp.int32)
        index = jnp.sum(digits * jnp.asarray(steps, jnp.int32), axis=-1)
        z = rounded / jnp.asarray(width, h.dtype)
        return Found(z, index, jnp.zeros(len(h), h.dtype), None)

    def lookup(params: Tree, state: Tree, index: Array) -> Array:
        digits = index[..., None] // jnp.asarray(steps, jnp.int32) % jnp.asarray(count, jnp.int32)
        middle = jnp.asarray(width, jnp.int32)
        return (digits - middle).astype(jnp.float32) / middle.astype(jnp.float32)

    return Quantiser(math.prod(levels), len(levels), lambda rng: (None, None), quantise, lookup)
