"""Noise of a whole batch, whatever the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import noise, parallel

SIZE = 16


def pmapped(function, x):
    """Returns `function` of each device's slice of `x`, put together again."""
    y = jax.pmap(function, axis_name=parallel.AXIS)(parallel.shard(x, 8))
    return np.asarray(y).reshape(-1, *y.shape[2:])


@pytest.mark.parametrize("draw", [noise.normal, noise.uniform])
def test_every_device_draws_its_slice_of_the_noise_of_the_whole_batch(draw):
    rng, x = jax.random.key(3), jnp.zeros((SIZE, 3))
    alone = draw(rng, x.shape)
    np.testing.assert_allclose(pmapped(lambda part: draw(rng, part.shape), x), alone, rtol=1e-6)
    sharded = jax.jit(
        lambda x: x + draw(rng, x.shape), in_shardings=parallel.batch_sharded(parallel.make_mesh())
    )(x)
    np.testing.assert_allclose(sharded, alone, rtol=1e-6)
    assert len(np.unique(alone)) == alone.size
    of_jax = {noise.normal: jax.random.normal, noise.uniform: jax.random.uniform}[draw]
    np.testing.assert_array_equal(alone, of_jax(rng, x.shape))


def test_noise_with_the_batch_on_another_axis():
    rng, x = jax.random.key(3), jnp.zeros((SIZE, 3))  # e.g. [K, B]
    have = pmapped(lambda part: noise.normal(rng, (5, part.shape[0]), batch_axis=1).T, x)
    np.testing.assert_allclose(have.T, noise.normal(rng, (5, SIZE)), rtol=1e-6)
