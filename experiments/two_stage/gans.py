"""The GANs of Table 1, with the defaults of the study that the paper copies them from; DRAGAN but for
its BatchNorm.

InfoGAN's generator and discriminator (`nets.infogan_gan`), z of 64 from U(-1, 1), batch 64, Adam;
BEGAN's discriminator is an autoencoder. A step is one of the discriminator. The paper's numbers
are the study's best of 100 settings for each data set, which were not published.

| cell        | beta1 | learning rate | D steps | BatchNorm in D | other                       |
| ----------- | ----- | ------------- | ------- | -------------- | --------------------------- |
| gan_mm, _ns | 0     | 5e-5          | 1       | yes            |                             |
| gan_lsgan   | 0.5   | 2e-4          | 1       | yes            |                             |
| gan_wgan    | 0.5   | 5e-5          | 5       | yes            | weights in [-0.01, 0.01]    |
| gan_wgan_gp | 0.5   | 1e-4          | 5       | no             | penalty 10, z drawn anew    |
| gan_dragan  | 0.5   | 1e-4          | 1       | no             | penalty 10                  |
| gan_began   | 0.5   | 1e-4          | 5       | no             | rate of k 0.001, gamma 0.75 |

DRAGAN's default has BatchNorm in the discriminator, which makes its penalty, of single examples,
one of the batch; here it has none, as in the study's narrow search.

Source: Lucic et al. 2018 (arXiv 1711.10337) and its released code, compare_gan v1.0, params.py and
generate_tasks_lib.py.
"""

import math
from typing import Any, Literal, NamedTuple

import optax

from jaxvae import models, nets
from jaxvae.types import Model

LATENT_DIM, BATCH_SIZE, CLIP = 64, 64, 0.01
EPOCHS = {"mnist": 20, "fashion_mnist": 20, "cifar10": 100, "celeba": 40}


class Setting(NamedTuple):
    """The settings of one kind: the study's defaults, but for DRAGAN's BatchNorm."""

    loss: Literal["mm", "ns", "lsgan", "wgan", "wgan_gp", "dragan", "began"]
    beta1: float = 0.5
    learning_rate: float = 1e-4
    every: int = 1  # steps of the discriminator for one of the generator
    batch_norm: bool = False  # in the discriminator


SETTINGS = {
    "gan_mm": Setting("mm", 0.0, 5e-5, 1, True),
    "gan_ns": Setting("ns", 0.0, 5e-5, 1, True),
    "gan_lsgan": Setting("lsgan", 0.5, 2e-4, 1, True),
    "gan_wgan": Setting("wgan", 0.5, 5e-5, 5, True),
    "gan_wgan_gp": Setting("wgan_gp", every=5),
    "gan_dragan": Setting("dragan"),
    "gan_began": Setting("began", every=5),
}


def build(
    method: str, shape: tuple[int, ...], *, latent_dim: int = LATENT_DIM, shrink: int = 1
) -> Model:
    """Returns the GAN of a cell, by the study's code."""
    chosen = SETTINGS[method]
    generator, discriminator = nets.infogan_gan(
        shape, latent_dim=latent_dim, batch_norm=chosen.batch_norm, shrink=shrink
    )
    options: dict[str, Any] = {"latent_dim": latent_dim, "convention": "released"}
    options |= {"prior": "uniform", "every": chosen.every}
    options["same_noise"] = chosen.loss != "wgan_gp"
    if chosen.loss == "began":
        judge = nets.infogan_autoencoder(shape, batch_norm=chosen.batch_norm, shrink=shrink)
        return models.began(generator, judge, gamma=0.75, rate=1e-3, **options)
    return models.gan(generator, discriminator, loss=chosen.loss, penalty=10.0, **options)


def length(method: str, name: str, size: int, share: float) -> tuple[int, dict[str, Any]]:
    """Returns (steps of the discriminator, optimisers by parameter group) of a cell of data `name`
    with `size` training images; all times `share`."""
    chosen = SETTINGS[method]
    steps = max(1, math.floor(share * EPOCHS[name] * size / BATCH_SIZE))
    adam = optax.adam(chosen.learning_rate, b1=chosen.beta1)
    clipped = optax.chain(adam, models.clip_weights(CLIP)) if chosen.loss == "wgan" else adam
    return steps, {"generator": adam, "discriminator": clipped}
