"""Evaluation of a whole split: exact means, the same on any number of devices."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxvae import parallel
from jaxvae.data import preprocess as preprocessing
from jaxvae.data.preprocess import Preprocess, make_preprocess
from jaxvae.data.source import Source, check_source, make_read
from jaxvae.data.stream import ahead
from jaxvae.errors import check_count
from jaxvae.train.step import Metrics, make_eval_step
from jaxvae.types import Model, Params, State


def make_evaluator(
    model: Model,
    source: Source,
    *,
    preprocess: Preprocess | None = None,
    batch_size: int = 512,
    seed: int = 0,
    stats: str = "running",
    mesh: Mesh | None = None,
) -> Callable[[Params, State], dict[str, float]]:
    """Returns `(params, state) -> {metric: mean over the whole split}`, compiled once.

    The last batch is padded and masked, so that the mean is exact. The noise is the same at every
    call, and on any number of devices. Metrics are those of `make_eval_step`, in nats per example,
    at the highest matmul precision.

    Args:
        model: with `terms` or `log_prob`.
        source: the split; on the devices (`parallel.resident`) where `source.arrays` is there, else
            read in blocks.
        preprocess: (rng, examples) -> Batch, inside jit; default: bytes to [0, 1].
        batch_size: examples at a time.
        seed: of the noise.
        stats: "running", or "batch": BatchNorm then has the moments of each batch, on any number of
            devices those of the global one. No batch is padded; the last one is what is left over,
            compiled by itself.
        mesh: default: all devices.

    Raises:
        UserError: for a model that has neither `terms` nor `log_prob`.
    """
    mesh = parallel.make_mesh() if mesh is None else mesh
    preprocess = make_preprocess() if preprocess is None else preprocess
    check_source("source", source)
    check_count("batch_size", batch_size)
    eval_step = make_eval_step(model, stats=stats)
    replicated = parallel.replicated(mesh)
    rng = parallel.put(jax.random.fold_in(jax.random.key(seed), preprocessing.KEY), replicated)

    by_rows = parallel.batch_sharded(mesh) if mesh.size > 1 else None
    compiled = jax.jit(_sums_over(eval_step, preprocess, by_rows), out_shardings=replicated)

    def placed(numbers, index, mask):
        even = index.shape[1] % mesh.size == 0  # else the program cuts it into unequal slices
        rows = parallel.batch_sharded(mesh, 1) if even else replicated
        return parallel.put(numbers, replicated), *parallel.put((index, mask), rows)

    stretches = _stretches(source.size, batch_size, padded=stats != "batch")
    read = make_read(source) if source.arrays is None else source.read
    resident = None
    if source.arrays is not None:
        data = parallel.resident(source.arrays, mesh)
        resident = data, [placed(*stretch) for stretch in stretches]

    def parts(params: Params, state: State) -> Iterator[Metrics]:
        if resident is not None:
            data, blocks = resident
            yield from (compiled(params, state, rng, data, *block) for block in blocks)
            return
        for numbers, index, mask in stretches:
            local = np.arange(index.shape[1], dtype=np.int32)[None]
            for i, examples in enumerate(ahead(read, index)):
                one = slice(i, i + 1)
                block = parallel.put(examples, replicated)
                yield compiled(params, state, rng, block, *placed(numbers[one], local, mask[one]))

    def evaluator(params: Params, state: State) -> dict[str, float]:
        params, state = parallel.put((params, state), replicated)
        sums = None
        for part in parts(params, state):
            sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
            jax.block_until_ready(sums)  # so that no more than one block of examples is in memory
        return {name: float(mean) for name, mean in jax.device_get(sums).items()}

    return evaluator


def _sums_over(
    eval_step: Callable[..., Metrics], preprocess: Preprocess, by_rows: NamedSharding | None
) -> Callable[..., Metrics]:
    """Returns `(params, state, rng, data, numbers [n], index [n, B], mask [n, B]) -> metrics`, added
    up over the n batches, each cut as `by_rows` says: B need not be a multiple of the devices."""

    def sums_over(params, state, rng, data, numbers, index, mask):
        def body(_, xs):
            number, index, mask = xs
            if by_rows is not None:
                index = jax.lax.with_sharding_constraint(index, by_rows)
            rng_data, rng_step = jax.random.split(jax.random.fold_in(rng, number))
            batch = preprocess(rng_data, {name: values[index] for name, values in data.items()})
            return None, eval_step(params, state, rng_step, batch, mask)

        metrics = jax.lax.scan(body, None, (numbers, index, mask))[1]
        return jax.tree.map(jnp.sum, metrics)

    return sums_over


def _stretches(
    examples: int, batch_size: int, *, padded: bool
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns (numbers [n], examples' indices [n, B], mask [n, B]) of stretches of equal batches.

    They do not depend on the devices, as the noise of an example is that of its place in its batch.
    Padded, there is one stretch; else a second one holds the batch that is left over.
    """
    if padded:
        size = min(batch_size, -(-examples // 64) * 64)
        stops = [-(-examples // size) * size]
    else:
        size = min(batch_size, examples)
        stops = [examples // size * size, examples]
    stretches, start = [], 0
    for stop in dict.fromkeys(stops):
        positions = np.arange(start, stop).reshape(-1, min(size, stop - start))
        numbers = start // size + np.arange(len(positions), dtype=np.int32)
        index = np.minimum(positions, examples - 1).astype(np.int32)
        stretches.append((numbers, index, (positions < examples).astype(np.float32)))
        start = stop
    return stretches


def evaluate(
    model: Model, params: Params, state: State, source: Source, **options: Any
) -> dict[str, float]:
    """Returns the metrics of `model` over the whole of `source`: `elbo`, `rec`, `kl` in nats per
    example, at the highest matmul precision.

    Options are those of `make_evaluator`; use that to evaluate one model more than once.
    """
    return make_evaluator(model, source, **options)(params, state)
