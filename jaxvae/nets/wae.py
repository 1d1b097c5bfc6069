"""The net of the Wasserstein auto-encoder's CelebA runs, as the two-stage VAE's code builds it.

encoder   conv 128 s1, 256 s2, 512 s2, 1024 s2 (k5 SAME), each with BatchNorm and ReLU; linear heads, mean and log sd
decoder   dense H/8 W/8 1024, ReLU; transposed conv 512, 256, 128 (k5 s2), each with BatchNorm and ReLU; transposed
          conv C (k5 s1)

Glorot weights, zero biases; BatchNorm with TensorFlow's running averages, decay 0.999.

Sources: Tolstikhin et al. 2018 (arXiv 1711.01558), appendix; Dai & Wipf 2019, released code, class
Wae.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import check_count
from jaxvae.nets.layers import Conv, Dense, check_images, from_linen, log_variance, tf_batch_norm
from jaxvae.types import Net


class Encoder(nn.Module):
    """Convolutions and the heads."""

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        h = x
        for i, width in enumerate(self.widths):
            h = Conv(width, 5, 1 if i == 0 else 2, init_name="glorot", dtype=self.dtype)(h)
            h = nn.relu(tf_batch_norm(self.dtype)(h, train=train))
        h = h.reshape(h.shape[0], -1)
        y = jnp.concatenate([Dense(n, "glorot", self.dtype)(h) for n in self.heads], axis=-1)
        return log_variance(y.astype(jnp.float32), self.heads[-1], "log_sd")


class Decoder(nn.Module):
    """A dense layer and transposed convolutions."""

    shape: tuple[int, int, int]
    widths: tuple[int, ...]
    output: str
    dtype: Any

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        (height, width, colours), (first, *rest) = self.shape, self.widths
        h = nn.relu(Dense(first * (height // 8) * (width // 8), "glorot", self.dtype)(z))
        h = h.reshape(-1, height // 8, width // 8, first)
        options = {"transposed": True, "init_name": "glorot", "dtype": self.dtype}
        for channels in rest:
            h = nn.relu(tf_batch_norm(self.dtype)(Conv(channels, 5, 2, **options)(h), train=train))
        y = Conv(colours, 5, 1, **options)(h).astype(jnp.float32)
        return nn.sigmoid(y) if self.output == "sigmoid" else y


def wae(
    shape: Sequence[int] = (64, 64, 3),
    *,
    latent_dim: int = 64,
    heads: Sequence[int] | None = None,
    output: str = "sigmoid",
    shrink: int = 1,
    dtype: Any = jnp.float32,
) -> tuple[Net, Net]:
    """Returns (encoder, decoder): x [B, H, W, C] -> [B, sum(heads)], z [B, D] -> [B, H, W, C].

    Args:
        shape: of an image, (H, W, C); 8 divides H and W. The paper's is 64x64x3, with 47,082,627
            parameters.
        latent_dim, heads, output, shrink, dtype: as in `infogan`.

    Raises:
        UserError: for images whose sides 8 does not divide, and an unknown output.
    """
    shape, heads = check_images("WAE", shape, latent_dim, heads, output, multiple=8)
    check_count("shrink", shrink)
    widths = tuple(max(1, width // shrink) for width in (128, 256, 512, 1024))
    decoder = Decoder(shape, widths[::-1], output, dtype)
    return from_linen(Encoder(widths, heads, dtype)), from_linen(decoder)
