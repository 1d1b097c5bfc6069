"""The generators and discriminators of the course report and of the GAN study.

mlp_gan      G 128 leaky, [256, BatchNorm, leaky], [512, BatchNorm, leaky], [1024, leaky, BatchNorm], tanh;
             D [512, leaky, dropout 0.3], [256, leaky, dropout 0.3], one logit
infogan_gan  G dense 1024, dense H/4 W/4 128, transposed conv 64 (k4 s2 SAME), each with BatchNorm and leaky,
             transposed conv C (k4 s2 SAME), sigmoid;
             D conv 64, conv 128 (k4 s2 SAME), dense 1024, leaky, one logit; BatchNorm on the second and third
infogan_autoencoder  conv 64, leaky, conv 128 (k4 s2 SAME), dense 64 and H/4 W/4 128, transposed conv 64
             (k4 s2 SAME), each leaky, transposed conv C, sigmoid; BatchNorm, if any, behind the dense layers and conv 64

Leaky is a leaky ReLU of slope 0.2. The first pair starts and averages as PyTorch does. In the second
weights are N(0, 0.02^2), cut at two standard deviations in convolutions, biases 0, and BatchNorm has
epsilon 1e-3 and TensorFlow's running averages of decay 0.999.

Sources: the course report (normalising flows, GANs and VAEs on MNIST), its released code, gan.py;
Lucic et al. 2018 (arXiv 1711.10337), section 5.1, whose architecture is that of InfoGAN (Chen et
al. 2016, arXiv 1606.03657), and its released code, compare_gan v1.0.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count, check_number
from jaxvae.nets.layers import BatchNorm, Conv, Dense, Dropout, check_images, from_linen, join
from jaxvae.types import Net

DENSE, CONV = "normal0.02", "cut0.02"
OUTPUTS = ("unit", "linear")


def _leaky(x):
    return nn.leaky_relu(x, 0.2)


def _row(x):
    return x.reshape(x.shape[0], -1)


# ---- the course report's ---------------------------------------------------------------------


class Generator(nn.Module):
    """z [B, D] -> x [B, *out]; "unit" brings the tanh of the last layer from [-1, 1] to [0, 1]."""

    out: tuple[int, ...]
    widths: tuple[int, ...]
    output: str
    dtype: Any

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        first, *middle, last = self.widths
        h = _leaky(Dense(first, dtype=self.dtype)(join(z.astype(self.dtype), cond)))
        for width in middle:
            h = _leaky(BatchNorm(dtype=self.dtype)(Dense(width, dtype=self.dtype)(h), train=train))
        h = BatchNorm(dtype=self.dtype)(_leaky(Dense(last, dtype=self.dtype)(h)), train=train)
        y = Dense(math.prod(self.out), dtype=self.dtype)(h).astype(jnp.float32)
        y = 0.5 * (jnp.tanh(y) + 1.0) if self.output == "unit" else y
        return y.reshape(-1, *self.out)


class Discriminator(nn.Module):
    """x [B, ...] -> logits [B]; "unit" takes x from [0, 1] to [-1, 1] first."""

    widths: tuple[int, ...]
    dropout: float
    output: str
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        h = join(_row(2.0 * x - 1.0 if self.output == "unit" else x).astype(self.dtype), cond)
        for width in self.widths:
            h = _leaky(Dense(width, dtype=self.dtype)(h))
            h = Dropout(self.dropout)(h, train=train)
        return Dense(1, dtype=self.dtype)(h)[:, 0].astype(jnp.float32)


def mlp_gan(
    shape: int | Sequence[int],
    *,
    dropout: float = 0.3,
    output: str = "unit",
    shrink: int = 1,
    dtype: Any = jnp.float32,
) -> tuple[Net, Net]:
    """Returns (generator, discriminator) of the course report: z [B, D] -> [B, *shape] and
    x [B, *shape] -> logits [B].

    With D = 100 and images of 28x28 they have 1,510,032 and 533,505 parameters. The report's pixels
    are in [-1, 1]; here both nets change the scale themselves, so that images are in [0, 1] as
    everywhere else and the losses are the report's. A condition [B, n] goes beside z and x.

    Args:
        shape: of an example.
        dropout: of the discriminator's hidden layers, in [0, 1).
        output: of the generator: "unit", numbers in [0, 1], or "linear", any numbers.
        shrink: divides every width, for tests; 1 is the report's size.
        dtype: of the computation (float32 or bfloat16); parameters and outputs are float32.

    Raises:
        UserError: for a shape or a dropout that no net has, and an unknown output.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    for side in shape:
        check_count("a side of the data", side)
    check_number("dropout", dropout, least=0.0, below=1.0)
    check_count("shrink", shrink)
    if output not in OUTPUTS:
        raise UserError(f"output must be 'unit' (numbers in [0, 1]) or 'linear', not {output!r}.")
    up, down = (
        tuple(max(1, width // shrink) for width in widths)
        for widths in ((128, 256, 512, 1024), (512, 256))
    )
    return from_linen(Generator(shape, up, output, dtype)), from_linen(
        Discriminator(down, dropout, output, dtype)
    )


# ---- the GAN study's ---------------------------------------------------------------------------


def _study_norm(dtype: Any) -> BatchNorm:
    """Returns BatchNorm with the settings of compare_gan."""
    return BatchNorm(momentum=0.001, epsilon=1e-3, convention="tensorflow", dtype=dtype)


class StudyGenerator(nn.Module):
    """A latent [B, D] to an image [B, H, W, C] in [0, 1]."""

    shape: tuple[int, int, int]
    widths: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        last, first, dense = self.widths
        height, width, colours = self.shape

        def normed(x):
            return _leaky(_study_norm(self.dtype)(x, train=train))

        h = normed(Dense(dense, DENSE, self.dtype)(z))
        h = normed(Dense(first * (height // 4) * (width // 4), DENSE, self.dtype)(h))
        h = h.reshape(-1, height // 4, width // 4, first)
        h = normed(Conv(last, 4, 2, transposed=True, init_name=DENSE, dtype=self.dtype)(h))
        y = Conv(colours, 4, 2, transposed=True, init_name=DENSE, dtype=self.dtype)(h)
        return nn.sigmoid(jnp.asarray(y, jnp.float32))


class StudyDiscriminator(nn.Module):
    """An image [B, H, W, C] to one logit [B]."""

    widths: tuple[int, ...]
    batch_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        first, second, dense = self.widths

        def normed(x):
            return _leaky(_study_norm(self.dtype)(x, train=train) if self.batch_norm else x)

        h = _leaky(Conv(first, 4, 2, init_name=CONV, dtype=self.dtype)(x))
        h = normed(Conv(second, 4, 2, init_name=CONV, dtype=self.dtype)(h))
        h = normed(Dense(dense, DENSE, self.dtype)(_row(h)))
        return Dense(1, DENSE, self.dtype)(h)[:, 0].astype(jnp.float32)


class StudyAutoencoder(nn.Module):
    """An image [B, H, W, C] to an image [B, H, W, C] in [0, 1], through a code."""

    widths: tuple[int, ...]
    batch_norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        first, second, code = self.widths
        _, height, width, colours = x.shape

        def normed(x):
            return _leaky(_study_norm(self.dtype)(x, train=train) if self.batch_norm else x)

        h = _leaky(Conv(first, 4, 2, init_name=CONV, dtype=self.dtype)(x))
        h = Conv(second, 4, 2, init_name=CONV, dtype=self.dtype)(h)  # and no activation
        h = normed(Dense(code, DENSE, self.dtype)(_row(h)))
        h = normed(Dense(second * (height // 4) * (width // 4), DENSE, self.dtype)(h))
        h = h.reshape(-1, height // 4, width // 4, second)
        h = normed(Conv(first, 4, 2, transposed=True, init_name=DENSE, dtype=self.dtype)(h))
        y = Conv(colours, 4, 2, transposed=True, init_name=DENSE, dtype=self.dtype)(h)
        return nn.sigmoid(jnp.asarray(y, jnp.float32))


def infogan_autoencoder(
    shape: Sequence[int],
    *,
    code_dim: int = 64,
    batch_norm: bool = False,
    shrink: int = 1,
    dtype: Any = jnp.float32,
) -> Net:
    """Returns the GAN study's autoencoder for BEGAN: x [B, H, W, C] -> x [B, H, W, C] in [0, 1].

    Args:
        shape: of an image, (H, W, C); 4 divides H and W.
        code_dim: width of its narrowest layer.
        batch_norm: the study's default has none.
        shrink: divides the other widths, for tests; 1 is the study's size (1,073,601 parameters for
            28x28x1).
        dtype: of the computation (float32 or bfloat16); parameters and outputs are float32.

    Raises:
        UserError: for images whose sides 4 does not divide.
    """
    check_images("infogan", shape, code_dim, None, "sigmoid", multiple=4)
    check_count("shrink", shrink)
    widths = max(1, 64 // shrink), max(1, 128 // shrink), code_dim
    return from_linen(StudyAutoencoder(widths, batch_norm, dtype))


def infogan_gan(
    shape: Sequence[int],
    *,
    latent_dim: int = 64,
    batch_norm: bool = True,
    shrink: int = 1,
    dtype: Any = jnp.float32,
) -> tuple[Net, Net]:
    """Returns (generator, discriminator) of the GAN study: z [B, D] -> x [B, H, W, C] in [0, 1] and
    x -> logits [B].

    Args:
        shape: of an image, (H, W, C); 4 divides H and W.
        latent_dim: D.
        batch_norm: in the discriminator; the study has it for all losses but WGAN-GP's, whose
            penalty is of single examples. The generator always has it.
        shrink: divides every width, for tests; 1 is the study's size.
        dtype: of the computation (float32 or bfloat16); parameters and outputs are float32.

    Raises:
        UserError: for images whose sides 4 does not divide.
    """
    shape, _ = check_images("infogan", shape, latent_dim, None, "sigmoid", multiple=4)
    check_count("shrink", shrink)
    widths = tuple(max(1, width // shrink) for width in (64, 128, 1024))
    return from_linen(StudyGenerator(shape, widths, dtype)), from_linen(
        StudyDiscriminator(widths, batch_norm, dtype)
    )
