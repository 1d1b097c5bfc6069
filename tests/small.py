"""A small VAE, its data, and a short run of it, for tests of training and checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvae import data, models, nets, parallel, types
from jaxvae.train import Fit, fit

SHAPE = (4, 4, 1)
EXAMPLE = types.Batch(jnp.zeros((2, *SHAPE)))


def source(seed: int = 0, size: int = 100) -> data.Source:
    """Returns random bytes; the size is not a multiple of any batch used here."""
    rng = np.random.default_rng(seed)
    return data.from_arrays(
        rng.integers(0, 256, (size, *SHAPE), dtype=np.uint8), rng.integers(0, 3, size)
    )


def small(hidden: int = 8, **options) -> types.Model:
    return models.vae(nets.mlp((hidden,), 4), nets.mlp((hidden,), SHAPE), latent_dim=2, **options)


def one_device():
    return parallel.make_mesh(jax.devices()[:1])


def go(steps: int | None = 20, *, model=None, tx=None, data=None, **options) -> Fit:
    """Trains on one device with lines every 5 steps, unless told otherwise."""
    options = {"batch_size": 16, "mesh": one_device(), "log_every": 5, **options}
    return fit(
        small() if model is None else model,
        optax.adam(1e-2) if tx is None else tx,
        source() if data is None else data,
        steps=steps,
        **options,
    )
