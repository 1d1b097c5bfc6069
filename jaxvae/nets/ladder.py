"""The perceptrons of a ladder VAE: an encoder with a head on every rung, and the nets from the top down."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count
from jaxvae.nets.layers import Dense, activation, check_init, from_linen, join
from jaxvae.nets.mlp import mlp
from jaxvae.types import Net


class Rungs(nn.Module):
    """Flattens x, puts cond beside it, and after every `depth` layers has the mean and log-variance
    of one layer of latents: [B, 2 D], all means before all log-variances."""

    hidden: tuple[int, ...]
    latent_dims: tuple[int, ...]
    depth: int
    act: str
    init_name: str
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        h = join(x.reshape(x.shape[0], -1).astype(self.dtype), cond)
        means, logvars = [], []
        for width, dim in zip(self.hidden, self.latent_dims, strict=True):
            for _ in range(self.depth):
                h = activation(self.act)(Dense(width, self.init_name, self.dtype)(h))
            means.append(Dense(dim, self.init_name, self.dtype)(h))
            logvars.append(Dense(dim, self.init_name, self.dtype)(h))
        return jnp.concatenate([*means, *logvars], axis=-1).astype(jnp.float32)


def ladder(
    hidden: Sequence[int],
    latent_dims: Sequence[int],
    shape: Sequence[int],
    *,
    depth: int = 2,
    act: str = "relu",
    init: str = "torch",
    dtype: Any = jnp.float32,
) -> tuple[Net, tuple[Net, ...], Net]:
    """Returns (encoder, priors, decoder) of `models.ladder_vae`: x [B, ...] -> [B, 2 D]; z_{i+1} ->
    [B, 2 D_i], from the bottom; z_1 -> [B, *shape].

    Below each layer of latents are `depth` dense layers of its width, bottom-up and top-down. The
    encoder goes on from its hidden layers, not from what is drawn.

    Args:
        hidden: the width of each layer's perceptrons, from the bottom.
        latent_dims: D_1, ..., D_L, as many.
        shape: of an example.
        depth: dense layers between two layers of latents.
        act, init, dtype: as in `mlp`.

    Raises:
        UserError: for widths and latents that are not equally many, or below 1, and as `mlp`.

    Source: Sonderby et al. 2016 (arXiv 1602.02282), section 3, without its batch normalisation.
    """
    hidden, latent_dims = tuple(hidden), tuple(latent_dims)
    if not hidden or len(hidden) != len(latent_dims):
        raise UserError(
            f"{len(latent_dims)} layers of latents need as many widths of hidden layers, not "
            f"{len(hidden)}."
        )
    for width in hidden:
        check_count("a layer's width", width)
    for dim in latent_dims:
        check_count("a layer's latent_dim", dim)
    check_count("depth", depth)
    activation(act)
    check_init(init)
    options = {"act": act, "init": init, "dtype": dtype}
    priors = [
        mlp((width,) * depth, 2 * dim, heads=2, **options)
        for width, dim in zip(hidden[1:], latent_dims[:-1], strict=True)
    ]
    encoder = from_linen(Rungs(hidden, latent_dims, depth, act, init, dtype))
    return encoder, tuple(priors), mlp((hidden[0],) * depth, shape, **options)
