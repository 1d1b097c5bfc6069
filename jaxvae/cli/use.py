"""What a trained model is used for: `jaxvae sample | reconstruct | interpolate | traverse |
translate RUN`."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxvae import data, nets, paths, plots, writers
from jaxvae.cli import options
from jaxvae.errors import UserError
from jaxvae.models import verbs
from jaxvae.presets import conditions, statistics
from jaxvae.presets import load as loading
from jaxvae.presets.config import Options, System, source
from jaxvae.presets.load import Exported, Loaded
from jaxvae.presets.statistics import Chosen
from jaxvae.types import Batch, State


class Trained(NamedTuple):
    """A run, or an exported model, as it is used again."""

    config: Options
    system: System
    loaded: Loaded
    shape: tuple[int, ...]  # of one example
    step: int
    exported: Exported = Exported()  # the statistics that it was exported with


def open_run(folder: Path, step: str = "latest") -> Trained:
    """Returns the model of a run, of an exported folder or of a name; `step`: "latest", "best" or a
    number."""
    folder, wanted = loading.place(folder), int(step) if step.isdecimal() else step
    number = loading.step_of(folder, wanted)
    saved, system, _ = loading.open_run(folder, number)
    loaded, exported = loading.load(folder, step=number), loading.statistics_of(folder)
    return Trained(saved.config, system, loaded, saved.shape, number, exported)


def chosen(
    trained: Trained, stats: str | None, data_dir: Path | None = None, *, samples: bool = False
) -> Chosen:
    """Returns the statistics that a command uses: those asked for, of an exported model its own,
    else as the model says; with `samples`, to draw samples.

    Raises:
        UserError: for those that this model does not have, and training data that are not here.
    """
    system, (_, params, state) = trained.system, trained.loaded
    name, about = trained.exported
    if about and stats in (None, name):
        return Chosen(name, state, "running", about)
    if about and stats == "running":
        raise UserError(f"this model was exported with {about}: leave out --stats running.")
    train = None
    if statistics.needs_data(system, state, stats, samples=samples):
        train = statistics.training_data(trained.config, data_dir)
    seed = trained.config.seed
    return statistics.choose(system, params, state, stats, train, seed=seed, samples=samples)


def _truncated(args: Any, state: State) -> State:
    """Returns the state with styles as near to their average as asked for.

    Raises:
        UserError: for a model without styles.
    """
    truncation = getattr(args, "truncation", None)
    return state if truncation is None else nets.truncated(state, truncation)


def run_sample(args: options.Sample) -> int:
    """Draws new examples; returns the exit code."""
    trained = open_run(args.run, args.step)
    model, params, _ = trained.loaded
    verbs.need(model, "sample")
    assert model.sample is not None  # as `need` has seen
    cond = _conditions(args, trained)
    _, state, stats, _ = chosen(trained, args.stats, args.data_dir, samples=True)
    rng, state = jax.random.key(args.seed), _truncated(args, state)
    x = np.asarray(model.sample(params, state, rng, args.n, cond, stats=stats))
    return _keep(args, "samples", lambda path: plots.samples(path, x), x=x)


def _conditions(args: options.Sample, trained: Trained) -> jax.Array | None:
    """Returns what samples are conditioned on [n, ...]; raises `UserError` for options of models
    that are conditioned on something else."""
    classes, completes = trained.system.classes, trained.system.on_examples is not None
    if args.label is not None and classes is None:
        raise UserError("--label is for a conditional model; this one was trained without labels.")
    for option in ("example", "split"):
        if getattr(args, option) is not None and not completes:
            raise UserError(
                f"--{option} is for a model that completes examples; this one draws without any."
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
    loaded, batch, stats = _with_batch(args, args.n)
    x_hat = np.asarray(verbs.reconstruct(*loaded, batch, stats=stats))
    x = np.asarray(batch.x)

    def draw(path: Path) -> None:
        plots.reconstructions(path, x, x_hat)

    return _keep(args, "reconstructions", draw, x=x, x_hat=x_hat)


def run_interpolate(args: options.Interpolate) -> int:
    """Decodes the way between pairs of examples, or of draws where a model does not encode, or the
    square between four examples; returns the exit code."""
    if args.square:
        return _interpolate_square(args)
    trained, points = open_run(args.run, args.step), args.points or 11
    model = trained.loaded.model
    if model.encode is None and model.prior is not None:
        x = _between_draws(args, trained, points)
        return _keep(args, "interpolation", lambda path: plots.interpolation(path, x), x=x)
    loaded, batch, stats = _with_batch(args, 2 * (args.n or 8), trained=trained)
    half = len(batch.x) // 2
    if not half:
        raise UserError("an interpolation needs two examples: choose a larger --split.")
    start, end = (
        jax.tree.map(lambda v, part=part: v[part], batch)
        for part in (slice(half), slice(half, 2 * half))
    )
    x = np.asarray(verbs.interpolate(*loaded, start, end, points, stats=stats))
    return _keep(args, "interpolation", lambda path: plots.interpolation(path, x), x=x)


def _interpolate_square(args: options.Interpolate) -> int:
    loaded, batch, stats = _with_batch(args, 4)
    x = np.asarray(verbs.interpolate_square(*loaded, batch, args.points or 8, stats=stats))
    return _keep(args, "square", lambda path: plots.interpolation(path, x), x=x)


def _between_draws(args: options.Interpolate, trained: Trained, points: int) -> np.ndarray:
    """Returns the way between draws of the prior [n, points, ...]; raises `UserError` for options of
    data, which it does not need."""
    if args.split is not None:
        raise UserError(
            "--split is for a model that encodes; this one goes from draw to draw: leave it out."
        )
    classes, rows = trained.system.classes, args.n or 8
    cond = None if classes is None else conditions.of_classes(classes, rows)
    model, params, _ = trained.loaded
    _, state, stats, _ = chosen(trained, args.stats, args.data_dir, samples=True)
    rng, state = jax.random.key(args.seed), _truncated(args, state)
    x = verbs.interpolate_draws(model, params, state, rng, rows, points, cond, stats=stats)
    return np.asarray(x)


def run_traverse(args: options.Traverse) -> int:
    """Decodes a latent with one dimension after the other moved; returns the exit code."""
    trained = open_run(args.run, args.step)
    loaded, batch, stats = _with_batch(args, 1, args.example, trained)
    how = (args.n, args.points, args.width)
    x, dimensions = verbs.traverse(*loaded, batch, *how, stats=stats)
    x = np.asarray(x)
    print(
        f"rows, top to bottom: dimensions {', '.join(map(str, dimensions))} of "
        f"{trained.system.latent}, from {-args.width:g} to {args.width:g}"
    )

    def draw(path: Path) -> None:
        plots.interpolation(path, x)

    return _keep(args, "traversal", draw, x=x, dimensions=dimensions)


def run_translate(args: options.Translate) -> int:
    """Decodes every class with every content; returns the exit code."""
    loaded, batch, stats = _with_batch(args, 2 * args.n)
    if len(batch.x) < 2 * args.n:
        raise UserError(
            f"{args.n} classes and {args.n} contents are {2 * args.n} examples, and there are "
            f"{len(batch.x)}: choose a smaller --n or a larger --split."
        )
    of_class, content = (
        jax.tree.map(lambda v, part=part: v[part], batch)
        for part in (slice(args.n), slice(args.n, None))
    )
    x = np.asarray(verbs.translations(*loaded, content, of_class, stats=stats))
    images = np.asarray(content.x), np.asarray(of_class.x)

    def draw(path: Path) -> None:
        plots.translations(path, *images, x)

    return _keep(args, "translations", draw, x=x, content=images[0], of_class=images[1])


def _with_batch(
    args: Any, n: int, first: int = 0, trained: Trained | None = None
) -> tuple[Loaded, Batch, str]:
    """Returns the trained model with the statistics asked for, up to n preprocessed examples of the
    split asked for, from number `first` on, and the mode of the statistics."""
    trained = trained or open_run(args.run, args.step)
    batch = _batch(args, trained, n, first)
    _, state, stats, _ = chosen(trained, args.stats, args.data_dir)
    return trained.loaded._replace(state=_truncated(args, state)), batch, stats


def _batch(args: Any, trained: Trained, n: int, first: int = 0) -> Batch:
    """Returns up to n preprocessed examples of the split asked for, from number `first` on."""
    split = source_of(args, trained)
    if first >= split.size:
        raise UserError(
            f"--example {first}: {split.name} {split.split} has {split.size} examples, numbered "
            "from 0."
        )
    examples = split.read(np.arange(first, min(first + n, split.size)))
    return trained.system.preprocess(jax.random.key(args.seed), examples)


def source_of(args: Any, trained: Trained) -> data.Source:
    """Returns the split to use; raises `UserError` for data of another shape than the model's, or
    without its labels."""
    split = source(trained.config, args.split or "test", args.data_dir)
    if split.shape != trained.shape:
        raise UserError(
            f"{split.name} has shape {split.shape} here, but this model was trained on "
            f"{trained.shape}."
        )
    classes, have = trained.system.classes, split.num_classes
    if classes is not None and (have is None or have > classes):
        raise UserError(
            f"this model takes labels of {classes} classes, and {split.name} has "
            f"{'none' if have is None else have} here: use the data that it was trained on."
        )
    return split


def _keep(args: Any, name: str, draw: Callable[[Path], None], **arrays: Any) -> int:
    """Writes the arrays, where that is asked for, and the picture; returns the exit code."""
    path = args.out or beside(args.run, f"{name}.png")
    if args.npz is not None:  # first: there are data of which no picture can be drawn
        save_npz(args.npz, **arrays)
    draw(path)
    print(path)
    return 0


def beside(run: Path, name: str) -> Path:
    """Returns where a command writes a file: into the run's folder, or of a model that is called by
    its name, such as zoo:vae/mnist, into vae-mnist in the current one."""
    called = paths.named(run)
    return run / name if called is None else Path(called[1].replace("/", "-")) / name


def save_npz(path: Path, **arrays: Any) -> None:
    """Writes arrays by name, and says where."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    writers.write_bytes(path, file.getvalue())
    print(path)
