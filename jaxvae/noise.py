"""Noise that does not depend on the number of devices.

Under `jit` over a mesh JAX draws the same numbers however an array is sharded. Under `pmap` each
device sees only its slice of the batch and would draw the same numbers as its neighbours. These
functions draw for the global batch in both cases, and return the slice of the device they run on
(the devices are those of the mapped axis `parallel.AXIS`). Losses and nets must draw from here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxvae import parallel
from jaxvae.types import Array


def _draw(
    draw: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...], batch_axis: int
) -> Array:
    devices = parallel.axis_size()
    if devices == 1:
        return draw(tuple(shape))
    size = shape[batch_axis]
    global_shape = list(shape)
    global_shape[batch_axis] = size * devices
    start = jax.lax.axis_index(parallel.AXIS) * size
    return jax.lax.dynamic_slice_in_dim(draw(tuple(global_shape)), start, size, batch_axis)


def normal(rng: Array, shape: tuple[int, ...], dtype=jnp.float32, *, batch_axis: int = 0) -> Array:
    """Returns standard normal noise of `shape`, one slice of the global batch's noise."""
    return _draw(lambda s: jax.random.normal(rng, s, dtype), shape, batch_axis)


def uniform(rng: Array, shape: tuple[int, ...], dtype=jnp.float32, *, batch_axis: int = 0) -> Array:
    """Returns noise of `shape` uniform on [0, 1), one slice of the global batch's noise."""
    return _draw(lambda s: jax.random.uniform(rng, s, dtype), shape, batch_axis)
