"""Images to features: a protocol's net made ready, and the features of images block by block."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxvae import data, parallel
from jaxvae.data.source import Source, read_checked
from jaxvae.data.stream import ahead
from jaxvae.errors import UserError, check_count
from jaxvae.metrics import weights as weight_files
from jaxvae.metrics.frechet import Moments, Statistics
from jaxvae.metrics.protocols import EXTRACTORS, Protocol
from jaxvae.metrics.sampling import Sampler, finished_batches
from jaxvae.types import Array

BLOCK = 1024  # features whose products are added up at a time
SLACK = 1e-4  # how far rounding may carry a pixel out of [0, 1]

Progress = Callable[[int, int], None]  # (images done, images in all)


class Engine(NamedTuple):
    """A protocol made ready: weights on the devices, features compiled."""

    protocol: Protocol
    size: int  # of a batch
    mesh: Mesh
    digest: str  # of the weights
    features: Callable  # x [size, H, W, C] in [0, 255] -> [size, dimension]


class Range(NamedTuple):
    """The values of a batch of images."""

    low: Array
    high: Array
    finite: Array  # whether all are: a minimum over devices may lose a NaN


def make_engine(
    protocol: Protocol, weights: Any, batch_size: int, mesh: Mesh | None, source: Source
) -> Engine:
    """Returns the engine of `protocol` for images of the shape of `source`.

    It computes at the highest matmul precision.

    Args:
        protocol: its batch size, where it has one, comes before `batch_size`.
        weights: file or folder, state dictionary, or None (`weights.find`).
        batch_size: images at a time.
        mesh: default: all devices; one where they do not divide a batch.
        source: real images.

    Raises:
        UserError: for weights that are missing or wrong.
    """
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
        bilinear(side, extractor.side, extractor.half_pixels) for side in source.shape[:2]
    )

    @jax.jit
    def features(params, x):
        with jax.default_matmul_precision("highest"):
            x = jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)
            x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
            shift, scale = (jnp.asarray(v, jnp.float32) for v in (extractor.shift, extractor.scale))
            return extractor.features(params, (x - shift) / scale, stats=protocol.features)

    return Engine(protocol, size, mesh, digest, lambda x: features(params, x))


def bilinear(n: int, side: int, half_pixels: bool) -> np.ndarray:
    """Returns the matrix [side, n] that resizes n pixels to `side`, each made of at most two."""
    targets = np.arange(side) + 0.5 if half_pixels else np.arange(side)
    at = np.clip(targets * n / side - (0.5 if half_pixels else 0.0), 0.0, n - 1)
    low = np.floor(at).astype(int)
    matrix = np.zeros((side, n))
    matrix[np.arange(side), low] += 1.0 - (at - low)
    matrix[np.arange(side), np.minimum(low + 1, n - 1)] += at - low
    return matrix.astype(np.float32)


def to_bytes(x: Array, pixels: str) -> Array:
    """Returns x [B, H, W, C] in [0, 1] as float32 from 0 to 255, as a protocol's `pixels` says."""
    if pixels == "stretch":
        low, high = x.min(axis=(1, 2, 3), keepdims=True), x.max(axis=(1, 2, 3), keepdims=True)
        # an image of a single value becomes black
        return 255.0 * (x - low) / jnp.where(high > low, high - low, 1.0)
    x = 255.0 * jnp.clip(x, 0.0, 1.0)
    return {"round": jnp.round, "truncate": jnp.floor, "float": lambda x: x}[pixels](x)


def of_samples(engine: Engine, sampler: Sampler, source: Source, seed: int) -> Iterator[np.ndarray]:
    """Yields the features of the protocol's samples in blocks [<= size, d]."""
    protocol, mesh = engine.protocol, engine.mesh

    def finish(x: Array) -> tuple[Array, Range]:
        x = jnp.asarray(x, jnp.float32)
        return to_bytes(x, protocol.pixels), _range(x)

    batches = finished_batches(
        sampler,
        finish,
        batches=-(-protocol.samples // engine.size),
        shape=(engine.size, *source.shape),
        stats=protocol.generator,
        seed=seed,
        shardings=(parallel.batch_sharded(mesh), parallel.replicated(mesh)),
    )
    return _blocks(engine, batches, protocol.samples, "the sampler's images")


def of_reals(engine: Engine, source: Source) -> Iterator[np.ndarray]:
    """Yields the features of the protocol's real images in blocks [<= size, d].

    Raises:
        UserError: where the extractor takes its moments from batches, and there are fewer images
            than in one.
    """
    protocol, size = engine.protocol, engine.size
    n = protocol.reals or source.size
    pixels = "float" if protocol.pixels == "stretch" else protocol.pixels
    if protocol.features == "batch" and source.size < size:
        raise UserError(
            f"protocol {protocol.label} takes moments from batches of {size} images, "
            f"{source.name} {source.split} has {source.size}: use another split."
        )

    def read(step: int) -> np.ndarray:
        if protocol.order == "shuffled":
            index = data.batch_indices(source.size, 0, step, size)
        else:  # the last batch is filled up from the first
            index = np.arange(step * size, (step + 1) * size) % source.size
        return read_checked(source, index)["x"]

    @jax.jit
    def finish(x: Array) -> tuple[Array, Range]:
        if x.dtype == jnp.uint8:
            return x.astype(jnp.float32), _range(jnp.zeros(1))
        return to_bytes(x, pixels), _range(x)

    sharded = parallel.batch_sharded(engine.mesh)
    batches = (finish(parallel.put(x, sharded)) for x in ahead(read, range(-(-n // size))))
    return _blocks(engine, batches, n, f"the images of {source.name}")


def _blocks(
    engine: Engine, batches: Iterator[tuple[Array, Range]], n: int, what: str
) -> Iterator[np.ndarray]:
    """Yields the features of the first n images in blocks [<= size, d], their values checked.

    One batch is computed while the one before it is copied. Batches are made at the highest matmul
    precision; what runs between the blocks keeps its own.
    """
    previous, left = None, n
    while left:
        with jax.default_matmul_precision("highest"):
            batch = next(batches, None)
            started = None if batch is None else (engine.features(batch[0]), batch[1])
        if previous is not None:
            features, found = jax.device_get(previous)
            _check_range(found, what)
            if not np.isfinite(features).all():
                raise UserError("the features are not finite: are these weights damaged?")
            yield features[:left]
            left -= len(features[:left])
        previous = started


def _range(x: Array) -> Range:
    return Range(x.min(), x.max(), jnp.isfinite(x).all())


def _check_range(values: Range, what: str) -> None:
    if not values.finite:
        raise UserError(
            f"{what} hold values that are not finite: check the model, or stop training earlier."
        )
    if values.low < -SLACK or values.high > 1.0 + SLACK:
        raise UserError(
            f"{what} must be in [0, 1], and run from {values.low:g} to {values.high:g}: scale them, "
            "or use jnp.clip."
        )


def collect(
    blocks: Iterator[np.ndarray], keep: bool, progress: Callable[[int], None] | None
) -> tuple[Statistics, np.ndarray | None]:
    """Returns the statistics of features, and if `keep` the features [n, d] themselves.

    `progress` is called as (images done).

    Raises:
        UserError: for fewer than two features.
    """
    moments: Moments | None = None
    waiting, kept, done = [], [], 0

    def merged() -> Moments:
        part = Moments.of(np.concatenate(waiting))
        waiting.clear()
        return part if moments is None else moments.merge(part)

    for block in blocks:
        waiting.append(block)
        done += len(block)
        if keep:
            kept.append(block)
        if sum(map(len, waiting)) >= BLOCK:
            moments = merged()
        if progress is not None:
            progress(done)
    if waiting:
        moments = merged()
    if moments is None:
        raise UserError("a covariance needs at least two examples, not 0.")
    return moments.statistics(), np.concatenate(kept) if keep else None
