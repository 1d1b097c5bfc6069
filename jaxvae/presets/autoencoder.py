"""The preset `autoencoder`."""

import dataclasses
from typing import Literal

from jaxvae.errors import UserError, check_number
from jaxvae.presets.config import VAE, Number, Preset, System

AMOUNT = 0.3


@dataclasses.dataclass(frozen=True)
class Autoencoder(VAE):
    """Train an autoencoder, plain or denoising (Vincent et al. 2010)."""

    corruption: Literal["none", "gaussian", "mask"] = "none"
    """What the encoder sees in training: x, x with noise, or x with numbers set to 0."""
    amount: Number = None
    """Standard deviation of the noise, or share of zeros (default: 0.3)."""

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        why = "an autoencoder has codes, without a distribution and without a KL"
        self.check_default(why, "posterior", "beta", "beta_warmup", "beta_cycle", "free_bits")
        if self.amount is not None:
            limit = 1.0 if self.corruption == "mask" else None
            check_number("--amount", self.amount, least=0.0, at_most=limit)
            if self.corruption == "none":
                raise UserError("--amount is of --corruption gaussian or mask: leave it out.")


def build(config: Autoencoder, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the autoencoder of these options."""
    from jaxvae import models
    from jaxvae.presets import parts

    options = parts.elbo_options(config)
    for name in ("posterior", "beta", "free_bits"):
        del options[name]
    options |= {"corruption": config.corruption}
    if config.corruption != "none":
        options["amount"] = AMOUNT if config.amount is None else config.amount
    pair = parts.nets_of(config, shape, num_classes, codes=True)
    model = models.autoencoder(*pair, **options)
    return parts.system(config, model, num_classes)


PRESET = Preset(Autoencoder, build, equation="-log p(x | z(x')), x' = x or x with noise")
