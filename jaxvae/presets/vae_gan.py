"""The preset `vae_gan`."""

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from jaxvae.presets.config import VAE, Number, Preset, System, Width, optional

if TYPE_CHECKING:
    from jaxvae.models.introspective import Error
    from jaxvae.types import Net


@dataclasses.dataclass(frozen=True)
class VAEGAN(VAE):
    """Train the autoencoder of latent diffusion: a VAE and a discriminator of patches (Rombach et al. 2022)."""

    net: Literal["mlp", "conv", "infogan", "intro"] = "conv"
    """Networks of encoder and decoder, as of the preset vae; the data are images."""
    latent_dim: Width = 64
    """Size of z."""
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"
    """Of evaluation alone, with variance 1/2."""
    error: Literal["absolute", "squared"] = "absolute"
    """Of pixels, summed."""
    perceptual: Literal["none", "squeeze", "alex", "vgg"] = "none"
    """Net of the LPIPS that is added to the error; its weights must be there (jaxvae weights list)."""
    perceptual_weight: Number = None
    """Weight of LPIPS times the numbers in an image (default: 1)."""
    beta: float = 1e-6
    """Weight of the KL."""
    disc_weight: float = 1.0
    """Weight of the discriminator in the autoencoder's loss."""
    disc_adaptive: bool = False
    """Multiply it by the ratio of the gradients at the decoder's last layer, as in the released code."""
    disc_start: int = 0
    """Steps of the autoencoder alone."""
    disc_channels: Annotated[tuple[int, ...] | None, optional("N ...")] = None
    """Channels of the discriminator's convolutions, each of which halves the sides (default: 64 128
    256, as many as leave patches)."""
    disc_learning_rate: Number = None
    """Of the discriminator's Adam, whose decays are 0.5 and 0.9 (default: the same)."""

    pays_kl: ClassVar[bool] = True

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_numbers("disc_weight", "perceptual_weight", least=0.0)
        self.check_numbers("disc_learning_rate", above=0.0)
        self.check_counts("disc_start", least=0)
        why = "a VAE-GAN pays --error and a weighted KL"
        self.check_default(why, "likelihood", "gamma", "gamma_learning_rate", "free_bits", "pixels")
        if self.perceptual == "none":
            self.check_default("--perceptual none has no weight", "perceptual_weight")


def build(config: VAEGAN, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the VAE-GAN of these options, for images of `shape` [H, W, C]."""
    import jax.numpy as jnp
    import optax

    from jaxvae import models, nets
    from jaxvae.models.introspective import squared_error
    from jaxvae.models.vae_gan import absolute_error
    from jaxvae.presets import optimise, parts
    from jaxvae.train.step import groups

    judge = nets.patches(shape, channels=config.disc_channels, dtype=jnp.dtype(config.dtype))
    error = absolute_error if config.error == "absolute" else squared_error
    if config.perceptual != "none":
        from jaxvae.metrics import lpips

        lpips.check_shape(shape, config.perceptual)
        weight = 1.0 if config.perceptual_weight is None else config.perceptual_weight
        error = with_lpips(error, config.perceptual, weight)
    encoder, decoder = parts.nets_of(config, shape, num_classes)
    model = models.vae_gan(
        encoder,
        decoder,
        judge,
        latent_dim=config.latent_dim,
        posterior=config.posterior,
        error=error,
        beta=parts.beta_of(config, config.beta),
        weight=config.disc_weight,
        start=config.disc_start,
        last=last_kernel(config, decoder, num_classes) if config.disc_adaptive else None,
    )
    system = parts.system(config, model, num_classes)
    rate = config.disc_learning_rate
    rate = config.learning_rate if rate is None else rate
    adam = optax.adam(optimise.rate_of(config, rate), b1=0.5, b2=0.9)
    tx = {**dict.fromkeys(groups(model), system.tx), "discriminator": adam}
    return system._replace(tx=tx)


def last_kernel(config: VAEGAN, decoder: "Net", num_classes: int | None) -> str:
    """Returns where the kernel of the decoder's last layer is: Flax numbers layers of a kind in the order
    of their calls, and decoders that convolve end in a convolution."""
    import jax
    import jax.numpy as jnp

    cond = jnp.zeros((2, num_classes or 0)) if config.conditional else None
    z = jnp.zeros((2, config.latent_dim))  # BatchNorm starts with more than one row
    layers = jax.eval_shape(decoder.init, jax.random.key(0), z, cond)[0]
    kind = "Dense" if config.net == "mlp" else "Conv"
    numbers = [int(name.split("_")[1]) for name in layers if name.startswith(f"{kind}_")]
    return f"{kind}_{max(numbers)}/kernel"


def with_lpips(error: "Error", net: str, weight: float, weights: Any = None) -> "Error":
    """Returns `error` with weight n LPIPS(x, x_hat) added, n the numbers of an example.

    The weights of the net are read when it is first called, that is before the first step: a trained
    model is used without them.

    Args:
        weights: of `lpips.load(net)`; default: they are looked for.

    Raises:
        UserError: when called, for weights that are missing; it says which.
    """
    import jax
    import jax.numpy as jnp

    from jaxvae.metrics import lpips

    @functools.cache
    def made() -> Any:
        with jax.ensure_compile_time_eval():  # arrays, not what a trace makes of them
            return lpips.load(net) if weights is None else weights

    def both(x: Any, x_hat: Any) -> Any:
        coloured = (jnp.broadcast_to(each, (*each.shape[:-1], 3)) for each in (x, x_hat))
        look = lpips.distance(made(), *coloured, net=net)
        return error(x, x_hat) + weight * math.prod(x.shape[1:]) * look

    return both


PRESET = Preset(
    VAEGAN,
    build,
    equation="L(x, x_hat) + beta KL(q(z|x) || N(0, I)) - disc_weight mean_j l_j(x_hat), l_j the logit of patch j",
)
