"""What a trained model is used for: `jaxvae sample | reconstruct | interpolate | traverse |
evaluate RUN`."""

import io
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import config as configs
from jaxvae import data, options, plots, run, writers
from jaxvae.errors import UserError
from jaxvae.metrics import fid, likelihood, protocols
from jaxvae.types import Array, Batch, HasKLPerDim, Model, Params, State


class Trained(NamedTuple):
    """A model of the command line, as it is used again."""

    config: Any
    model: Model
    params: Params
    state: State
    preprocess: Any
    num_classes: int | None
    step: int


def open_run(folder: Path, step: str = "latest") -> Trained:
    """Returns the model of a run, or of an exported folder; `step` is "latest", "best" or a
    number."""
    config, shape, num_classes = configs.from_dict(run.read_config(folder))
    number = run.step_of(folder, int(step) if step.isdigit() else step)
    loaded = run.load(folder, step=number)
    return Trained(
        config, *loaded, configs.build(config, shape, num_classes).preprocess, num_classes, number
    )


# ---- the verbs, as functions ---------------------------------------------------------------


def reconstruct(model: Model, params: Params, state: State, batch: Batch) -> Array:
    """Returns the decoder's mean at the posterior's mean of every x: the shape of `batch.x`."""
    _need(model, "encode", "decode")
    mean = model.encode(params, state, batch.x, batch.cond).mean
    return model.decode(params, state, mean, batch.cond).mean


def interpolate(
    model: Model, params: Params, state: State, start: Batch, end: Batch, points: int = 11
) -> Array:
    """Returns decoder means on the straight line between the posterior means of two batches: [B,
    points, ...].

    A condition stays that of `start`.
    """
    _need(model, "encode", "decode")
    first, last = (model.encode(params, state, b.x, b.cond).mean for b in (start, end))
    t = jnp.linspace(0.0, 1.0, points)[None, :, None]
    return _decode_rows(
        model, params, state, (1.0 - t) * first[:, None] + t * last[:, None], start.cond
    )


def traverse(
    model: Model,
    params: Params,
    state: State,
    example: Batch,
    n: int,
    points: int = 11,
    width: float = 3.0,
) -> tuple[Array, np.ndarray]:
    """Returns decoder means [n, points, ...] as one latent dimension at a time runs from -width to
    width, and which ones.

    The others stay at the posterior mean of the one example; chosen are the dimensions of its
    largest KL.
    """
    _need(model, "encode", "decode")
    q = model.encode(
        params, state, example.x[:1], None if example.cond is None else example.cond[:1]
    )
    size = q.mean.shape[-1]
    ranks = q.kl_per_dim()[0] if isinstance(q, HasKLPerDim) else jnp.square(q.mean[0])
    chosen = np.argsort(-np.asarray(ranks), kind="stable")[: min(n, size)]
    z = jnp.broadcast_to(q.mean, (len(chosen), points, size))
    z = z.at[np.arange(len(chosen)), :, chosen].set(jnp.linspace(-width, width, points))
    cond = (
        None
        if example.cond is None
        else jnp.broadcast_to(example.cond[:1], (len(chosen), example.cond.shape[-1]))
    )
    return _decode_rows(model, params, state, z, cond), chosen


def _decode_rows(model: Model, params: Params, state: State, z: Array, cond: Array | None) -> Array:
    rows, points, size = z.shape
    cond = None if cond is None else jnp.repeat(cond[:rows], points, axis=0)
    x = model.decode(params, state, z.reshape(rows * points, size), cond).mean
    return x.reshape(rows, points, *x.shape[1:])


def _need(model: Model, *verbs: str) -> None:
    for verb in verbs:
        if getattr(model, verb) is None:
            raise UserError(f"this model does not {verb}.")


# ---- the commands --------------------------------------------------------------------------


def run_sample(asked: options.Sample) -> int:
    trained = open_run(asked.run, asked.step)
    _need(trained.model, "sample")
    cond = None
    if getattr(trained.config, "conditional", False):
        label = (
            np.arange(asked.n) % trained.num_classes
            if asked.label is None
            else np.full(asked.n, asked.label)
        )
        if asked.label is not None and asked.label >= trained.num_classes:
            raise UserError(
                f"--label {asked.label}: this model has the classes 0 to {trained.num_classes - 1}."
            )
        cond = jax.nn.one_hot(label, trained.num_classes)
    elif asked.label is not None:
        raise UserError("--label is for a conditional model; this one was trained without labels.")
    x = np.asarray(
        trained.model.sample(
            trained.params, trained.state, jax.random.key(asked.seed), asked.n, cond
        )
    )
    return _keep(asked, "samples", lambda path: plots.samples(path, x), x=x)


def run_reconstruct(asked: options.Reconstruct) -> int:
    trained, batch = _with_batch(asked, asked.n)
    x, x_hat = np.asarray(batch.x), np.asarray(reconstruct(*trained[1:4], batch))
    return _keep(
        asked,
        "reconstructions",
        lambda path: plots.reconstructions(path, x, x_hat),
        x=x,
        x_hat=x_hat,
    )


def run_interpolate(asked: options.Interpolate) -> int:
    trained, batch = _with_batch(asked, 2 * asked.n)
    half = len(batch.x) // 2
    if not half:
        raise UserError("an interpolation needs two examples: choose a larger --split.")
    start, end = (
        jax.tree.map(lambda v, part=part: v[part], batch)
        for part in (slice(half), slice(half, 2 * half))
    )
    x = np.asarray(interpolate(*trained[1:4], start, end, asked.points))
    return _keep(asked, "interpolation", lambda path: plots.interpolation(path, x), x=x)


def run_traverse(asked: options.Traverse) -> int:
    trained, batch = _with_batch(asked, 1, asked.example)
    x, dimensions = traverse(*trained[1:4], batch, asked.n, asked.points, asked.width)
    x = np.asarray(x)
    print(
        f"rows, top to bottom: dimensions {', '.join(map(str, dimensions))} of "
        f"{_latent(trained.config)}, from "
        f"{-asked.width:g} to {asked.width:g}"
    )
    return _keep(
        asked, "traversal", lambda path: plots.interpolation(path, x), x=x, dimensions=dimensions
    )


def run_evaluate(asked: options.Evaluate) -> int:
    trained = open_run(asked.run, asked.step)
    source = _source(asked, trained)
    start = time.perf_counter()
    progress = _Progress() if sys.stderr.isatty() else None
    if {"fid", "kid"} & set(asked.metrics):  # first: a protocol may be missing
        rows, about = _distances(trained, asked, progress)
    else:
        rows, about = [], ""
    rows = (
        measure(
            trained,
            source,
            asked.metrics,
            k=asked.k,
            seed=asked.seed,
            batch_size=asked.batch_size,
            progress=progress,
        )
        + rows
    )
    result = {
        "run": asked.run,
        "step": trained.step,
        "data": source.name,
        "split": source.split,
        "seed": asked.seed,
        "batch_size": asked.batch_size,
        "seconds": round(time.perf_counter() - start, 3),
        "precision": f"{getattr(trained.config, 'dtype', 'float32')}, highest",
        "metrics": rows,
    }
    path = asked.out or asked.run / "evaluation.json"
    writers.write_json(path, result)
    print(f"{source.name}, {source.split}, {source.size:,} examples, step {trained.step:,}")
    for row in rows:
        value = row["value"]
        error = f" +- {row['error']:.2g}" if row["error"] is not None else ""
        shown = (
            f"{value:,.4f}{error}"
            if isinstance(value, float)
            else str(value)
            if isinstance(value, int)
            else " ".join(f"{v:.3g}" for v in value)
        )
        print(f"  {row['metric']:<13} {shown:<24} {row['protocol']}")
    print(*([about] if about else []), path, sep="\n")
    if asked.npz is not None:
        _save_npz(asked.npz, **{row["metric"]: np.asarray(row["value"]) for row in rows})
    return 0


def measure(
    trained: Trained,
    source: data.Source,
    metrics: tuple[str, ...],
    *,
    k: int = 5000,
    seed: int = 0,
    batch_size: int = 100,
    progress=None,
) -> list[dict[str, Any]]:
    """Returns a record {metric, value, error, n, protocol} for each number asked for; see
    `options.METRICS`.

    Raises:
        UserError: for a metric that this model or its pixels do not have.
    """
    config, model, params, state, preprocess, *_ = trained
    pixels, family = getattr(config, "pixels", "grey"), getattr(config, "likelihood", "bernoulli")
    about = {
        "grey": "grey pixels",
        "binarised": f"pixels drawn as 0 or 1 with seed {seed}",
        "dequantised": f"uniform dequantisation with seed {seed}",
    }[pixels]
    common = {
        "preprocess": preprocess,
        "seed": seed,
        "batch_size": batch_size,
    }  # so every metric has the same pixels
    rows: list[dict[str, Any]] = []

    def add(metric: str, value: Any, protocol: str, error: float | None = None) -> None:
        rows.append(
            {
                "metric": metric,
                "value": value,
                "error": error,
                "n": source.size,
                "protocol": protocol,
            }
        )

    if "bpd" in metrics:  # refused before the work
        likelihood.bits_per_dim(0.0, source.shape, pixels=pixels, likelihood=family)
    if {"elbo", "kl_per_dim", "active_units"} & set(metrics):
        found = likelihood.per_example(
            likelihood.make_terms(model), params, state, source, **common
        )
        if "elbo" in metrics:
            for name in ("elbo", "rec", "kl"):
                mean = likelihood.estimate(found[name], f"nats per example, one draw of z, {about}")
                add(name, mean.value, mean.protocol, mean.error)
        for name, key in (("kl_per_dim", "kl_per_dim"), ("active_units", "mean")):
            if name in metrics and key not in found:
                raise UserError(
                    f"{name} needs a posterior with a {key}, which this model's does not have."
                )
        if "kl_per_dim" in metrics:
            mean = found["kl_per_dim"].mean(axis=0, dtype=np.float64)
            add("kl_per_dim", mean, f"nats, mean over examples, of {_latent(config)}")
        if "active_units" in metrics:
            count, variance = likelihood.active_units(found["mean"])
            add(
                "active_units",
                count,
                f"of {len(variance)} dimensions of {_latent(config)}, variance of posterior means "
                "above "
                f"{likelihood.ACTIVE}",
            )
    if {"iw_nll", "bpd"} & set(metrics):
        values = likelihood.iw_bound(model, params, state, source, k=k, progress=progress, **common)
        bound = likelihood.estimate(-values, f"nats per example, K={k}, {about}")
        if "iw_nll" in metrics:
            add("iw_nll", bound.value, bound.protocol, bound.error)
        if "bpd" in metrics:
            bits, what = likelihood.bits_per_dim(
                bound.value, source.shape, pixels=pixels, likelihood=family
            )
            scale = math.prod(source.shape) * math.log(2.0)
            add(
                "bpd",
                bits,
                f"{what}, from the importance-weighted bound, K={k}",
                bound.error / scale,
            )
    return rows


def _latent(config: Any) -> str:
    """Returns the name of what a model encodes to."""
    return "u, at the mean of z" if isinstance(config, configs.TwoStageVAE) else "z"


def _distances(
    trained: Trained, asked: options.Evaluate, progress
) -> tuple[list[dict[str, Any]], str]:
    """Returns a record for each of fid and kid that is asked for, and what their protocol is in
    words."""
    config, model, params, state, _, num_classes, _ = trained
    protocol = protocols.checked(asked.protocol)
    if asked.samples is not None:
        protocol = protocol.with_samples(asked.samples)
    if asked.split is not None:
        protocol = protocol._replace(split=asked.split)

    def real(split: str) -> data.Source:
        if config.data.startswith(("folder:", "npz:")):  # they have no official splits
            return configs.source(config, split, asked.data_dir)
        return data.load(config.data, split, data_dir=asked.data_dir or config.data_dir)

    classes = num_classes if getattr(config, "conditional", False) else None
    found = fid.compare(
        real,
        fid.model_sampler(model, params, state, classes),
        protocol,
        weights=asked.weights,
        seed=asked.seed,
        metrics=tuple(name for name in ("fid", "kid") if name in asked.metrics),
        progress=progress,
    )
    about = protocol.describe()
    return [
        {"metric": name, **value._asdict(), "about": about} for name, value in found.items()
    ], about


def _with_batch(asked: Any, n: int, first: int = 0) -> tuple[Trained, Batch]:
    """Returns the trained model, and up to n preprocessed examples of the split asked for, from
    number `first` on."""
    trained = open_run(asked.run, asked.step)
    source = _source(asked, trained)
    if first >= source.size:
        raise UserError(
            f"--example {first}: {source.name} {source.split} has {source.size} examples, "
            "numbered from 0."
        )
    return trained, trained.preprocess(
        jax.random.key(asked.seed), source.read(np.arange(first, min(first + n, source.size)))
    )


def _source(asked: Any, trained: Trained) -> data.Source:
    source = configs.source(trained.config, asked.split or "test", asked.data_dir)
    want = tuple(run.read_config(asked.run)["shape"])
    if source.shape != want:
        raise UserError(
            f"{source.name} has shape {source.shape} here, but this model was trained on {want}."
        )
    return source


def _keep(asked: Any, name: str, draw: Any, **arrays: np.ndarray) -> int:
    path = asked.out or asked.run / f"{name}.png"
    if asked.npz is not None:  # first: there are data of which no picture can be drawn
        _save_npz(asked.npz, **arrays)
    draw(path)
    print(path)
    return 0


def _save_npz(path: Path, **arrays: np.ndarray) -> None:
    file = io.BytesIO()
    np.savez(file, **arrays)
    writers.write_bytes(path, file.getvalue())
    print(path)


class _Progress:
    """A bar on the terminal."""

    def __init__(self):
        self.bar = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        self.bar = self.bar or tqdm(total=total, unit="example", dynamic_ncols=True)
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar.close()
