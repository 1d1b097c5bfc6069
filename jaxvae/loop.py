"""The compiled loops over a source of data: many training steps in one call, and a whole split's
evaluation."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxvae import parallel
from jaxvae.data.preprocess import make_preprocess
from jaxvae.data.source import Source, batch_indices
from jaxvae.data.stream import Reader, ahead
from jaxvae.errors import check_count
from jaxvae.step import Metrics, TrainState, make_eval_step
from jaxvae.types import Array, Batch, Mean, Model, Params, State

PREPROCESS = 0x0DA7A  # folded into a step's key for the noise of preprocessing
STEPS_PER_CALL = 64  # at most
BLOCK_BYTES = (
    2**26
)  # of a block of batches read from a source that is not resident; two or three are in memory

Preprocess = Callable[[Array, dict[str, Array]], Batch]


class LoopState(NamedTuple):
    """What the compiled loop carries."""

    train: TrainState
    sums: Metrics  # since the last log line
    bad: dict[str, Array]  # metric -> the first step at which it was not finite, or -1


class Loop(NamedTuple):
    """A compiled training loop."""

    advance: (
        Callable  # (loop_state, first, count) -> loop_state: steps first, ..., first + count - 1
    )
    most: int  # the largest count
    close: Callable = lambda: None  # ends the threads that read ahead


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
        batch = preprocess(
            jax.random.fold_in(jax.random.fold_in(loop.train.rng, at), PREPROCESS), examples
        )
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


def compile_loop(
    step: Callable,
    loop_state: LoopState,
    source: Source,
    data: dict[str, Array] | None,
    *,
    preprocess: Preprocess,
    batch_size: int,
    seed: int,
    mesh: Mesh,
    steps_per_call: int | None = None,
) -> Loop:
    """Returns the training loop over `source`, compiled once for any number of steps.

    Args:
        step: from `make_train_step`.
        loop_state: where it will start (donated at each call).
        data: the resident arrays of `source`, or None: then batches are read ahead in threads and
            sent in blocks, by each process its own rows of every batch.
        steps_per_call: at most so many steps in one program; default 64, but 1 for convolutions on
            CPU, whose gradients XLA runs tens of times slower inside a loop.
    """
    whole, cut, cut_second = (
        parallel.replicated(mesh),
        parallel.batch_sharded(mesh),
        parallel.batch_sharded(mesh, 1),
    )
    one = one_step(step, preprocess, cut if mesh.size > 1 else None)
    most = STEPS_PER_CALL if steps_per_call is None else steps_per_call
    if data is None:
        most = min(most, max(1, BLOCK_BYTES // (batch_size * math.prod(source.shape) * 4)))

    def inputs(most: int):
        """Returns the shapes of data and indices for so many steps: 0 for a single one."""
        lead, sharding = ((most,), cut_second) if most else ((), cut)
        if data is not None:
            return data, jax.ShapeDtypeStruct((*lead, batch_size), jnp.int32, sharding=sharding)
        example = source.read(np.zeros(1, np.int64))
        return {
            k: jax.ShapeDtypeStruct((*lead, batch_size, *v.shape[1:]), v.dtype, sharding=sharding)
            for k, v in example.items()
        }, None

    if most > 1:
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        traced = jax.jit(many_steps(one), out_shardings=whole, donate_argnums=0).trace(
            loop_state, *inputs(most), count
        )
        if (
            steps_per_call is None
            and jax.default_backend() == "cpu"
            and convolves(traced.jaxpr.jaxpr)
        ):
            most = 1
        else:
            compiled = traced.lower().compile()
    if most == 1:
        compiled = (
            jax.jit(one, out_shardings=whole, donate_argnums=0)
            .lower(loop_state, *inputs(0))
            .compile()
        )

    def indices_of(number: int) -> np.ndarray:
        return batch_indices(source.size, seed, number, batch_size)

    def advance(loop_state: LoopState, first: int, count: int) -> LoopState:
        picked = np.zeros((most, batch_size), np.int32)
        for i in range(count):
            picked[i] = indices_of(first + i)
        if most == 1:
            return compiled(loop_state, data, parallel.put(picked[0], cut))
        return compiled(
            loop_state, data, parallel.put(picked, cut_second), parallel.put(np.int32(count), whole)
        )

    if data is not None:
        return Loop(advance, most)

    rows = parallel.local_rows(cut, batch_size)  # of each global batch, this process reads its own
    reader = Reader(lambda number: source.read(indices_of(number)[rows]), depth=max(most, 4))

    def advance_streaming(loop_state: LoopState, first: int, count: int) -> LoopState:
        batches = reader.take(first, count)
        if most == 1:
            return compiled(loop_state, parallel.put_rows(batches[0], cut, batch_size), None)
        block = {
            k: np.stack([b[k] for b in batches] + [batches[0][k]] * (most - count))
            for k in batches[0]
        }
        block = parallel.put_rows(block, cut_second, batch_size)
        return compiled(loop_state, block, None, parallel.put(np.int32(count), whole))

    return Loop(advance_streaming, most, reader.close)


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
    call, and on any number of devices that divides the batch size. Metrics are those of
    `make_eval_step`, in nats per example, at the highest matmul precision.

    Args:
        model: with `terms` or `log_prob`.
        source: the split; on the devices where `source.arrays` is there, else read in blocks.
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
    check_count("batch_size", batch_size)
    eval_step = make_eval_step(model, stats=stats)
    replicated = parallel.replicated(mesh)
    rng = parallel.put(jax.random.fold_in(jax.random.key(seed), PREPROCESS), replicated)

    def sums_over(params, state, rng, data, numbers, index, mask):
        def body(_, inputs):
            number, index, mask = inputs
            rng_data, rng_step = jax.random.split(jax.random.fold_in(rng, number))
            batch = preprocess(rng_data, {name: values[index] for name, values in data.items()})
            return None, eval_step(params, state, rng_step, batch, mask)

        metrics = jax.lax.scan(body, None, (numbers, index, mask))[1]
        return jax.tree.map(jnp.sum, metrics)

    compiled = jax.jit(sums_over, out_shardings=replicated)

    def placed(numbers, index, mask):
        even = index.shape[1] % mesh.size == 0  # equal slices for the devices
        rows = parallel.batch_sharded(mesh, 1) if even else replicated
        return (
            parallel.put(numbers, replicated),
            parallel.put(index, rows),
            parallel.put(mask, rows),
        )

    stretches = _stretches(source.size, batch_size, mesh.size, padded=stats != "batch")
    if source.arrays is not None:
        data = parallel.put(source.arrays, replicated)
        resident = [placed(*stretch) for stretch in stretches]

    def parts(params: Params, state: State) -> Iterator[Metrics]:
        if source.arrays is not None:
            yield from (compiled(params, state, rng, data, *stretch) for stretch in resident)
            return
        for numbers, index, mask in stretches:
            local = np.arange(index.shape[1], dtype=np.int32)[None]
            for i, examples in enumerate(ahead(source.read, index)):
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


def _stretches(
    examples: int, batch_size: int, devices: int, *, padded: bool
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns (numbers [n], examples' indices [n, B], mask [n, B]) of stretches of equal batches.

    Padded, there is one stretch, whose B is a multiple of the devices; else a second one holds the
    batch that is left over.
    """
    if padded:
        size = min(batch_size, -(-examples // 64) * 64)
        size = -(-size // devices) * devices
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
