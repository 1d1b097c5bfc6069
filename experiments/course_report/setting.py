"""The VAE of the UvA course report: MNIST drawn once as zeros and ones.

784-500-(20, 20) and 20-500-784, tanh, Bernoulli, Adam 1e-3, batch 128, 40 epochs, 815,824
parameters. The report trains on Larochelle's binarisation; the bits here are those of
`data.binarised`, which is a protocol of its own.
"""

import optax

from jaxvae import models, nets
from jaxvae.types import Model

BATCH_SIZE, EPOCHS = 128, 40
LATENT_DIMS = (20, 2)
SPLITS = ("train[:50000]", "train[50000:]", "test")  # train, valid, test
K = 5000  # draws an image, of the likelihood


def build(shape: tuple[int, ...], latent_dim: int) -> Model:
    """Returns the report's VAE: 815,824 parameters for 28x28 images and 20 latent dimensions."""
    encoder = nets.mlp((500,), 2 * latent_dim, heads=2, act="tanh")
    return models.vae(encoder, nets.mlp((500,), shape, act="tanh"), latent_dim=latent_dim)


def optimiser() -> optax.GradientTransformation:
    """Returns Adam at 1e-3."""
    return optax.adam(1e-3)
