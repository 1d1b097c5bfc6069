"""Trains what a cell is of, epoch by epoch, and keeps samples on the way; a run that was killed
goes on where it was."""

import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.budgets import Budget
from experiments.costs import cost
from experiments.course_report import setting
from experiments.course_report.setting import Task
from jaxvae import data, parallel, plots, writers
from jaxvae.data import Source
from jaxvae.train import fit

FOLDER = Path(__file__).parent
SHOWN = 16  # samples of an epoch, as in the report
SMOKE = {"epochs": 2, "shown": (1, 2)}


class Case(NamedTuple):
    """What a cell is run for."""

    kind: str  # "z20", "gan" or "flow"
    seed: int = 0
    budget: Budget = Budget()
    smoke: bool = False

    @property
    def folder(self) -> Path:
        """Where its run is kept, not in git."""
        runs = FOLDER / "runs" / ("smoke" if self.smoke else self.budget.folder)
        return runs / f"{self.kind}.seed{self.seed}"


class Trained(NamedTuple):
    """A trained model."""

    task: Task
    params: Any
    state: Any
    steps: int


def source(case: Case, name: str) -> Source:
    """Returns the part "train", "valid" or "test" of MNIST that a case has, or of the embedded
    digits for smoke runs."""
    system = setting.system(case.kind)
    if case.smoke:
        found = data.load("digits", getattr(data.splits("digits"), name))
    else:
        found = data.load("mnist", setting.SPLITS[system][name])
    return data.binarised(found) if system == "vae" else found


def task_of(case: Case, shape: tuple[int, ...]) -> Task:
    """Returns what a case trains, with as many epochs as it has."""
    if case.smoke:
        return setting.task(case.kind, shape, setting.SMALL)._replace(**SMOKE)
    task, share = setting.task(case.kind, shape, setting.Sizes()), case.budget
    shown = sorted({share.of(epoch) for epoch in task.shown})
    return task._replace(epochs=share.of(task.epochs), shown=tuple(shown))


def steps_of(task: Task, size: int) -> int:
    """Returns the steps of an epoch of `size` images."""
    return math.ceil(size / task.batch_size)


@cache
def trained(case: Case) -> Trained:
    """Returns the trained model of a case; what it will cost is printed first."""
    images = source(case, "train")
    has_valid = "valid" in setting.SPLITS[setting.system(case.kind)]
    valid = source(case, "valid") if has_valid else None
    task = task_of(case, images.shape)
    assert task.model.sample is not None  # all of them do
    sample = jax.jit(task.model.sample, static_argnums=3)
    epoch = steps_of(task, images.size)
    total = epoch * task.epochs
    if not (case.folder / "config.json").exists():
        said = cost(task.model, task.tx, images, task.preprocess, total, task.batch_size)
        print(f"  {case.kind}{case.budget.suffix}: {said}", flush=True)
    state = None
    for number in task.shown:
        if number < task.epochs and shown_file(case, number).exists():
            continue
        with jax.default_matmul_precision("highest"):
            state = fit(
                task.model,
                task.tx,
                images,
                steps=number * epoch,
                batch_size=task.batch_size,
                seed=case.seed,
                workdir=case.folder,
                preprocess=task.preprocess,
                valid=valid,
                log_every=epoch,
                eval_every=epoch if has_valid else None,
                save_every=None if has_valid else epoch,
                keep=1,
                max_grad_norm=task.max_grad_norm,
                mesh=parallel.mesh_for(task.batch_size),
                config={"kind": case.kind, "share": case.budget.share, "seed": case.seed},
            ).train_state
            x = sample(state.params, state.state, jax.random.key(case.seed), SHOWN)
        plots.save_png(shown_file(case, number), plots.grid(np.asarray(x), columns=SHOWN))
    assert state is not None
    (case.folder / "finished").touch()
    return Trained(task, state.params, state.state, total)


def shown_file(case: Case, epoch: int) -> Path:
    """Returns the picture of a run's samples after so many epochs."""
    return case.folder / f"samples.{epoch:03d}.png"


def curves(case: Case) -> writers.Curves:
    """Returns the log of a run: split -> metric -> (steps, values), a point for each epoch."""
    return writers.read_curves(case.folder / "metrics.jsonl")
