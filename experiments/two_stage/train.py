"""Trains the stages of a cell, each once for all the cells that share it; a stage that was killed
goes on where it was."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.budgets import Budget
from experiments.costs import cost
from experiments.needs import Part, batch
from experiments.two_stage import gans, setting
from experiments.two_stage.setting import TABLE_1, Variant
from jaxvae import data, models, parallel
from jaxvae.data import Source, sets
from jaxvae.data.preprocess import make_preprocess
from jaxvae.models.two_stage import Latents
from jaxvae.train import Fit, fit
from jaxvae.train.step import groups
from jaxvae.types import Batch, Model

FOLDER = Path(__file__).parent
SMOKE_SHRINK, SMOKE_STEPS, SMOKE_LATENT_DIM = 32, 8, 4  # the last is the sixteenth of 64
PREPROCESS = make_preprocess("grey")


class Case(NamedTuple):
    """What a cell is run for."""

    name: str  # of the data in the cell: "celeba"
    seed: int
    budget: Budget
    smoke: bool
    variant: str = TABLE_1  # of `setting.VARIANTS`

    @property
    def of(self) -> Variant:
        """What its variant is."""
        return setting.VARIANTS[self.variant]

    @property
    def schedule(self) -> setting.Schedule:
        """Epochs and batch size of both stages."""
        return setting.schedule(self.name, self.variant)

    @property
    def label(self) -> str:
        """Of data and variant: "celeba.resnet"."""
        return f"{self.name}.{self.variant}" if self.variant else self.name

    def cell(self, method: str) -> str:
        """Returns the name of a cell: "celeba/resnet/two_stage"."""
        return "/".join(part for part in (self.name, self.variant, method) if part)

    @property
    def folder(self) -> Path:
        """Where its runs are kept, not in git."""
        return (
            FOLDER
            / "runs"
            / ("smoke" if self.smoke else self.budget.folder)
            / f"{self.label}.seed{self.seed}"
        )

    @property
    def shrink(self) -> int:
        """What divides the widths of the nets."""
        return SMOKE_SHRINK if self.smoke else 1

    @property
    def latent_dim(self) -> int:
        """Returns the size of z."""
        size = self.of.latent_dim
        return max(1, size * SMOKE_LATENT_DIM // setting.LATENT_DIM) if self.smoke else size


class Stage(NamedTuple):
    """A trained stage."""

    model: Model
    params: Any
    state: Any
    steps: int


def source(case: Case, split: str) -> Source:
    """Returns the official split "train" or "test"; the embedded digits, cut to 8x8, for smoke
    runs."""
    return data.load("digits" if case.smoke else setting.DATA[case.name], split)


@cache
def stage_one(case: Case, method: str) -> Stage:
    """Returns the first stage of a method, trained on all of "train"."""
    train = source(case, "train")
    model = _first(case, method, train.shape)
    steps, tx, batch_size = _first_length(case, method, train.size)
    return _train(case, method, model, train, PREPROCESS, steps, tx, batch_size)


def _first(case: Case, method: str, shape: tuple[int, ...]) -> Model:
    """Returns what is trained on images: a first stage, or a GAN."""
    sizes = {"latent_dim": case.latent_dim, "shrink": case.shrink}
    if method in gans.SETTINGS:
        return gans.build(method, shape, **sizes)
    return setting.stage_one(method, shape, net=case.of.net, **sizes)


def _first_length(case: Case, method: str, size: int) -> tuple[int, Any, int]:
    """Returns steps, optimisers and batch size of that, on so many images."""
    schedule, share = case.schedule, case.budget.share
    if method in gans.SETTINGS:
        return *gans.length(method, case.name, size, share), gans.BATCH_SIZE
    epochs, period, batch_size = schedule.first, schedule.first_period, schedule.batch_size
    options = {"weight_decay": case.of.weight_decay}
    return *setting.length(epochs, period, size, batch_size, share, **options), batch_size


@cache
def first_latents(case: Case) -> Latents:
    """Returns q(z|x) of the training images under "learned_gamma"."""
    stage = stage_one(case, "learned_gamma")
    with jax.default_matmul_precision("highest"):
        return models.latents(
            stage.model, stage.params, stage.state, source(case, "train"), preprocess=PREPROCESS
        )


@cache
def stage_two(case: Case, name: str) -> Stage:
    """Returns "two_stage" or "flow", trained on the latents of "learned_gamma"."""
    z = first_latents(case)
    model, steps, tx, batch_size = _second(case, name, z.source.size)
    return _train(case, name, model, z.source, z.preprocess, steps, tx, batch_size)


def steps_of(case: Case, method: str) -> int:
    """Returns the training steps of a cell, with those of the stage that it stands on."""
    return sum(part.steps for part in parts(case, method))


def parts(case: Case, method: str) -> list[Part]:
    """Returns what a cell trains, in the published sizes; the stage it stands on first."""
    known, case = sets.DATA_SETS[setting.DATA[case.name]], case._replace(smoke=False)
    if method == setting.PICKED:
        cases = [case._replace(variant=variant) for variant in setting.OF_LATENT_DIM.values()]
        return [part for each in cases for part in parts(each, "two_stage")]
    first, size = (
        ("learned_gamma" if method in setting.ON_STAGE_ONE else method),
        known.counts["train"],
    )
    steps, tx, batch_size = _first_length(case, first, size)
    found = [_part(_first(case, first, known.shape), tx, batch(batch_size, *known.shape), steps)]
    if method in setting.ON_LATENTS:
        model, steps, tx, batch_size = _second(case, method, size)
        found.append(_part(model, tx, batch(batch_size, case.latent_dim), steps))
    return found


def _part(model: Model, tx: Any, x: Batch, steps: int) -> Part:
    return Part(model, {group: tx[group] for group in groups(model)}, x, steps)


def _second(case: Case, name: str, size: int) -> tuple[Model, int, Any, int]:
    """Returns model, steps, optimisers and batch size of what is trained on the latents of so many
    images."""
    schedule, widths = case.schedule, {}
    if case.smoke:
        widths = {"width": 32}
    elif name == "two_stage":
        widths = {"width": case.of.second_width}
    steps, tx = setting.length(
        schedule.second,
        schedule.second_period,
        size,
        schedule.batch_size,
        case.budget.share,
        case.of.weight_decay,
    )
    model = setting.ON_LATENTS[name](case.latent_dim, **widths)
    return model, SMOKE_STEPS if case.smoke else steps, tx, schedule.batch_size


def _announce_second(case: Case, name: str) -> None:
    """Prints what the second stage will cost, before there are latents: zeros stand in for them."""
    z = data.from_arrays(np.zeros((source(case, "train").size, case.latent_dim), np.float32))
    model, steps, tx, batch_size = _second(case, name, z.size)
    tx = {group: tx[group] for group in groups(model)}
    said = cost(
        model, tx, z, lambda rng, examples: Batch(jnp.asarray(examples["x"])), steps, batch_size
    )
    print(f"  {name}, after learned_gamma: {said}", flush=True)


def method(case: Case, name: str) -> Stage:
    """Returns the trained model of a cell, ready to sample."""
    if name in setting.STAGE_ONE or name in gans.SETTINGS:
        return stage_one(case, name)
    is_trained = name in setting.ON_LATENTS
    if is_trained and not (case.folder / "learned_gamma" / "finished").exists():
        _announce_second(case, name)
    first = stage_one(case, "learned_gamma")
    if not is_trained:
        return _with_mixture(case, first, 1 if name == "gaussian" else setting.COMPONENTS)
    second = stage_two(case, name)
    steps = first.steps + second.steps
    if name == "two_stage":
        model = models.two_stage(first.model, second.model, latent_dim=case.latent_dim)
        return Stage(model, *models.join_stages(first, second), steps)
    model = models.with_prior(first.model, second.model, latent_dim=case.latent_dim)
    params = {"first": first.params, "prior": second.params}
    return Stage(model, params, {"first": first.state}, steps)


def _with_mixture(case: Case, first: Stage, components: int) -> Stage:
    prior = models.fit_mixture(first_latents(case), components, seed=case.seed)
    model = models.with_mixture(first.model, latent_dim=case.latent_dim, components=components)
    return Stage(
        model, {"first": first.params, "prior": prior}, {"first": first.state}, first.steps
    )


def _train(
    case: Case, name: str, model: Model, train: Source, preprocess, steps: int, tx, batch_size: int
) -> Stage:
    steps = SMOKE_STEPS if case.smoke else steps
    folder = case.folder / name
    tx = {group: tx[group] for group in groups(model)}
    if not (folder / "config.json").exists():
        print(f"  {name}: {cost(model, tx, train, preprocess, steps, batch_size)}", flush=True)
    every = max(1, steps // 20)
    with jax.default_matmul_precision("highest"):
        found: Fit = fit(
            model,
            tx,
            train,
            steps=steps,
            batch_size=batch_size,
            seed=case.seed,
            workdir=folder,
            preprocess=preprocess,
            log_every=max(1, steps // 100),
            save_every=every,
            keep=1,
            mesh=parallel.mesh_for(batch_size),
            config={
                "cell": case.cell(name),
                "share": case.budget.share,
                "batch_size": batch_size,
                "seed": case.seed,
            },
        )
    (folder / "finished").touch()
    state = found.train_state
    return Stage(model, state.params, state.state, steps)
