"""What a cell needs before it can run, said by its own experiment, and what its training costs."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch, Model

TRIES = 3  # times that a step is timed


class Part(NamedTuple):
    """One training inside a cell: so many steps of one compiled program."""

    model: Model
    tx: Any  # an optimiser, or one for each parameter group
    batch: Batch  # of arrays or `jax.ShapeDtypeStruct`: what a step is given
    steps: int


class Needs(NamedTuple):
    """What a cell needs; every field may be left out, and then nothing is known of it.

    `python -m experiments` plans with this alone: it knows no experiment by name.
    """

    data: tuple[str, ...] = ()  # data sets, by the names of `jaxvae.data.load`
    weights: tuple[str, ...] = ()  # of metrics, by the names of `jaxvae.metrics.weights`
    accelerator: bool = False  # too large for a CPU
    steps: int = 0  # of training, for one seed
    net: str = ""  # within an experiment, cells of one net take the same time for a step
    parts: Callable[[], Sequence[Part]] | None = None  # what is trained, to count and to time
    protocols: tuple[str, ...] = ()  # of its numbers; a seed counts that has one of each
    stopped: Callable[[int], bool] = lambda seed: False  # was this seed's run stopped on its way?
    shares: str = ""  # cells that name the same work never run side by side
    ensemble: tuple[str, ...] = ()  # module and words that train this cell with others at once
    ensemble_stopped: Callable[[int], bool] = lambda seed: False  # did that stop with this seed?


def unfinished(folder: Path, mark: str = "finished") -> bool:
    """Returns whether the run in a folder was stopped on its way: it has begun, and has not left
    the file that marks its end."""
    return folder.exists() and not (folder / mark).exists()


def batch(*shape: int) -> Batch:
    """Returns the shape of a batch of float32 `x`."""
    return Batch(jax.ShapeDtypeStruct(shape, jnp.float32))


class Work(NamedTuple):
    """What a training computes and holds."""

    flops: float  # floating-point operations, as XLA counts them before it optimises
    memory: int  # bytes of the largest state: parameters, running averages, optimisers


def work(parts: Sequence[Part]) -> Work:
    """Returns what a training computes and holds; nothing is compiled, and no array is made."""
    flops, memory = 0.0, [0]
    for part in parts:
        state = jax.eval_shape(lambda b, p=part: _start(p, jax.random.key(0), b), part.batch)
        step = jax.jit(make_train_step(part.model, part.tx))
        found = step.lower(state, part.batch).cost_analysis() or {}
        found = found[0] if isinstance(found, list) else found
        flops += part.steps * found.get("flops", 0.0)
        leaves = jax.tree.leaves((state.params, state.state, state.opt_state))
        memory.append(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
    return Work(flops, max(memory))


def seconds(parts: Sequence[Part], members: int = 1) -> float:
    """Returns about what the training takes here, from a few steps of each part, compiled and run.

    Args:
        parts: what is trained.
        members: models that are trained at once; the seconds are the share of one.
    """
    total = 0.0
    for part in parts:
        filled = jax.tree.map(lambda x: jnp.full(x.shape, 0.5, x.dtype), part.batch)
        keys = jax.random.split(jax.random.key(0), members)
        step = make_train_step(part.model, part.tx)
        with jax.default_matmul_precision("highest"):
            if members == 1:
                state = jax.jit(lambda k, p=part, b=filled: _start(p, k, b))(keys[0])
            else:
                state = jax.jit(jax.vmap(lambda k, p=part, b=filled: _start(p, k, b)))(keys)
                step = jax.vmap(step, in_axes=(0, None))
            run = jax.jit(step).lower(state, filled).compile()
            times = []
            for _ in range(TRIES + 1):
                start = time.perf_counter()
                state, metrics = run(state, filled)
                jax.block_until_ready((state, metrics))
                times.append(time.perf_counter() - start)
        total += part.steps * statistics.median(times[1:]) / members
    return total


def _start(part: Part, rng: jax.Array, x: Batch):
    return init_state(part.model, part.tx, rng, x)


def duration(seconds: float) -> str:
    """Returns a length of time as people say it."""
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "min")):
        if seconds < limit:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{seconds / 3600:.1f} h"
