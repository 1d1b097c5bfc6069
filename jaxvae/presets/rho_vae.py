"""The preset `rho_vae`."""

import dataclasses
from typing import Literal

from jaxvae.presets import vae
from jaxvae.presets.config import VAE, Preset, System


@dataclasses.dataclass(frozen=True)
class RhoVAE(VAE):
    """Train a VAE with an AR(1) posterior (the rho-VAE)."""

    posterior: Literal["ar1", "ar1-readme", "ar1-released"] = "ar1"
    """Correct AR(1), the recursion that the paper prints, or what its code computes."""


def build(config: RhoVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the VAE with an AR(1) posterior of these options."""
    return vae.build(config, shape, num_classes)


PRESET = Preset(
    RhoVAE, build, equation="-E_q[log p(x|z)] + beta KL(q(z|x) || N(0, I)), cov q = s rho^|i-j|"
)
