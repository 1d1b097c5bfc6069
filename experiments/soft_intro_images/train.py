"""Trains the models of the cells, each once for all the cells that share it; a run that was killed
goes on where it was."""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments import runs
from experiments.folders import folder_of
from experiments.needs import Part, batch
from experiments.runs import Trained
from experiments.soft_intro_images import setting
from experiments.soft_intro_images.setting import Setting
from jaxvae import data
from jaxvae.data import Source, sets
from jaxvae.data.preprocess import Preprocess, flip, make_preprocess
from jaxvae.train import Phase, reestimate
from jaxvae.train.statistics import OVER
from jaxvae.types import State

FOLDER = Path(__file__).parent
SMOKE_STEPS, SMOKE_EXAMPLES = 4, 32
SMOKE = {"latent_dim": 4, "batch_size": 16, "shrink": 64}


class Case(NamedTuple):
    """What a cell is run for."""

    name: str  # of the data in the cell: "svhn"
    method: str
    conditional: bool = False
    narrow: bool = False
    seed: int = 0
    smoke: bool = False

    @property
    def published(self) -> Setting:
        """The setting that a cell is named after, also in a smoke run."""
        return (setting.NARROW if self.narrow else setting.PUBLISHED)[self.name]

    @property
    def setting(self) -> Setting:
        """The setting that is trained."""
        return self.published._replace(**SMOKE) if self.smoke else self.published

    @property
    def label(self) -> str:
        """Name of its folder and pictures."""
        return f"{self.name}.{self.method}" + (".conditional" if self.conditional else "")

    @property
    def kind(self) -> str:
        """Name of the folder of its likes."""
        return runs.kind_of(narrow=self.narrow)

    @property
    def folder(self) -> Path:
        """Where its run is kept, not in git."""
        return runs.folder_of(FOLDER, self)

    @property
    def suffix(self) -> str:
        """What it adds to the name of a protocol."""
        return setting.suffix(self.published)


def source(case: Case, split: str) -> Source:
    """Returns "train" or "test": the official split; of faces, the first images of a folder and the
    rest; in smoke runs a few made-up images.

    Raises:
        UserError: where the data are not there.
    """
    chosen = case.published
    if case.smoke:
        name = "cifar10" if chosen.side is not None else chosen.data
        return data.load(f"fake_{name}", f"{split}[:{SMOKE_EXAMPLES}]")
    if chosen.side is None:
        return data.load(chosen.data, split)
    part = f"all[:{chosen.images}]" if split == "train" else f"all[{chosen.images}:]"
    return data.load(f"folder:{folder_of(chosen.data)}", part, size=chosen.side)


def classes(case: Case) -> int | None:
    """Returns the number of classes of a conditional case."""
    return source(case, "test").num_classes if case.conditional else None


def preprocess(case: Case) -> Preprocess:
    """Returns how examples become a batch: pixels in [0, 1], and labels where they count."""
    return make_preprocess("grey", classes(case))


@cache
def trained(case: Case) -> Trained:
    """Returns the model of a case, trained on all of "train"; what it will cost is printed first."""
    train, chosen = source(case, "train"), case.setting
    model = setting.build(case.method, chosen, train.shape, classes(case))
    steps = SMOKE_STEPS if case.smoke else steps_of(chosen, train.size)
    tx, prepare = setting.optimiser(), preprocess(case)
    config = {
        "method": case.method,
        "conditional": case.conditional,
        **chosen._asdict(),
        "seed": case.seed,
    }
    augment, batch_size = flip if chosen.flip else None, chosen.batch_size
    options = {"batch_size": batch_size, "config": config, "augment": augment}
    return runs.train(case, [Phase(model, steps)], tx, train, prepare, **options)


def steps_of(chosen: Setting, size: int) -> int:
    """Returns the steps of a training on `size` images."""
    return math.ceil(chosen.epochs * size / chosen.batch_size)


def size_of(chosen: Setting) -> int:
    """Returns the number of training images, by what is published of the data."""
    known = chosen.images
    return sets.DATA_SETS[chosen.data].counts["train"] if known is None else known


def shape_of(chosen: Setting) -> tuple[int, int, int]:
    """Returns height, width and channels of an image, by what is published of the data."""
    side = chosen.side
    return sets.DATA_SETS[chosen.data].shape if side is None else (side, side, 3)


def part(case: Case) -> Part:
    """Returns the training of a case, to count and to time it; no data are read."""
    chosen, classes = case.published, 10 if case.conditional else None
    shape = shape_of(chosen)
    model = setting.build(case.method, chosen, shape, classes)
    x = batch(chosen.batch_size, *shape)
    if classes is not None:
        x = x._replace(cond=jax.ShapeDtypeStruct((chosen.batch_size, classes), jnp.float32))
    return Part(model, setting.optimiser(), x, steps_of(chosen, size_of(chosen)))


def averages(case: Case, stats: str) -> tuple[State, str]:
    """Returns the state and the mode in which a trained model has the statistics of this name."""
    if stats in OVER:
        return _reestimated(case, OVER[stats]), "running"
    return trained(case).state, stats


@cache
def _reestimated(case: Case, over: str) -> State:
    found, images = trained(case), source(case, "train")
    options = {"over": over, "preprocess": preprocess(case), "seed": case.seed}
    return reestimate(found.model, found.params, found.state, images, **options)
