"""The nets of Doersch's tutorial: its VAE, its conditional VAE, and the regressor beside that.

tutorial_vae          encoder n-1000-500-250, mean from the ReLU of the last layer, log standard deviation from
                      its input; decoder D-250-500-1000-n; ReLU
completion_nets       condition c-1000-500-250-250: the second layer a2 and the last one a4 before their ReLUs;
                      encoder n-1000-(500 + a2)-250 and the same heads; decoder D-(250 + a4)-500-1000-n
completion_regressor  c-1000-500-250-250-500-1000-n

The condition is added to a hidden layer before its ReLU. Hidden and last layers start as N(0, 0.1^2)
with probability 15 / (their outputs), else at 0; mean, log standard deviation and a4 as N(0, 0.1^2);
biases at 0.

Source: Doersch 2016 (arXiv 1606.05908), section 4, and its released code, mnist_vae.prototxt,
mnist_cvae.prototxt and mnist_regressor.prototxt, which follow Caffe's MNIST autoencoder.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count
from jaxvae.nets.layers import from_linen
from jaxvae.types import Net

WIDTHS = (1000, 500, 250)
SPREAD, DRAWN = 0.1, 15  # of weights; the share of them that is drawn is this over the outputs


def _sparse(rng, shape, dtype=jnp.float32):
    """Returns N(0, 0.1^2) with probability 15 / outputs, else 0."""
    rng_kept, rng_value = jax.random.split(rng)
    kept = jax.random.bernoulli(rng_kept, min(1.0, DRAWN / shape[-1]), shape)
    return jnp.where(kept, SPREAD * jax.random.normal(rng_value, shape, dtype), 0.0)


SPARSE, DENSE = _sparse, nn.initializers.normal(SPREAD)


def _dense(width, start, dtype, *, name):
    return nn.Dense(width, dtype=dtype, kernel_init=start, name=name)


def _widened(h, widths, out, dtype, *, start):
    """Returns h through hidden layers, the first of them called "hidden<start>", as [B, *out]; the
    layers belong to the module in whose `__call__` they are made."""
    for i, width in enumerate(widths, start=start):
        h = nn.relu(_dense(width, SPARSE, dtype, name=f"hidden{i}")(h))
    y = _dense(math.prod(out), SPARSE, dtype, name="out")(h)
    return y.reshape(-1, *out).astype(jnp.float32)


def _row(x, dtype):
    return x.reshape(x.shape[0], -1).astype(dtype)


class Condition(nn.Module):
    """The given pixels [B, ...] -> a2 and a4 side by side [B, widths[1] + widths[2]]."""

    widths: tuple[int, int, int]
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        first, second, third = self.widths
        h = nn.relu(_dense(first, SPARSE, self.dtype, name="a1")(_row(x, self.dtype)))
        a2 = _dense(second, SPARSE, self.dtype, name="a2")(h)
        h = nn.relu(_dense(third, SPARSE, self.dtype, name="a3")(nn.relu(a2)))
        a4 = _dense(third, DENSE, self.dtype, name="a4")(h)
        return jnp.concatenate([a2, a4], axis=-1).astype(jnp.float32)


class Encoder(nn.Module):
    """x [B, ...] and what `Condition` gives -> mean and log-variance side by side [B, 2 D]."""

    latent_dim: int
    widths: tuple[int, int, int]
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        first, second, third = self.widths
        h = nn.relu(_dense(first, SPARSE, self.dtype, name="hidden1")(_row(x, self.dtype)))
        h = _dense(second, SPARSE, self.dtype, name="hidden2")(h)
        h = h if cond is None else h + cond[:, :second].astype(self.dtype)
        last = _dense(third, SPARSE, self.dtype, name="hidden3")(nn.relu(h))
        mean = _dense(self.latent_dim, DENSE, self.dtype, name="mean")(nn.relu(last))
        log_sd = _dense(self.latent_dim, DENSE, self.dtype, name="log_sd")(last)
        return jnp.concatenate([mean, 2.0 * log_sd], axis=-1).astype(jnp.float32)


class Decoder(nn.Module):
    """z [B, D] and what `Condition` gives -> logits [B, *out]."""

    out: tuple[int, ...]
    widths: tuple[int, int, int]
    dtype: Any

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        first, second, third = self.widths
        h = _dense(third, SPARSE, self.dtype, name="hidden1")(z.astype(self.dtype))
        h = nn.relu(h if cond is None else h + cond[:, second:].astype(self.dtype))
        return _widened(h, (second, first), self.out, self.dtype, start=2)


class Regressor(nn.Module):
    """The given pixels [B, ...] -> logits [B, *out]."""

    out: tuple[int, ...]
    widths: tuple[int, int, int]
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        first, second, _ = self.widths
        h = Condition(self.widths, self.dtype, name="condition")(x)[:, second:]
        h = nn.relu(h.astype(self.dtype))
        return _widened(h, (second, first), self.out, self.dtype, start=1)


def tutorial_vae(
    shape: int | Sequence[int],
    *,
    latent_dim: int = 30,
    widths: Sequence[int] = WIDTHS,
    dtype: Any = jnp.float32,
) -> tuple[Net, Net]:
    """Returns (encoder, decoder) of the tutorial's VAE: x [B, *shape] -> [B, 2 D], z [B, D] ->
    logits [B, *shape].

    For 784 pixels and D = 30 they have 1,425,810 and 1,419,034 parameters.

    Args:
        shape: of an example.
        latent_dim: D.
        widths: of the encoder's three hidden layers, reversed in the decoder.
        dtype: of the computation (float32 or bfloat16); parameters and outputs are float32.

    Raises:
        UserError: for sizes below 1, and anything but three widths.
    """
    shape, widths = _sizes(shape, widths)
    check_count("latent_dim", latent_dim)
    return from_linen(Encoder(latent_dim, widths, dtype)), from_linen(Decoder(shape, widths, dtype))


def completion_nets(
    missing: int, *, latent_dim: int = 30, widths: Sequence[int] = WIDTHS, dtype: Any = jnp.float32
) -> tuple[Net, Net, Net]:
    """Returns (encoder, decoder, condition) of the tutorial's conditional VAE, for `models.cvae`.

    The first two are those of `tutorial_vae` for the `missing` numbers, with what the third one
    makes of the given pixels as their `cond` [B, widths[1] + widths[2]].

    Args:
        missing: how many numbers of an image are to be completed; 756 in the tutorial.
        latent_dim, widths, dtype: as in `tutorial_vae`.

    Raises:
        UserError: as `tutorial_vae`.
    """
    encoder, decoder = tutorial_vae(missing, latent_dim=latent_dim, widths=widths, dtype=dtype)
    return encoder, decoder, from_linen(Condition(_sizes(missing, widths)[1], dtype))


def completion_regressor(
    missing: int, *, widths: Sequence[int] = WIDTHS, dtype: Any = jnp.float32
) -> Net:
    """Returns the tutorial's regressor, given pixels [B, c] -> logits [B, missing], for
    `models.regressor`."""
    shape, widths = _sizes(missing, widths)
    return from_linen(Regressor(shape, widths, dtype))


def _sizes(
    shape: int | Sequence[int], widths: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Returns both as tuples; raises `UserError` for sizes that no such net has."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    for side in shape:
        check_count("a side of the data", side)
    for width in widths:
        check_count("a layer's width", width)
    if len(widths) != 3:
        raise UserError(f"the tutorial's nets have three hidden widths, not {len(widths)}.")
    first, second, third = widths
    return shape, (first, second, third)
