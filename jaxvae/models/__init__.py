"""One file per system; each constructor returns a `Model`."""

from jaxvae.models.info_vae import info_vae
from jaxvae.models.rho_vae import rho_vae
from jaxvae.models.vae import vae

__all__ = ["info_vae", "rho_vae", "vae"]
