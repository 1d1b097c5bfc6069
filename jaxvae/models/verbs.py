"""What one does with a trained model: reconstruct, interpolate, traverse."""

import jax.numpy as jnp
import numpy as np

from jaxvae.errors import UserError
from jaxvae.types import Array, Batch, Decode, Encode, HasKLPerDim, Model, Params, State


def reconstruct(model: Model, params: Params, state: State, batch: Batch) -> Array:
    """Returns the decoder's mean at the posterior's mean of every x: the shape of `batch.x`."""
    encode, decode = both_ways(model)
    mean = encode(params, state, batch.x, batch.cond).mean
    return decode(params, state, mean, batch.cond).mean


def interpolate(
    model: Model, params: Params, state: State, start: Batch, end: Batch, points: int = 11
) -> Array:
    """Returns decoder means on the line between two batches' posterior means: [B, points, ...].

    A condition stays that of `start`.
    """
    encode, _ = both_ways(model)
    first, last = (encode(params, state, b.x, b.cond).mean for b in (start, end))
    return between(model, params, state, first, last, points, start.cond)


def between(
    model: Model,
    params: Params,
    state: State,
    first: Array,
    last: Array,
    points: int = 11,
    cond: Array | None = None,
) -> Array:
    """Returns decoder means on the lines from `first` to `last` [B, D]: [B, points, ...]; a
    condition is [B, ...]."""
    need(model, "decode")
    assert model.decode is not None
    t = jnp.linspace(0.0, 1.0, points)[None, :, None]
    z = (1.0 - t) * first[:, None] + t * last[:, None]
    return _decode_rows(model.decode, params, state, z, cond)


def interpolate_draws(
    model: Model,
    params: Params,
    state: State,
    rng: Array,
    rows: int,
    points: int = 11,
    cond: Array | None = None,
) -> Array:
    """Returns decoder means on lines between draws of the prior: [rows, points, ...], for a model
    that decodes and does not encode, such as a GAN; a condition is [rows, ...]."""
    need(model, "decode", "prior")
    assert model.prior is not None
    z = model.prior(rng, 2 * rows)
    return between(model, params, state, z[:rows], z[rows:], points, cond)


def traverse(
    model: Model,
    params: Params,
    state: State,
    example: Batch,
    n: int,
    points: int = 11,
    width: float = 3.0,
) -> tuple[Array, np.ndarray]:
    """Returns decoder means along single latent dimensions, and which ones: [n, points, ...], [n].

    Each runs from -width to width while the others stay at the posterior mean of the one example;
    chosen are the dimensions of its largest KL.
    """
    encode, decode = both_ways(model)
    cond = None if example.cond is None else example.cond[:1]
    q = encode(params, state, example.x[:1], cond)
    mean = q.mean
    size = mean.shape[-1]
    ranks = q.kl_per_dim()[0] if isinstance(q, HasKLPerDim) else jnp.square(mean[0])
    chosen = np.argsort(-np.asarray(ranks), kind="stable")[: min(n, size)]
    z = jnp.broadcast_to(mean, (len(chosen), points, size))
    z = z.at[np.arange(len(chosen)), :, chosen].set(jnp.linspace(-width, width, points))
    cond = None if cond is None else jnp.broadcast_to(cond, (len(chosen), *cond.shape[1:]))
    return _decode_rows(decode, params, state, z, cond), chosen


def _decode_rows(
    decode: Decode, params: Params, state: State, z: Array, cond: Array | None
) -> Array:
    rows, points, size = z.shape
    cond = None if cond is None else jnp.repeat(cond[:rows], points, axis=0)
    x = decode(params, state, z.reshape(rows * points, size), cond).mean
    return x.reshape(rows, points, *x.shape[1:])


def both_ways(model: Model) -> tuple[Encode, Decode]:
    """Returns `encode` and `decode` of `model`; raises `UserError` where one is missing."""
    need(model, "encode", "decode")
    assert model.encode is not None and model.decode is not None
    return model.encode, model.decode


def need(model: Model, *verbs: str) -> None:
    """Raises `UserError` unless `model` has the functions called `verbs`."""
    for verb in verbs:
        if getattr(model, verb) is None:
            does = "have a prior" if verb == "prior" else verb
            raise UserError(f"this model does not {does}.")
