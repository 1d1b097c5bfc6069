"""What a cell needs before it can run, said by its own experiment, and what its training costs."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxvae.presets.conditions import example_like
from jaxvae.presets.config import System
from jaxvae.train.plan import Phase, Stretch, make_plan
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch, Model

TRIES = 3  # times that a step is timed, after its first run


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
    measuring: Callable[[], float] = lambda: 0.0  # operations beside them, where those are many
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


def parts_of(
    system: System,
    steps: int,
    size: int,
    shape: tuple[int, ...],
    num_classes: int | None,
    batch_size: int,
) -> list[Part]:
    """Returns the trainings of a system, one for each of its phases, of `size` examples [*shape] of bytes,
    with labels where there are classes."""
    phases = system.phases(steps, size) if system.phases else [Phase(system.model, steps)]
    plan = make_plan(
        phases, system.tx, preprocess=system.preprocess, batch_size=batch_size, log_every=1
    )

    def seen(stretch: Stretch) -> Batch:
        return example_like(stretch.preprocess, shape, num_classes, stretch.batch_size)

    return [Part(each.model, each.tx, seen(each), each.steps) for each in plan.phases]


class Work(NamedTuple):
    """What a training computes and holds."""

    flops: float  # floating-point operations, as XLA counts them before it optimises
    memory: int  # bytes of the largest state: parameters, running averages, optimisers


def counted(function: Callable, *args: Any) -> float:
    """Returns the operations of a function, as XLA counts them before it optimises: each loop's
    body once. Nothing is compiled, and `args` may be `jax.ShapeDtypeStruct`."""
    found = jax.jit(function).lower(*args).cost_analysis() or {}
    found = found[0] if isinstance(found, list) else found
    return found.get("flops", 0.0)


def work(parts: Sequence[Part]) -> Work:
    """Returns what a training computes and holds; nothing is compiled, and no array is made."""
    flops, memory = 0.0, [0]
    for part in parts:
        state = jax.eval_shape(lambda b, p=part: _start(p, jax.random.key(0), b), part.batch)
        flops += part.steps * counted(make_train_step(part.model, part.tx), state, part.batch)
        leaves = jax.tree.leaves((state.params, state.state, state.opt_state))
        memory.append(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
    return Work(flops, max(memory))


class Timed(NamedTuple):
    """What a step takes here."""

    seconds: float
    memory: int  # bytes of what goes into the compiled step, and of what it makes on the way


def timed(part: Part, members: int = 1, until: float = math.inf) -> Timed:
    """Returns what a step of a training takes here: compiled, and run a few times.

    Args:
        part: what is trained.
        members: models that are trained at once; the step is that of all of them.
        until: on `time.monotonic`; after it no step is begun but the first, which is always run.
    """
    filled = jax.tree.map(lambda x: jnp.full(x.shape, 0.5, x.dtype), part.batch)
    keys = jax.random.split(jax.random.key(0), members)
    step = make_train_step(part.model, part.tx)
    with jax.default_matmul_precision("highest"):
        if members == 1:
            state = jax.jit(lambda k: _start(part, k, filled))(keys[0])
        else:
            state = jax.jit(jax.vmap(lambda k: _start(part, k, filled)))(keys)
            step = jax.vmap(step, in_axes=(0, None))
        run = jax.jit(step, donate_argnums=0).lower(state, filled).compile()
        times: list[float] = []
        while not times or (len(times) <= TRIES and time.monotonic() < until):
            start = time.perf_counter()
            state, metrics = run(state, filled)
            jax.block_until_ready((state, metrics))
            times.append(time.perf_counter() - start)
    held = run.memory_analysis()
    memory = 0 if held is None else held.argument_size_in_bytes + held.temp_size_in_bytes
    return Timed(statistics.median(times[1:] or times), memory)


def seconds(parts: Sequence[Part], members: int = 1, within: float = math.inf) -> float:
    """Returns about what the training takes here, from a few steps of each part.

    Args:
        parts: what is trained.
        members: models that are trained at once; the seconds are the share of one.
        within: seconds after which what is not timed yet is taken at the speed of what is.
    """
    total, end = 0.0, time.monotonic() + within
    for i, part in enumerate(parts):
        if i and time.monotonic() > end and (known := work(parts[:i]).flops):
            return total * (1.0 + work(parts[i:]).flops / known)
        total += part.steps * timed(part, members, end).seconds / members
    return total


def _start(part: Part, rng: jax.Array, x: Batch):
    return init_state(part.model, part.tx, rng, x)


def operations(flops: float) -> str:
    """Returns an amount of work as people say it: "1.3 PFLOP"."""
    scales = (1e15, "P"), (1e12, "T"), (1e9, "G")
    scale, prefix = next(((s, p) for s, p in scales if flops >= s), (1e6, "M"))
    return f"{flops / scale:.{0 if flops >= 10 * scale else 1}f} {prefix}FLOP"


def duration(seconds: float) -> str:
    """Returns a length of time as people say it."""
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "min")):
        if seconds < limit:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{seconds / 3600:.1f} h"
