"""The preset `style_soft_intro_vae`: a Soft-IntroVAE that grows, one phase for each resolution."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from jaxvae.errors import UserError, check_number
from jaxvae.presets.config import (
    QUICK_STEPS,
    Count,
    Layers,
    Number,
    Options,
    Preset,
    System,
    Width,
    optional,
)

if TYPE_CHECKING:
    from jaxvae.types import Model

BATCH_SIZE, LEARNING_RATE, LEVEL_EPOCHS, EMA_IMAGES = 32, 1.5e-3, 30, 10_000.0
Counts = Annotated[tuple[int, ...] | None, optional("N ...")]
Numbers = Annotated[tuple[float, ...] | None, optional("FLOAT ...")]


@dataclasses.dataclass(frozen=True)
class StyleSoftIntroVAE(Options):
    """Train a style-based Soft-IntroVAE that grows (Daniel & Tamar 2021, section 6.3)."""

    epochs: Count = None
    """Length of the run in passes over the training split (default: that of --level-epochs for every
    resolution)."""
    resolutions: tuple[int, ...] = (4, 8, 16, 32)
    """Sides of the images, in pixels, one after the other; each doubles the one before."""
    pad: int = 0
    """Black pixels around each image, e.g. 2 for those of 28."""
    latent_dim: Width = 512
    """Size of z and of the styles."""
    start_channels: int = 64
    """Channels at the last resolution, twice as many at each half of it."""
    max_channels: int = 512
    """Channels at most."""
    mapping_layers: Layers = 8
    """Dense layers from z to the styles."""
    remat: bool = False
    """Compute features again for gradients, to save memory."""
    batch_size: int = BATCH_SIZE
    """Examples per step, over all devices."""
    batch_sizes: Counts = None
    """The same, for each resolution."""
    learning_rate: float = LEARNING_RATE
    """Of Adam, without momentum, for equalised layers; begun anew at each resolution."""
    learning_rates: Numbers = None
    """The same, for each resolution."""
    level_epochs: Count = None
    """Epochs of each resolution but the last; a new one fades in over half as many (default: 30)."""
    level_steps: Count = None
    """The same in steps."""
    num_vae: int = 1
    """Epochs, of those of the first resolution, in which it is a plain VAE first."""
    beta_rec: float = 0.05
    """Weight of the squared error of pixels in [-1, 1]."""
    beta_kl: float = 0.2
    """Weight of the KL of data."""
    beta_neg: tuple[float, ...] = (512.0,)
    """Weight of the KL of fakes in the exponential: one, or one for each resolution."""
    s: Number = None
    """Scale of the ELBO (default: of released 5e-6, for images of 256 pixels: give smaller ones
    1 / number of values; of paper 1 / number of values of an image)."""
    gamma_r: float = 1e-8
    """Weight of the fakes' error in the decoder."""
    mixing: float = 0.9
    """Probability that fakes have the styles of two latents each."""
    convention: Literal["paper", "released"] = "released"
    """What the decoder's loss draws anew, and the scale: as in Algorithm 2, or as in the authors'
    code."""
    ema_images: Number = None
    """Images after which the moving average of the parameters has half forgotten (default: 10000,
    without --ema-decay)."""

    own_lengths: ClassVar[tuple[str, ...]] = ("level_epochs", "level_steps")

    @property
    def convolves(self) -> bool:
        """Whether the nets convolve."""
        return True

    @property
    def batches(self) -> str:
        """The batch sizes, in words."""
        return ", ".join(map(str, dict.fromkeys(self.of_levels("batch_size", "batch_sizes"))))

    def of_levels(self, name: str, names: str) -> tuple:
        """Returns what each resolution has of an option that one may give for all of them."""
        given = getattr(self, names)
        return (getattr(self, name),) * len(self.resolutions) if given is None else given

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        names = ("latent_dim", "start_channels", "max_channels", "mapping_layers")
        self.check_counts(*names, "level_epochs", "level_steps")
        self.check_counts("pad", "num_vae", least=0)
        _check_resolutions(self.resolutions)
        for name, names, default in (
            ("batch_size", "batch_sizes", BATCH_SIZE),
            ("learning_rate", "learning_rates", LEARNING_RATE),
        ):
            self._check_levels(names, getattr(self, names))
            if getattr(self, names) is not None and getattr(self, name) != default:
                raise UserError(f"give {_option(name)} or {_option(names)}, not both.")
        for value in self.of_levels("learning_rate", "learning_rates"):
            check_number("--learning-rates", value, above=0.0)
        if len(self.beta_neg) != 1:
            self._check_levels("beta_neg", self.beta_neg)
        self.check_numbers("ema_images", "s", above=0.0)
        self.check_numbers("beta_rec", "beta_kl", "gamma_r", least=0.0)
        self.check_numbers("mixing", least=0.0, at_most=1.0)
        for value in self.beta_neg:
            check_number("--beta-neg", value, least=0.0)
        for one, other in (("level_epochs", "level_steps"), ("ema_decay", "ema_images")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise UserError(f"give {_option(one)} or {_option(other)}, not both.")
        if self.level_steps is not None and self.epochs is not None:
            raise UserError("--level-steps goes with --steps: give that, or --level-epochs.")
        why = "style nets have an optimiser of their own, whose rate is of --learning-rates"
        names = ("optimizer", "momentum", "weight_decay", "warmup")
        self.check_default(why, *names, "lr_schedule", "lr_steps", "lr_final")
        if self.lr_halve_every is not None:
            raise UserError(
                "learning rates begin anew at each resolution: use --learning-rates, not "
                "--lr-halve-every."
            )

    def _check_levels(self, names: str, values: tuple | None) -> None:
        count = len(self.resolutions)
        if values is not None and len(values) != count:
            raise UserError(
                f"{_option(names)} needs {count} numbers, one for each of --resolutions "
                f"{' '.join(map(str, self.resolutions))}, not {len(values)}."
            )
        if names == "batch_sizes" and any(value < 1 for value in values or ()):
            raise UserError("--batch-sizes must be whole numbers of at least 1.")

    def level_lengths(self, size: int) -> list[int]:
        """Returns the steps that each resolution is given, for `size` training examples; the last
        one may go on for longer."""
        if self.quick:
            return [QUICK_STEPS] * len(self.resolutions)
        epochs = self.level_epochs or LEVEL_EPOCHS
        sizes = self.of_levels("batch_size", "batch_sizes")
        return [self.level_steps or math.ceil(epochs * size / n) for n in sizes]

    def plain_steps(self, size: int) -> int:
        """Returns the steps of the plain VAE, for `size` training examples."""
        batch_size = self.of_levels("batch_size", "batch_sizes")[0]
        steps = math.ceil(self.num_vae * size / batch_size)
        return min(steps, QUICK_STEPS // 2) if self.quick else steps

    def lengths(self, size: int) -> tuple[int, ...]:
        """Returns the steps of the run.

        Raises:
            UserError: for a run that ends before the last resolution is faded in, and a plain VAE
                that is longer than the first.
        """
        levels = self.level_lengths(size)
        *earlier, last = levels
        steps = self.steps or sum(levels)
        if self.epochs is not None:
            rest = self.epochs - (self.level_epochs or LEVEL_EPOCHS) * len(earlier)
            batch_size = self.of_levels("batch_size", "batch_sizes")[-1]
            steps = sum(earlier) + math.ceil(max(0, rest) * size / batch_size)
        needed = sum(earlier) + (_fade_steps(last) if earlier else 0)
        if steps < max(needed, 1):
            raise UserError(
                f"the run has {steps:,} steps, and its last resolution is only faded in after "
                f"{needed:,}: give more --epochs or --steps, or fewer --level-epochs or "
                "--level-steps."
            )
        first = levels[0] if earlier else steps
        if self.plain_steps(size) >= first:
            raise UserError(
                f"--num-vae {self.num_vae} is {self.plain_steps(size):,} steps of a plain VAE, and "
                f"the first resolution has {first:,}: give fewer, or 0."
            )
        return (steps,)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _fade_steps(length: int) -> int:
    """Returns the steps over which a resolution fades in: half of its own."""
    return max(1, length // 2)


def _check_resolutions(resolutions: tuple[int, ...]) -> None:
    """Raises `UserError` for resolutions that do not start at 4, 8, 16, ... and double."""
    said = " ".join(map(str, resolutions))
    if not resolutions or resolutions[0] < 4 or resolutions[0] & (resolutions[0] - 1):
        raise UserError(
            f"--resolutions must begin with 4, 8, 16, ..., not with {said or 'nothing'}."
        )
    if any(b != 2 * a for a, b in itertools.pairwise(resolutions)):
        raise UserError(
            f"each of --resolutions must be twice the one before, such as 4 8 16, not {said}."
        )


def _check_images(config: StyleSoftIntroVAE, shape: tuple[int, ...]) -> None:
    """Raises `UserError` for images that cannot be brought to the last resolution."""
    last = config.resolutions[-1]
    if len(shape) != 3 or shape[0] != shape[1]:
        raise UserError(
            f"{config.data} has examples of shape {shape}, and style nets take square images: give "
            "a folder of images a --size or a --crop."
        )
    side = shape[0] + 2 * config.pad
    if side < last:
        fitting = " ".join(str(r) for r in config.resolutions if side % r == 0)
        fewer = f", or --resolutions {fitting}" if fitting else ""
        raise UserError(
            f"images of {side}x{side} pixels are smaller than the last resolution, {last}: use --pad "
            f"{math.ceil((last - shape[0]) / 2)}, a larger --size of a folder of images{fewer}."
        )
    if side % last:
        raise UserError(
            f"images of {side}x{side} pixels cannot be averaged to {last}x{last}: {last} must "
            "divide their side. Use --size for a folder of images, or --pad."
        )


def build(config: StyleSoftIntroVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the last resolution of these options, and how it is reached."""
    return _system(config, shape, len(config.resolutions) - 1)


def reached(
    config: StyleSoftIntroVAE,
    shape: tuple[int, ...],
    num_classes: int | None,
    names: Collection[str],
) -> System:
    """Returns the last resolution for which a checkpoint has a block, by the names of its arrays."""
    blocks = {name.split(".")[2] for name in names if name.startswith("params.decoder.")}
    there = [i for i, side in enumerate(config.resolutions) if f"block_{side}" in blocks]
    return _system(config, shape, max(there, default=len(config.resolutions) - 1))


def _system(config: StyleSoftIntroVAE, shape: tuple[int, ...], i: int) -> System:
    """Returns resolution i, and how all of them are reached."""
    from jaxvae import nets
    from jaxvae.data.preprocess import at_side
    from jaxvae.presets import parts

    _check_images(config, shape)
    side, rates = config.resolutions[i], config.of_levels("learning_rate", "learning_rates")
    return System(
        level(config, shape[-1], i),
        nets.equalised_adam(rates[i]),
        at_side(side, pad=config.pad),
        augment=parts.augmentation(config),
        phases=_phases(config, shape[-1]),
        latent_dim=config.latent_dim,
        pixels="grey",
        likelihood="gaussian",
        dims=side * side * shape[-1],
    )


def level(
    config: StyleSoftIntroVAE, colours: int, i: int, fade: Any = None, *, plain: bool = False
) -> "Model":
    """Returns the model of resolution i, or the plain VAE that comes before it.

    Args:
        colours: of an image.
        fade: (step) -> blend; None: it is there from the start.
    """
    import jax.numpy as jnp

    from jaxvae import models, nets

    side = config.resolutions[i]
    pair = nets.style(
        (side, side, colours),
        latent_dim=config.latent_dim,
        top=config.resolutions[-1],
        start=config.start_channels,
        max_channels=config.max_channels,
        mapping=config.mapping_layers,
        remat=config.remat,
        dtype=jnp.dtype(config.dtype),
    )
    names = ("latent_dim", "beta_rec", "beta_kl")
    options: dict[str, Any] = {name: getattr(config, name) for name in names}
    if plain:
        return models.style_plain_vae(*pair, side=side, fade=fade, **options)
    names = ("s", "gamma_r", "mixing", "convention")
    options |= {name: getattr(config, name) for name in names}
    beta_neg = config.beta_neg[i if len(config.beta_neg) > 1 else 0]
    return models.style_soft_intro_vae(*pair, side=side, beta_neg=beta_neg, fade=fade, **options)


def _phases(config: StyleSoftIntroVAE, colours: int) -> Callable[[int, int], list]:
    from jaxvae import nets
    from jaxvae.data.preprocess import at_side
    from jaxvae.models import fade_in
    from jaxvae.train import Phase, carry_over

    sizes = config.of_levels("batch_size", "batch_sizes")
    rates = config.of_levels("learning_rate", "learning_rates")
    count = len(config.resolutions)

    def phases(steps: int, size: int) -> list[Phase]:
        lengths, found, start = config.level_lengths(size), [], 0
        for i, side in enumerate(config.resolutions):
            length = lengths[i] if i < count - 1 else steps - start
            fade = fade_in(start, _fade_steps(lengths[i])) if i else None
            decay = config.ema_decay or 0.5 ** (sizes[i] / (config.ema_images or EMA_IMAGES))
            phase = Phase(
                level(config, colours, i, fade),
                length,
                nets.equalised_adam(rates[i]),
                at_side(side, pad=config.pad),
                sizes[i],
                grow=carry_over if i else None,
                ema_decay=decay,
            )
            plain = 0 if i else config.plain_steps(size)
            if plain:
                found.append(
                    phase._replace(model=level(config, colours, 0, plain=True), steps=plain)
                )
                phase = Phase(phase.model, length - plain)
            found.append(phase)
            start += length
        return found

    return phases


PRESET = Preset(
    StyleSoftIntroVAE,
    build,
    reached=reached,
    equation="Soft-IntroVAE's, at 4, 8, 16, ... pixels one after the other",
)
