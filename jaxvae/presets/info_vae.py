"""The preset `info_vae`."""

import dataclasses
from typing import Literal

from jaxvae.errors import UserError
from jaxvae.presets.config import VAE, Preset, System


@dataclasses.dataclass(frozen=True)
class InfoVAE(VAE):
    """Train an InfoVAE: a VAE with a maximum mean discrepancy (Zhao et al. 2017)."""

    alpha: float = 0.0
    """KL's weight is 1 - alpha; 1 leaves MMD alone (WAE-MMD)."""
    lambda_mmd: float = 100.0
    """MMD's weight is alpha + lambda_mmd - 1."""
    kernel: Literal["gaussian", "imq"] = "gaussian"
    """Of MMD: exp(-d^2 / D^2), or 2 D / (2 D + d^2)."""


def build(config: InfoVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the InfoVAE of these options."""
    from jaxvae import models
    from jaxvae.presets import parts

    if config.beta != 1.0 or config.beta_warmup:
        raise UserError("info_vae has no --beta: KL's weight is 1 - alpha; use --alpha.")
    options = parts.elbo_options(config)
    del options["beta"]
    options |= {"alpha": config.alpha, "lambda_": config.lambda_mmd, "kernel": config.kernel}
    model = models.info_vae(*parts.nets_of(config, shape, num_classes), **options)
    return parts.system(config, model, num_classes)


PRESET = Preset(InfoVAE, build)
