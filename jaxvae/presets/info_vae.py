"""The preset `info_vae`."""

import dataclasses
from typing import Annotated, Any, Literal

from jaxvae.errors import UserError
from jaxvae.presets.config import VAE, Number, Preset, System, optional

ADVERSARY = (512, 512, 512, 512)  # as the WAE's code has them for MNIST


@dataclasses.dataclass(frozen=True)
class InfoVAE(VAE):
    """Train an InfoVAE: a VAE with a divergence of the aggregated posterior (Zhao et al. 2017)."""

    alpha: float = 0.0
    """KL's weight is 1 - alpha; 1 leaves the divergence alone (WAE-MMD, WAE-GAN)."""
    lambda_mmd: float = 100.0
    """The divergence's weight is alpha + lambda_mmd - 1."""
    divergence: Literal["mmd", "gan"] = "mmd"
    """A maximum mean discrepancy, or a discriminator of latents."""
    kernel: Literal["gaussian", "imq"] = "gaussian"
    """Of mmd: exp(-d^2 / D^2), or 2 D / (2 D + d^2)."""
    adversary_hidden: Annotated[tuple[int, ...] | None, optional("N ...")] = None
    """Widths of gan's discriminator (default: 512 512 512 512)."""
    adversary_learning_rate: Number = None
    """Of gan's discriminator (default: half of the others')."""

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        if self.divergence == "gan" and self.kernel != "gaussian":
            raise UserError("--kernel is of --divergence mmd: leave it out with gan.")
        for name in ("adversary_hidden", "adversary_learning_rate"):
            if getattr(self, name) is not None and self.divergence != "gan":
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} is of --divergence gan: leave it out with mmd.")
        self.check_numbers("adversary_learning_rate", above=0.0)
        self.check_numbers("alpha", at_most=1.0)
        self.check_numbers("lambda_mmd", least=round(1.0 - self.alpha, 6))  # floats: 1 - 0.7 > 0.3
        if self.divergence == "gan" and self.free_bits:
            raise UserError("--divergence gan has no --free-bits: leave that out.")


def build(config: InfoVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the InfoVAE of these options."""
    from jaxvae import models
    from jaxvae.presets import parts

    if config.beta != 1.0 or config.beta_warmup or config.beta_cycle is not None:
        raise UserError("info_vae has no --beta: KL's weight is 1 - alpha; use --alpha.")
    options = parts.elbo_options(config)
    del options["beta"]
    pair = parts.nets_of(config, shape, num_classes)
    if config.divergence == "gan":
        return _adversarial(config, pair, options, num_classes)
    options |= {"alpha": config.alpha, "lambda_": config.lambda_mmd}
    model = models.info_vae(*pair, kernel=config.kernel, **options)
    return parts.system(config, model, num_classes)


def _adversarial(
    config: InfoVAE, pair: tuple[Any, Any], options: dict[str, Any], num_classes: int | None
) -> System:
    """Returns the WAE-GAN of these options: with alpha = 1 it has no KL."""
    import jax.numpy as jnp

    from jaxvae import models, nets
    from jaxvae.presets import parts
    from jaxvae.presets.optimise import transformation
    from jaxvae.train.step import groups

    del options["free_bits"]
    hidden = ADVERSARY if config.adversary_hidden is None else config.adversary_hidden
    discriminator = nets.mlp(hidden, (), dtype=jnp.dtype(config.dtype))
    weights = {
        "beta": 1.0 - config.alpha,
        "weight": max(config.alpha + config.lambda_mmd - 1.0, 0.0),
    }
    model = models.wae_gan(*pair, discriminator, **weights, **options)
    system = parts.system(config, model, num_classes)
    tx = system.tx if isinstance(system.tx, dict) else dict.fromkeys(groups(model), system.tx)
    rate = config.adversary_learning_rate
    rate = config.learning_rate / 2 if rate is None else rate
    return system._replace(tx={**tx, "discriminator": transformation(config, rate)})


PRESET = Preset(
    InfoVAE,
    build,
    equation="rec + (1 - alpha) KL(q(z|x) || N(0, I)) + (alpha + lambda - 1) D(q(z), N(0, I))",
)
