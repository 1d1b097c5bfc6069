"""Trains the model of a cell, once for its numbers and its pictures; a run that was killed goes on where
it was."""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jaxvae
from experiments import runs
from experiments.folders import folder_of
from experiments.needs import Part, batch, parts_of
from experiments.runs import Trained
from experiments.soft_intro_style import setting
from experiments.soft_intro_style.setting import Setting
from jaxvae import data, parallel
from jaxvae.data import Source, from_arrays, sets
from jaxvae.data.preprocess import Preprocess, at_side
from jaxvae.errors import UserError
from jaxvae.presets.config import System
from jaxvae.presets.style_soft_intro_vae import StyleSoftIntroVAE, build, level
from jaxvae.train import fit

FOLDER = Path(__file__).parent
SMOKE_EXAMPLES = 16
SMOKE = {
    "resolutions": (4, 8),
    "batch_size": 1,
    "latent_dim": 2,
    "start_channels": 2,
    "max_channels": 2,
    "mapping_layers": 1,
    "level_steps": 2,
    "steps": 4,
    "num_vae": 0,
}


class Case(NamedTuple):
    """What a cell is run for."""

    name: str  # of the cell
    seed: int = 0
    smoke: bool = False

    @property
    def setting(self) -> Setting:
        """The setting that a cell is named after, also in a smoke run."""
        return setting.SETTINGS[self.name]

    @property
    def config(self) -> StyleSoftIntroVAE:
        """The options that are trained with."""
        options = SMOKE if self.smoke else self.setting.options
        config = StyleSoftIntroVAE(self.folder, data=self.setting.data, seed=self.seed, **options)
        config.check()
        return config

    @property
    def label(self) -> str:
        """Name of its folder and pictures."""
        return self.name.replace("/", ".")

    @property
    def kind(self) -> str:
        """Name of the folder of its likes: there is one kind."""
        return ""

    @property
    def folder(self) -> Path:
        """Where its run is kept, not in git."""
        return runs.folder_of(FOLDER, self)

    @property
    def suffix(self) -> str:
        """What it adds to the name of a protocol."""
        return setting.suffix(self.setting)


def source(case: Case, split: str) -> Source:
    """Returns "train" or "test": the official split; of a folder of images its first ones, in a fixed
    shuffled order, and the rest; in smoke runs a few made-up images.

    Raises:
        UserError: where the data are not there.
    """
    chosen = case.setting
    if case.smoke:
        found = data.load(f"fake_{_smoke_name(chosen)}", f"{split}[:{SMOKE_EXAMPLES}]")
    elif chosen.images is None:
        found = data.load(chosen.data, split)
    else:
        part = f"all[:{chosen.images}]" if split == "train" else f"all[{chosen.images}:]"
        return data.load(f"folder:{folder_of(chosen.data)}", part, size=chosen.side)
    if not chosen.pad:
        return found
    x, pad = found.read(np.arange(found.size))["x"], (chosen.pad, chosen.pad)
    padded = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    return from_arrays(padded, name=found.name, split=found.split)._replace(origin=found.origin)


def _smoke_name(chosen: Setting) -> str:
    return "cifar10" if chosen.images is not None else chosen.data


def shape_of(chosen: Setting) -> tuple[int, int, int]:
    """Returns height, width and channels of an image, by what is known of the data."""
    side = chosen.side
    return (side, side, sets.DATA_SETS[chosen.data].shape[-1] if chosen.images is None else 3)


def size_of(chosen: Setting) -> int:
    """Returns the number of training images, by what is known of the data."""
    return chosen.images or sets.DATA_SETS[chosen.data].counts["train"]


@cache
def system(case: Case) -> System:
    """Returns what the options of a case become."""
    chosen = case.setting
    shape = source(case, "test").shape if case.smoke else shape_of(chosen)
    return build(case.config, shape, None)


@cache
def trained(case: Case) -> Trained:
    """Returns the model of a case, trained on all of "train", with the moving average of its
    parameters."""
    train, config, made = source(case, "train"), case.config, system(case)
    (steps,) = config.lengths(train.size)
    assert made.phases is not None  # it grows
    sizes = config.of_levels("batch_size", "batch_sizes")
    with jax.default_matmul_precision("highest"):
        found = fit(
            made.phases(steps, train.size),
            made.tx,
            train,
            seed=case.seed,
            workdir=case.folder,
            augment=made.augment,
            log_every=max(1, steps // 200),
            save_every=config.level_steps or max(1, steps // 40),
            keep=len(config.resolutions),
            mesh=parallel.mesh_for(math.gcd(*sizes)),
            config={"cell": case.name, "smoke": case.smoke, "seed": case.seed},
        )
    runs.finish(case)
    state = found.train_state
    return Trained(made.model, state.ema, state.state, steps)


def trained_level(case: Case, i: int) -> Trained | None:
    """Returns the model as the run left resolution i, or None where that is not kept."""
    config, end = case.config, trained(case)
    if i == len(config.resolutions) - 1:
        return end
    size = source(case, "train").size
    step, side, colours = sum(config.level_lengths(size)[: i + 1]), *shape_at(case, i)
    model = level(config, colours, i)
    example = batch(1, side, side, colours)
    try:
        found = jaxvae.load(case.folder, step=step, model=model, example=example)
    except UserError:
        return None
    return Trained(model, found.params, found.state, step)


def shape_at(case: Case, i: int) -> tuple[int, int]:
    """Returns side and colours of the images of resolution i."""
    return case.config.resolutions[i], source(case, "test").shape[-1]


def parts(case: Case) -> list[Part]:
    """Returns the trainings of a case, to count and to time them; no data are read."""
    config, shape, size = case.config, shape_of(case.setting), size_of(case.setting)
    (steps,) = config.lengths(size)
    return parts_of(build(config, shape, None), steps, size, shape, None, config.batch_size)


def steps_of(case: Case) -> int:
    """Returns the steps of a training."""
    return case.config.lengths(size_of(case.setting))[0]


def at_level(case: Case, side: int) -> Preprocess:
    """Returns how examples become images of this side."""
    return at_side(side, pad=case.config.pad)
