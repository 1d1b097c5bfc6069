"""How likely a model finds data: ELBO, importance-weighted bounds, bits per dimension.

    iw_k(x) = log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x),   z_k ~ q(z|x)

is a lower bound of log p(x) in expectation, the ELBO for K = 1, and it rises to log p(x) with K
(Burda et al. 2016, arXiv 1509.00519, Eq. 8). Everything here is per example, in nats, and at the
highest matmul precision; means and spreads are taken on the host in float64. With `stats="batch"`
BatchNorm has the moments of each batch of examples, in a decoder those of each draw of the latents.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxvae import distributions, objectives, parallel
from jaxvae.abilities import HasKLPerDim, HasMean
from jaxvae.data import preprocess as preprocessing
from jaxvae.data.preprocess import Preprocess, make_preprocess
from jaxvae.data.source import Source, check_source, read_checked
from jaxvae.data.stream import ahead
from jaxvae.errors import UserError, check_count
from jaxvae.types import Array, Batch, Decode, Encode, EvaluateTerms, LogProb, Model, Params, State

ACTIVE = 0.01  # variance of a posterior mean over the data above which its dimension is active
# bytes of decoded examples at a time: the CPU's cache; an accelerator takes more
ROW_BYTES = {"cpu": 2**22}
MORE_ROW_BYTES = 2**28
# numbers that a decoded example counts for at least: hidden layers are wider than a point
LEAST_ROW = 512

Values = dict[str, np.ndarray]


class Estimate(NamedTuple):
    """A mean over a data set with its standard error, and how it was measured."""

    value: float
    error: float  # standard error of the mean over examples
    n: int
    protocol: str


def log_prior(z: Array) -> Array:
    """Returns log N(z; 0, I) [B] of z [B, D]."""
    return distributions.Normal(jnp.zeros_like(z), jnp.zeros_like(z)).log_prob(z)


def log_weights(
    model: Model,
    params: Params,
    state: State,
    rngs: Array,
    batch: Batch,
    *,
    stats: str = "running",
    q: Any = None,
) -> Array:
    """Returns log p(x|z_k) + log p(z_k) - log q(z_k|x), z_k ~ q(z|x): [K, B].

    p(z) is N(0, I), unless the model has weights of its own (`Model.log_weight`): z is then all its
    latents. Each draw is decoded as a batch of its own.

    Args:
        model: that encodes and decodes, or has `log_weight`.
        rngs: keys [K], one for each draw.
        batch: x [B, ...], without padding where `stats` is "batch".
        stats: "running" or "batch".
        q: the posterior of this batch, if known.

    Raises:
        UserError: for a model without `log_weight` that does not encode and decode.
    """
    with jax.default_matmul_precision("highest"):
        if (of_model := model.log_weight) is not None:
            return jax.vmap(lambda rng: of_model(params, state, rng, batch, stats=stats))(rngs)
        encode, decode = _both_ways(model)
        q = encode(params, state, batch.x, batch.cond, stats=stats) if q is None else q

        def log_weight(rng: Array) -> Array:
            z = q.sample(rng)
            p = decode(params, state, z, batch.cond, stats=stats)
            log_p = distributions.log_prob(*_flat(p, batch.x))
            return log_p + log_prior(z) - q.log_prob(z)

        return jax.vmap(log_weight)(rngs)


def _both_ways(model: Model) -> tuple[Encode, Decode]:
    if model.encode is None or model.decode is None:
        raise UserError("an importance-weighted bound needs a model that encodes and decodes.")
    return model.encode, model.decode


def _flat(p: Any, x: Array) -> tuple[Any, Array]:
    """Returns pixelwise `p` and `x` [B, n], flat in memory.

    XLA sums images of one channel far more slowly on CPU.
    """
    if not isinstance(p, (distributions.Normal, distributions.Bernoulli)):
        return p, x  # may need the shape of x
    leaves = [jnp.broadcast_to(leaf, x.shape).reshape(len(x), -1) for leaf in (*p, x)]
    *leaves, x = jax.lax.optimization_barrier(leaves)
    return type(p)(*leaves), x


def make_iw_bound(model: Model, k: int, *, chunk: int, stats: str = "running") -> Callable:
    """Returns `iw(params, state, rng, batch) -> iw_k(x) [B]` in nats, `chunk` draws at a time.

    It is pure. The k-th draw has the key fold_in(rng, k), and is decoded as a batch of its own: the
    bound does not depend on `chunk`, with `stats="batch"` either.
    """
    check_count("k", k)
    check_count("chunk", chunk)
    return functools.partial(_bound, model, k, min(chunk, k), stats=stats)


def _bound(
    model: Model,
    k: int,
    chunk: int,
    params: Params,
    state: State,
    rng: Array,
    batch: Batch,
    *,
    stats: str,
) -> Array:
    encode = model.encode
    if encode is None:
        raise UserError("an importance-weighted bound needs a model that encodes and decodes.")
    with jax.default_matmul_precision("highest"):
        q = encode(params, state, batch.x, batch.cond, stats=stats)

        def add(total, first):
            numbers = first + jnp.arange(chunk)
            rngs = jax.vmap(lambda i: jax.random.fold_in(rng, i))(numbers)
            weights = log_weights(model, params, state, rngs, batch, stats=stats, q=q)
            weights = jnp.where(numbers[:, None] < k, weights, -jnp.inf)
            return jnp.logaddexp(total, jax.nn.logsumexp(weights, axis=0)), None

        start = jnp.full(batch.x.shape[0], -jnp.inf)
        return jax.lax.scan(add, start, jnp.arange(0, k, chunk))[0] - math.log(k)


def make_terms(model: Model, *, stats: str = "running") -> Callable:
    """Returns `terms(params, state, rng, batch) -> {name: [B] or [B, D]}`.

    The names are `elbo`, `rec`, `kl`, and if the posterior has them `kl_per_dim` and `mean`.

    Raises:
        UserError: for a model without an evidence lower bound.
    """
    if model.terms is None or model.encode is None:
        raise UserError(
            "this model has no evidence lower bound: it does not encode, or has codes alone."
        )
    return functools.partial(_terms, model.terms, model.encode, stats=stats)


def _terms(
    terms: EvaluateTerms,
    encode: Encode,
    params: Params,
    state: State,
    rng: Array,
    batch: Batch,
    *,
    stats: str,
) -> dict[str, Array]:
    with jax.default_matmul_precision("highest"):
        found = terms(params, state, rng, batch, stats=stats)
        q = encode(params, state, batch.x, batch.cond, stats=stats)
        values = {"elbo": objectives.elbo(found), "rec": found.rec, "kl": found.kl}
        if isinstance(q, HasKLPerDim):
            values["kl_per_dim"] = q.kl_per_dim()
        if isinstance(q, HasMean):
            values["mean"] = q.mean
        return values


def make_log_prob(model: Model, *, stats: str = "running") -> Callable:
    """Returns `log_prob(params, state, rng, batch) -> {"log_prob": [B]}`, in nats.

    `rng` is not used.

    Raises:
        UserError: for a model without an exact density.
    """
    if model.log_prob is None:
        raise UserError("this model has no exact density.")
    return functools.partial(_log_prob, model.log_prob, stats=stats)


def _log_prob(
    log_prob: LogProb, params: Params, state: State, rng: Array, batch: Batch, *, stats: str
) -> dict[str, Array]:
    with jax.default_matmul_precision("highest"):
        return {"log_prob": log_prob(params, state, batch.x, batch.cond, stats=stats)}


def per_example(
    function: Callable, params: Params, state: State, source: Source, **options: Any
) -> Values:
    """Returns what `function` gives over a whole source: {name: [n, ...]}. Options are those of
    `make_per_example`, which is for more than one source."""
    return make_per_example(function, params, state, **options)(source)


def make_per_example(
    function: Callable,
    params: Params,
    state: State,
    *,
    preprocess: Preprocess | None = None,
    batch_size: int = 100,
    seed: int = 0,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], None] | None = None,
    stats: str | None = None,
) -> Callable[[Source], Values]:
    """Returns `(source) -> {name: [n, ...]}`, of all n examples; compiled once for all sources of
    one shape that fill a batch.

    Noise is the same at every call and on any number of devices; it depends on `batch_size`.
    Batches are padded to equal slices of the devices, the last one to the others' size, and what
    the padding gives is dropped.

    Args:
        function: (params, state, rng, batch) -> {name: [B, ...]}, pure, such as `make_terms`
            returns.
        preprocess: (rng, examples) -> Batch, inside jit; default: bytes to [0, 1].
        batch_size: examples at a time.
        seed: of the noise.
        mesh: default: all devices.
        progress: called as (examples done, examples in all).
        stats: "batch" where rows of a batch depend on each other: no batch is padded then, and the
            last one, of what is left over, is compiled by itself. Default: what `make_terms` or
            `make_iw_bound` were told, else "running".
    """
    mesh = parallel.make_mesh() if mesh is None else mesh
    preprocess = make_preprocess() if preprocess is None else preprocess
    check_count("batch_size", batch_size)
    if stats is None:
        stats = getattr(function, "keywords", {}).get("stats", "running")
    replicated = parallel.replicated(mesh)

    def on_batch(params, state, rng, number, examples):
        rng_data, rng_step = jax.random.split(jax.random.fold_in(rng, number))
        return function(params, state, rng_step, preprocess(rng_data, examples))

    def sharding(examples: dict[str, np.ndarray]) -> NamedSharding:
        even = all(len(values) % mesh.size == 0 for values in examples.values())
        return parallel.batch_sharded(mesh) if even else replicated

    compiled = jax.jit(on_batch, out_shardings=replicated)
    params, state = parallel.put((params, state), replicated)
    rng = parallel.put(jax.random.fold_in(jax.random.key(seed), preprocessing.KEY), replicated)

    def measure(source: Source) -> Values:
        check_source("source", source)
        stride = min(batch_size, source.size)
        padded_size = -(-stride // mesh.size) * mesh.size
        starts = range(0, source.size, stride)

        def read(start: int) -> dict[str, np.ndarray]:
            if stats == "batch":
                return read_checked(source, np.arange(start, min(start + stride, source.size)))
            index = np.minimum(np.arange(start, start + padded_size), source.size - 1)
            return read_checked(source, index)

        parts, pending = [], []
        with jax.default_matmul_precision("highest"):
            for start, examples in zip(starts, ahead(read, starts), strict=True):
                number = parallel.put(np.int32(start // stride), replicated)
                examples = parallel.put(examples, sharding(examples))
                pending.append(compiled(params, state, rng, number, examples))
                if len(pending) > 1:  # one in flight behind the one computed: bounded memory
                    parts.append(jax.device_get(pending.pop(0)))
                    if progress is not None:
                        progress(min(len(parts) * stride, source.size), source.size)
            parts += jax.device_get(pending)
        if progress is not None:
            progress(source.size, source.size)
        return {
            name: np.concatenate([part[name][:stride] for part in parts])[: source.size]
            for name in parts[0]
        }

    return measure


def iw_bound(
    model: Model, params: Params, state: State, source: Source, **options: Any
) -> np.ndarray:
    """Returns iw_k(x) in nats for every example: [n]. Options are those of `make_iw_bounds`, which
    is for more than one source."""
    return make_iw_bounds(model, params, state, **options)(source)


def make_iw_bounds(
    model: Model,
    params: Params,
    state: State,
    *,
    k: int = 5000,
    chunk: int | None = None,
    stats: str = "running",
    batch_size: int = 100,
    **options: Any,
) -> Callable[[Source], np.ndarray]:
    """Returns `(source) -> iw_k(x) [n]` in nats, compiled once for all sources of one shape that
    fill a batch. Draws and examples are taken in pieces: the memory grows with neither.

    Args:
        k: draws for each example.
        chunk: draws at a time; default: what fits the processor's cache, or 256 MiB on an
            accelerator.
        stats: "running", or "batch": BatchNorm then has the moments of each batch of examples, in
            the decoder those of each draw; no batch is padded.
        batch_size: examples at a time.
        options: of `make_per_example`.

    Raises:
        UserError: for a model that does not encode and decode.
    """
    _both_ways(model)
    check_count("batch_size", batch_size)
    space = ROW_BYTES.get(jax.default_backend(), MORE_ROW_BYTES)
    rest = {"batch_size": batch_size, "stats": stats, **options}
    made: dict[int, Callable[[Source], Values]] = {}  # draws at a time -> what measures so

    def measure(source: Source) -> np.ndarray:
        row = 4 * max(math.prod(source.shape), LEAST_ROW) * min(batch_size, source.size)
        size = max(1, min(k, space // row)) if chunk is None else chunk
        if size not in made:
            bound = make_iw_bound(model, k, chunk=size, stats=stats)
            made[size] = make_per_example(lambda *args: {"iw": bound(*args)}, params, state, **rest)
        return made[size](source)["iw"]

    return measure


def estimate(values: np.ndarray, protocol: str) -> Estimate:
    """Returns the mean of [n] values with its standard error."""
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else float("nan")
    return Estimate(float(values.mean()), error, len(values), protocol)


def active_units(means: np.ndarray, threshold: float = ACTIVE) -> tuple[int, np.ndarray]:
    """Returns how many dimensions are active, and Var_x(E[z_j|x]) [D], of posterior means [n, D].

    A dimension is active where that variance is above `threshold` (Burda et al. 2016, section 5.1).
    """
    variance = np.asarray(means, np.float64).var(axis=0)
    return int((variance > threshold).sum()), variance


Pixels = Literal["grey", "binarised", "dequantised"]


def bits_per_dim(
    nll: float, shape: tuple[int, ...], *, pixels: Pixels, likelihood: str
) -> tuple[float, str]:
    """Returns bits per dimension of an NLL in nats per example, and what they are bits of.

        dequantised, density over x = (byte + u) / 256:   nll / (D ln 2) + 8
        binarised, probability of 0s and 1s:              nll / (D ln 2)

    The first is an upper bound of the bits of a model over bytes (Theis et al. 2016, arXiv
    1511.01844, section 3.1). Grey pixels have none: a density over values that are only ever
    multiples of 1/255 has no upper bound, and a Bernoulli's cross-entropy on grey values is no
    likelihood.

    Raises:
        UserError: for grey pixels, and a likelihood that is not over such pixels.
    """
    bits = nll / (math.prod(shape) * math.log(2.0))
    if pixels == "dequantised" and likelihood != "bernoulli":
        return bits + 8.0, "bits per dimension of bytes, uniform dequantisation"
    if pixels == "binarised" and likelihood == "bernoulli":
        return bits, "bits per dimension of binarised pixels"
    raise UserError(
        f"{pixels} pixels and the likelihood {likelihood!r} have no bits per dimension: train with "
        "--pixels dequantised (a density) or --pixels binarised (Bernoulli)."
    )
