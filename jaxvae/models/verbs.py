"""What one does with a trained model: reconstruct, interpolate, traverse, translate. BatchNorm as `stats` says,
"running" or "batch"."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxvae.abilities import HasKLPerDim, HasParts
from jaxvae.errors import UserError, check_count, check_kind
from jaxvae.types import Array, Batch, Decode, Encode, Model, Params, State


def reconstruct(
    model: Model, params: Params, state: State, batch: Batch, *, stats: str = "running"
) -> Array:
    """Returns the decoder's mean at the posterior's mean of every x: the shape of `batch.x`."""
    encode, decode = both_ways(model, stats)
    _check_batches(batch=batch)
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
    _check_batches(start=start, end=end)
    if len(start.x) != len(end.x) and 1 not in (len(start.x), len(end.x)):
        raise UserError(
            f"{len(start.x)} starts and {len(end.x)} ends are no lines: give as many of each."
        )
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
    _check_batches(corners=corners)
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
    _check_batches(example=example)
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


def translate(
    model: Model,
    params: Params,
    state: State,
    content: Batch,
    of_class: Batch,
    *,
    stats: str = "running",
) -> Array:
    """Returns the decoder's means at the content of one batch and the class of the other, pair by
    pair: the shape of `content.x`. Latents are posterior means; a condition is that of `content`.

    Raises:
        UserError: for a model whose posterior has no content and class (`HasParts`), and batches of
            two sizes.

    Source: Daniel & Tamar 2021 (arXiv 2012.13253), section 6.4 and appendix 9.4.3.
    """
    if len(content.x) != len(of_class.x):
        raise UserError(
            f"{len(content.x)} contents and {len(of_class.x)} classes are no pairs: give as many of "
            "each, or use translations for all of them with all."
        )
    (z, _), (_, code) = (_codes(model, params, state, b, stats) for b in (content, of_class))
    _, decode = both_ways(model, stats)
    return decode(params, state, jnp.concatenate([z, code], axis=-1), content.cond).mean


def translations(
    model: Model,
    params: Params,
    state: State,
    content: Batch,
    of_class: Batch,
    *,
    stats: str = "running",
) -> Array:
    """Returns `translate` of every class with every content: [classes, contents, ...], a row for each
    class."""
    (z, _), (_, code) = (_codes(model, params, state, b, stats) for b in (content, of_class))
    _, decode = both_ways(model, stats)
    rows, columns = len(code), len(z)
    pairs = jnp.concatenate([jnp.tile(z, (rows, 1)), jnp.repeat(code, columns, axis=0)], axis=-1)
    cond = content.cond
    cond = None if cond is None else jnp.tile(cond, (rows, *(1,) * (cond.ndim - 1)))
    x = decode(params, state, pairs, cond).mean
    return x.reshape(rows, columns, *x.shape[1:])


def _codes(
    model: Model, params: Params, state: State, batch: Batch, stats: str
) -> tuple[Array, Array]:
    """Returns the posterior means of content and class of a batch."""
    q = both_ways(model, stats)[0](params, state, batch.x, batch.cond)
    if not isinstance(q, HasParts):
        raise UserError(
            "this model's latent has no content and class to be exchanged: use one such as "
            "models.translation."
        )
    content, of_class = q.parts
    return content.mean, of_class.mean


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


def _check_batches(**batches: Any) -> None:
    for name, batch in batches.items():
        check_kind(name, batch, Batch, "Batch(x), or Batch(x, cond)")


def _with_stats(function: Any, stats: str) -> Any:
    """Returns an evaluation function of a model with these statistics."""
    return function if stats == "running" else functools.partial(function, stats=stats)


def need(model: Model, *verbs: str) -> None:
    """Raises `UserError` unless `model` has the functions called `verbs`."""
    for verb in verbs:
        if getattr(model, verb) is None:
            does = "have a prior" if verb == "prior" else verb
            raise UserError(f"this model does not {does}.")
