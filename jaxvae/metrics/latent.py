"""What a latent space looks like: which directions carry the data, how far it is from N(0, I).

Sources: Dai & Wipf 2019 (arXiv 1903.05789), Figures 1, 9 and 10.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.abilities import HasVariance
from jaxvae.errors import UserError, check_count
from jaxvae.types import Array, Model, Params, State


class Directions(NamedTuple):
    """Each latent direction, those with the smallest posterior variance first."""

    # [D] which coordinate of z
    index: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride] - the name is public
    posterior_variance: np.ndarray  # [D] mean over x of Var q(z_j|x)
    # [D] sum over pixels of the variance that noise on z_j makes, mean over x
    image_variance: np.ndarray


def posterior_variance(dist: object) -> Array:
    """Returns Var q(z_j|x) [B, D].

    Raises:
        UserError: for a posterior without a `variance`.
    """
    if not isinstance(dist, HasVariance):
        raise UserError(
            f"{type(dist).__name__} has no variance: give it a property `variance`, the shape of "
            "its mean."
        )
    return dist.variance


def directions(
    model: Model, params: Params, state: State, x: Array, *, rng: Array, samples: int = 15
) -> Directions:
    """Returns how much noise N(0, 1) on one coordinate of z at a time changes the image.

    The others stay at the posterior mean. In a direction that the decoder ignores the posterior is
    the prior (variance 1), and the image does not change; in one that carries the data its variance
    is small, and the image changes (Theorem 4 of the paper).

    Args:
        x: images [B, H, W, C].
        rng: a key.
        samples: draws for each direction, at least 2.

    Raises:
        UserError: for a model that does not encode and decode, and a posterior without variances.
    """
    if model.encode is None or model.decode is None:
        raise UserError("directions need a model that encodes and decodes.")
    check_count("samples", samples, least=2)
    with jax.default_matmul_precision("highest"):
        q = model.encode(params, state, x)
    variance = np.asarray(jnp.mean(posterior_variance(q), axis=0), np.float64)

    @jax.jit
    def effect(j, rng):
        images = along(model, params, state, q.mean, j, jax.random.normal(rng, (samples,)))
        variances = jnp.var(images, axis=1, ddof=1)
        return jnp.mean(jnp.sum(variances, axis=tuple(range(1, variances.ndim))))

    effects = [effect(j, jax.random.fold_in(rng, j)) for j in range(q.mean.shape[-1])]
    changes = np.asarray(effects, np.float64)
    order = np.argsort(variance, kind="stable")
    return Directions(order, variance[order], changes[order])


def along(
    model: Model, params: Params, state: State, z: Array, j: Array | int, offsets: Array
) -> Array:
    """Returns decoder means at z + offset e_j: [B, len(offsets), H, W, C] for z [B, D].

    They are computed at the highest matmul precision.

    Raises:
        UserError: for a model that does not decode.
    """
    if model.decode is None:
        raise UserError("this model does not decode.")
    moved = jnp.repeat(z[:, None], len(offsets), axis=1).at[:, :, j].add(offsets)
    with jax.default_matmul_precision("highest"):
        x = model.decode(params, state, moved.reshape(-1, z.shape[-1])).mean
    return x.reshape(*moved.shape[:2], *x.shape[1:])


def singular_values(z: np.ndarray) -> np.ndarray:
    """Returns the singular values [D] of latents z [n, D], largest first.

    For n draws of N(0, I) all are about sqrt(n).
    """
    z = np.asarray(z, np.float64)
    if z.ndim != 2 or not np.isfinite(z).all():
        raise UserError(f"latents must be finite and of shape [n, D], not {z.shape}.")
    return np.sqrt(np.clip(np.linalg.eigvalsh(z.T @ z)[::-1], 0.0, None))
