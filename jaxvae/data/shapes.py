"""Shapes in the plane whose factors are known: images drawn inside the compiled step from five whole
numbers, for models that are to find those numbers.

    shape       3    square, ellipse, heart
    scale       6    0.5, 0.6, ..., 1
    rotation   40    2 pi k / 40
    x, y       32    evenly from edge to edge

A pixel is 1 where its centre is inside the shape, else 0. With c the shape's centre, t its rotation, r
= 0.34 scale, pixels at p in [-1, 1]^2 and (u, v) = R(-t) (p - c) / r:

    square    max(|u|, |v|) < 0.8
    ellipse   u^2 + 4 v^2 < 1
    heart     (a^2 + b^2 - 1)^3 < a^2 b^3,   (a, b) = 1.2 (u, v)

The factors, their numbers and their order are those of dSprites (Matthey et al. 2017, the set of the
beta-VAE, FactorVAE and beta-TCVAE papers), whose 40 rotations have the first and the last in common;
the drawings are ours, so numbers measured on it are of another data set.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxvae.data.source import Source, from_arrays
from jaxvae.errors import UserError, check_count

if TYPE_CHECKING:  # `jaxvae.data` starts without JAX
    from jaxvae.types import Array, Batch

NAMES = ("shape", "scale", "rotation", "x", "y")
SIZES = (3, 6, 40, 32, 32)
SIDE = 64
COUNTS = {"train": 8192, "test": 2048}  # of the set in memory
RADIUS, REACH = 0.34, 0.58  # of the largest shape; of the centres, so that all shapes are inside


class World(NamedTuple):
    """What examples are made of: factors, each one of so many values, and how they are drawn."""

    names: tuple[str, ...]  # of the F factors
    sizes: tuple[int, ...]  # values of each: factor j is one of 0 ... sizes[j] - 1
    render: Callable  # (factors [n, F] whole numbers) -> x [n, ...]; pure


def world(side: int = SIDE) -> World:
    """Returns the factors of the shapes, drawn in `side` x `side` pixels."""
    check_count("side", side, least=8)
    return World(NAMES, SIZES, functools.partial(render, side=side))


def draw_factors(rng: Array, n: int, sizes: tuple[int, ...] = SIZES) -> Array:
    """Returns n draws of all factors, uniform and independent: [n, F] int32. Pure."""
    import jax.numpy as jnp

    from jaxvae import noise

    u = noise.uniform(rng, (n, len(sizes)))
    counts = jnp.asarray(sizes, jnp.int32)
    return jnp.minimum((u * counts.astype(jnp.float32)).astype(jnp.int32), counts - 1)


def render(factors: Array, side: int = SIDE) -> Array:
    """Returns images [n, side, side, 1] of zeros and ones, float32, from factors [n, 5]. Pure.

    Raises:
        UserError: for another number of factors.
    """
    import jax.numpy as jnp

    if factors.ndim != 2 or factors.shape[1] != len(SIZES):
        raise UserError(f"shapes have {len(SIZES)} factors, [n, 5], not shape {factors.shape}.")
    kind, scale, turn, x, y = (factors[:, i, None, None] for i in range(len(SIZES)))

    def place(k: Array) -> Array:
        return REACH * (2.0 * k.astype(jnp.float32) / 31.0 - 1.0)

    radius = RADIUS * (0.5 + 0.1 * scale.astype(jnp.float32))
    angle = (2.0 * math.pi / SIZES[2]) * turn.astype(jnp.float32)
    at = jnp.asarray((2.0 * np.arange(side) + 1.0) / side - 1.0, jnp.float32)
    across, down = at[None, None, :] - place(x), at[None, :, None] - place(y)
    u = (jnp.cos(angle) * across + jnp.sin(angle) * down) / radius
    v = (jnp.cos(angle) * down - jnp.sin(angle) * across) / radius
    a, b = jnp.square(1.2 * u), -1.2 * v  # rows go down: the heart stands
    inside = (
        jnp.maximum(jnp.abs(u), jnp.abs(v)) < 0.8,
        jnp.square(u) + 4.0 * jnp.square(v) < 1.0,
        (a + jnp.square(b) - 1.0) ** 3 < a * b**3,
    )
    chosen = jnp.where(kind == 0, inside[0], jnp.where(kind == 1, inside[1], inside[2]))
    return chosen.astype(jnp.float32)[..., None]


def generated(side: int = SIDE) -> tuple[Source, Callable[[Array, dict[str, Array]], Batch]]:
    """Returns (source, preprocess) for `fit`: the source holds nothing, and preprocess draws each
    batch in the step.

    source, preprocess = shapes.generated(64)
    fit(model, tx, source, preprocess=preprocess, steps=30_000, batch_size=64)
    """
    from jaxvae.types import Batch

    known = world(side)

    def preprocess(rng: Array, examples: dict[str, Array]) -> Batch:
        return Batch(known.render(draw_factors(rng, examples["x"].shape[0])))

    empty = np.zeros((1, side, side, 1), np.float32)
    source = from_arrays(empty, name="shapes", split="generated")
    return source._replace(world=known), preprocess


@functools.lru_cache(maxsize=2)
def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [n, 64, 64, 1] uint8 of 0 and 255, and which shape [n], of "train" or "test": the
    same at every call."""
    import jax

    rng = np.random.Generator(np.random.Philox(len(split)))
    raw = rng.bit_generator.random_raw((COUNTS[split], len(SIZES)))
    factors = (raw % np.asarray(SIZES, np.uint64)).astype(np.int32)
    drawn = jax.jit(render)
    parts = [np.asarray(drawn(part)) for part in np.split(factors, COUNTS[split] // 512)]
    return (255 * np.concatenate(parts)).astype(np.uint8), factors[:, 0]
