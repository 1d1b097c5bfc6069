"""The preset `ladder_vae`."""

import dataclasses

from jaxvae.errors import UserError, check_count
from jaxvae.presets.config import VAE, Layers, Preset, System


@dataclasses.dataclass(frozen=True)
class LadderVAE(VAE):
    """Train a ladder VAE, of several layers of latents (Sonderby et al. 2016)."""

    latents: tuple[int, ...] = (64, 32, 16, 8, 4)
    """Size of each layer of latents, from the bottom; z is all of them side by side."""
    hidden: tuple[int, ...] = (512, 256, 128, 64, 32)
    """Width of the dense layers below each layer of latents, bottom-up and top-down."""
    depth: Layers = 2
    """Dense layers below each layer of latents."""

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        self.check_default("a ladder has dense layers of its own", "net")
        super().check()
        self.check_default("--latents says the size of each layer", "latent_dim")
        self.check_default("layers are merged as normal distributions", "posterior")
        self.check_counts("depth")
        for option, values in (("--latents", self.latents), ("--hidden", self.hidden)):
            for value in values:
                check_count(option, value)
        if not self.latents or len(self.hidden) != len(self.latents):
            raise UserError(
                f"--latents names {len(self.latents)} layers and --hidden {len(self.hidden)}: give "
                "each layer of latents one width."
            )


def build(config: LadderVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the ladder VAE of these options."""
    import jax.numpy as jnp

    from jaxvae import models, nets
    from jaxvae.presets import parts

    if config.conditional and num_classes is None:
        raise UserError(f"--conditional needs labels, which {config.data} does not have.")
    options = parts.elbo_options(config)
    for name in ("latent_dim", "posterior"):
        del options[name]
    layers = nets.ladder(
        config.hidden,
        config.latents,
        shape,
        depth=config.depth,
        act=config.activation,
        init=config.init,
        dtype=jnp.dtype(config.dtype),
    )
    model = models.ladder_vae(*layers, latent_dims=config.latents, **options)
    return parts.system(config, model, num_classes)._replace(latent_dim=sum(config.latents))


PRESET = Preset(
    LadderVAE,
    build,
    equation="-log p(x|z_1, ..., z_L) + beta sum_l KL(q(z_l|z_>l, x) || p(z_l|z_>l))",
)
