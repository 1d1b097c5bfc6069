"""The cells of the tutorial's text: the proof in numbers, the VAE at several sizes of z, and what
completes a column or a half of a digit.

elbo, rec, kl    nats per image, of all pixels (vae) or of the missing ones (cvae)
log_prob         of the missing pixels, nats per image: the regressor's, exactly
best_of_k, mean_error, diversity    squared distance of completions per image (`metrics.completion`)
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.budgets import Budget, check_budget
from experiments.needs import Needs, Part, unfinished
from experiments.runner import Cell, Measure
from experiments.tutorial import proof, setting
from experiments.tutorial.setting import BATCH_SIZE, Task
from jaxvae import data, plots, writers
from jaxvae.data import Source
from jaxvae.metrics import completion, likelihood
from jaxvae.nets import doersch
from jaxvae.presets import cvae
from jaxvae.train import TrainState, fit

FOLDER = Path(__file__).parent
PRECISION = "float32, highest"
SMOKE_STEPS = 20
SHAPE = (28, 28, 1)  # of MNIST


def source(split: str, smoke: bool) -> Source:
    """Returns the official split "train" or "test"; of the embedded digits for smoke runs."""
    return data.load("digits" if smoke else "mnist", split)


def task_of(cell: str, smoke: bool) -> Task:
    """Returns what a cell trains: "mnist/vae/z30", "mnist/column/cvae", ..."""
    _, kind, which = cell.split("/")
    widths = setting.SMALL if smoke else doersch.WIDTHS
    return build(kind, which, source("test", smoke).shape, widths)


def build(kind: str, which: str, shape: tuple[int, ...], widths: tuple[int, ...]) -> Task:
    """Returns the task of "vae", "z30" or of "column", "cvae"."""
    if kind == "vae":
        return setting.vae(shape, int(which[1:]), widths)
    return setting.completing(kind, which, shape, widths)


def folder_of(cell: str, seed: int, budget: Budget) -> Path:
    """Returns where a run is kept, not in git."""
    steps = budget.of(setting.STEPS)
    return FOLDER / "runs" / f"{steps}_steps" / f"{cell.replace('/', '.')}.seed{seed}"


def train(cell: str, seed: int, smoke: bool, budget: Budget) -> tuple[Task, TrainState, int]:
    """Returns task, state and steps of a run, gone on with where it was left; a smoke run is not
    kept."""
    task, images = task_of(cell, smoke), source("train", smoke)
    steps = SMOKE_STEPS if smoke else budget.of(setting.STEPS)
    config = {"cell": cell, "seed": seed, "steps": steps, "batch_size": BATCH_SIZE}
    with jax.default_matmul_precision("highest"):
        state = fit(
            task.model,
            cvae.optimiser(),
            images,
            steps=steps,
            batch_size=BATCH_SIZE,
            seed=seed,
            preprocess=task.preprocess,
            log_every=max(1, steps // 100),
            save_every=max(1, steps // 10),
            workdir=None if smoke else folder_of(cell, seed, budget),
            keep=1,
            config=config,
        ).train_state
    if not smoke:
        (folder_of(cell, seed, budget) / "finished").touch()
    return task, state, steps


def run(cell: str, budget: Budget, seed: int, smoke: bool) -> list[Measure]:
    """Trains on "train" and measures on "test"; nothing is chosen by the result."""
    task, state, steps = train(cell, seed, smoke, budget)
    test = source("test", smoke)
    options = {"preprocess": task.preprocess, "seed": seed, "batch_size": 500}
    suffix = "" if smoke else budget.suffix
    part = None if task.given is None else cell.split("/")[1]
    about, measures = setting.about(part), []

    def measure(function, names: Sequence[str], protocol: str) -> None:
        found = likelihood.per_example(function, state.params, state.state, test, **options)
        for name in names:
            value = np.mean(found[name], dtype=np.float64)
            measures.append(Measure(name, protocol + suffix, value, test.size, steps, PRECISION))

    if task.model.log_prob is None:
        measure(likelihood.make_terms(task.model), ("elbo", "rec", "kl"), about)
    else:
        measure(likelihood.make_log_prob(task.model), ("log_prob",), about)
    if task.given is not None:
        completions = completion.make_completions(task.model, setting.K)
        protocol = f"squared distance, K={setting.K} means{about.removeprefix('nats, grey pixels')}"
        measure(completions, completion.NAMES, protocol)
    elif seed == 0 and not smoke:
        with jax.default_matmul_precision("highest"):
            rng = jax.random.key(seed)
            x = jax.jit(task.model.sample, static_argnums=3)(state.params, state.state, rng, 100)
        where = writers.make_folder(FOLDER / "figures")
        plots.samples(where / f"{cell.replace('/', '.')}.png", np.asarray(x))
    return measures


def names() -> list[str]:
    """Returns the cells that are trained."""
    pairs = [f"mnist/{part}/{method}" for part in setting.PARTS for method in setting.METHODS]
    return [*pairs, *(f"mnist/vae/z{latent_dim}" for latent_dim in setting.LATENT_DIMS)]


def needs(cell: str, budget: Budget) -> Needs:
    """Returns what a trained cell needs."""
    _, kind, which = cell.split("/")

    def parts() -> list[Part]:
        task = build(kind, which, SHAPE, doersch.WIDTHS)
        examples = {"x": jax.ShapeDtypeStruct((BATCH_SIZE, *SHAPE), "uint8")}
        batch = jax.eval_shape(task.preprocess, jax.random.key(0), examples)
        return [Part(task.model, cvae.optimiser(), batch, budget.of(setting.STEPS))]

    def stopped(seed: int) -> bool:
        return unfinished(folder_of(cell, seed, budget))

    about = setting.about(None if kind == "vae" else kind) + budget.suffix
    return Needs(
        ("mnist",),
        steps=budget.of(setting.STEPS),
        net=f"{kind}, {which}",
        parts=parts,
        protocols=(about,),
        stopped=stopped,
    )


# Budgets of runs that are planned: the published steps, and what a CPU does in minutes.
VARIANTS = ({"budget": 1.0}, {"budget": 0.5})


def cells(budget: float) -> list[Cell]:
    """Returns the cells at one budget."""
    share = check_budget(budget, "steps")
    trained = [
        Cell(name, functools.partial(run, name, share), needs=needs(name, share))
        for name in names()
    ]
    return [*proof.CELLS, *trained]
