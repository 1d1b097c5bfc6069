"""The preset `vq_vae`."""

import dataclasses
from typing import Annotated, Any, Literal

from jaxvae.errors import UserError
from jaxvae.presets.config import (
    Layers,
    Number,
    Options,
    Preset,
    System,
    Width,
    WidthOrNone,
    optional,
)

CODES, SIZE, LEVELS, DECAY, COMMITMENT = 512, 64, (8, 5, 5, 5), 0.99, 0.25
OF_QUANTISER = {  # options that few quantisers have
    "codes": ("loss", "ema"),
    "code_size": ("loss", "ema"),
    "commitment": ("loss", "ema"),
    "decay": ("ema",),
    "levels": ("fsq",),
}


@dataclasses.dataclass(frozen=True)
class VQVAE(Options):
    """Train a VQ-VAE: codes of a learned table or of a grid (van den Oord et al. 2017)."""

    quantiser: Literal["loss", "ema", "fsq"] = "loss"
    """A table moved by the loss or by moving averages, or finite scalar quantisation."""
    codes: WidthOrNone = None
    """Entries of the table (default: 512)."""
    code_size: WidthOrNone = None
    """Numbers of an entry (default: 64)."""
    commitment: Number = None
    """Weight of the encoder's distance from its entries (default: 0.25)."""
    decay: Number = None
    """Of the moving averages (default: 0.99)."""
    levels: Annotated[tuple[int, ...] | None, optional("N ...")] = None
    """Of fsq: levels of each dimension (default: 8 5 5 5)."""
    channels: Width = 128
    """Of the convolutions."""
    halvings: Layers = 2
    """How often the image is halved before its positions have a code each."""
    blocks: Layers = 2
    """Residual blocks, each way."""
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"
    """Family of p(x|z)."""
    gamma: Annotated[float | Literal["learned"] | None, optional("FLOAT|learned")] = None
    """Variance of a Gaussian likelihood, or "learned" (default: 0.5, the summed squared error)."""
    pixels: Literal["grey", "binarised", "dequantised"] = "grey"
    """Pixels as they are, drawn as 0 or 1 at every visit, or with uniform noise added."""
    learning_rate: float = 2e-4
    """Of Adam."""

    @property
    def convolves(self) -> bool:
        """Whether the nets convolve."""
        return True

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_counts("codes", "code_size", "channels", "halvings")
        self.check_counts("blocks", least=0)
        for name, quantisers in OF_QUANTISER.items():
            if getattr(self, name) is not None and self.quantiser not in quantisers:
                option, of = name.replace("_", "-"), " or ".join(quantisers)
                raise UserError(
                    f"--{option} is of --quantiser {of}: leave it out with {self.quantiser}."
                )
        self.check_numbers("commitment", least=0.0)
        self.check_numbers("decay", least=0.0, below=1.0)
        if self.gamma is not None and self.likelihood != "gaussian":
            raise UserError("--gamma is of --likelihood gaussian: leave it out.")
        if not isinstance(self.gamma, str):
            self.check_numbers("gamma", above=0.0)


def build(config: VQVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the VQ-VAE of these options, for images of `shape` [H, W, C]."""
    import jax.numpy as jnp

    from jaxvae import models, nets
    from jaxvae.data.preprocess import make_preprocess
    from jaxvae.presets import optimise, parts
    from jaxvae.train.step import groups

    quantiser = _quantiser(config)
    options: dict[str, Any] = {name: getattr(config, name) for name in ("channels", "blocks")}
    options |= {"halvings": config.halvings, "dtype": jnp.dtype(config.dtype)}
    encoder, decoder, positions = nets.vq_nets(shape, quantiser.size, **options)
    gamma = 0.5 if config.gamma is None else config.gamma
    if config.likelihood == "bernoulli":
        gamma = 1.0
    model = models.vq_vae(
        encoder, decoder, quantiser, shape=positions, likelihood=config.likelihood, gamma=gamma
    )
    return System(
        model,
        {
            name: optimise.transformation(config, config.learning_rate, decay=name != "codebook")
            for name in groups(model)
        },
        make_preprocess(config.pixels),
        parts.augmentation(config),
        latent=f"{positions[0]}x{positions[1]} codes of {quantiser.codes}",
        pixels=config.pixels,
        likelihood=config.likelihood,
    )


def _quantiser(config: VQVAE) -> Any:
    from jaxvae import models

    def given(name: str, default: Any) -> Any:
        value = getattr(config, name)
        return default if value is None else value

    if config.quantiser == "fsq":
        return models.finite_scalar(given("levels", LEVELS))
    return models.codebook(
        given("codes", CODES),
        given("code_size", SIZE),
        commitment=given("commitment", COMMITMENT),
        ema=config.quantiser == "ema",
        decay=given("decay", DECAY),
    )


PRESET = Preset(
    VQVAE,
    build,
    equation="-log p(x|e) + |sg(h) - e|^2 + commitment |h - sg(e)|^2, e the entry nearest to h",
)
