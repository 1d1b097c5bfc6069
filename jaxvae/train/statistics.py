"""Which statistics a model is evaluated with: BatchNorm's running averages, those of each batch, or
re-estimated ones.

| stats               | BatchNorm normalises with                                                       |
| ------------------- | ------------------------------------------------------------------------------- |
| running             | the averages that training left                                                 |
| batch               | the moments of each batch                                                       |
| reestimated         | moments over a pass: the encoder's over training data, the decoder's over their |
|                     | latents                                                                         |
| reestimated-samples | the same, but the decoder's over draws from the prior                           |

Running averages are right where training sends one kind of batch through a net. An introspective
model sends data, reconstructions and samples through the same layers, and the average of all three
fits none: with it a model that trains well gives broken pictures. The last two are a new state, which
`reestimate` returns; it is then used as the running one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxvae import nets, parallel
from jaxvae.data.preprocess import Preprocess, make_preprocess
from jaxvae.data.source import Source, batch_indices, read_checked
from jaxvae.data.stream import ahead
from jaxvae.errors import UserError, check_count, unknown
from jaxvae.types import Array, Model, Moments, Params, State

STATS = ("running", "batch", "reestimated", "reestimated-samples")
OVER = {"reestimated": "data", "reestimated-samples": "samples"}
EXAMPLES, BATCH_SIZE = 10_000, 100  # of a pass, where nobody says otherwise
KEY = 0x57A75  # folded into the seed: the noise is not that of an evaluation


def default_stats(model: Model, state: State, *, samples: bool = False) -> str:
    """Returns how a model is evaluated where nobody says otherwise: "running", unless its nets have
    batch statistics and the model says that they are to be re-estimated; with `samples`, over
    samples.

    Raises:
        UserError: for a model that names none of `STATS`.
    """
    if model.stats not in STATS:
        raise unknown("stats of a model", model.stats, STATS)
    if model.stats == "running" or not nets.has_averages(state):
        return "running"
    return "reestimated-samples" if samples and model.stats == "reestimated" else model.stats


def size_of(source: Source, examples: int = EXAMPLES, batch_size: int = BATCH_SIZE) -> tuple:
    """Returns how many batches a pass has, and of how many examples: whole ones alone."""
    check_count("examples", examples)
    check_count("batch_size", batch_size, least=2)
    size = min(batch_size, examples, source.size)
    return min(examples, source.size) // size, size


def moments_of(model: Model) -> Moments:
    """Returns `model.moments`; raises `UserError` where there are none."""
    if model.moments is None:
        raise UserError(
            "this model does not tell the moments of its batches: use stats='running' or 'batch'."
        )
    return model.moments


def make_reestimator(
    model: Model,
    source: Source,
    *,
    over: str = "data",
    examples: int = EXAMPLES,
    batch_size: int = BATCH_SIZE,
    preprocess: Preprocess | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> Callable[[Params, State], State]:
    """Returns `(params, state) -> state` whose BatchNorm averages are the moments of one pass.

        mean = E_b[mean_b],   var = E_b[var_b] + Var_b[mean_b],   b: batches of equal size

    The moments are of the global batch, on any number of devices; no batch is padded, none is left
    over. Batches and noise depend on the seed alone. What is no average stays as it is.

    Args:
        model: with `moments`.
        source: training data, of which a shuffled pass is begun.
        over: "data": the decoder sees z ~ q(z|x) of the data; "samples": z from the prior.
        examples: of the pass, at most those of the source.
        batch_size: of the pass.
        preprocess: (rng, examples) -> Batch, inside jit; default: bytes to [0, 1].
        seed: of the order and the noise.
        mesh: default: all devices.

    Raises:
        UserError: for a model that cannot, an unknown `over`, and sizes below one (two).
    """
    if over not in OVER.values():
        raise unknown("statistics over", over, OVER.values())
    moments = moments_of(model)
    count, size = size_of(source, examples, batch_size)
    mesh = parallel.make_mesh() if mesh is None else mesh
    preprocess = make_preprocess() if preprocess is None else preprocess
    replicated = parallel.replicated(mesh)
    rows = parallel.batch_sharded(mesh) if size % mesh.size == 0 else replicated
    rng = parallel.put(jax.random.fold_in(jax.random.key(seed), KEY), replicated)

    def one(params, state, rng, number, examples):
        rng_data, rng_step = jax.random.split(jax.random.fold_in(rng, number))
        with jax.default_matmul_precision("highest"):
            return moments(params, state, rng_step, preprocess(rng_data, examples), over=over)

    compiled = jax.jit(one, out_shardings=replicated)

    def read(number: int) -> dict[str, np.ndarray]:
        return read_checked(source, batch_indices(source.size, seed, number, size))

    def reestimator(params: Params, state: State) -> State:
        everywhere = parallel.put((params, state), replicated)
        parts = []
        for number, batch in enumerate(ahead(read, range(count))):
            at = parallel.put(np.int32(number), replicated)
            found = compiled(*everywhere, rng, at, parallel.put(batch, rows))
            parts.append(jax.device_get(found))
        return jax.tree.map(_in_place_of, nets.pool(parts), state)

    return reestimator


def _in_place_of(new: np.ndarray, old: Array) -> Array:
    """Returns `new` on the devices where `old` is."""
    new, sharding = np.asarray(new, old.dtype), getattr(old, "sharding", None)
    return jnp.asarray(new) if sharding is None else parallel.put(new, sharding)


def reestimate(model: Model, params: Params, state: State, source: Source, **options) -> State:
    """Returns `state` with BatchNorm averages re-estimated over a pass of `source`; evaluate with it
    and `stats="running"`.

    Options and errors are those of `make_reestimator`.
    """
    return make_reestimator(model, source, **options)(params, state)
