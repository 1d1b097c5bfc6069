"""The preset `vae`, whose options and nets most others share."""

import dataclasses
from typing import Annotated, Literal

from tyro.conf import arg

from jaxvae.errors import check_number
from jaxvae.presets.config import Number, Options, Preset, System


@dataclasses.dataclass(frozen=True)
class VAE(Options):
    """Train a variational auto-encoder (Kingma & Welling 2014)."""

    net: Literal["mlp", "conv", "infogan"] = "mlp"
    """Networks of encoder and decoder; infogan, the two-stage VAE's, is for images whose sides 4
    divides."""
    hidden: tuple[int, ...] = (400,)
    """Widths of the hidden layers (mlp: encoder order, reversed in the decoder; conv: the dense
    layer)."""
    channels: tuple[int, ...] = (32, 64)
    """Channels of the encoder's convolutions, reversed in the decoder."""
    activation: str = "relu"
    """Activation of hidden layers: relu, leaky_relu, tanh, elu, sigmoid, softplus, identity."""
    init: str = "torch"
    """Initialiser: torch, glorot, xavier, normal0.02."""
    latent_dim: int = 10
    """Size of z; with 2, the run also draws the latent manifold."""
    posterior: str = "normal"
    """Family of q(z|x): normal, ar1, ar1-readme, ar1-released."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """Family of p(x|z)."""
    gamma: Annotated[float | Literal["learned"], arg(metavar="FLOAT|learned")] = 1.0
    """Variance of a Gaussian likelihood, or "learned"."""
    gamma_learning_rate: Number = None
    """That of a learned gamma, whose log standard deviation Adam moves by at most so much a step
    (default: the same)."""
    beta: float = 1.0
    """Weight of the KL."""
    beta_warmup: int = 0
    """Steps over which beta rises from 0."""
    free_bits: float = 0.0
    """Nats per latent dimension that cost nothing."""
    pixels: Literal["grey", "binarised", "dequantised"] = "grey"
    """Pixels as they are, drawn as 0 or 1 at every visit, or with uniform noise added."""
    conditional: bool = False
    """Condition encoder and decoder on the label."""

    @property
    def convolves(self) -> bool:
        """Whether the nets convolve."""
        return self.net != "mlp"

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_counts("latent_dim")
        self.check_counts("beta_warmup", least=0)
        if self.gamma_learning_rate is not None:
            check_number("--gamma-learning-rate", self.gamma_learning_rate, above=0.0)
        for name in ("beta", "free_bits"):
            check_number(f"--{name.replace('_', '-')}", getattr(self, name), least=0.0)


def build(config: VAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the VAE of these options, for data of `shape` [H, W, C] (or [n])."""
    from jaxvae import models
    from jaxvae.presets import parts

    options = parts.elbo_options(config)
    model = models.vae(*parts.nets_of(config, shape, num_classes), **options)
    return parts.system(config, model, num_classes)


PRESET = Preset(VAE, build)
