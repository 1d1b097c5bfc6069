"""The preset `gan`."""

import dataclasses
from typing import Literal

from jaxvae.errors import UserError
from jaxvae.presets.config import Number, Options, Preset, System, Width

PENALTY, CLIP, GAMMA, BALANCE_RATE = 10.0, 0.01, 0.75, 1e-3
OF_LOSS = {  # options that few losses have
    "penalty": ("wgan_gp", "dragan"),
    "clip": ("wgan",),
    "gamma": ("began",),
    "balance_rate": ("began",),
}
OF_CODE = ("lsgan", "wgan_gp", "dragan", "began")  # losses that the study's code has otherwise


@dataclasses.dataclass(frozen=True)
class GAN(Options):
    """Train a generative adversarial network (Goodfellow et al. 2014)."""

    net: Literal["mlp", "infogan"] = "mlp"
    """Networks: the course report's, or the GAN study's; infogan takes images whose sides 4
    divides."""
    shrink: int = 1
    """Divides all widths."""
    latent_dim: Width = 100
    """Size of z."""
    prior: Literal["normal", "uniform"] = "normal"
    """Of z: N(0, I), or U(-1, 1)."""
    loss: Literal["ns", "mm", "lsgan", "wgan", "wgan_gp", "dragan", "began"] = "ns"
    """Non-saturating, minimax, least squares, Wasserstein with clipped weights or with a gradient
    penalty, non-saturating with one near the data, errors of an autoencoder in balance."""
    convention: Literal["paper", "released"] = "paper"
    """Of lsgan, of the penalty and of began's balance: the papers', or that of the GAN study's
    code."""
    penalty: Number = None
    """Weight of the penalty of wgan_gp or dragan (default: 10)."""
    clip: Number = None
    """Largest absolute weight of wgan's discriminator (default: 0.01)."""
    gamma: Number = None
    """Error of fakes over that of data that began keeps (default: 0.75)."""
    balance_rate: Number = None
    """How fast began's balance moves (default: 0.001)."""
    first: Literal["generator", "discriminator"] = "generator"
    """Which moves first in a step."""
    every: int = 1
    """Steps of the discriminator for one of the generator."""
    same_noise: bool = False
    """Whether both have the same z in a step."""
    beta1: float = 0.9
    """First decay of Adam and its kin."""
    learning_rate: float = 2e-4
    """Of both optimisers, before --warmup and --lr-schedule."""
    batch_size: int = 64
    """Examples per step, over all devices."""

    @property
    def convolves(self) -> bool:
        """Whether the nets convolve."""
        return self.net == "infogan"

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_beta1(self.beta1, GAN.beta1)
        self.check_counts("shrink", "latent_dim", "every")
        self.check_numbers("penalty", "balance_rate", least=0.0)
        self.check_numbers("gamma", least=0.0, at_most=1.0)
        self.check_numbers("clip", above=0.0)
        if self.same_noise and self.first == "generator" and self.every > 1:
            raise UserError(
                "a generator that moves first, and not at every step, has no noise to hand on: leave "
                "out --same-noise or --every, or use --first discriminator."
            )
        for name, losses in OF_LOSS.items():
            if getattr(self, name) is not None and self.loss not in losses:
                option, of = name.replace("_", "-"), " or ".join(losses)
                raise UserError(f"--{option} is of --loss {of}: leave it out with {self.loss}.")
        if self.convention == "released" and self.loss not in OF_CODE:
            *others, last = OF_CODE
            raise UserError(
                f"--convention released differs from the papers for --loss {', '.join(others)} and "
                f"{last} alone: leave it out with {self.loss}."
            )
        if self.loss == "began" and self.net != "infogan":
            raise UserError("--loss began needs an autoencoder, which is of --net infogan.")


def build(config: GAN, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the GAN of these options, for data of `shape` [H, W, C], in [0, 1], or [n]."""
    import jax.numpy as jnp
    import optax

    from jaxvae import models, nets
    from jaxvae.data.preprocess import make_preprocess
    from jaxvae.presets import optimise, parts

    sizes = {"dtype": jnp.dtype(config.dtype), "shrink": config.shrink}
    if config.net == "mlp":
        pair = nets.mlp_gan(shape, output="unit" if len(shape) == 3 else "linear", **sizes)
    else:
        norm = config.loss not in ("wgan_gp", "dragan")  # whose penalty is of single examples
        pair = nets.infogan_gan(shape, latent_dim=config.latent_dim, batch_norm=norm, **sizes)
    names = ("latent_dim", "convention", "prior", "first", "every", "same_noise")
    options = {name: getattr(config, name) for name in names}
    if config.loss == "began":
        gamma = GAMMA if config.gamma is None else config.gamma
        rate = BALANCE_RATE if config.balance_rate is None else config.balance_rate
        judge = nets.infogan_autoencoder(shape, **sizes)
        model = models.began(pair[0], judge, gamma=gamma, rate=rate, **options)
    else:
        penalty = PENALTY if config.penalty is None else config.penalty
        model = models.gan(*pair, loss=config.loss, penalty=penalty, **options)
    turns = {"generator": config.every, "discriminator": 1}
    tx = {
        name: optimise.transformation(config, config.learning_rate, every=every, b1=config.beta1)
        for name, every in turns.items()
    }
    if config.loss == "wgan":
        clip = models.clip_weights(CLIP if config.clip is None else config.clip)
        tx["discriminator"] = optax.chain(tx["discriminator"], clip)
    augment = parts.augmentation(config)
    return System(model, tx, make_preprocess(), augment, latent_dim=config.latent_dim)


PRESET = Preset(
    GAN, build, equation="min_G max_D E[log D(x)] + E[log(1 - D(G(z)))], or what --loss names"
)
