"""A small VAE, its data, and a short run of it, for tests of training and checkpoints."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvae import data, models, nets, parallel, types, writers
from jaxvae.nets.layers import BatchNorm, Dense
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


class _Normed(nn.Module):
    """One hidden layer with BatchNorm."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x, *, cond=None, train):
        h = Dense(6)(x.reshape(len(x), -1))
        return Dense(math.prod(self.shape))(nn.tanh(BatchNorm()(h, train=train))).reshape(
            -1, *self.shape
        )


def normed(**options) -> types.Model:
    """Returns a VAE with BatchNorm in both nets: what it gives with `stats="batch"` depends on the
    whole batch."""
    return models.vae(
        nets.from_linen(_Normed((4,))), nets.from_linen(_Normed(SHAPE)), latent_dim=2, **options
    )


def precisions(function, *args) -> set[str]:
    """Returns the precisions of all matrix products and convolutions of a traced function."""
    text = str(jax.make_jaxpr(lambda *args: function(*args))(*args))
    products = len(re.findall(r"dot_general\[|conv_general_dilated\[", text))
    found = re.findall(r"precision=\(?(?:Precision\.)?(\w+)", text)
    assert products and len(found) == products, text
    return set(found)


def params(result: Fit) -> list:
    """Returns the leaves of the parameters of a run, on the host."""
    return jax.tree.leaves(jax.device_get(result.train_state.params))


def assert_same(a, b) -> None:
    """Asserts that two lists of arrays are equal bit by bit."""
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def log_of(folder) -> list[dict]:
    """Returns the lines of a run's log without what depends on the clock."""
    return [
        {k: v for k, v in line.items() if k != "images_per_s"}
        for line in writers.read(folder / "metrics.jsonl")
    ]
