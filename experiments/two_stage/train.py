"""Trains the stages of a cell, each once for all the cells that share it; a stage that was killed
goes on where it was."""

import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.two_stage import setting
from experiments.two_stage.setting import Budget
from jaxvae import data, models, parallel
from jaxvae.data import Source
from jaxvae.data.preprocess import make_preprocess
from jaxvae.models.two_stage import Latents
from jaxvae.train import Fit, fit, init_state
from jaxvae.train.step import groups, make_train_step
from jaxvae.types import Batch, Model

FOLDER = Path(__file__).parent
SMOKE_SHRINK, SMOKE_STEPS, SMOKE_LATENT_DIM = 32, 8, 4
TRIES = 3  # steps that an announced cost is measured on
PREPROCESS = make_preprocess("grey")


class Case(NamedTuple):
    """What a cell is run for."""

    name: str  # of the data in the cell: "celeba"
    seed: int
    budget: Budget
    smoke: bool

    @property
    def folder(self) -> Path:
        """Where its runs are kept, not in git."""
        return (
            FOLDER
            / "runs"
            / ("smoke" if self.smoke else self.budget.folder)
            / f"{self.name}.seed{self.seed}"
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Of the nets."""
        return {"shrink": SMOKE_SHRINK, "latent_dim": SMOKE_LATENT_DIM} if self.smoke else {}

    @property
    def latent_dim(self) -> int:
        """Returns the size of z."""
        return SMOKE_LATENT_DIM if self.smoke else setting.LATENT_DIM


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
    train, schedule = source(case, "train"), setting.SCHEDULES[setting.DATA[case.name]]
    model = setting.stage_one(method, train.shape, **case.sizes)
    steps, tx = setting.length(
        schedule.first, schedule.first_period, train.size, schedule.batch_size, case.budget.share
    )
    return _train(case, method, model, train, PREPROCESS, steps, tx, schedule.batch_size)


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


def _second(case: Case, name: str, size: int) -> tuple[Model, int, Any, int]:
    """Returns model, steps, optimisers and batch size of what is trained on the latents of so many
    images."""
    schedule = setting.SCHEDULES[setting.DATA[case.name]]
    widths = {"width": 32} if case.smoke else {}
    build = setting.flow_prior if name == "flow" else setting.stage_two
    steps, tx = setting.length(
        schedule.second, schedule.second_period, size, schedule.batch_size, case.budget.share
    )
    model = build(case.latent_dim, **widths)
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
    if name in setting.STAGE_ONE:
        return stage_one(case, name)
    is_trained = name in ("flow", "two_stage")
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
    devices = next(
        n for n in range(jax.device_count(), 0, -1) if batch_size % n == 0
    )  # 100 cannot be cut over 8
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
            mesh=parallel.make_mesh(jax.devices()[:devices]),
            config={
                "cell": f"{case.name}/{name}",
                "share": case.budget.share,
                "batch_size": batch_size,
                "seed": case.seed,
            },
        )
    (folder / "finished").touch()
    state = found.train_state
    return Stage(model, state.params, state.state, steps)


def cost(model: Model, tx, train: Source, preprocess, steps: int, batch_size: int) -> str:
    """Returns what a training will cost, from its step compiled and run a few times: "12,000 steps
    of 100: ..."."""
    batch = preprocess(jax.random.key(0), train.read(np.arange(batch_size) % train.size))
    with jax.default_matmul_precision("highest"):
        state = parallel.put(
            init_state(model, tx, jax.random.key(0), batch),
            parallel.replicated(parallel.make_mesh()),
        )
        step = jax.jit(make_train_step(model, tx), donate_argnums=0).lower(state, batch).compile()
    state, _ = step(state, batch)
    jax.block_until_ready(state)
    start = time.perf_counter()
    for _ in range(TRIES):
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - start) / TRIES * steps
    analysis, memory = step.cost_analysis() or {}, step.memory_analysis()
    flops = (analysis[0] if isinstance(analysis, list) else analysis).get("flops", 0.0)
    resident = 0 if train.arrays is None else sum(values.nbytes for values in train.arrays.values())
    held = resident + (
        memory.argument_size_in_bytes + memory.temp_size_in_bytes if memory is not None else 0
    )
    work = (
        f", {_scaled(flops * steps)}FLOP at {_scaled(flops * steps / seconds)}FLOP/s"
        if flops > 0
        else ""
    )
    return f"{steps:,} steps of {batch_size}: about {duration(seconds)}, {max(1, round(held / 2**20)):,} MiB of memory{work}"


def _scaled(value: float) -> str:
    """Returns a number with three figures and its prefix: "184 T" for 1.84e14."""
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value / 1e6:.3g} M"


def duration(seconds: float) -> str:
    """Returns a length of time as people say it."""
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "min")):
        if seconds < limit:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{seconds / 3600:.1f} h"
