"""The preset `flow`."""

import dataclasses
from typing import Literal

from jaxvae.presets.config import Layers, Number, Options, Preset, System


@dataclasses.dataclass(frozen=True)
class Flow(Options):
    """Train a normalising flow with affine couplings (Dinh et al. 2017)."""

    couplings: Layers = 8
    """Affine couplings, whose checkerboard masks take turns."""
    hidden: tuple[int, ...] = (1024, 1024)
    """Widths of each coupling's hidden layers."""
    pixels: Literal["dequantised", "grey"] = "dequantised"
    """Bytes with uniform noise added and a logit, or numbers as they are, without one."""
    alpha: float = 1e-5
    """How far the logit keeps off 0 and 1."""
    max_grad_norm: Number = 0.6
    """Clip gradients to this norm."""

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_counts("couplings", least=2)
        self.check_numbers("alpha", above=0.0, below=1.0)


def build(config: Flow, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the flow of these options, for data of `shape` [H, W, C] or [n]."""
    import jax.numpy as jnp

    from jaxvae import models, nets
    from jaxvae.data.preprocess import make_preprocess
    from jaxvae.presets import optimise, parts

    alpha = config.alpha if config.pixels == "dequantised" else None
    net = nets.coupling(shape, hidden=config.hidden, dtype=jnp.dtype(config.dtype))
    model = models.flow(net, shape, couplings=config.couplings, alpha=alpha)
    tx = optimise.transformation(config, config.learning_rate)
    preprocess, augment = make_preprocess(config.pixels), parts.augmentation(config)
    return System(model, tx, preprocess, augment, pixels=config.pixels)


PRESET = Preset(Flow, build, equation="-log p(x) = -log N(f(x); 0, I) - log |det df/dx|")
