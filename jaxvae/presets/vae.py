"""The preset `vae`."""

from jaxvae.presets.config import VAE, Preset, System


def build(config: VAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the VAE of these options, for data of `shape` [H, W, C] (or [n])."""
    from jaxvae import models
    from jaxvae.presets import parts

    options = parts.elbo_options(config)
    model = models.vae(*parts.nets_of(config, shape, num_classes), **options)
    return parts.system(config, model, num_classes)


PRESET = Preset(VAE, build, equation="-E_q[log p(x|z)] + beta KL(q(z|x) || N(0, I))")
