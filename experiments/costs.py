"""What a training or a distance will cost, said before or as it begins."""

import time
from collections.abc import Callable

import jax
import numpy as np

from experiments.needs import duration
from jaxvae import parallel
from jaxvae.data import Source
from jaxvae.train import init_state
from jaxvae.train.step import make_train_step
from jaxvae.types import Model

TRIES = 3  # steps that an announced cost is measured on


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


def announced(name: str) -> Callable[[int, int], None]:
    """Returns a `progress` that prints once how long a distance will take: hours, for Inception on
    a CPU."""
    first: list[
        tuple[float, int]
    ] = []  # when the first batch was done, and how many images that were

    def progress(done: int, total: int) -> None:
        if len(first) == 1 and done > first[0][1]:
            seconds = (time.perf_counter() - first[0][0]) / (done - first[0][1]) * (total - done)
            print(f"  {name}: {total:,} images, about {duration(seconds)}", flush=True)
        if len(first) < 2:
            first.append((time.perf_counter(), done))

    return progress
