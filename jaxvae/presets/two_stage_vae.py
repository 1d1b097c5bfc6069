"""The preset `two_stage_vae`: a run of two stages (`stages`)."""

import importlib
from collections.abc import Callable
from typing import Any

from jaxvae.presets.config import Preset
from jaxvae.presets.two_stage_options import FIRST, SECOND, TwoStageVAE


def _later(name: str) -> Callable[..., Any]:
    """Returns the function of `stages` of this name, imported when it is called."""

    def call(*args: Any) -> Any:
        return getattr(importlib.import_module("jaxvae.presets.stages"), name)(*args)

    return call


PRESET = Preset(
    TwoStageVAE,
    _later("build"),
    _later("train"),
    _later("load"),
    (FIRST, SECOND),
    equation="-ELBO of log p(x), gamma learned; then -ELBO of log p(z) on z ~ q(z|x); u -> z -> x",
)
