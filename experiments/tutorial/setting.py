"""What the tutorial's released code trains, on MNIST: facts of its nets and solver.

Adam 1e-3 with beta1 = 0, L2 of 5e-4 on weights, batches of 100, 60,000 steps, cross-entropy of grey
pixels; z of 30. `nets.doersch` has the layers and how they start, `presets.cvae.optimiser` the
solver. The released pictures draw the given column with thresholds from U(0, 2), where training has
U(0, 1): here both have U(0, 1).
"""

from typing import Any, NamedTuple

import numpy as np

from jaxvae import models, nets
from jaxvae.data import completion
from jaxvae.data.preprocess import Preprocess, make_preprocess
from jaxvae.types import Model

BATCH_SIZE, STEPS, LATENT_DIM = 100, 60_000, 30
LATENT_DIMS = (2, 4, 30, 1000, 10_000)  # "less than 4 ... noticeably worse", 1,000 good, 10,000 not
K = 10  # completions of each image
PARTS = {"column": "binarised", "left": "grey"}  # what is given, and how
METHODS = ("cvae", "regressor")
SMALL = (8, 7, 6)  # widths of a smoke run


class Task(NamedTuple):
    """A model, and the batches that it learns from."""

    model: Model
    preprocess: Preprocess
    given: np.ndarray | None = None  # which pixels [H, W]


def vae(shape: tuple[int, ...], latent_dim: int, widths: tuple[int, ...]) -> Task:
    """Returns the VAE of section 4.1: 2,844,844 parameters for MNIST and z of 30."""
    pair = nets.tutorial_vae(shape, latent_dim=latent_dim, widths=widths)
    return Task(models.vae(*pair, latent_dim=latent_dim), make_preprocess())


def completing(part: str, method: str, shape: tuple[int, ...], widths: tuple[int, ...]) -> Task:
    """Returns the conditional VAE of section 4.2, or its regressor, given a part of an image."""
    given = completion.given_pixels(shape, part)
    missing = int((~given).sum()) * shape[-1]
    if method == "regressor":
        model = models.regressor(nets.completion_regressor(missing, widths=widths))
        model = models.completion(model, given)
    else:
        trio = nets.completion_nets(missing, latent_dim=LATENT_DIM, widths=widths)
        model = models.cvae(*trio, given=given, latent_dim=LATENT_DIM)
    how: Any = PARTS[part]
    return Task(model, completion.make_completion(given, given=how), given)


def about(part: str | None) -> str:
    """Returns the protocol of likelihoods: of images, or of what is missing beside a part."""
    given = "" if part is None else f", given the {part}, {PARTS[part]}"
    return f"nats, grey pixels{given}"
