"""The preset `intro_vae`."""

import dataclasses
from typing import Literal

from jaxvae.errors import UserError
from jaxvae.presets import introspective
from jaxvae.presets.config import Number, Preset, System
from jaxvae.presets.introspective import Introspective


@dataclasses.dataclass(frozen=True)
class IntroVAE(Introspective):
    """Train an IntroVAE (Huang et al. 2018); it needs --m."""

    m: Number = None
    """Margin on the KL of fakes, in nats; there is no value that works everywhere."""
    beta_neg: float = 1.0
    """Weight of the hinge."""
    convention: Literal["paper", "released"] = "paper"
    """The hinge of each example, or of the batch mean as in IntroVAE's own code, whose plain VAE
    (--num-vae) has no weights."""

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        if self.m is None:
            raise UserError(
                "an IntroVAE needs --m, the margin on the KL of generated samples in nats, such as "
                "--m 1."
            )
        self.check_numbers("m", least=0.0)


def build(config: IntroVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the IntroVAE of these options."""
    from jaxvae import models
    from jaxvae.presets import parts

    pair = parts.nets_of(config, shape, num_classes)
    options = introspective.model_options(config)
    options |= {"m": config.m, "beta_neg": config.beta_neg, "convention": config.convention}
    weights = {"beta_rec": 1.0, "beta_kl": 1.0} if config.convention == "released" else {}
    model = models.intro_vae(*pair, **options)
    return introspective.system(config, model, pair, num_classes, **weights)


PRESET = Preset(
    IntroVAE,
    build,
    equation="encoder: rec + beta_kl KL + beta_neg max(0, m - KL(fake)); decoder: rec + beta_neg KL(fake)",
)
