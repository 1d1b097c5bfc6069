"""Fréchet and kernel distances of generated images to real ones, always under a protocol that is
named.

    from jaxvae.metrics import fid
    fid.fid("mnist", fid.model_sampler(model, params, state), fid.PROTOCOLS["squeezenet"])

A protocol says which net gives the features, how many samples are drawn in which mode of the
generator, which real images they are compared with, and what is done to the pixels. Values of
different protocols do not compare: one published generator has 4.4 under its authors' and 25.9
under the usual one.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxvae import data, parallel
from jaxvae.data import Source, places
from jaxvae.data.stream import ahead
from jaxvae.errors import UserError, check_count, check_seed, unknown
from jaxvae.metrics import frechet, protocols, reference
from jaxvae.metrics import weights as weight_files
from jaxvae.metrics.frechet import Moments, Statistics, frechet_distance
from jaxvae.metrics.protocols import EXTRACTORS, PROTOCOLS, Protocol
from jaxvae.types import Array, Model, Params, State

__all__ = [
    "PROTOCOLS",
    "Distance",
    "Moments",
    "Protocol",
    "Statistics",
    "compare",
    "fid",
    "frechet_distance",
    "kid",
    "model_sampler",
    "statistics",
]

BATCH_SIZE = 64
BLOCK = 1024  # features whose products are added up at a time
SLACK = 1e-4  # how far rounding may carry a pixel out of [0, 1]
KID_SUBSETS, KID_SIZE = 100, 1000
GREY = "Grey images were given to the net as three equal channels."

Sampler = Callable[
    [Array, int, str], Array
]  # (rng, n, "running" or "batch") -> images [n, H, W, C] in [0, 1]
Progress = Callable[[int, int], None]


class Distance(NamedTuple):
    """A distance, and how it was measured."""

    value: float
    error: float | None  # kid: standard deviation over subsets
    n: int  # generated images
    reals: int  # real images
    protocol: str  # label of the protocol
    note: str = ""  # what limits it, and whether grey images became three channels


def fid(
    real: str | Source | Callable[[str], Source],
    sampler: Sampler,
    protocol: Protocol | str | None = None,
    **options: Any,
) -> Distance:
    """Returns the Fréchet distance of generated to real images under `protocol`; down is better.
    See `compare`."""
    return compare(real, sampler, protocol, metrics=("fid",), **options)["fid"]


def kid(
    real: str | Source | Callable[[str], Source],
    sampler: Sampler,
    protocol: Protocol | str | None = None,
    **options: Any,
) -> Distance:
    """Returns the kernel distance: mean and standard deviation of an unbiased MMD^2 over subsets;
    down is better.

    The kernel is (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401). See `compare`.
    """
    return compare(real, sampler, protocol, metrics=("kid",), **options)["kid"]


def compare(
    real: str | Source | Callable[[str], Source],
    sampler: Sampler,
    protocol: Protocol | str | None = None,
    *,
    metrics: tuple[str, ...] = ("fid", "kid"),
    weights: places.PathLike | Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    subsets: int = KID_SUBSETS,
    subset_size: int = KID_SIZE,
    data_dir: places.PathLike | None = None,
    cache: places.PathLike | bool = True,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
) -> dict[str, Distance]:
    """Returns {"fid": ..., "kid": ...} of generated images, made once for both.

    Args:
        real: name of a data set; a function from a split to a `Source`; or a `Source`, whose own
            split then counts (and stands in the label where the protocol names another).
        sampler: (rng, n, stats) -> images [n, H, W, C] in [0, 1], with BatchNorm as `stats` says
            ("running", "batch"); it is called inside `jit`, or outside where it cannot be traced.
            `model_sampler` makes one of a model.
        protocol: one of `PROTOCOLS` or its name, or a changed one:
            `PROTOCOLS["standard"]._replace(split="test")`.
        metrics: "fid", "kid" or both.
        weights: file or folder of the extractor's weights, or its state dictionary; default:
            `weights.find`.
        seed: of the samples and of kid's subsets.
        batch_size: images at a time, where the protocol leaves it open; the samples depend on it,
            as on the seed.
        subsets, subset_size: of kid; others than the usual ones stand in its label.
        data_dir: where data sets are, for a name.
        cache: keep the real images' statistics (not with kid): True, in ~/.cache/jaxvae/statistics
            (not for a `Source` that is passed in), a folder, or False.
        mesh: devices; default: all, where they divide a batch.
        progress: called as (images done, images in all).

    Raises:
        UserError: without a protocol, for an unknown one, weights that are missing or wrong, images
            outside [0, 1] or not finite or of another shape than the real ones, and fewer real
            images than the protocol asks for.
    """
    protocol, source = _resolve(real, protocol, data_dir)
    check_seed("seed", seed)
    for name in metrics:
        if name not in ("fid", "kid"):
            raise unknown("metric", name, ("fid", "kid"))
    if "kid" in metrics:
        check_count("subsets", subsets)
        check_count("subset_size", subset_size, least=2)
        fewest = min(protocol.samples, protocol.reals or source.size)
        if fewest < subset_size:
            raise UserError(
                f"kid's subsets of {subset_size} images need as many samples and real images; "
                f"there are {fewest}: "
                "use more images, or from Python fid(..., subset_size=...)."
            )
    engine = _engine(protocol, weights, batch_size, mesh, source)
    keep = "kid" in metrics
    total = protocol.samples + (protocol.reals or source.size)
    fakes = _collect(_fakes(engine, sampler, source, seed), keep, _counted(progress, 0, total))
    folder = _cache_folder(cache, real)
    if keep:
        reals = _collect(_reals(engine, source), True, _counted(progress, protocol.samples, total))
    else:
        reals = (
            _real_statistics(engine, source, folder, _counted(progress, protocol.samples, total)),
            None,
        )
    found, grey = {}, GREY if source.shape[-1] == 1 else ""
    if "fid" in metrics:
        found["fid"] = _frechet(fakes[0], reals[0], protocol, grey)
    if "kid" in metrics:
        values = frechet.kernel_distances(
            fakes[1], reals[1], subsets=subsets, size=subset_size, seed=seed
        )
        usual = (subsets, subset_size) == (KID_SUBSETS, KID_SIZE)
        label = protocol.label if usual else f"{protocol.label}, {subsets} subsets of {subset_size}"
        differ = subsets > 1 and subset_size < max(
            len(fakes[1]), len(reals[1])
        )  # else every subset is the whole
        spread = float(values.std(ddof=1)) if differ else None
        found["kid"] = Distance(
            float(values.mean()), spread, len(fakes[1]), len(reals[1]), label, grey
        )
    return found


def statistics(
    real: str | Source | Callable[[str], Source],
    protocol: Protocol | str | None = None,
    *,
    weights: places.PathLike | Mapping[str, np.ndarray] | None = None,
    batch_size: int = BATCH_SIZE,
    data_dir: places.PathLike | None = None,
    cache: places.PathLike | bool = True,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """Returns mean and covariance of the real images' features under `protocol`, from the cache
    where they are there."""
    protocol, source = _resolve(real, protocol, data_dir)
    engine = _engine(protocol, weights, batch_size, mesh, source)
    return _real_statistics(engine, source, _cache_folder(cache, real), progress)


def model_sampler(
    model: Model, params: Params, state: State, num_classes: int | None = None
) -> Sampler:
    """Returns a sampler of `model`, its values cut off at 0 and 1; labels, where it has them, are
    drawn uniformly."""
    if model.sample is None:
        raise UserError("this model does not sample.")

    def sampler(rng: Array, n: int, stats: str) -> Array:
        cond = None
        if num_classes is not None:
            rng, rng_label = jax.random.split(rng)
            cond = jax.nn.one_hot(jax.random.randint(rng_label, (n,), 0, num_classes), num_classes)
        return jnp.clip(model.sample(params, state, rng, n, cond, stats=stats), 0.0, 1.0)

    return sampler


# ---- pixels to features --------------------------------------------------------------------


class Engine(NamedTuple):
    """A protocol made ready: weights on the devices, features compiled."""

    protocol: Protocol
    size: int  # of a batch
    mesh: Mesh
    digest: str  # of the weights
    features: Callable  # x [size, H, W, C] in [0, 255] -> [size, dimension]


def _resolve(
    real: Any, protocol: Protocol | str | None, data_dir: places.PathLike | None
) -> tuple[Protocol, Source]:
    """Returns the protocol, honest about the split, and the real images."""
    protocol = protocols.checked(protocol)
    if isinstance(real, str):
        source = data.load(real, protocol.split, data_dir=data_dir)
    else:
        source = real if isinstance(real, Source) else real(protocol.split)
    protocol = protocol._replace(split=source.split)
    if len(source.shape) != 3 or source.shape[-1] not in (1, 3):
        raise UserError(
            f"{source.name} has examples of shape {source.shape}: a FID is of images [height, "
            "width, 1 or 3]."
        )
    if (protocol.reals or 2) > source.size:
        raise UserError(
            f"protocol {protocol.label} asks for {protocol.reals:,} real images, {source.name} "
            f"{source.split} has "
            f"{source.size:,}: use another split, or fewer with with_samples({source.size}) "
            "(--samples)."
        )
    return protocol, source


def _engine(
    protocol: Protocol, weights: Any, batch_size: int, mesh: Mesh | None, source: Source
) -> Engine:
    extractor = EXTRACTORS[protocol.extractor]
    check_count("batch_size", batch_size)
    size = protocol.batch_size or batch_size
    mesh = parallel.make_mesh() if mesh is None else mesh
    mesh = mesh if size % mesh.size == 0 else parallel.make_mesh(mesh.devices.ravel()[:1])
    if isinstance(weights, Mapping):
        state_dict, what = weights, "the weights given"
    else:
        path = weight_files.locate(extractor.weights, weights)
        state_dict, what = weight_files.read(path), str(path)
    params = extractor.from_state_dict(state_dict, what)
    digest = weight_files.digest(params)
    params = parallel.put(params, parallel.replicated(mesh))
    rows, columns = (
        _bilinear(side, extractor.side, extractor.half_pixels) for side in source.shape[:2]
    )

    @jax.jit
    def features(params, x):
        x = jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)
        x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
        x = (x - jnp.asarray(extractor.shift, jnp.float32)) / jnp.asarray(
            extractor.scale, jnp.float32
        )
        return extractor.features(params, x, stats=protocol.features)

    return Engine(protocol, size, mesh, digest, lambda x: features(params, x))


def _bilinear(n: int, side: int, half_pixels: bool) -> np.ndarray:
    """Returns the matrix [side, n] that resizes n pixels to `side`, two of them at a time (nothing
    is averaged)."""
    places_ = np.arange(side) + 0.5 if half_pixels else np.arange(side)
    at = np.clip(places_ * n / side - (0.5 if half_pixels else 0.0), 0.0, n - 1)
    low = np.floor(at).astype(int)
    matrix = np.zeros((side, n))
    matrix[np.arange(side), low] += 1.0 - (at - low)
    matrix[np.arange(side), np.minimum(low + 1, n - 1)] += at - low
    return matrix.astype(np.float32)


def _bytes(x: Array, pixels: str) -> Array:
    """Returns x [B, H, W, C] in [0, 1] as pixels from 0 to 255."""
    if pixels == "stretch":
        low, high = x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)
        return (
            255.0 * (x - low) / jnp.where(high > low, high - low, 1.0)
        )  # one of a single value becomes black
    x = 255.0 * jnp.clip(x, 0.0, 1.0)
    return {"round": jnp.round, "truncate": jnp.floor, "float": lambda x: x}[pixels](x)


def _features(
    engine: Engine, batches: Iterator[tuple[Array, Any]], n: int, check: Callable
) -> Iterator[np.ndarray]:
    """Yields the features of n images in blocks [<= size, d]: one batch computes while the one
    before it is copied."""
    pending, left = [], n

    def take() -> np.ndarray:
        nonlocal left
        found, range_ = jax.device_get(pending.pop(0))
        check(range_)
        if not np.isfinite(found).all():
            raise UserError("the features are not finite: are these weights damaged?")
        found = found[:left]
        left -= len(found)
        return found

    batches, more = iter(batches), True
    while more or pending:
        with jax.default_matmul_precision("highest"):  # not while others hold the thread
            found = next(batches, None)
            if more := found is not None:
                pending.append((engine.features(found[0]), found[1]))
        if len(pending) > more:
            yield take()


def _fakes(engine: Engine, sampler: Sampler, source: Source, seed: int) -> Iterator[np.ndarray]:
    protocol, size, mesh = engine.protocol, engine.size, engine.mesh
    whole = parallel.replicated(mesh)

    def draw(number):
        return sampler(jax.random.fold_in(jax.random.key(seed), number), size, protocol.generator)

    def ready(x):
        x = jnp.asarray(x, jnp.float32)
        return _bytes(x, protocol.pixels), _range(x)

    with jax.default_matmul_precision("highest"):
        # parameters that the sampler closes over become arguments: as constants they would take
        # minutes to compile
        try:
            traced, example = jax.make_jaxpr(draw, return_shape=True)(np.int32(0))
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerArrayConversionError,
            jax.errors.TracerIntegerConversionError,
        ):
            traced, example = None, np.asarray(draw(0))  # it computes on the host
    shape, dtype = getattr(example, "shape", None), getattr(example, "dtype", None)
    if shape != (size, *source.shape) or not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"the sampler gives {dtype} {shape}, the real images are {source.shape}: it must give "
            "floating point "
            f"images {(size, *source.shape)} in [0, 1]."
        )
    cut = (parallel.batch_sharded(mesh), whole)
    if traced is None:
        finish = jax.jit(ready, out_shardings=cut)
        one = lambda number: finish(np.asarray(draw(number)))  # noqa: E731
    else:
        consts = parallel.put(traced.consts, whole)
        compiled = jax.jit(
            lambda consts, number: ready(*jax.core.eval_jaxpr(traced.jaxpr, consts, number)),
            out_shardings=cut,
        )
        one = lambda number: compiled(consts, number)  # noqa: E731
    batches = (one(np.int32(number)) for number in range(-(-protocol.samples // size)))
    return _features(
        engine,
        batches,
        protocol.samples,
        lambda range_: _check_range(*range_, "the sampler's images"),
    )


def _reals(engine: Engine, source: Source) -> Iterator[np.ndarray]:
    protocol, size = engine.protocol, engine.size
    n = protocol.reals or source.size
    pixels = "float" if protocol.pixels == "stretch" else protocol.pixels

    def read(step: int) -> np.ndarray:
        if protocol.order == "shuffled":
            indices = data.batch_indices(source.size, 0, step, size)
        else:
            indices = (
                np.arange(step * size, (step + 1) * size) % source.size
            )  # the last batch is filled up from the first
        return source.read(indices)["x"]

    @jax.jit
    def ready(x):
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32)
            return x, _range(jnp.zeros(1))
        return _bytes(x, pixels), _range(x)

    cut = parallel.batch_sharded(engine.mesh)
    batches = (ready(parallel.put(x, cut)) for x in ahead(read, range(-(-n // size))))
    return _features(
        engine, batches, n, lambda range_: _check_range(*range_, f"the images of {source.name}")
    )


def _range(x: Array) -> tuple[Array, Array, Array]:
    """Returns the smallest and the largest value of x, and whether all are finite (a minimum over
    devices may lose a NaN)."""
    return x.min(), x.max(), jnp.isfinite(x).all()


def _check_range(low: float, high: float, finite: bool, what: str) -> None:
    if not finite:
        raise UserError(
            f"{what} hold values that are not finite: check the model, or stop training earlier."
        )
    if low < -SLACK or high > 1.0 + SLACK:
        raise UserError(
            f"{what} must be in [0, 1], and run from {low:g} to {high:g}: scale them, or use "
            "jnp.clip."
        )


def _collect(
    blocks: Iterator[np.ndarray], keep: bool, progress: Progress | None
) -> tuple[Statistics, np.ndarray | None]:
    """Returns the statistics of features, and the features [n, d] themselves where they are to be
    kept."""
    moments, waiting, kept, done = None, [], [], 0

    def add() -> Moments:
        part = Moments.of(np.concatenate(waiting))
        waiting.clear()
        return part if moments is None else moments.merge(part)

    for block in blocks:
        waiting.append(block)
        done += len(block)
        if keep:
            kept.append(block)
        if sum(map(len, waiting)) >= BLOCK:
            moments = add()
        if progress is not None:
            progress(done)
    if waiting:
        moments = add()
    return moments.statistics(), np.concatenate(kept) if keep else None


def _counted(progress: Progress | None, before: int, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(before + done, total)


# ---- statistics to distances ---------------------------------------------------------------


def _real_statistics(engine: Engine, source: Source, folder, progress) -> Statistics:
    protocol = engine.protocol
    n = protocol.reals or source.size
    about = {
        "extractor": protocol.extractor,
        "weights": engine.digest,
        "features": protocol.features,
        "order": protocol.order,
        "reals": n,
        "pixels": protocol.pixels
        if source.arrays is None or source.arrays["x"].dtype != np.uint8
        else "bytes",
        "batch_size": engine.size if protocol.features == "batch" else None,
    }
    make = lambda: _collect(_reals(engine, source), False, progress)[0]  # noqa: E731
    dimension = EXTRACTORS[protocol.extractor].dimension
    return make() if folder is None else reference.cached(folder, source, about, n, dimension, make)


def _cache_folder(cache: places.PathLike | bool, real: Any):
    if cache is False or (cache is True and isinstance(real, Source)):
        return None
    return places.cache() / "statistics" if cache is True else cache


def _frechet(fakes: Statistics, reals: Statistics, protocol: Protocol, grey: str) -> Distance:
    value, *ranks = frechet.distance_and_ranks(fakes.mean, fakes.cov, reals.mean, reals.cov)
    dimension = len(fakes.mean)
    few = [
        f"{n:,} {what} give a covariance of rank {rank}"
        for n, what, rank in ((fakes.n, "samples", ranks[0]), (reals.n, "real images", ranks[1]))
        if n <= dimension
    ]
    if not few:
        return Distance(value, None, fakes.n, reals.n, protocol.label, grey)
    note = (
        f"{' and '.join(few)} in {dimension} dimensions: this distance is far above that of more "
        "images; "
        f"use more than {dimension:,}. {grey}"
    ).rstrip()
    print(f"jaxvae: {protocol.label}: {note}", file=sys.stderr)
    return Distance(value, None, fakes.n, reals.n, protocol.label, note)
