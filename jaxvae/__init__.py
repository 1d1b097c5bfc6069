"""jaxvae: the VAE family in functional JAX.

Modules are imported at first use, so that `jaxvae --help` answers at once.
"""

import importlib

__version__ = "0.1.0"

_MODULES = (
    "cli",
    "data",
    "distributions",
    "errors",
    "host",
    "metrics",
    "models",
    "nets",
    "noise",
    "objectives",
    "parallel",
    "plots",
    "presets",
    "safetensors",
    "table",
    "testing",
    "train",
    "types",
    "writers",
)
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
    "export": "presets.load",
    "TrainState": "train.step",
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
