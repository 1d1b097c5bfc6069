"""jaxvae: the VAE family in functional JAX.

Modules are imported at first use, so that `jaxvae --help` answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` below imports, for type checkers and editors
    from jaxvae import (
        charts,
        cli,
        data,
        distributions,
        errors,
        host,
        metrics,
        models,
        nets,
        noise,
        objectives,
        parallel,
        plots,
        presets,
        processes,
        safetensors,
        table,
        testing,
        train,
        types,
        writers,
    )
    from jaxvae.errors import UserError
    from jaxvae.presets.export import export
    from jaxvae.presets.load import load
    from jaxvae.train.step import TrainState
    from jaxvae.types import Aux, Batch, Likelihood, Mean, Model, Net, Objective, Posterior, Terms

__version__ = "0.1.0"

# name -> the module that it is of; every other name of `__all__` is a module itself
_NAMES = {
    "Aux": "types",
    "Batch": "types",
    "Likelihood": "types",
    "Mean": "types",
    "Model": "types",
    "Net": "types",
    "Objective": "types",
    "Posterior": "types",
    "Terms": "types",
    "UserError": "errors",
    "load": "presets.load",
    "export": "presets.export",
    "TrainState": "train.step",
}
__all__ = [
    "Aux",
    "Batch",
    "Likelihood",
    "Mean",
    "Model",
    "Net",
    "Objective",
    "Posterior",
    "Terms",
    "TrainState",
    "UserError",
    "charts",
    "cli",
    "data",
    "distributions",
    "errors",
    "export",
    "host",
    "load",
    "metrics",
    "models",
    "nets",
    "noise",
    "objectives",
    "parallel",
    "plots",
    "presets",
    "processes",
    "safetensors",
    "table",
    "testing",
    "train",
    "types",
    "writers",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'jaxvae' has no attribute {name!r}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"jaxvae.{_NAMES[name]}"), name)
    return importlib.import_module(f"jaxvae.{name}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
