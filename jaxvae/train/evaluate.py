"""Evaluation of a whole split: exact means, the same on any number of devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxvae import parallel
from jaxvae.data import preprocess as preprocessing
from jaxvae.data.preprocess import Preprocess, make_preprocess
from jaxvae.data.source import Source
from jaxvae.data.stream import ahead
from jaxvae.errors import check_count
from jaxvae.train.step import make_eval_step
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
    call, and on any number of devices that divides the batch size. Metrics are those of
    `make_eval_step`, in nats per example.
    """
    mesh = parallel.make_mesh() if mesh is None else mesh
    preprocess = make_preprocess() if preprocess is None else preprocess
    check_count("batch_size", batch_size)
    size = min(batch_size, -(-source.size // 64) * 64)
    size = -(-size // mesh.size) * mesh.size
    batches = -(-source.size // size)
    positions = np.arange(batches * size).reshape(batches, size)
    mask = (positions < source.size).astype(np.float32)
    index = np.minimum(positions, source.size - 1).astype(np.int32)
    whole, cut = parallel.replicated(mesh), parallel.batch_sharded(mesh, 1)
    eval_step = make_eval_step(model, stats=stats)
    rng = parallel.put(jax.random.fold_in(jax.random.key(seed), preprocessing.KEY), whole)

    def over(params, state, rng, data, numbers, index, mask):
        def body(_, inputs):
            number, index, mask = inputs
            rng_data, rng_step = jax.random.split(jax.random.fold_in(rng, number))
            batch = preprocess(rng_data, {name: values[index] for name, values in data.items()})
            return None, eval_step(params, state, rng_step, batch, mask)

        metrics = jax.lax.scan(body, None, (numbers, index, mask))[1]
        return jax.tree.map(jnp.sum, metrics)

    compiled = jax.jit(over, out_shardings=whole)

    def placed(data, numbers, index, mask):
        return (
            parallel.put(data, whole),
            parallel.put(numbers, whole),
            parallel.put(index, cut),
            parallel.put(mask, cut),
        )

    numbers = np.arange(batches, dtype=np.int32)
    resident = None if source.arrays is None else placed(source.arrays, numbers, index, mask)

    def evaluator(params: Params, state: State) -> dict[str, float]:
        params, state = parallel.put((params, state), whole)
        if resident is not None:
            sums = compiled(params, state, rng, *resident)
        else:
            local = np.arange(size, dtype=np.int32)[None]
            sums = None
            for i, examples in enumerate(ahead(source.read, index)):
                part = compiled(
                    params,
                    state,
                    rng,
                    *placed(examples, numbers[i : i + 1], local, mask[i : i + 1]),
                )
                sums = jax.block_until_ready(
                    part if sums is None else jax.tree.map(jnp.add, sums, part)
                )
        return {name: float(mean) for name, mean in jax.device_get(sums).items()}

    return evaluator


def evaluate(
    model: Model, params: Params, state: State, source: Source, **options: Any
) -> dict[str, float]:
    """Returns the metrics of `model` over the whole of `source`: `elbo`, `rec`, `kl` in nats per
    example.

    Options are those of `make_evaluator`; use that to evaluate one model more than once.
    """
    return make_evaluator(model, source, **options)(params, state)
