"""One file per system; each constructor returns a `Model`."""

from jaxvae.models.info_vae import info_vae
from jaxvae.models.intro_vae import intro_vae
from jaxvae.models.introspective import plain_vae
from jaxvae.models.rho_vae import rho_vae
from jaxvae.models.soft_intro_vae import soft_intro_vae
from jaxvae.models.vae import vae

__all__ = ["info_vae", "intro_vae", "plain_vae", "rho_vae", "soft_intro_vae", "vae"]
