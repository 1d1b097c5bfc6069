"""What one does with a trained model: reconstruct, interpolate, traverse."""

import jax.numpy as jnp
import numpy as np

from jaxvae.errors import UserError
from jaxvae.types import Array, Batch, HasKLPerDim, Model, Params, State


def reconstruct(model: Model, params: Params, state: State, batch: Batch) -> Array:
    """Returns the decoder's mean at the posterior's mean of every x: the shape of `batch.x`."""
    need(model, "encode", "decode")
    mean = model.encode(params, state, batch.x, batch.cond).mean
    return model.decode(params, state, mean, batch.cond).mean


def interpolate(
    model: Model, params: Params, state: State, start: Batch, end: Batch, points: int = 11
) -> Array:
    """Returns decoder means on the straight line between the posterior means of two batches: [B,
    points, ...].

    A condition stays that of `start`.
    """
    need(model, "encode", "decode")
    first, last = (model.encode(params, state, b.x, b.cond).mean for b in (start, end))
    t = jnp.linspace(0.0, 1.0, points)[None, :, None]
    return _decode_rows(
        model, params, state, (1.0 - t) * first[:, None] + t * last[:, None], start.cond
    )


def traverse(
    model: Model,
    params: Params,
    state: State,
    example: Batch,
    n: int,
    points: int = 11,
    width: float = 3.0,
) -> tuple[Array, np.ndarray]:
    """Returns decoder means [n, points, ...] as one latent dimension at a time runs from -width to
    width, and which ones.

    The others stay at the posterior mean of the one example; chosen are the dimensions of its
    largest KL.
    """
    need(model, "encode", "decode")
    q = model.encode(
        params, state, example.x[:1], None if example.cond is None else example.cond[:1]
    )
    size = q.mean.shape[-1]
    ranks = q.kl_per_dim()[0] if isinstance(q, HasKLPerDim) else jnp.square(q.mean[0])
    chosen = np.argsort(-np.asarray(ranks), kind="stable")[: min(n, size)]
    z = jnp.broadcast_to(q.mean, (len(chosen), points, size))
    z = z.at[np.arange(len(chosen)), :, chosen].set(jnp.linspace(-width, width, points))
    cond = (
        None
        if example.cond is None
        else jnp.broadcast_to(example.cond[:1], (len(chosen), example.cond.shape[-1]))
    )
    return _decode_rows(model, params, state, z, cond), chosen


def _decode_rows(model: Model, params: Params, state: State, z: Array, cond: Array | None) -> Array:
    rows, points, size = z.shape
    cond = None if cond is None else jnp.repeat(cond[:rows], points, axis=0)
    x = model.decode(params, state, z.reshape(rows * points, size), cond).mean
    return x.reshape(rows, points, *x.shape[1:])


def need(model: Model, *verbs: str) -> None:
    for verb in verbs:
        if getattr(model, verb) is None:
            raise UserError(f"this model does not {verb}.")
