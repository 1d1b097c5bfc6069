"""What the course report trains on MNIST: a VAE, a GAN and a normalising flow.

    vae    784-500-(z, z) and z-500-784, tanh, of binary pixels; Adam 1e-3, batch 128, 40 epochs
    gan    `nets.mlp_gan`, z of 100, non-saturating, the generator first; Adam 2e-4, batch 64, 200 epochs
    flow   eight couplings (`nets.coupling`) of dequantised pixels; Adam 1e-3, gradients clipped to the norm 0.6,
           batch 128, 40 epochs of 40,000 images that are moved at every visit

The VAE's report trains on Larochelle's binarisation; the bits here are those of `data.binarised`,
which is a protocol of its own. The GAN's text says Adam 5e-4, its code 2e-4.
"""

from typing import NamedTuple

import optax

from jaxvae import models, nets
from jaxvae.data.preprocess import Preprocess, make_preprocess, shifted
from jaxvae.types import Model

BATCH_SIZE, EPOCHS = 128, 40
LATENT_DIMS = (20, 2)
SPLITS = {  # of MNIST
    "vae": {"train": "train[:50000]", "valid": "train[50000:]", "test": "test"},
    "gan": {"train": "train", "test": "test"},
    "flow": {"train": "train[:40000]", "valid": "train[40000:50000]", "test": "test"},
}
IMAGES = {"vae": 50_000, "gan": 60_000, "flow": 40_000}  # to train on
K = 5000  # draws an image, of the likelihood
GAN_LATENT_DIM = 100


class Task(NamedTuple):
    """A training: what learns, from what, and how long."""

    model: Model
    tx: optax.GradientTransformation
    preprocess: Preprocess
    batch_size: int
    epochs: int
    shown: tuple[int, ...]  # epochs after which samples are drawn
    max_grad_norm: float | None = None


class Sizes(NamedTuple):
    """Of the nets, which a smoke run has smaller."""

    gan_shrink: int = 1
    hidden: tuple[int, ...] = (1024, 1024)  # of a coupling


SMALL = Sizes(64, (8,))


def build(shape: tuple[int, ...], latent_dim: int) -> Model:
    """Returns the report's VAE: 815,824 parameters for 28x28 images and 20 latent dimensions."""
    encoder = nets.mlp((500,), 2 * latent_dim, heads=2, act="tanh")
    return models.vae(encoder, nets.mlp((500,), shape, act="tanh"), latent_dim=latent_dim)


def optimiser() -> optax.GradientTransformation:
    """Returns Adam at 1e-3."""
    return optax.adam(1e-3)


def vae(shape: tuple[int, ...], latent_dim: int) -> Task:
    """Returns the task of section 1."""
    return Task(
        build(shape, latent_dim),
        optimiser(),
        make_preprocess(),
        BATCH_SIZE,
        EPOCHS,
        (10, 20, 30, 40),
    )


def gan(shape: tuple[int, ...], sizes: Sizes) -> Task:
    """Returns the task of section 2: 2,043,537 parameters for MNIST."""
    pair = nets.mlp_gan(shape, shrink=sizes.gan_shrink)
    model = models.gan(*pair, latent_dim=GAN_LATENT_DIM, first="generator")
    return Task(model, optax.adam(2e-4), make_preprocess(), 64, 200, (2, 8, 100, 200))


def flow(shape: tuple[int, ...], sizes: Sizes) -> Task:
    """Returns the task of section 3: 27,685,120 parameters for MNIST."""
    model = models.flow(nets.coupling(shape, hidden=sizes.hidden), shape)
    return Task(
        model,
        optax.adam(1e-3),
        shifted(make_preprocess("dequantised")),
        BATCH_SIZE,
        EPOCHS,
        (10, 20, 30, 40),
        max_grad_norm=0.6,
    )


def system(kind: str) -> str:
    """Returns "vae", "gan" or "flow" of "z20", "gan" or "flow"."""
    return kind if kind in SPLITS else "vae"


def task(kind: str, shape: tuple[int, ...], sizes: Sizes) -> Task:
    """Returns the task of "z20", "gan" or "flow"."""
    if system(kind) == "vae":
        return vae(shape, int(kind[1:]))
    return {"gan": gan, "flow": flow}[kind](shape, sizes)
