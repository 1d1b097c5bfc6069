"""The vanilla VAE that the rho-VAE paper compares with: facts of its released code, on our own
parts.

784-400-(10, 10) and 10-400-784, ReLU, Xavier with zero biases, Bernoulli on grey pixels, Adam 1e-3,
batch 128, 15 passes over the 60,000 training images (469 steps each). Figure 1 of the paper plots
the loss on the 10,000 test images after each pass.
"""

import math

import optax

from jaxvae import models, nets
from jaxvae.types import Model

BATCH_SIZE, EPOCHS, LATENT_DIM = 128, 15, 10
DATA = ("mnist", "fashion_mnist")
PRECISION = "float32, highest"


def build(shape: tuple[int, ...]) -> Model:
    """Returns "VanillaVAE": 640,804 parameters for 28x28 images."""
    encoder = nets.mlp((400,), 2 * LATENT_DIM, heads=2, init="xavier")
    decoder = nets.mlp((400,), shape, init="xavier")
    return models.vae(encoder, decoder, latent_dim=LATENT_DIM)


def optimiser() -> optax.GradientTransformation:
    """Returns Adam at 1e-3."""
    return optax.adam(1e-3)


def released_loss(negative_elbo: float, examples: int, batch_size: int) -> float:
    """Returns the mean loss that the released code prints: every batch's sum is divided by
    `batch_size`, the last one's too.

    With 10,000 images in 79 batches of 128 that is 10,000 / (79 * 128) = 0.989 of the true mean.
    """
    return negative_elbo * examples / (math.ceil(examples / batch_size) * batch_size)
