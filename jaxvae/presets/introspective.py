"""What the presets `soft_intro_vae` and `intro_vae` share: options, and a plain VAE before them."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxvae.errors import UserError
from jaxvae.presets.config import VAE, Number, System

if TYPE_CHECKING:
    from jaxvae.types import Model, Net


@dataclasses.dataclass(frozen=True)
class Introspective(VAE):
    """Train an introspective VAE."""

    likelihood: Literal["gaussian"] = "gaussian"
    """The error is the plain squared one: that of a Gaussian with variance 1/2."""
    gamma: Literal[0.5] = 0.5  # pyright: ignore[reportInvalidTypeForm] - the one value it takes
    """That variance."""
    beta_rec: float = 1.0
    """Weight of the squared error."""
    beta_kl: float = 1.0
    """Weight of the KL of data."""
    beta_neg: Number = None
    """Weight of what the encoder wins by fakes."""
    num_vae: int = 0
    """Epochs, of those of the run, in which it is a plain VAE first."""
    learning_rate: float = 2e-4
    """Of the optimisers, before --warmup and --lr-schedule."""

    pays_kl: ClassVar[bool] = True

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        if self.beta != 1.0 or self.beta_warmup or self.free_bits:
            raise UserError(
                "introspective models have no --beta, --beta-warmup and --free-bits: use "
                "--beta-rec, --beta-kl and --beta-neg."
            )
        if self.beta_cycle is not None:
            raise UserError(
                "introspective models have no --beta-cycle: use --beta-rec, --beta-kl and "
                "--beta-neg."
            )
        self.check_counts("num_vae", least=0)
        self.check_numbers("beta_rec", "beta_kl", "beta_neg", least=0.0)

    def lengths(self, size: int) -> tuple[int, ...]:
        """Returns the steps of the run; raises `UserError` where a plain VAE would be all of it."""
        (steps,) = super().lengths(size)
        if self.plain_steps(size) >= steps:
            raise UserError(
                f"--num-vae {self.num_vae} is {self.plain_steps(size):,} steps of a plain VAE, and "
                f"the run has {steps:,}: give more --epochs or --steps, or train the preset vae."
            )
        return (steps,)

    def plain_steps(self, size: int) -> int:
        """Returns the steps of the plain VAE, for `size` training examples."""
        return math.ceil(self.num_vae * size / self.batch_size)


def model_options(config: Introspective) -> dict[str, Any]:
    """Returns what all introspective models are told beside their nets."""
    names = ("latent_dim", "posterior", "beta_rec", "beta_kl")
    return {name: getattr(config, name) for name in names}


def system(
    config: Introspective,
    model: "Model",
    pair: "tuple[Net, Net]",
    num_classes: int | None,
    **weights: float,
) -> System:
    """Returns `model` as a system, after `num_vae` epochs of a plain VAE of the same nets; both
    share Adam's moments.

    Args:
        weights: of the plain VAE, in place of beta_rec and beta_kl.
    """
    from jaxvae.presets import parts

    found = parts.system(config, model, num_classes)
    return found._replace(phases=_phases(config, model, pair, weights) if config.num_vae else None)


def _phases(
    config: Introspective, model: "Model", pair: "tuple[Net, Net]", weights: dict[str, float]
) -> Callable[[int, int], list]:
    from jaxvae import models
    from jaxvae.train import Phase

    options: dict[str, Any] = model_options(config) | weights
    plain = models.plain_vae(*pair, **options)

    def phases(steps: int, size: int) -> list[Phase]:
        first = config.plain_steps(size)
        return [Phase(plain, first), Phase(model, steps - first)]

    return phases
