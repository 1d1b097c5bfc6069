"""Trains the models of the cells; a run that was killed goes on where it was."""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import runs
from experiments.needs import Part, batch
from experiments.runs import Trained
from experiments.translation import paired, setting
from experiments.translation.paired import KEYS, Paired
from experiments.translation.setting import Setting
from jaxvae import data
from jaxvae.data.preprocess import make_preprocess
from jaxvae.models.introspective import squared_error

FOLDER = Path(__file__).parent
SMOKE_STEPS, SMOKE_EXAMPLES, SMOKE_VIEWS, SMOKE_CARS = 4, 32, 6, 5
SMOKE = {"content_dim": 3, "class_dim": 2, "batch_size": 8, "shrink": 64}


class Case(NamedTuple):
    """What a cell is run for."""

    name: str  # of the data in the cell: "cars3d"
    method: str
    narrow: bool = False
    seed: int = 0
    smoke: bool = False

    @property
    def published(self) -> Setting:
        """The setting that a cell is named after, also in a smoke run."""
        known = setting.NARROW if self.narrow else setting.PUBLISHED
        return setting.chosen_for(known[self.name], self.method)

    @property
    def setting(self) -> Setting:
        """The setting that is trained."""
        if not self.smoke:
            return self.published
        error = {"vgg": "squeeze"}.get(self.published.error, self.published.error)
        return self.published._replace(error=error, **SMOKE)

    @property
    def kind(self) -> str:
        """Name of the folder of its likes."""
        return runs.kind_of(narrow=self.narrow)

    @property
    def label(self) -> str:
        """Name of its folder and pictures."""
        return f"{self.name}.{self.method}"

    @property
    def folder(self) -> Path:
        """Where its run is kept, not in git."""
        return runs.folder_of(FOLDER, self)

    @property
    def suffix(self) -> str:
        """What it adds to the name of a protocol."""
        return setting.suffix(self.published)


@cache
def images(name: str, narrow: bool, smoke: bool, split: str) -> Paired:
    """Returns "train" or "test" of a data set: see `paired`; in smoke runs a few made-up images.

    Raises:
        UserError: where the data are not there, or lack what is needed of them.
    """
    chosen = (setting.NARROW if narrow else setting.PUBLISHED)[name]
    if chosen.truth == "colours":
        known = f"fake_{chosen.data}" if smoke else chosen.data
        part = f"{split}[:{SMOKE_EXAMPLES}]" if smoke else split
        return paired.coloured(data.load(known, part), KEYS[split])
    if smoke:
        return made_up(bool(chosen.truth), split)
    if chosen.truth == "views":
        views = paired.folder(chosen.data, chosen.shape[0])
        return paired.cars(views, split, setting.TEST_CARS)
    part = {"train": "all[:90%]", "test": "all[90%:]"}[split]
    return Paired(paired.folder(chosen.data, chosen.shape[0], part), None)


def made_up(has_truth: bool, split: str) -> Paired:
    """Returns a few painted images in place of a folder of classes with the same contents."""
    grey = data.load("fake_mnist", f"train[:{SMOKE_VIEWS}]").read(np.arange(SMOKE_VIEWS))["x"]
    label = np.repeat(np.arange(SMOKE_CARS), SMOKE_VIEWS).astype(np.int32)
    x = paired.painted(np.tile(grey, (SMOKE_CARS, 1, 1, 1)), label)
    found = paired.cars(data.from_arrays(x, label, name="made up"), split, 2)
    return found if has_truth else found._replace(truth=None)


def of_case(case: Case, split: str) -> Paired:
    """Returns the images of a case, as `images`."""
    return images(case.name, case.narrow, case.smoke, split)


@cache
def trained(case: Case) -> Trained:
    """Returns the model of a case, trained on all of "train"; what it will cost is printed first."""
    train, chosen = of_case(case, "train").source, case.setting
    epoch = SMOKE_STEPS / chosen.epochs if case.smoke else train.size / chosen.batch_size
    tx, prepare = setting.optimiser(chosen), make_preprocess()
    config = {"method": case.method, **chosen._asdict(), "seed": case.seed}
    options = {"batch_size": chosen.batch_size, "config": config}
    phases = setting.phases(case.method, chosen, train.shape, epoch)
    return runs.train(case, phases, tx, train, prepare, **options)


def steps_of(chosen: Setting, size: int) -> int:
    """Returns the steps of a training on `size` images."""
    return math.ceil(chosen.epochs * size / chosen.batch_size)


def parts(case: Case) -> list[Part]:
    """Returns the phases of a case's training, to count and to time them; no data and no weights are
    read, so that a perceptual error is counted as a squared one."""
    chosen = case.published
    epoch, x = chosen.images / chosen.batch_size, batch(chosen.batch_size, *chosen.shape)
    phases = setting.phases(case.method, chosen, chosen.shape, epoch, squared_error)
    return [Part(phase.model, setting.optimiser(chosen), x, phase.steps) for phase in phases]
