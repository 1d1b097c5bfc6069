"""Presets: what a named run means. Each is one file: options, and how they become a model.

    options    the options that all have
    config     what a preset is, and the options that most have
    registry   presets by name, imported at first use
    vae, rho_vae, info_vae, two_stage_vae, intro_vae, soft_intro_vae, style_soft_intro_vae,
    translation, cvae, gan, flow, iwae, vamp_vae, ladder_vae, tc_vae, factor_vae, autoencoder,
    vae_gan, vq_vae    one each
    introspective, two_stage_options    options of two, and of one that is built late
    parts      nets and optimisers that several build
    optimise   an optimiser and the schedule of its rate, by name
    splits     what a run is trained and measured on
    conditions what samples are conditioned on
    record     options as config.json and as a command line
    run        a run of a preset; stages: one of two stages
    finish     pictures and held-out numbers of a finished run
    measure    more numbers of it, detect: how it tells its data from others
    statistics whose batch statistics it is used with
    load       a model from a run's folder, or from a released one; held, how large its weights let it be
    export     a run's model as a folder of its own
    released   the form of that folder, card its model card; zoo and hub, where there are some

Stands on training; imported by the command line and by `jaxvae.load`. `PRESETS` is all that the
command line knows of them: a preset of your own is one more entry.
"""

import importlib
from typing import Any

from jaxvae.presets.config import Preset
from jaxvae.presets.registry import Registry

__all__ = ["PRESETS", "Preset"]

_NAMES = (
    "vae",
    "rho_vae",
    "info_vae",
    "iwae",
    "vamp_vae",
    "ladder_vae",
    "tc_vae",
    "factor_vae",
    "autoencoder",
    "vae_gan",
    "vq_vae",
    "two_stage_vae",
    "soft_intro_vae",
    "style_soft_intro_vae",
    "intro_vae",
    "translation",
    "gan",
    "flow",
    "cvae",
)
PRESETS = Registry({name: f"{__name__}.{name}" for name in _NAMES})


def __getattr__(name: str) -> Any:
    if name not in (*_NAMES, "introspective", "two_stage_options"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return [*__all__, *_NAMES]
