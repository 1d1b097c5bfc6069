"""The preset `cvae`."""

import dataclasses
from typing import Any, Literal

from jaxvae.errors import UserError
from jaxvae.presets.config import Count, Number, Options, Preset, System, WidthOrNone

LATENT_DIM = 30


@dataclasses.dataclass(frozen=True)
class CVAE(Options):
    """Train a conditional VAE that completes images (Doersch 2016)."""

    method: Literal["cvae", "regressor"] = "cvae"
    """A conditional VAE, or the regression without a latent that it is compared with."""
    part: Literal["column", "left", "right", "top", "bottom"] = "column"
    """What is given: one column of pixels, or half of the image."""
    column: Count = None
    """Number of that column, from 0 (default: the centre)."""
    given: Literal["binarised", "grey"] = "binarised"
    """Given pixels drawn as 0 or 1 at every visit, or as they are."""
    pixels: Literal["grey", "binarised"] = "grey"
    """Pixels to complete: as they are, or drawn as 0 or 1 at every visit."""
    hidden: tuple[int, int, int] = (1000, 500, 250)
    """Widths of the encoder's hidden layers, reversed in the decoder."""
    latent_dim: WidthOrNone = None
    """Size of z (default: 30)."""
    beta1: float = 0.0
    """First decay of Adam and its kin."""
    weight_decay: Number = 5e-4
    """Times the weights, added to their gradient, or with adamw apart from it; biases have none."""
    batch_size: int = 100
    """Examples per step, over all devices."""

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_beta1(self.beta1, CVAE.beta1)
        self.check_counts("latent_dim")
        self.check_counts("column", least=0)
        if self.column is not None and self.part != "column":
            raise UserError(f"--column goes with --part column, not with {self.part}.")
        if self.flip:
            raise UserError(
                "--flip would move the pixels that are given, which are those of one place: leave it "
                "out."
            )
        if self.latent_dim is not None and self.method == "regressor":
            raise UserError("a regressor has no latent: leave out --latent-dim.")
        if self.pixels == "binarised" and self.given == "grey":
            raise UserError(
                "--pixels binarised draws all pixels as 0 or 1: leave out --given grey."
            )


def build(config: CVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the conditional VAE, or the regressor, of these options, for images [H, W, C]."""
    import jax.numpy as jnp

    from jaxvae import models, nets
    from jaxvae.data import completion
    from jaxvae.presets import optimise

    mask = completion.given_pixels(shape, config.part, config.column)
    missing = int((~mask).sum()) * shape[-1]
    options: dict[str, Any] = {"widths": config.hidden, "dtype": jnp.dtype(config.dtype)}
    dim = None
    if config.method == "regressor":
        net = nets.completion_regressor(missing, **options)
        model = models.completion(models.regressor(net), mask)
    else:
        dim = LATENT_DIM if config.latent_dim is None else config.latent_dim
        trio = nets.completion_nets(missing, latent_dim=dim, **options)
        model = models.cvae(*trio, given=mask, latent_dim=dim)
    return System(
        model,
        optimise.transformation(config, config.learning_rate, b1=config.beta1),
        completion.make_completion(mask, config.pixels, config.given),
        latent_dim=dim,
        pixels=config.pixels,
        likelihood="bernoulli",
        on_examples=_given(config, mask),
        dims=missing,
    )


def _given(config: CVAE, mask: Any) -> str:
    """Returns what is given, in words."""
    part = f"the {config.part} half"
    if config.part == "column":
        part = f"column {int(mask[0].argmax())}"
    drawn = "binarised" in (config.given, config.pixels)
    return f"{part} drawn as 0 or 1" if drawn else part


def optimiser(learning_rate: float = 1e-3, beta1: float = 0.0, weight_decay: float = 5e-4) -> Any:
    """Returns the tutorial's Adam: weights times `weight_decay` are added to their gradient, not
    those of biases; beta1 is 0, Caffe's value where a solver leaves its momentum out."""
    import optax

    from jaxvae.presets.optimise import with_decay

    return with_decay(optax.adam(learning_rate, b1=beta1), weight_decay)


PRESET = Preset(
    CVAE, build, equation="-log p(x|z, c) + KL(q(z|x, c) || N(0, I)), c the pixels that are given"
)
