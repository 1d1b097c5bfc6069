"""The preset `soft_intro_vae`."""

import dataclasses
from typing import Literal

from jaxvae.presets import introspective
from jaxvae.presets.config import Number, Preset, System
from jaxvae.presets.introspective import Introspective


@dataclasses.dataclass(frozen=True)
class SoftIntroVAE(Introspective):
    """Train a Soft-IntroVAE (Daniel & Tamar 2021)."""

    beta_neg: Number = None
    """Weight of the KL of fakes in the exponential (default: the size of z)."""
    s: Number = None
    """Scale of the ELBO (default: 1 / number of values of an example)."""
    alpha: float = 2.0
    """Sharpness of the exponential."""
    gamma_fakes: float = 1.0
    """Weight of the fakes' ELBO in the decoder (gamma in the paper's Eq. 4)."""
    gamma_r: float = 1e-8
    """Weight of the fakes' error in the decoder."""
    convention: Literal["paper", "released"] = "released"
    """What is held fixed: as in Algorithm 2, or as in the authors' code."""

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_numbers("s", "alpha", above=0.0)
        self.check_numbers("gamma_fakes", "gamma_r", least=0.0)


def build(config: SoftIntroVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the Soft-IntroVAE of these options."""
    from jaxvae import models
    from jaxvae.presets import parts

    pair = parts.nets_of(config, shape, num_classes)
    model = models.soft_intro_vae(
        *pair,
        **introspective.model_options(config),
        beta_neg=config.beta_neg,
        s=config.s,
        alpha=config.alpha,
        gamma=config.gamma_fakes,
        gamma_r=config.gamma_r,
        convention=config.convention,
    )
    return introspective.system(config, model, pair, num_classes)


PRESET = Preset(
    SoftIntroVAE,
    build,
    equation="encoder: -s ELBO(x) + 1/alpha exp(alpha s ELBO(fake)); decoder: s rec(x) - gamma s ELBO(fake)",
)
