"""The preset `soft_intro_vae`."""

import dataclasses
from typing import Literal

from jaxvae.presets.config import VAE, Number, Preset, System


@dataclasses.dataclass(frozen=True)
class SoftIntroVAE(VAE):
    """Train a Soft-IntroVAE (Daniel & Tamar 2021)."""

    likelihood: Literal["gaussian"] = "gaussian"
    """The error is the plain squared one: that of a Gaussian with variance 1/2."""
    gamma: Literal[0.5] = 0.5  # pyright: ignore[reportInvalidTypeForm] - the one value it takes
    """That variance."""
    beta_rec: float = 1.0
    """Weight of the squared error."""
    beta_kl: float = 1.0
    """Weight of the KL of data."""
    beta_neg: Number = None
    """Weight of the KL of fakes in the exponential (default: the size of z)."""
    gamma_r: float = 1e-8
    """Weight of the fakes' error in the decoder."""
    convention: Literal["paper", "released"] = "released"
    """What is held fixed: as in Algorithm 2, or as in the authors' code."""
    learning_rate: float = 2e-4
    """Of Adam."""


def build(config: SoftIntroVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the Soft-IntroVAE of these options."""
    from jaxvae import models
    from jaxvae.presets import parts

    options = parts.introspective_options(config)
    pair = parts.nets_of(config, shape, num_classes)
    model = models.soft_intro_vae(*pair, gamma_r=config.gamma_r, **options)
    return parts.system(config, model, num_classes)


PRESET = Preset(SoftIntroVAE, build)
