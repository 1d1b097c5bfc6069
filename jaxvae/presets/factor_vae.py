"""The preset `factor_vae`."""

import dataclasses
from typing import ClassVar

from jaxvae.errors import UserError
from jaxvae.presets.config import VAE, Number, Preset, System


@dataclasses.dataclass(frozen=True)
class FactorVAE(VAE):
    """Train a FactorVAE: a VAE and a discriminator of its total correlation (Kim & Mnih 2018)."""

    tc_weight: float = 35.0
    """Weight of the total correlation, the paper's gamma."""
    adversary_hidden: tuple[int, ...] = (1000,) * 6
    """Widths of the discriminator."""
    adversary_learning_rate: Number = None
    """Of the discriminator's Adam, whose decays are 0.5 and 0.9 (default: the same)."""

    pays_kl: ClassVar[bool] = True

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_numbers("tc_weight", least=0.0)
        self.check_numbers("adversary_learning_rate", above=0.0)
        if self.batch_size < 2:
            raise UserError(
                "a FactorVAE compares two halves of a batch: use a --batch-size above 1."
            )
        why = "a FactorVAE weighs the total correlation, by --tc-weight, not the KL"
        self.check_default(why, "beta", "beta_warmup", "beta_cycle", "free_bits")


def build(config: FactorVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the FactorVAE of these options."""
    import jax.numpy as jnp
    import optax

    from jaxvae import models, nets
    from jaxvae.presets import optimise, parts
    from jaxvae.train.step import groups

    options = parts.elbo_options(config)
    del options["beta"], options["free_bits"]
    dtype = jnp.dtype(config.dtype)
    judge = nets.mlp(config.adversary_hidden, (), act="leaky_relu", dtype=dtype)
    pair = parts.nets_of(config, shape, num_classes)
    model = models.factor_vae(*pair, judge, tc_weight=config.tc_weight, **options)
    system = parts.system(config, model, num_classes)
    tx = system.tx if isinstance(system.tx, dict) else dict.fromkeys(groups(model), system.tx)
    rate = config.adversary_learning_rate
    rate = config.learning_rate if rate is None else rate
    adam = optax.adam(optimise.rate_of(config, rate), b1=0.5, b2=0.9)
    return system._replace(tx={**tx, "discriminator": adam})


PRESET = Preset(
    FactorVAE, build, equation="rec + KL(q(z|x) || N(0, I)) + tc_weight KL(q(z) || prod_j q(z_j))"
)
