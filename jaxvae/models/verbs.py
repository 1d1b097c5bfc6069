"""What one does with a trained model: reconstruct, interpolate, traverse. BatchNorm as `stats` says,
"running" or "batch"."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxvae.abilities import HasKLPerDim
from jaxvae.errors import UserError, check_count
from jaxvae.types import Array, Batch, Decode, Encode, Model, Params, State


def reconstruct(
    model: Model, params: Params, state: State, batch: Batch, *, stats: str = "running"
) -> Array:
    """Returns the decoder's mean at the posterior's mean of every x: the shape of `batch.x`."""
    encode, decode = both_ways(model, stats)
    mean = encode(params, state, batch.x, batch.cond).mean
    return decode(params, state, mean, batch.cond).mean


def interpolate(
    model: Model,
    params: Params,
    state: State,
    start: Batch,
    end: Batch,
    points: int = 11,
    *,
    stats: str = "running",
) -> Array:
    """Returns decoder means on the line between two batches' posterior means: [B, points, ...].

    A condition stays that of `start`.
    """
    encode, _ = both_ways(model, stats)
    first, last = (encode(params, state, b.x, b.cond).mean for b in (start, end))
    return between(model, params, state, first, last, points, start.cond, stats=stats)


def between(
    model: Model,
    params: Params,
    state: State,
    first: Array,
    last: Array,
    points: int = 11,
    cond: Array | None = None,
    *,
    stats: str = "running",
) -> Array:
    """Returns decoder means on the lines from `first` to `last` [B, D]: [B, points, ...]; a
    condition is [B, ...]."""
    need(model, "decode")
    assert model.decode is not None
    decode = _with_stats(model.decode, stats)
    t = jnp.linspace(0.0, 1.0, points)[None, :, None]
    z = (1.0 - t) * first[:, None] + t * last[:, None]
    return _decode_rows(decode, params, state, z, cond)


def interpolate_draws(
    model: Model,
    params: Params,
    state: State,
    rng: Array,
    rows: int,
    points: int = 11,
    cond: Array | None = None,
    *,
    stats: str = "running",
) -> Array:
    """Returns decoder means on lines between draws of the prior: [rows, points, ...], for a model
    that decodes and does not encode, such as a GAN; a condition is [rows, ...]."""
    need(model, "decode", "prior")
    assert model.prior is not None
    z = model.prior(rng, 2 * rows)
    return between(model, params, state, z[:rows], z[rows:], points, cond, stats=stats)


def interpolate_square(
    model: Model,
    params: Params,
    state: State,
    corners: Batch,
    points: int = 8,
    *,
    stats: str = "running",
) -> Array:
    """Returns decoder means on the square between four posterior means: [points, points, ...].

        z_ij = (1 - a)(1 - b) z_0 + (1 - a) b z_1 + a (1 - b) z_2 + a b z_3,   a = i / (points - 1),  b = j / (points - 1)

    Row i, column j; the examples are at the corners: the first above the third on the left, the
    second above the fourth on the right. A condition stays that of the first.

    Args:
        corners: four examples.
        points: of a side, corners included; the paper's 7 steps are 8 points.

    Raises:
        UserError: for another number of examples, and a model that does not encode and decode.

    Source: Daniel & Tamar 2021 (arXiv 2012.13253), appendix 9.4.2, Figure 18.
    """
    encode, decode = both_ways(model, stats)
    check_count("points", points, least=2)
    if len(corners.x) != 4:
        raise UserError(f"a square has four corners, not {len(corners.x)} examples.")
    z = encode(params, state, corners.x, corners.cond).mean
    t = jnp.linspace(0.0, 1.0, points)
    ends = jnp.stack([1.0 - t, t])
    z = jnp.einsum("ai,bj,abd->ijd", ends, ends, z.reshape(2, 2, -1))
    cond = corners.cond
    cond = None if cond is None else jnp.broadcast_to(cond[:1], (points, *cond.shape[1:]))
    return _decode_rows(decode, params, state, z, cond)


def traverse(
    model: Model,
    params: Params,
    state: State,
    example: Batch,
    n: int,
    points: int = 11,
    width: float = 3.0,
    *,
    stats: str = "running",
) -> tuple[Array, np.ndarray]:
    """Returns decoder means along single latent dimensions, and which ones: [n, points, ...], [n].

    Each runs from -width to width while the others stay at the posterior mean of the one example;
    chosen are the dimensions of its largest KL.
    """
    encode, decode = both_ways(model, stats)
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


def both_ways(model: Model, stats: str = "running") -> tuple[Encode, Decode]:
    """Returns `encode` and `decode` of `model` with these statistics; raises `UserError` where one
    is missing."""
    need(model, "encode", "decode")
    assert model.encode is not None and model.decode is not None
    return _with_stats(model.encode, stats), _with_stats(model.decode, stats)


def _with_stats(function: Any, stats: str) -> Any:
    """Returns an evaluation function of a model with these statistics."""
    return function if stats == "running" else functools.partial(function, stats=stats)


def need(model: Model, *verbs: str) -> None:
    """Raises `UserError` unless `model` has the functions called `verbs`."""
    for verb in verbs:
        if getattr(model, verb) is None:
            does = "have a prior" if verb == "prior" else verb
            raise UserError(f"this model does not {does}.")
