"""The compiled training loop over a source of data: many steps in one call."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxvae import parallel
from jaxvae.data import preprocess as preprocessing
from jaxvae.data.preprocess import Preprocess
from jaxvae.data.source import Source, make_read
from jaxvae.data.stream import Reader
from jaxvae.train.step import Metrics, TrainState
from jaxvae.types import Array, Batch, Mean

STEPS_PER_CALL = 64  # at most
# Of a block of batches read from a source that is not resident; two or three are in memory.
BLOCK_BYTES = 2**26


class LoopState(NamedTuple):
    """What the compiled loop carries."""

    train: TrainState
    sums: Metrics  # since the last log line
    bad: dict[str, Array]  # metric -> the first step at which it was not finite, or -1


class Loop(NamedTuple):
    """A compiled training loop."""

    # (loop_state, first, count) -> loop_state: steps first, ..., first + count - 1
    advance: Callable[[LoopState, int, int], LoopState]
    max_steps: int  # the largest count
    close: Callable[..., None] = lambda: None  # ends the threads that read ahead


def empty_sums(step: Callable, train_state: TrainState, batch: Batch) -> Metrics:
    """Returns zeros in the shape of the metrics of `step`."""
    _, metrics = jax.eval_shape(step, train_state, batch)
    return {name: Mean(jnp.zeros(()), jnp.zeros(())) for name in metrics}


def no_bad(sums: Metrics) -> dict[str, Array]:
    """Returns the mark of a run in which every metric is finite so far."""
    return {name: jnp.full((), -1, jnp.int32) for name in sums}


def one_step(step: Callable, preprocess: Preprocess, sharding: Any = None) -> Callable:
    """Returns `(loop_state, data, index [B]) -> loop_state`: gathers bytes on the device,
    preprocesses, steps.

    Without an index, `data` is the batch itself.
    """

    def one(loop: LoopState, data: dict[str, Array], index: Array | None) -> LoopState:
        examples = data if index is None else {name: values[index] for name, values in data.items()}
        if sharding is not None:
            examples = jax.lax.with_sharding_constraint(examples, sharding)
        at = loop.train.step
        rng = jax.random.fold_in(loop.train.rng, at)
        batch = preprocess(jax.random.fold_in(rng, preprocessing.KEY), examples)
        train, metrics = step(loop.train, batch)
        bad = {
            name: jnp.where((loop.bad[name] < 0) & ~jnp.isfinite(metric.total), at, loop.bad[name])
            for name, metric in metrics.items()
        }
        return LoopState(train, jax.tree.map(jnp.add, loop.sums, metrics), bad)

    return one


def many_steps(one: Callable) -> Callable:
    """Returns `(loop_state, data, indices [K, B], count) -> loop_state`: the first `count` batches
    in one program.

    Without indices, `data` is the batches themselves, [K, B, ...]. `count` is not static, so one
    program serves every stretch of a run; it ends early at the first step whose metrics are not
    finite.
    """

    def many(
        loop: LoopState, data: dict[str, Array], indices: Array | None, count: Array
    ) -> LoopState:
        def unfinished(carry):
            i, loop = carry
            return (i < count) & jnp.all(jnp.stack(list(loop.bad.values())) < 0)

        def body(carry):
            i, loop = carry
            if indices is None:
                return i + 1, one(loop, {name: values[i] for name, values in data.items()}, None)
            return i + 1, one(loop, data, indices[i])

        return jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), loop))[1]

    return many


def convolves(jaxpr: Any) -> bool:
    """Returns whether a traced program holds a convolution, at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)  # closed or open
                if hasattr(inner, "eqns") and convolves(inner):
                    return True
    return False


class Program(NamedTuple):
    """Compiled steps: `run(loop_state, data, index)` of one, or `run(..., indices, count)` of up to
    `max_steps`."""

    run: jax.stages.Compiled
    max_steps: int


def compile_program(
    step: Callable,
    loop_state: LoopState,
    source: Source,
    data: dict[str, Array] | None,
    *,
    preprocess: Preprocess,
    batch_size: int,
    mesh: Mesh,
    steps_per_call: int | None = None,
) -> Program:
    """Returns the program of a loop over `source`: of up to `steps_per_call` steps, and of a single
    one for convolutions on CPU where that is not given.

    Nothing is computed, so `loop_state` and `data` may be shapes, and the devices of `mesh` those of
    a topology that is not there.

    Args:
        step, loop_state, source, data, preprocess, batch_size, mesh, steps_per_call: as in
            `compile_loop`.
    """
    replicated = parallel.replicated(mesh)
    of_batch, of_block = parallel.batch_sharded(mesh), parallel.batch_sharded(mesh, 1)
    max_steps = STEPS_PER_CALL if steps_per_call is None else steps_per_call
    if data is None:
        batch_bytes = batch_size * math.prod(source.shape) * 4
        max_steps = min(max_steps, max(1, BLOCK_BYTES // batch_bytes))

    def shapes_of(steps: int | None):
        """Returns the shapes of data and indices for a block of so many steps, or for one step."""
        lead, sharding = ((), of_batch) if steps is None else ((steps,), of_block)
        if data is not None:
            return data, jax.ShapeDtypeStruct((*lead, batch_size), jnp.int32, sharding=sharding)
        example = source.read(np.zeros(1, np.int64))
        return {
            k: jax.ShapeDtypeStruct((*lead, batch_size, *v.shape[1:]), v.dtype, sharding=sharding)
            for k, v in example.items()
        }, None

    one = one_step(step, preprocess, of_batch if mesh.size > 1 else None)
    options = {"out_shardings": replicated, "donate_argnums": 0}
    if max_steps > 1:
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
        traced = jax.jit(many_steps(one), **options).trace(loop_state, *shapes_of(max_steps), count)
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        if not (steps_per_call is None and on_cpu and convolves(traced.jaxpr.jaxpr)):
            return Program(traced.lower().compile(), max_steps)
    return Program(jax.jit(one, **options).lower(loop_state, *shapes_of(None)).compile(), 1)


def compile_loop(
    step: Callable,
    loop_state: LoopState,
    source: Source,
    data: dict[str, Array] | None,
    *,
    preprocess: Preprocess,
    indices_of: Callable[[int], np.ndarray],
    batch_size: int,
    mesh: Mesh,
    steps_per_call: int | None = None,
) -> Loop:
    """Returns the training loop over `source`, compiled once for any number of steps.

    Args:
        step: from `make_train_step`.
        loop_state: where it will start (donated at each call).
        data: the resident arrays of `source`, or None: then batches are read ahead in threads and
            sent in blocks, by each process its own rows of every batch.
        indices_of: (step) -> indices [batch_size] of the examples of its batch.
        steps_per_call: at most so many steps in one program; default 64, but 1 for convolutions on
            CPU, whose gradients XLA runs tens of times slower inside a loop.
    """
    replicated = parallel.replicated(mesh)
    of_batch, of_block = parallel.batch_sharded(mesh), parallel.batch_sharded(mesh, 1)
    run, max_steps = compile_program(
        step,
        loop_state,
        source,
        data,
        preprocess=preprocess,
        batch_size=batch_size,
        mesh=mesh,
        steps_per_call=steps_per_call,
    )

    def resident(loop_state: LoopState, first: int, count: int) -> LoopState:
        if max_steps == 1:
            return run(loop_state, data, parallel.put(indices_of(first), of_batch))
        indices = np.zeros((max_steps, batch_size), np.int32)
        indices[:count] = [indices_of(first + i) for i in range(count)]
        number = parallel.put(np.int32(count), replicated)
        return run(loop_state, data, parallel.put(indices, of_block), number)

    if data is not None:
        return Loop(resident, max_steps)

    rows = parallel.local_rows(of_batch, batch_size)  # this process reads these of every batch
    read = make_read(source)
    reader = Reader(lambda number: read(indices_of(number)[rows]), depth=max(max_steps, 4))

    def streamed(loop_state: LoopState, first: int, count: int) -> LoopState:
        batches = reader.take(first, count)
        if max_steps == 1:
            return run(loop_state, parallel.put_rows(batches[0], of_batch, batch_size), None)
        padded = [*batches, *[batches[0]] * (max_steps - count)]
        block = {k: np.stack([batch[k] for batch in padded]) for k in batches[0]}
        block = parallel.put_rows(block, of_block, batch_size)
        return run(loop_state, block, None, parallel.put(np.int32(count), replicated))

    return Loop(streamed, max_steps, reader.close)
