"""What a trained model is used for: `jaxvae sample | reconstruct | interpolate | traverse |
evaluate RUN`."""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxvae import data, plots, writers
from jaxvae.cli import options
from jaxvae.errors import UserError
from jaxvae.metrics import fid, protocols
from jaxvae.models import verbs
from jaxvae.presets import conditions
from jaxvae.presets import load as loading
from jaxvae.presets import measure as measuring
from jaxvae.presets.config import Options, System, source
from jaxvae.presets.load import Loaded
from jaxvae.types import Batch


class Trained(NamedTuple):
    """A run, or an exported model, as it is used again."""

    config: Options
    system: System
    loaded: Loaded
    shape: tuple[int, ...]  # of one example
    step: int


def open_run(folder: Path, step: str = "latest") -> Trained:
    """Returns the model of a run or of an exported folder; `step`: "latest", "best" or a number."""
    saved, system = loading.open_run(folder)
    number = loading.step_of(folder, int(step) if step.isdecimal() else step)
    loaded = loading.load(folder, step=number)
    return Trained(saved.config, system, loaded, saved.shape, number)


def run_sample(args: options.Sample) -> int:
    """Draws new examples; returns the exit code."""
    trained = open_run(args.run, args.step)
    model, params, state = trained.loaded
    verbs.need(model, "sample")
    assert model.sample is not None  # as `need` has seen
    cond = _conditions(args, trained)
    x = np.asarray(model.sample(params, state, jax.random.key(args.seed), args.n, cond))
    return _keep(args, "samples", lambda path: plots.samples(path, x), x=x)


def _conditions(args: options.Sample, trained: Trained) -> jax.Array | None:
    """Returns what samples are conditioned on [n, ...]; raises `UserError` for options of models
    that are conditioned on something else."""
    classes, completes = trained.system.classes, trained.system.on_examples is not None
    if args.label is not None and classes is None:
        raise UserError("--label is for a conditional model; this one was trained without labels.")
    for option in ("example", "split", "data_dir"):
        if getattr(args, option) is not None and not completes:
            raise UserError(
                f"--{option.replace('_', '-')} is for a model that completes examples; this one "
                "draws without any."
            )
    if classes is not None:
        if args.label is not None and args.label >= classes:
            raise UserError(f"--label {args.label}: this model has the classes 0 to {classes - 1}.")
        return conditions.of_classes(classes, args.n, args.label)
    if not completes:
        return None
    shown = conditions.SHOWN if args.example is None else 1
    return conditions.of_examples(_batch(args, trained, shown, args.example or 0), args.n)


def run_reconstruct(args: options.Reconstruct) -> int:
    """Encodes and decodes examples; returns the exit code."""
    trained, batch = _with_batch(args, args.n)
    x, x_hat = np.asarray(batch.x), np.asarray(verbs.reconstruct(*trained.loaded, batch))

    def draw(path: Path) -> None:
        plots.reconstructions(path, x, x_hat)

    return _keep(args, "reconstructions", draw, x=x, x_hat=x_hat)


def run_interpolate(args: options.Interpolate) -> int:
    """Decodes the way between pairs of examples, or of draws where a model does not encode; returns
    the exit code."""
    trained = open_run(args.run, args.step)
    model, params, state = trained.loaded
    if model.encode is None and model.prior is not None:
        x = _between_draws(args, trained)
        return _keep(args, "interpolation", lambda path: plots.interpolation(path, x), x=x)
    verbs.need(model, "encode", "decode")
    batch = _batch(args, trained, 2 * args.n)
    half = len(batch.x) // 2
    if not half:
        raise UserError("an interpolation needs two examples: choose a larger --split.")
    start, end = (
        jax.tree.map(lambda v, part=part: v[part], batch)
        for part in (slice(half), slice(half, 2 * half))
    )
    x = np.asarray(verbs.interpolate(model, params, state, start, end, args.points))
    return _keep(args, "interpolation", lambda path: plots.interpolation(path, x), x=x)


def _between_draws(args: options.Interpolate, trained: Trained) -> np.ndarray:
    """Returns the way between draws of the prior [n, points, ...]; raises `UserError` for options of
    data, which it does not need."""
    for option in ("split", "data_dir"):
        if getattr(args, option) is not None:
            raise UserError(
                f"--{option.replace('_', '-')} is for a model that encodes; this one goes from "
                "draw to draw."
            )
    classes, rng = trained.system.classes, jax.random.key(args.seed)
    cond = None if classes is None else conditions.of_classes(classes, args.n)
    x = verbs.interpolate_draws(*trained.loaded, rng, args.n, args.points, cond)
    return np.asarray(x)


def run_traverse(args: options.Traverse) -> int:
    """Decodes a latent with one dimension after the other moved; returns the exit code."""
    trained, batch = _with_batch(args, 1, args.example)
    x, dimensions = verbs.traverse(*trained.loaded, batch, args.n, args.points, args.width)
    x = np.asarray(x)
    print(
        f"rows, top to bottom: dimensions {', '.join(map(str, dimensions))} of "
        f"{trained.system.latent}, from {-args.width:g} to {args.width:g}"
    )

    def draw(path: Path) -> None:
        plots.interpolation(path, x)

    return _keep(args, "traversal", draw, x=x, dimensions=dimensions)


def run_evaluate(args: options.Evaluate) -> int:
    """Measures a model: a table, and the same as JSON; returns the exit code."""
    trained = open_run(args.run, args.step)
    metrics = args.metrics or measuring.available(trained.system)
    if not metrics:
        raise UserError(
            "this model has no likelihood to evaluate: ask for --metrics fid or kid, with a "
            "--protocol."
        )
    if args.draws is not None and "completions" not in metrics:
        raise UserError("--draws is of --metrics completions: ask for them, or leave it out.")
    split = _source(args, trained)
    start = time.perf_counter()
    progress = _Progress() if sys.stderr.isatty() else None
    folder = args.weights if args.weights is not None and args.weights.is_dir() else None
    draws = measuring.DRAWS if args.draws is None else args.draws
    setting = measuring.Setting(args.seed, args.batch_size, args.k, draws, args.lpips_net, folder)
    distances, about = [], ""
    if {"fid", "kid"} & set(metrics):  # first: a protocol may be missing
        distances, about = _distances(trained, args, metrics, progress)
    _, params, state = trained.loaded
    rows = measuring.measure(trained.system, params, state, split, metrics, setting, progress)
    rows += distances
    result = {
        "run": args.run,
        "step": trained.step,
        "data": split.name,
        "split": split.split,
        "seed": args.seed,
        "batch_size": args.batch_size,
        "seconds": round(time.perf_counter() - start, 3),
        "precision": f"{trained.config.dtype}, highest",
        "metrics": rows,
    }
    path = args.out or args.run / "evaluation.json"
    writers.write_json(path, result)
    print(f"{split.name}, {split.split}, {split.size:,} examples, step {trained.step:,}")
    for row in rows:
        print(f"  {row['metric']:<13} {_shown(row):<24} {row['protocol']}")
    print(*([about] if about else []), path, sep="\n")
    if args.npz is not None:
        _save_npz(args.npz, **{row["metric"]: np.asarray(row["value"]) for row in rows})
    return 0


def _shown(row: dict[str, Any]) -> str:
    """Returns a value with its error, as text."""
    value, error = row["value"], row["error"]
    if isinstance(value, float):
        return f"{value:,.4f}" + ("" if error is None else f" +- {error:.2g}")
    return str(value) if isinstance(value, int) else " ".join(f"{v:.3g}" for v in value)


def _distances(
    trained: Trained, args: options.Evaluate, metrics: tuple[str, ...], progress: measuring.Progress
) -> tuple[list[dict[str, Any]], str]:
    """Returns a record for each of fid and kid in `metrics`, and their protocol in words."""
    if trained.system.on_examples is not None:
        raise UserError(
            "fid and kid are of samples that are drawn without examples; this model completes "
            "them: ask for --metrics completions."
        )
    config = trained.config
    protocol = protocols.checked(args.protocol)
    if args.samples is not None:
        protocol = protocol.with_samples(args.samples)
    if args.split is not None:
        protocol = protocol._replace(split=args.split)

    def real(split: str) -> data.Source:
        if config.data.startswith(("folder:", "npz:")):  # they have no official splits
            return source(config, split, args.data_dir)
        return data.load(config.data, split, data_dir=args.data_dir or config.data_dir)

    found = fid.compare(
        real,
        fid.model_sampler(*trained.loaded, trained.system.classes),
        protocol,
        weights=args.weights,
        seed=args.seed,
        metrics=tuple(name for name in ("fid", "kid") if name in metrics),
        progress=progress,
    )
    about = protocol.describe()
    rows = [{"metric": name, **value._asdict(), "about": about} for name, value in found.items()]
    return rows, about


def _with_batch(args: Any, n: int, first: int = 0) -> tuple[Trained, Batch]:
    """Returns the trained model, and up to n preprocessed examples of the split asked for, from
    number `first` on."""
    trained = open_run(args.run, args.step)
    return trained, _batch(args, trained, n, first)


def _batch(args: Any, trained: Trained, n: int, first: int = 0) -> Batch:
    """Returns up to n preprocessed examples of the split asked for, from number `first` on."""
    split = _source(args, trained)
    if first >= split.size:
        raise UserError(
            f"--example {first}: {split.name} {split.split} has {split.size} examples, numbered "
            "from 0."
        )
    examples = split.read(np.arange(first, min(first + n, split.size)))
    return trained.system.preprocess(jax.random.key(args.seed), examples)


def _source(args: Any, trained: Trained) -> data.Source:
    """Returns the split to use; raises `UserError` for data of another shape than the model's."""
    split = source(trained.config, args.split or "test", args.data_dir)
    if split.shape != trained.shape:
        raise UserError(
            f"{split.name} has shape {split.shape} here, but this model was trained on "
            f"{trained.shape}."
        )
    return split


def _keep(args: Any, name: str, draw: Callable[[Path], None], **arrays: Any) -> int:
    """Writes the arrays, where that is asked for, and the picture; returns the exit code."""
    path = args.out or args.run / f"{name}.png"
    if args.npz is not None:  # first: there are data of which no picture can be drawn
        _save_npz(args.npz, **arrays)
    draw(path)
    print(path)
    return 0


def _save_npz(path: Path, **arrays: Any) -> None:
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
