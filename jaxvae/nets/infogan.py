"""The InfoGAN-style nets of the two-stage VAE's Table 1, and of the GAN study it compares with.

encoder   conv 64, conv 128 (k4 s2 SAME), dense 1024, one linear head; leaky ReLU 0.2; BatchNorm on all but the first
          and last; spectral normalisation on all four
decoder   dense 1024, dense H/4 W/4 128, transposed conv 64 (k4 s2 SAME), transposed conv C; BatchNorm and ReLU on all
          but the last; no spectral normalisation

Weights N(0, 0.02^2), cut at two standard deviations in convolutions; zero biases; BatchNorm with
TensorFlow's running averages, decay 0.999. The last head is v with sd = 1e-6 + log(1 + e^v).

Sources: Dai & Wipf 2019 (arXiv 1903.05789), section 5; its released code,
network/two_stage_vae_model.py.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import check_count, unknown
from jaxvae.nets.layers import Conv, Dense, check_images, from_linen, log_variance, tf_batch_norm
from jaxvae.nets.spectral import SpectralNorm
from jaxvae.types import Net

DENSE, CONV = "normal0.02", "cut0.02"


class Encoder(nn.Module):
    """Two convolutions, a dense layer and the heads, as one linear layer."""

    widths: tuple[int, int, int]
    heads: tuple[int, ...]
    spectral_norm: SpectralNorm
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        first, second, dense = self.widths
        options = {"dtype": self.dtype, "spectral_norm": self.spectral_norm}
        h = _leaky(Conv(first, 4, 2, init_name=CONV, **options)(x, train=train))
        h = Conv(second, 4, 2, init_name=CONV, **options)(h, train=train)
        h = _leaky(tf_batch_norm(self.dtype)(h, train=train))
        h = Dense(dense, DENSE, **options)(h.reshape(h.shape[0], -1), train=train)
        h = _leaky(tf_batch_norm(self.dtype)(h, train=train))
        y = Dense(sum(self.heads), DENSE, **options)(h, train=train).astype(jnp.float32)
        return log_variance(y, self.heads[-1], "softplus")


class Decoder(nn.Module):
    """Two dense layers and two transposed convolutions."""

    shape: tuple[int, int, int]
    widths: tuple[int, int, int]
    output: str
    dtype: Any

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        last, first, dense = self.widths
        height, width, colours = self.shape
        h = nn.relu(tf_batch_norm(self.dtype)(Dense(dense, DENSE, self.dtype)(z), train=train))
        h = Dense(first * (height // 4) * (width // 4), DENSE, self.dtype)(h)
        h = nn.relu(tf_batch_norm(self.dtype)(h, train=train))
        h = h.reshape(-1, height // 4, width // 4, first)
        options = {"transposed": True, "init_name": DENSE, "dtype": self.dtype}
        h = nn.relu(tf_batch_norm(self.dtype)(Conv(last, 4, 2, **options)(h), train=train))
        y = Conv(colours, 4, 2, **options)(h).astype(jnp.float32)
        return nn.sigmoid(y) if self.output == "sigmoid" else y


def _leaky(x):
    return nn.leaky_relu(x, 0.2)


def infogan(
    shape: Sequence[int],
    *,
    latent_dim: int = 64,
    heads: Sequence[int] | None = None,
    spectral_norm: SpectralNorm = True,
    output: str = "sigmoid",
    shrink: int = 1,
    dtype: Any = jnp.float32,
) -> tuple[Net, Net]:
    """Returns (encoder, decoder): x [B, H, W, C] -> [B, sum(heads)], z [B, D] -> [B, H, W, C].

    Args:
        shape: of an image, (H, W, C); 4 divides H and W.
        latent_dim: D.
        heads: widths of the encoder's outputs, the last one a scale; default mean and scale (D, D);
            (D, 1, 1) for an AR(1) posterior.
        spectral_norm: on the encoder, as released; the paper does not mention it. "released" also
            does the code's power iteration in evaluation, where True uses the vectors of training.
        output: of the decoder: "sigmoid", means in [0, 1] for a Gaussian likelihood, or "logits"
            for a Bernoulli one.
        shrink: divides every width, for tests; 1 is the paper's size (13,331,585 parameters for
            28x28x1 and D = 64).
        dtype: of the computation (float32 or bfloat16); parameters and outputs are float32.

    Raises:
        UserError: for images whose sides 4 does not divide, an unknown output, and an unknown kind
            of spectral norm.
    """
    if spectral_norm not in (True, False, "released"):
        raise unknown("spectral_norm", spectral_norm, (True, False, "released"))
    shape, heads = check_images("infogan", shape, latent_dim, heads, output, multiple=4)
    check_count("shrink", shrink)
    widths = max(1, 64 // shrink), max(1, 128 // shrink), max(1, 1024 // shrink)
    encoder = Encoder(widths, heads, spectral_norm, dtype)
    return from_linen(encoder), from_linen(Decoder(shape, widths, output, dtype))
