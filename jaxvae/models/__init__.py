"""One file per system; each constructor returns a `Model`."""

from jaxvae.models.vae import vae

__all__ = ["vae"]
