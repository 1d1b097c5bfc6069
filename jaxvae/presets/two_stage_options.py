"""Options of the preset `two_stage_vae`, and the names in its run folder."""

import dataclasses
import math
from typing import Annotated, ClassVar, Literal, Self

from tyro.conf import arg

from jaxvae import writers
from jaxvae.errors import UserError
from jaxvae.presets.config import VAE, Count, Layers, Number, Width

FIRST, SECOND = "first", "second"  # folders in RUN
FIRST_STEP = "first_step"  # in the second stage's config: whose latents it was trained on


@dataclasses.dataclass(frozen=True)
class TwoStageVAE(VAE):
    """Train a two-stage VAE: a VAE, then a second one on its latents (Dai & Wipf 2019)."""

    net: Literal["mlp", "conv", "infogan", "intro"] = "infogan"
    """Networks of the first stage; infogan takes images whose sides 4 divides, intro square ones of
    28, 32, 64, 128, 256, 512 or 1024 pixels, others with --channels."""
    latent_dim: Width = 64
    """Size of z, and of u behind it; with 2, the run also draws the manifold of u."""
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"
    """Family of p(x|z); the second stage's is Gaussian."""
    gamma: Annotated[float | Literal["learned"], arg(metavar="FLOAT|learned")] = "learned"
    """Variance of a Gaussian p(x|z), or "learned"; the second stage's is learned."""
    beta_warmup: int = 0
    """Steps over which beta rises from 0, in each stage (to 1 in the second)."""
    beta_cycle: Count = None
    """Steps of one cycle, in whose first half beta rises from 0, in each stage (default: none)."""
    learning_rate: float = 1e-4
    """Of the optimiser, in both stages, before --warmup and --lr-schedule."""
    gamma_learning_rate: Number = 1e-3
    """That of both gammas; as released 1e-4, for runs of hundreds of epochs."""
    second_steps: Count = None
    """Length of the second stage in steps (default: twice that of the first)."""
    second_epochs: Count = None
    """Length of the second stage in passes over the latents."""
    second_lr_halve_every: Count = None
    """Steps of the second stage after which its learning rates are halved (default: twice
    --lr-halve-every)."""
    second_lr_steps: Count = None
    """Steps of the second stage at which its learning rates are down (default: its length)."""
    second_width: Width = 1024
    """Width of the second stage's hidden layers."""
    second_depth: Layers = 3
    """Number of them, each way."""
    noise_on_z: bool = True
    """Sample z with the second stage's variance, as released; without it z is its mean."""

    own_lengths: ClassVar[tuple[str, ...]] = ("second_steps", "second_epochs")
    may_differ: ClassVar[tuple[str, ...]] = own_lengths

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        if self.second_steps is not None and self.second_epochs is not None:
            raise UserError("give --second-steps or --second-epochs, not both.")
        self.check_counts("second_steps", "second_epochs", "second_width", "second_depth")
        self.check_counts("second_lr_halve_every", "second_lr_steps")
        if self.lr_schedule != "constant" and self.second_lr_halve_every is not None:
            raise UserError(
                f"give --second-lr-halve-every or --lr-schedule {self.lr_schedule}, not both: each "
                "says how learning rates go down."
            )
        if self.lr_schedule == "constant" and self.second_lr_steps is not None:
            raise UserError(
                "--second-lr-steps is of a --lr-schedule other than constant: give one, or leave it "
                "out."
            )
        if self.second_lr_steps is not None:
            self.check_warmup("--second-lr-steps", self.second_lr_steps)

    def lengths(self, size: int) -> tuple[int, ...]:
        """Returns the steps of both stages: the second's, unless they are given, are twice the
        first's, as published (Dai & Wipf 2019, section 5)."""
        (first,) = super().lengths(size)
        if self.quick:
            return first, first
        if self.second_epochs is not None:
            return first, math.ceil(self.second_epochs * size / self.batch_size)
        return first, 2 * first if self.second_steps is None else self.second_steps

    def resolved(self, size: int) -> Self:
        """Returns options with the lengths of both schedules, for `size` training examples."""
        found = super().resolved(size)
        if self.lr_schedule == "constant" or self.second_lr_steps is not None:
            return found
        return dataclasses.replace(found, second_lr_steps=self.lengths(size)[1])

    @property
    def second_period(self) -> int | None:
        """Steps between halvings in the second stage: twice the first's unless given, as published
        for 400 and 800 epochs (150 and 300)."""
        if self.second_lr_halve_every is not None or self.lr_halve_every is None:
            return self.second_lr_halve_every
        return 2 * self.lr_halve_every

    def longer(self, step: int) -> Self:
        """Returns options that go on with the second stage alone, for as long again; of a quick run,
        those of a full one beside it."""
        if self.quick:
            return dataclasses.replace(super().longer(step), second_lr_steps=None)
        config = writers.read_json(self.workdir / SECOND / "config.json")["config"]
        second = step - config[FIRST_STEP]
        return dataclasses.replace(self, second_steps=2 * second, second_epochs=None, patience=None)
