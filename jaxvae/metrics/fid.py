"""Fréchet and kernel distances of generated images to real ones, always under a named protocol.

    from jaxvae.metrics import fid
    fid.fid("mnist", fid.model_sampler(model, params, state), fid.PROTOCOLS["squeezenet"])

A protocol says which net gives the features, how many samples are drawn in which mode of the
generator, which real images they are compared with, and what is done to the pixels. Values of
different protocols do not compare: one published generator has 4.4 under its authors' and 25.9
under the usual one.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxvae import data
from jaxvae.data import Source, places
from jaxvae.errors import UserError, check_count, check_seed, unknown
from jaxvae.metrics import features, frechet, protocols, reference
from jaxvae.metrics.features import Engine, Progress
from jaxvae.metrics.frechet import Moments, Statistics, frechet_distance
from jaxvae.metrics.protocols import EXTRACTORS, PROTOCOLS, Protocol
from jaxvae.metrics.sampling import Sampler
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
KID_SUBSETS, KID_SIZE = 100, 1000
GREY = "Grey images were given to the net as three equal channels."


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

    Arguments and errors are those of `compare`.
    """
    return compare(real, sampler, protocol, metrics=("fid",), **options)["fid"]


def kid(
    real: str | Source | Callable[[str], Source],
    sampler: Sampler,
    protocol: Protocol | str | None = None,
    **options: Any,
) -> Distance:
    """Returns the kernel distance of generated to real images under `protocol`; down is better.

    It is the mean, with the standard deviation, of an unbiased MMD^2 over subsets, under the kernel
    (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401). Arguments and errors are those of
    `compare`.
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
            ("running", "batch"). A pure function of rng is compiled; any other one is called for
            every batch (`sampling.finished_batches`). `model_sampler` makes one of a model.
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
    _check_metrics(metrics, subsets, subset_size, protocol, source)
    engine = features.make_engine(protocol, weights, batch_size, mesh, source)
    keep = "kid" in metrics
    total = protocol.samples + (protocol.reals or source.size)
    samples = features.of_samples(engine, sampler, source, seed)
    count = _counter(progress, 0, total)
    fakes, fake_features = features.collect(samples, keep, count)
    count = _counter(progress, protocol.samples, total)
    if keep:
        reals, real_features = features.collect(features.of_reals(engine, source), keep, count)
    else:
        folder, real_features = _cache_folder(cache, real), None
        reals = _real_statistics(engine, source, folder, count)
    found, note = {}, GREY if source.shape[-1] == 1 else ""
    if "fid" in metrics:
        found["fid"] = _frechet(fakes, reals, protocol, note)
    if fake_features is not None and real_features is not None:
        options = {"subsets": subsets, "size": subset_size, "seed": seed}
        found["kid"] = _kernel(fake_features, real_features, protocol, note, **options)
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
    """Returns mean [d] and covariance [d, d] of the real images' features under `protocol`.

    They are read if cached. Arguments and errors are those of `compare`; `progress` is of the real
    images alone.
    """
    protocol, source = _resolve(real, protocol, data_dir)
    engine = features.make_engine(protocol, weights, batch_size, mesh, source)
    count = _counter(progress, 0, protocol.reals or source.size)
    return _real_statistics(engine, source, _cache_folder(cache, real), count)


def model_sampler(
    model: Model,
    params: Params,
    state: State,
    num_classes: int | None = None,
    *,
    reestimated: State | None = None,
) -> Sampler:
    """Returns the sampler (rng, n, stats) -> images [n, H, W, C] of `model`, clipped to [0, 1].

    Args:
        model: that samples.
        params, state: of the model.
        num_classes: of a conditional model, whose labels are drawn uniformly.
        reestimated: the state with re-estimated statistics (`train.reestimate`), for protocols whose
            generator has them.

    Raises:
        UserError: for a model that does not sample; from the sampler, for statistics that it was
            not given.
    """
    sample = model.sample
    if sample is None:
        raise UserError("this model does not sample.")

    def sampler(rng: Array, n: int, stats: str) -> Array:
        cond, averages = None, state
        if stats.startswith("reestimated"):
            if reestimated is None:
                raise UserError(
                    f"this protocol's generator has {stats} statistics: give model_sampler the "
                    "state of train.reestimate(...) as reestimated."
                )
            averages, stats = reestimated, "running"
        if num_classes is not None:
            rng, rng_label = jax.random.split(rng)
            cond = jax.nn.one_hot(jax.random.randint(rng_label, (n,), 0, num_classes), num_classes)
        return jnp.clip(sample(params, averages, rng, n, cond, stats=stats), 0.0, 1.0)

    return sampler


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
    needed = protocol.reals or 2
    if needed > source.size:
        raise UserError(
            f"protocol {protocol.label} asks for {needed:,} real images, {source.name} "
            f"{source.split} has {source.size:,}: use another split, or fewer with "
            f"with_samples({source.size}) (--samples)."
        )
    return protocol, source


def _check_metrics(
    metrics: tuple[str, ...], subsets: int, subset_size: int, protocol: Protocol, source: Source
) -> None:
    for name in metrics:
        if name not in ("fid", "kid"):
            raise unknown("metric", name, ("fid", "kid"))
    if "kid" not in metrics:
        return
    check_count("subsets", subsets)
    check_count("subset_size", subset_size, least=2)
    fewest = min(protocol.samples, protocol.reals or source.size)
    if fewest < subset_size:
        raise UserError(
            f"kid's subsets of {subset_size} images need as many samples and real images; there "
            f"are {fewest}: use more images, or from Python fid(..., subset_size=...)."
        )


def _counter(progress: Progress | None, before: int, total: int) -> Callable[[int], None] | None:
    """Returns `progress` as a function of the images done after the first `before` ones."""
    return None if progress is None else lambda done: progress(before + done, total)


# ---- statistics to distances ---------------------------------------------------------------


def _real_statistics(
    engine: Engine,
    source: Source,
    folder: places.PathLike | None,
    count: Callable[[int], None] | None,
) -> Statistics:
    protocol = engine.protocol
    n = protocol.reals or source.size
    of_bytes = source.arrays is not None and source.arrays["x"].dtype == np.uint8
    about = {
        "extractor": protocol.extractor,
        "weights": engine.digest,
        "features": protocol.features,
        "order": protocol.order,
        "reals": n,
        "pixels": "bytes" if of_bytes else protocol.pixels,
        "batch_size": engine.size if protocol.features == "batch" else None,
    }

    def make() -> Statistics:
        return features.collect(features.of_reals(engine, source), False, count)[0]

    if folder is None:
        return make()
    dimension = EXTRACTORS[protocol.extractor].dimension
    return reference.cached(folder, source, about, n, dimension, make)


def _cache_folder(cache: places.PathLike | bool, real: Any) -> places.PathLike | None:
    if cache is False or (cache is True and isinstance(real, Source)):
        return None
    return places.cache() / "statistics" if cache is True else cache


def _frechet(fakes: Statistics, reals: Statistics, protocol: Protocol, note: str) -> Distance:
    value, *ranks = frechet.distance_and_ranks(fakes.mean, fakes.cov, reals.mean, reals.cov)
    dimension = len(fakes.mean)
    few = [
        f"{n:,} {what} give a covariance of rank {rank}"
        for n, what, rank in ((fakes.n, "samples", ranks[0]), (reals.n, "real images", ranks[1]))
        if n <= dimension
    ]
    if few:
        note = (
            f"{' and '.join(few)} in {dimension} dimensions: this distance is far above that of "
            f"more images; use more than {dimension:,}. {note}"
        ).rstrip()
        print(f"jaxvae: {protocol.label}: {note}", file=sys.stderr)
    return Distance(value, None, fakes.n, reals.n, protocol.label, note)


def _kernel(
    fakes: np.ndarray,
    reals: np.ndarray,
    protocol: Protocol,
    note: str,
    *,
    subsets: int,
    size: int,
    seed: int,
) -> Distance:
    values = frechet.kernel_distances(fakes, reals, subsets=subsets, size=size, seed=seed)
    usual = (subsets, size) == (KID_SUBSETS, KID_SIZE)
    label = protocol.label if usual else f"{protocol.label}, {subsets} subsets of {size}"
    differ = subsets > 1 and size < max(len(fakes), len(reals))  # else all subsets are one
    spread = float(values.std(ddof=1)) if differ else None
    return Distance(float(values.mean()), spread, len(fakes), len(reals), label, note)
