"""What a trained model is used for: `jaxvae sample | reconstruct | interpolate | traverse |
evaluate RUN`."""

import io
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxvae import data, plots, writers
from jaxvae.cli import options
from jaxvae.errors import UserError
from jaxvae.metrics import fid, protocols
from jaxvae.models import verbs
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
    """Returns the model of a run, or of an exported folder; `step` is "latest", "best" or a
    number."""
    saved, system = loading.open_run(folder)
    number = loading.step_of(folder, int(step) if step.isdigit() else step)
    loaded = loading.load(folder, step=number)
    return Trained(saved.config, system, loaded, saved.shape, number)


def run_sample(asked: options.Sample) -> int:
    trained = open_run(asked.run, asked.step)
    verbs.need(trained.loaded.model, "sample")
    cond = None
    classes = trained.system.classes
    if classes is not None:
        if asked.label is not None and asked.label >= classes:
            raise UserError(
                f"--label {asked.label}: this model has the classes 0 to {classes - 1}."
            )
        label = np.arange(asked.n) % classes if asked.label is None else asked.label
        cond = jax.nn.one_hot(np.broadcast_to(label, asked.n), classes)
    elif asked.label is not None:
        raise UserError("--label is for a conditional model; this one was trained without labels.")
    x = np.asarray(
        trained.loaded.model.sample(*trained.loaded[1:], jax.random.key(asked.seed), asked.n, cond)
    )
    return _keep(asked, "samples", lambda path: plots.samples(path, x), x=x)


def run_reconstruct(asked: options.Reconstruct) -> int:
    trained, batch = _with_batch(asked, asked.n)
    x, x_hat = np.asarray(batch.x), np.asarray(verbs.reconstruct(*trained.loaded, batch))
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
    x = np.asarray(verbs.interpolate(*trained.loaded, start, end, asked.points))
    return _keep(asked, "interpolation", lambda path: plots.interpolation(path, x), x=x)


def run_traverse(asked: options.Traverse) -> int:
    trained, batch = _with_batch(asked, 1, asked.example)
    x, dimensions = verbs.traverse(*trained.loaded, batch, asked.n, asked.points, asked.width)
    x = np.asarray(x)
    print(
        f"rows, top to bottom: dimensions {', '.join(map(str, dimensions))} of "
        f"{trained.system.latent}, from {-asked.width:g} to {asked.width:g}"
    )
    return _keep(
        asked, "traversal", lambda path: plots.interpolation(path, x), x=x, dimensions=dimensions
    )


def run_evaluate(asked: options.Evaluate) -> int:
    trained = open_run(asked.run, asked.step)
    metrics = asked.metrics or measuring.available(trained.system)
    if not metrics:
        raise UserError(
            "this model has no likelihood to evaluate: ask for --metrics fid or kid, with a "
            "--protocol."
        )
    split = _source(asked, trained)
    start = time.perf_counter()
    progress = _Progress() if sys.stderr.isatty() else None
    folder = asked.weights if asked.weights is not None and asked.weights.is_dir() else None
    setting = measuring.Setting(asked.seed, asked.batch_size, asked.k, asked.lpips_net, folder)
    distances, about = [], ""
    if {"fid", "kid"} & set(metrics):  # first: a protocol may be missing
        distances, about = _distances(trained, asked, progress)
    _, params, state = trained.loaded
    rows = measuring.measure(trained.system, params, state, split, metrics, setting, progress)
    rows += distances
    result = {
        "run": asked.run,
        "step": trained.step,
        "data": split.name,
        "split": split.split,
        "seed": asked.seed,
        "batch_size": asked.batch_size,
        "seconds": round(time.perf_counter() - start, 3),
        "precision": f"{trained.config.dtype}, highest",
        "metrics": rows,
    }
    path = asked.out or asked.run / "evaluation.json"
    writers.write_json(path, result)
    print(f"{split.name}, {split.split}, {split.size:,} examples, step {trained.step:,}")
    for row in rows:
        print(f"  {row['metric']:<13} {_shown(row):<24} {row['protocol']}")
    print(*([about] if about else []), path, sep="\n")
    if asked.npz is not None:
        _save_npz(asked.npz, **{row["metric"]: np.asarray(row["value"]) for row in rows})
    return 0


def _shown(row: dict[str, Any]) -> str:
    """Returns a value with its error, as text."""
    value, error = row["value"], row["error"]
    if isinstance(value, float):
        return f"{value:,.4f}" + ("" if error is None else f" +- {error:.2g}")
    return str(value) if isinstance(value, int) else " ".join(f"{v:.3g}" for v in value)


def _distances(
    trained: Trained, asked: options.Evaluate, progress: measuring.Progress
) -> tuple[list[dict[str, Any]], str]:
    """Returns a record for each of fid and kid that is asked for, and what their protocol is in
    words."""
    config = trained.config
    protocol = protocols.checked(asked.protocol)
    if asked.samples is not None:
        protocol = protocol.with_samples(asked.samples)
    if asked.split is not None:
        protocol = protocol._replace(split=asked.split)

    def real(split: str) -> data.Source:
        if config.data.startswith(("folder:", "npz:")):  # they have no official splits
            return source(config, split, asked.data_dir)
        return data.load(config.data, split, data_dir=asked.data_dir or config.data_dir)

    found = fid.compare(
        real,
        fid.model_sampler(*trained.loaded, trained.system.classes),
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
    split = _source(asked, trained)
    if first >= split.size:
        raise UserError(
            f"--example {first}: {split.name} {split.split} has {split.size} examples, numbered "
            "from 0."
        )
    examples = split.read(np.arange(first, min(first + n, split.size)))
    return trained, trained.system.preprocess(jax.random.key(asked.seed), examples)


def _source(asked: Any, trained: Trained) -> data.Source:
    """Returns the split asked for; raises `UserError` for data of another shape than the
    model's."""
    split = source(trained.config, asked.split or "test", asked.data_dir)
    if split.shape != trained.shape:
        raise UserError(
            f"{split.name} has shape {split.shape} here, but this model was trained on "
            f"{trained.shape}."
        )
    return split


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
