"""jaxvae: the VAE family in functional JAX.

Modules are imported at first use, so that `jaxvae --help` answers at once.
"""

import importlib

__version__ = "0.1.0"

_MODULES = (
    "checkpoint",
    "cli",
    "config",
    "data",
    "distributions",
    "doctor",
    "ensemble",
    "errors",
    "export",
    "inference",
    "loop",
    "metrics",
    "models",
    "nets",
    "noise",
    "objectives",
    "options",
    "parallel",
    "plots",
    "run",
    "stages",
    "step",
    "table",
    "testing",
    "train",
    "types",
    "writers",
)
_NAMES = {
    "Batch": "types",
    "Model": "types",
    "Net": "types",
    "Objective": "types",
    "Posterior": "types",
    "Terms": "types",
    "Aux": "types",
    "Mean": "types",
    "UserError": "errors",
    "load": "run",
    "TrainState": "step",
}
__all__ = sorted((*_MODULES, *_NAMES))


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"jaxvae.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"jaxvae.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'jaxvae' has no attribute {name!r}")


def __dir__():
    return [*__all__, "__version__"]
