"""The preset `two_stage_vae`: its options. What it does with them is in `stages`."""

import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from tyro.conf import arg

from jaxvae import writers
from jaxvae.errors import UserError
from jaxvae.presets.config import Count, Number, Preset
from jaxvae.presets.vae import VAE

FIRST, SECOND = "first", "second"  # folders in RUN


@dataclasses.dataclass(frozen=True)
class TwoStageVAE(VAE):
    """Train a two-stage VAE: a VAE, then a second one on its latents (Dai & Wipf 2019)."""

    net: Literal["mlp", "conv", "infogan"] = "infogan"
    """Networks of encoder and decoder in the first stage; infogan is for images whose sides 4
    divides."""
    latent_dim: int = 64
    """Size of z, and of u behind it; with 2, the run also draws the manifold of u."""
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"
    """Family of p(x|z); the second stage's is Gaussian."""
    gamma: Annotated[float | Literal["learned"], arg(metavar="FLOAT|learned")] = "learned"
    """Variance of a Gaussian p(x|z), or "learned"; the second stage's is learned."""
    beta_warmup: int = 0
    """Steps over which beta rises from 0, in each stage (to 1 in the second)."""
    learning_rate: float = 1e-4
    """Of Adam, in both stages."""
    gamma_learning_rate: Number = 1e-3
    """That of both gammas; as released 1e-4, for runs of hundreds of epochs."""
    second_steps: Count = None
    """Length of the second stage in steps (default: twice that of the first)."""
    second_epochs: Count = None
    """Length of the second stage in passes over the latents."""
    second_width: int = 1024
    """Width of the second stage's hidden layers."""
    second_depth: int = 3
    """Number of them, each way."""
    noise_on_z: bool = True
    """Sample z with the second stage's variance, as released; without it z is its mean."""

    may_differ: ClassVar[tuple[str, ...]] = ("second_steps", "second_epochs")

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        if self.second_steps is not None and self.second_epochs is not None:
            raise UserError("give --second-steps or --second-epochs, not both.")
        self.check_counts("second_steps", "second_epochs", "second_width", "second_depth")

    def lengths(self, size: int) -> tuple[int, ...]:
        """Returns the steps of both stages: the second's, unless they are given, are twice the
        first's, as published (Dai & Wipf 2019, section 5)."""
        (first,) = super().lengths(size)
        if self.second_epochs is not None:
            return first, math.ceil(self.second_epochs * size / self.batch_size)
        return first, 2 * first if self.second_steps is None else self.second_steps

    def longer(self, step: int) -> Self:
        """Returns options that go on with the second stage alone, for as long again."""
        second = (
            step - writers.read_json(self.workdir / SECOND / "config.json")["config"][FIRST_STEP]
        )
        return dataclasses.replace(self, second_steps=2 * second, second_epochs=None)


FIRST_STEP = "first_step"  # in the second stage's config: whose latents it was trained on


def _later(name: str) -> Callable[..., Any]:
    """Returns the function of `stages` of this name, imported when it is called."""

    def call(*args: Any) -> Any:
        return getattr(importlib.import_module("jaxvae.presets.stages"), name)(*args)

    return call


PRESET = Preset(TwoStageVAE, _later("build"), _later("train"), _later("load"), (FIRST, SECOND))
