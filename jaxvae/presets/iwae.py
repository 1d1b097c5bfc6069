"""The preset `iwae`."""

import dataclasses
from typing import ClassVar, Literal

from jaxvae.presets.config import VAE, Preset, System


@dataclasses.dataclass(frozen=True)
class IWAE(VAE):
    """Train an importance-weighted auto-encoder (Burda et al. 2016)."""

    k: int = 50
    """Draws of z for each example: the bound rises with them, and so do time and memory."""
    gradient: Literal["standard", "stl", "dreg"] = "standard"
    """Estimator of the encoder's gradient: the paper's, "sticking the landing" (biased above k = 1),
    or doubly reparametrised."""

    pays_kl: ClassVar[bool] = True

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_counts("k")
        why = "an importance-weighted bound has no KL of its own to weigh"
        self.check_default(why, "beta", "beta_warmup", "beta_cycle", "free_bits")


def build(config: IWAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the IWAE of these options."""
    from jaxvae import models
    from jaxvae.presets import parts

    options = parts.elbo_options(config)
    del options["beta"], options["free_bits"]
    pair = parts.nets_of(config, shape, num_classes)
    model = models.iwae(*pair, k=config.k, gradient=config.gradient, **options)
    return parts.system(config, model, num_classes)


PRESET = Preset(IWAE, build, equation="-E[log 1/K sum_k p(x, z_k) / q(z_k|x)]")
