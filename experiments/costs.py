"""What a training or a distance will cost, said before or as it begins."""

import time
from collections.abc import Callable

import jax
import numpy as np

from experiments.needs import Part, duration, operations, timed, work
from jaxvae.data import Source
from jaxvae.types import Model


def cost(model: Model, tx, train: Source, preprocess, steps: int, batch_size: int) -> str:
    """Returns what a training will cost, from its step compiled and run a few times: "12,000 steps
    of 100: ..."."""
    batch = preprocess(jax.random.key(0), train.read(np.arange(batch_size) % train.size))
    part = Part(model, tx, batch, steps)
    step, flops = timed(part), work([part]).flops
    resident = 0 if train.arrays is None else sum(values.nbytes for values in train.arrays.values())
    memory = f"{max(1, round((resident + step.memory) / 2**20)):,} MiB of memory"
    seconds = step.seconds * steps
    rate = f", {operations(flops)} at {operations(flops / seconds)}/s" if flops > 0 else ""
    return f"{steps:,} steps of {batch_size}: about {duration(seconds)}, {memory}{rate}"


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
