"""Four distributions of points in the plane, drawn inside the compiled step: new data at every
step, no file.

U is uniform on [0, 1), N standard normal, both drawn anew wherever they appear:

    8gaussians    (2 c + 0.02 N) / 1.414, c one of the eight vertices of the unit octagon
    spiral        t = 3 pi sqrt(U), a = (-t cos t + U / 2, t sin t + U / 2); half the points a, half -a; a / 3 + 0.1 N
    checkerboard  x_1 = 4 U - 2, x_2 = U - 2 Bernoulli(1/2) + (floor(x_1) mod 2); 2 (x_1, x_2)
    rings         radius 3, 2.25, 1.5 or 0.75, an angle of an even grid; + 0.08 N

Source: the released code of Daniel & Tamar 2021 (arXiv 2012.13253), section 6.1, from which we took
the formulas.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import noise, parallel
from jaxvae.data.source import Source, from_arrays
from jaxvae.errors import check_count, unknown
from jaxvae.types import Array, Batch


class Toy(NamedTuple):
    """A distribution in the plane."""

    draw: Callable  # (rng, n) -> x [n, 2] float32
    half_range: float  # R: metrics look at [-R, R]^2, as the released code does


def _pick(rng: Array, n: int, options: int) -> Array:
    """Returns whole numbers [n], uniform on 0 ... options - 1."""
    return jnp.minimum((noise.uniform(rng, (n,)) * options).astype(jnp.int32), options - 1)


def _eight_gaussians(rng: Array, n: int) -> Array:
    rng_centre, rng_noise = jax.random.split(rng)
    angle = np.arange(8) * math.pi / 4
    centres = jnp.asarray(2.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1), jnp.float32)
    return (centres[_pick(rng_centre, n, 8)] + 0.02 * noise.normal(rng_noise, (n, 2))) / 1.414


def _spiral(rng: Array, n: int) -> Array:
    rng_t, rng_width, rng_noise = jax.random.split(rng, 3)
    half = (n + 1) // 2
    t = 3.0 * math.pi * jnp.sqrt(noise.uniform(rng_t, (half,)))
    arm = jnp.stack([-t * jnp.cos(t), t * jnp.sin(t)], axis=1)
    arm = arm + 0.5 * noise.uniform(rng_width, (half, 2))
    return jnp.concatenate([arm, -arm])[:n] / 3.0 + 0.1 * noise.normal(rng_noise, (n, 2))


def _checkerboard(rng: Array, n: int) -> Array:
    rng_1, rng_2, rng_row = jax.random.split(rng, 3)
    x_1 = 4.0 * noise.uniform(rng_1, (n,)) - 2.0
    row = _pick(rng_row, n, 2).astype(jnp.float32)
    x_2 = noise.uniform(rng_2, (n,)) - 2.0 * row + jnp.mod(jnp.floor(x_1), 2.0)
    return 2.0 * jnp.stack([x_1, x_2], axis=1)


def _rings(rng: Array, n: int) -> Array:
    rng_pick, rng_noise = jax.random.split(rng)
    count = max(n // 4, 1)
    row = _pick(rng_pick, n, 4 * count)  # of a list of 4 rings, `count` points each
    radius = 3.0 * (1.0 - 0.25 * (row // count).astype(jnp.float32))
    angle = (2.0 * math.pi / count) * (row % count).astype(jnp.float32)
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return radius[:, None] * circle + 0.08 * noise.normal(rng_noise, (n, 2))


TOYS = {
    "8gaussians": Toy(_eight_gaussians, 2.0),
    "spiral": Toy(_spiral, 4.0),
    "checkerboard": Toy(_checkerboard, 4.0),
    "rings": Toy(_rings, 4.0),
}


def toy(name: str) -> Toy:
    """Returns the distribution called `name`. Raises `UserError` for an unknown one."""
    if name not in TOYS:
        raise unknown("2-D data set", name, TOYS)
    return TOYS[name]


def draw(name: str, rng: Array, n: int) -> Array:
    """Returns n points of the distribution `name`: [n, 2] float32. Pure: call it inside `jit`."""
    check_count("n", n)
    return toy(name).draw(rng, n)


def generated(name: str) -> tuple[Source, Callable[[Array, dict[str, Array]], Batch]]:
    """Returns (source, preprocess) for `fit`: the source holds nothing, and preprocess draws each
    batch in the step.

    source, preprocess = toy2d.generated("rings")
    fit(model, tx, source, preprocess=preprocess, steps=30_000, batch_size=512)
    """
    drawn = parallel.whole_batch(toy(name).draw)

    def preprocess(rng: Array, examples: dict[str, Array]) -> Batch:
        return Batch(drawn(rng, examples["x"].shape[0]))

    return from_arrays(np.zeros((1, 2), np.float32), name=name, split="generated"), preprocess
