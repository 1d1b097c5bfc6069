"""Multi-layer perceptrons of any depth and width, for data of any shape."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count, unknown
from jaxvae.nets.layers import SCALES, Dense, activation, check_init, from_linen, join, log_variance
from jaxvae.types import Net


class MLP(nn.Module):
    """Flattens x, puts cond beside it, applies `hidden` layers, and returns shape [B, *out]."""

    hidden: tuple[int, ...]
    out: tuple[int, ...]
    heads: tuple[int, ...]
    act: str
    init_name: str
    dtype: Any
    skip: bool = False
    scale: str = "logvar"

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        h = start = join(x.reshape(x.shape[0], -1).astype(self.dtype), cond)
        for width in self.hidden:
            h = activation(self.act)(Dense(width, self.init_name, self.dtype)(h))
        if self.skip:
            h = jnp.concatenate([start, h], axis=-1)
        parts = [Dense(width, self.init_name, self.dtype)(h) for width in self.heads]
        y = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
        y = log_variance(y.astype(jnp.float32), self.heads[-1], self.scale)
        return y.reshape(x.shape[0], *self.out)


def mlp(
    hidden: Sequence[int],
    out: int | Sequence[int],
    *,
    heads: int | Sequence[int] = 1,
    act: str = "relu",
    init: str = "torch",
    skip: bool = False,
    scale: str = "logvar",
    dtype: Any = jnp.float32,
) -> Net:
    """Returns a perceptron as a `Net`: x [B, ...] (and cond [B, n]) -> [B, *out], float32.

    Args:
        hidden: widths of the hidden layers, e.g. `(400,)`; `()` is a linear map.
        out: outputs, as a number (an encoder: `2 * latent_dim`) or a shape (a decoder: `(28, 28,
            1)`).
        heads: separate last layers whose outputs are put side by side. With `heads=2` an encoder
            has one for the mean and one for the log-variance, as most released code does; this
            matters only to initialisers that depend on the number of outputs. A sequence gives the
            width of each.
        act: relu, leaky_relu (0.2), tanh, elu, sigmoid, softplus or identity.
        init: torch, glorot, xavier, normal0.02 or cut0.02 (see `layers`).
        skip: put the input beside the last hidden layer, before the heads.
        scale: what the last head is, for an encoder: "logvar", "log_sd", or "softplus" (see
            `layers.log_variance`).
        dtype: of the computation (float32 or bfloat16); parameters and outputs are float32.

    Raises:
        UserError: for widths below 1, an unknown activation, initialiser or scale, or heads that do
            not divide out.
    """
    out = (out,) if isinstance(out, int) else tuple(out)
    if not isinstance(hidden, Sequence):
        raise UserError(f"hidden must be a tuple of widths, such as (400,), not {hidden!r}.")
    for width in (*hidden, *out):
        check_count("a layer's width", width)
    size = math.prod(out)
    if not isinstance(heads, Sequence):
        check_count("heads", heads)
        if size % heads:
            raise UserError(f"{heads} heads cannot share {size} outputs equally.")
        heads = (size // heads,) * heads
    for width in heads:
        check_count("a head's width", width)
    if sum(heads) != size:
        raise UserError(f"heads {tuple(heads)} add up to {sum(heads)}, not to the {size} outputs.")
    activation(act)
    check_init(init)
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    return from_linen(MLP(tuple(hidden), out, tuple(heads), act, init, dtype, skip, scale))


def second_stage(
    latent_dim: int, *, width: int = 1024, depth: int = 3, dtype: Any = jnp.float32
) -> tuple[Net, Net]:
    """Returns (encoder, decoder) of the two-stage VAE's second stage, z [B, D] <-> u [B, D].

    Each is `depth` dense layers of `width`, ReLU, with the input put beside the last of them before
    the heads: mean and log standard deviation of u; the mean of z. Glorot weights, zero biases
    (two_stage_vae_model.py; the paper says nothing of the concatenation, and takes widths of 1024
    for Table 1 and 2048 elsewhere).
    """
    check_count("latent_dim", latent_dim)
    check_count("depth", depth)
    options = {"init": "glorot", "skip": True, "dtype": dtype}
    encoder = mlp((width,) * depth, 2 * latent_dim, heads=2, scale="log_sd", **options)
    return encoder, mlp((width,) * depth, latent_dim, **options)
