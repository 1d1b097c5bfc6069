"""Presets: what a named run means. Each is one file: options, and how they become a model.

    options    the options that all have
    config     what a preset is, and the options that most have
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

from jaxvae.presets import (
    autoencoder,
    cvae,
    factor_vae,
    flow,
    gan,
    info_vae,
    intro_vae,
    iwae,
    ladder_vae,
    rho_vae,
    soft_intro_vae,
    style_soft_intro_vae,
    tc_vae,
    translation,
    two_stage_vae,
    vae,
    vae_gan,
    vamp_vae,
    vq_vae,
)
from jaxvae.presets.config import Preset

PRESETS: dict[str, Preset] = {
    "vae": vae.PRESET,
    "rho_vae": rho_vae.PRESET,
    "info_vae": info_vae.PRESET,
    "iwae": iwae.PRESET,
    "vamp_vae": vamp_vae.PRESET,
    "ladder_vae": ladder_vae.PRESET,
    "tc_vae": tc_vae.PRESET,
    "factor_vae": factor_vae.PRESET,
    "autoencoder": autoencoder.PRESET,
    "vae_gan": vae_gan.PRESET,
    "vq_vae": vq_vae.PRESET,
    "two_stage_vae": two_stage_vae.PRESET,
    "soft_intro_vae": soft_intro_vae.PRESET,
    "style_soft_intro_vae": style_soft_intro_vae.PRESET,
    "intro_vae": intro_vae.PRESET,
    "translation": translation.PRESET,
    "gan": gan.PRESET,
    "flow": flow.PRESET,
    "cvae": cvae.PRESET,
}
