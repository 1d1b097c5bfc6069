"""The perceptron of an affine coupling: x -> what scales and shifts the other half of x.

coupling   n-1024 ReLU-1024 ReLU-2n; the last layer starts at zero, so that the coupling starts as the identity

Weights and biases of the hidden layers as PyTorch starts them. For 784 numbers each has 3,460,640
parameters, and the eight of the course report 27,685,120.

Sources: Dinh et al. 2017 (arXiv 1605.08803), section 3.2; the course report, section 3, and its
released code, nf.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count
from jaxvae.nets.layers import Dense, from_linen, join
from jaxvae.types import Net


class Coupling(nn.Module):
    """Numbers [B, *shape] to log-scales before their tanh and shifts [B, 2, *shape]."""

    shape: tuple[int, ...]
    hidden: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        h = join(x.reshape(x.shape[0], -1).astype(self.dtype), cond)
        for width in self.hidden:
            h = nn.relu(Dense(width, dtype=self.dtype)(h))
        out = nn.Dense(
            2 * math.prod(self.shape),
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="out",
        )
        return out(h).reshape(-1, 2, *self.shape)


def coupling(
    shape: int | Sequence[int], *, hidden: Sequence[int] = (1024, 1024), dtype: Any = jnp.float32
) -> Net:
    """Returns the net of a coupling: x [B, *shape] -> [B, 2, *shape], log-scales before their tanh,
    and shifts. A condition [B, n] goes beside x.

    Args:
        shape: of an example.
        hidden: widths of the hidden layers.
        dtype: of the computation and the output, float32 or float64: rounding in the net is an
            error of the inverse.

    Raises:
        UserError: for widths and sides below 1, and a narrower type.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    for side in shape:
        check_count("a side of the data", side)
    for width in hidden:
        check_count("a layer's width", width)
    if jnp.finfo(dtype).bits < 32:
        raise UserError(
            f"a flow's density and its inverse need float32 or float64, not {jnp.dtype(dtype)}."
        )
    return from_linen(Coupling(shape, tuple(hidden), dtype))
