"""The preset `intro_vae`."""

import dataclasses
from typing import Literal

from jaxvae.presets.config import VAE, Number, Preset, System


@dataclasses.dataclass(frozen=True)
class IntroVAE(VAE):
    """Train an IntroVAE (Huang et al. 2018); it needs --m."""

    likelihood: Literal["gaussian"] = "gaussian"
    """The error is the plain squared one: that of a Gaussian with variance 1/2."""
    gamma: Literal[0.5] = 0.5  # pyright: ignore[reportInvalidTypeForm] - the one value it takes
    """That variance."""
    m: Number = None
    """Margin on the KL of fakes, in nats; there is no value that works everywhere."""
    beta_rec: float = 1.0
    """Weight of the squared error."""
    beta_kl: float = 1.0
    """Weight of the KL of data."""
    beta_neg: float = 1.0
    """Weight of the hinge."""
    convention: Literal["paper", "released"] = "paper"
    """The hinge of each example, or of the batch mean as in IntroVAE's own code."""
    learning_rate: float = 2e-4
    """Of Adam."""


def build(config: IntroVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the IntroVAE of these options."""
    from jaxvae import models
    from jaxvae.presets import parts

    options = parts.introspective_options(config)
    model = models.intro_vae(*parts.nets_of(config, shape, num_classes), m=config.m, **options)
    return parts.system(config, model, num_classes)


PRESET = Preset(IntroVAE, build)
