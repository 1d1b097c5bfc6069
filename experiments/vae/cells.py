"""The vanilla VAE that the rho-VAE paper compares with: facts of its released code, on our own
parts.

784-400-(10, 10) and 10-400-784, ReLU, Xavier with zero biases, Bernoulli on grey pixels, Adam 1e-3,
batch 128, 15 passes over the 60,000 training images (469 steps each). Figure 1 of the paper plots
the loss on the 10,000 test images after each pass.
"""

import math

import jax
import optax

from experiments.runner import Cell, Measure
from jaxvae import data, models, nets
from jaxvae.data.preprocess import make_preprocess
from jaxvae.train import evaluate, fit
from jaxvae.types import Model

BATCH_SIZE, EPOCHS, LATENT_DIM = 128, 15, 10
PRECISION = "float32, highest"


def vanilla(shape: tuple[int, ...]) -> Model:
    """Returns "VanillaVAE": 640,804 parameters for 28x28 images."""
    encoder = nets.mlp((400,), 2 * LATENT_DIM, heads=2, init="xavier")
    decoder = nets.mlp((400,), shape, init="xavier")
    return models.vae(encoder, decoder, latent_dim=LATENT_DIM)


def released_loss(negative_elbo: float, examples: int, batch_size: int) -> float:
    """Returns the mean loss that the released code prints: every batch's sum is divided by
    `batch_size`, the last one's too.

    With 10,000 images in 79 batches of 128 that is 10,000 / (79 * 128) = 0.989 of the true mean.
    """
    return negative_elbo * examples / (math.ceil(examples / batch_size) * batch_size)


def run(name: str, seed: int, smoke: bool) -> list[Measure]:
    """Trains on all of "train" and measures on "test", as the paper does; nothing is chosen by the
    result."""
    train = data.load("digits" if smoke else name, "train")
    test = data.load("digits" if smoke else name, "test")
    steps = 20 if smoke else EPOCHS * math.ceil(train.size / BATCH_SIZE)
    model, preprocess = vanilla(train.shape), make_preprocess("grey")
    with jax.default_matmul_precision("highest"):
        result = fit(
            model,
            optax.adam(1e-3),
            train,
            steps=steps,
            batch_size=BATCH_SIZE,
            seed=seed,
            preprocess=preprocess,
        )
        state = result.train_state
        found = evaluate(model, state.params, state.state, test, preprocess=preprocess, seed=seed)
    value = released_loss(-found["elbo"], test.size, BATCH_SIZE)
    nats = [
        Measure(m, "nats", found[m], test.size, steps, PRECISION) for m in ("elbo", "rec", "kl")
    ]
    return [Measure("test_loss", "rho-vae-released", value, test.size, steps, PRECISION), *nats]


CELLS = [
    Cell(f"{name}/vanilla", lambda seed, smoke, name=name: run(name, seed, smoke))
    for name in ("mnist", "fashion_mnist")
]
