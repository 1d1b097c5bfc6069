"""A run's folder, or a released one, as a model: `jaxvae.load`."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxvae import parallel, paths, safetensors, writers
from jaxvae.errors import UserError, one_line
from jaxvae.paths import PathLike
from jaxvae.presets import held, hub, record, released, statistics, zoo
from jaxvae.presets.conditions import example_like
from jaxvae.presets.config import System
from jaxvae.presets.held import Held
from jaxvae.presets.record import Saved
from jaxvae.train.checkpoint import Checkpoints, Damaged
from jaxvae.train.folder import read_config
from jaxvae.train.statistics import OVER, STATS
from jaxvae.types import Batch, Model, Params, State, Tree

FILE = released.MODEL


class Loaded(NamedTuple):
    """A trained model: `model, params, state = jaxvae.load(workdir)`."""

    model: Model
    params: Params
    state: State


class Exported(NamedTuple):
    """The statistics that a model was exported with."""

    name: str = "running"  # one of `train.statistics.STATS`
    about: str = ""  # in words, where they are not the usual ones


class Opened(NamedTuple):
    """A run of a preset: what its config.json says, and the system that it describes."""

    saved: Saved
    system: System
    held: Held | None = None  # what its weights hold; None before the first checkpoint


def place(run: PathLike) -> Path:
    """Returns the folder of a model: that of a run, or of a trained model that is called by name,
    "zoo:vae/mnist" (`zoo`) or "hf:USER/NAME" of the Hugging Face Hub, from where it is then fetched.

    Raises:
        UserError: for an unknown name, and as `hub.fetch`.
    """
    kind, name = paths.named(run) or ("", "")
    if kind == "zoo":
        return zoo.folder_of(name)
    if kind == "hf":
        return hub.fetch(name)
    found = paths.path(run)
    if str(run) in zoo.names() and not found.exists():
        raise UserError(f"there is no folder {run}: the trained model of this name is zoo:{run}.")
    return found


def open_run(workdir: PathLike, step: int | str = "latest") -> Opened:
    """Returns what the run in `workdir`, or the exported model, is of.

    Args:
        step: as of `load`: a run that grows may not have come to its end there.

    Raises:
        UserError: where no preset made it, and for one stage of a run that is of no use alone.
    """
    folder, config = paths.resolved(workdir), config_of(workdir)
    if "preset" not in config and (folder.parent / "config.json").is_file():
        raise UserError(
            f"this is the {folder.name} stage of a run, which cannot be used alone: use "
            "the folder it is in."
        )
    with released.readable(workdir):
        saved = record.from_dict(config, paths.path(workdir))
        preset, described = saved.preset, saved[1:]
        there = _held(workdir, preset.stages, step)
        if there is not None:
            held.check(saved.config, there)
        if preset.reached is None:
            return Opened(saved, preset.build(*described), there)
        names = {} if there is None else there.shapes
        return Opened(saved, preset.reached(*described, names), there)


def config_of(workdir: PathLike) -> dict[str, Any]:
    """Returns the config of a run or of an exported model; raises `UserError` where there is none."""
    if released.is_released(workdir):
        return released.read_page(workdir)["config"]
    config = read_config(workdir)
    if "format" in writers.read_json(paths.path(workdir) / released.CONFIG):
        raise UserError(
            f"{workdir} is an exported model without its weights, {released.MODEL}: export, pull or copy "
            "it again."
        )
    return config


def _held(workdir: PathLike, stages: tuple[str, ...], step: int | str) -> Held | None:
    """Returns what a checkpoint's model holds, of a run of stages that of each, or an exported one;
    None where there is no checkpoint yet."""
    if released.is_released(workdir):
        return Held(workdir, safetensors.read_shapes(paths.path(workdir) / FILE))
    shapes, folder = {}, paths.path(workdir)
    for stage in stages or ("",):
        checkpoints = Checkpoints(folder / stage / "checkpoints", read_only=True)
        if not checkpoints.steps():
            return None
        is_last = not stages or stage == stages[-1]
        number = step_of(workdir, step) if is_last else checkpoints.steps()[-1]
        with _another(checkpoints, number):
            saved = checkpoints.meta(number)["tree"]["model"]
        for path, (shape, _) in saved.items():
            name = ".".join(re.findall(r"[^\[\]'.]+", path))
            shapes[f"{stage}.{name}" if stages else name] = tuple(shape)
    return Held(workdir, shapes)


def step_of(workdir: PathLike, step: int | str = "latest") -> int:
    """Returns the number of the checkpoint that `step` means in a run, or in a folder that `jaxvae
    export` wrote.

    Of a run of two stages it is the second's.

    Raises:
        UserError: where there is no such checkpoint.
    """
    if released.is_released(workdir):
        kept = released.read_page(workdir).get("step", 0)
        if step not in ("latest", "best", kept):
            raise UserError(
                f"{workdir} is an exported model, of step {kept} alone: leave out the step {step!r}."
            )
        return kept
    checkpoints = checkpoints_of(workdir)
    kept = checkpoints.steps()
    if not kept:
        raise UserError(f"{workdir} has no checkpoint yet.")
    chosen = kept[-1] if step == "latest" else checkpoints.best_step() if step == "best" else step
    if chosen not in kept:
        raise UserError(
            f"{workdir} has no checkpoint {step!r}: choose latest, best or one of {kept}."
        )
    return chosen


def checkpoints_of(workdir: PathLike) -> Checkpoints:
    """Returns the checkpoints of a run, to read; of a run of stages those of the last. Raises
    `UserError` before that has begun."""
    folder, config = paths.path(workdir), config_of(workdir)
    stages = record.from_dict(config).preset.stages if "preset" in config else ()
    if not stages:
        return Checkpoints(folder / "checkpoints", read_only=True)
    *earlier, last = stages
    if not (folder / last / "config.json").is_file():
        raise UserError(
            f"{folder} has no {last} stage yet: start the command that trains it again, or use its "
            f"{earlier[0]} stage alone, {folder / earlier[0]}."
        )
    return Checkpoints(folder / last / "checkpoints", read_only=True)


def load(
    workdir: PathLike,
    *,
    step: int | str = "latest",
    model: Model | None = None,
    example: Batch | None = None,
    stats: str = "running",
    data_dir: Path | None = None,
) -> Loaded:
    """Returns the model of a run with its trained parameters: `model, params, state =
    load(workdir)`.

    A run with a moving average of its parameters gives the average.

    Args:
        workdir: the run's folder, or one that `jaxvae export` wrote (which has one step), or the name
            of a trained model, "zoo:NAME" or "hf:USER/NAME" (`place`). That of a two-stage VAE gives
            both stages, composed; the folder `first` in it is a run of its own.
        step: "latest", "best" (by the validation metric of the run), or a step that was kept; of
            two stages the second's.
        model, example: for runs that `fit` made from a model of your own: that model and a batch in
            the shape of its data. Runs of the command line need neither.
        stats: whose averages the state holds: "running", those that training left (or that were
            exported), or re-estimated ones, "reestimated" and "reestimated-samples"
            (`train.statistics`), for which the training data are read.
        data_dir: where those are; default: as for training.

    Raises:
        UserError: where there is no run or no such checkpoint, it is damaged, or it is of another
            model.
    """
    workdir = place(workdir)
    if stats != "running":
        if stats not in OVER or model is not None:
            raise UserError(
                f"load takes stats={', '.join(('running', *OVER))}, and re-estimates those of runs of "
                "the command line; of a model of your own use train.reestimate."
            )
        return with_statistics(workdir, load(workdir, step=step), stats, data_dir, step)[0]
    opened, chosen = None, step_of(workdir, step)
    if model is None:
        opened = open_run(workdir, chosen)
        model = opened.system.model
        with released.readable(workdir):
            example = _example(opened)
    elif example is None:
        raise UserError(
            "load needs an example batch beside the model: one in the shape of its data."
        )
    if released.is_released(workdir):
        with released.readable(workdir):
            params, state = _started(model, example, opened)
        return Loaded(model, *_read_exported(workdir, {"params": params, "state": state}).values())
    if opened is not None and opened.saved.preset.load is not None:
        return opened.saved.preset.load(
            paths.path(workdir), chosen, opened.saved.config, opened.system
        )
    started = _started(model, example, opened)
    return _load_checkpoint(paths.path(workdir), chosen, model, *started)


def _started(model: Model, example: Batch, opened: Opened | None) -> tuple[Params, State]:
    """Returns the shapes of parameters and state, of which nothing is computed."""
    bound = opened and opened.held and held.bounded(opened.held)
    with bound or contextlib.nullcontext():
        return jax.eval_shape(model.init, jax.random.key(0), example)


def _example(opened: Opened) -> Batch:
    """Returns a batch in the shape of the run's data, which holds no arrays."""
    _, _, shape, num_classes = opened.saved
    return example_like(opened.system.preprocess, shape, num_classes)


@contextlib.contextmanager
def _another(checkpoints: Checkpoints, step: int) -> Iterator[None]:
    """Turns damage of the checkpoint at `step` into one line, which names the others."""
    try:
        yield
    except Damaged as error:
        others = [other for other in checkpoints.steps() if other != step]
        advice = f": choose another step of {others}." if others else ", and there is no other."
        raise UserError(f"{error}{advice}") from None


def _load_checkpoint(
    workdir: Path, step: int, model: Model, params: Params, state: State
) -> Loaded:
    """Returns `model`, whose parameters and state have these shapes, with the parameters of one
    checkpoint, or with their moving average."""
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    with _another(checkpoints, step):
        page = checkpoints.meta(step)
        ema = params if any(path.startswith("['ema']") for path in page["tree"]["model"]) else None
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        template = parallel.shapes({"params": params, "state": state, "ema": ema}, device)
        trees = checkpoints.restore_tree(step, "model", template, page)
    return Loaded(model, trees["ema"] if ema is not None else trees["params"], trees["state"])


def with_statistics(
    workdir: PathLike,
    loaded: Loaded,
    stats: str | None,
    data_dir: Path | None = None,
    step: int | str = "latest",
) -> tuple[Loaded, Exported]:
    """Returns a run's model at `step` with the averages of `stats`, as for `export`, and which they
    are."""
    saved, system, _ = open_run(workdir, step)
    needed = statistics.needs_data(system, loaded.state, stats)
    train = statistics.training_data(saved.config, data_dir) if needed else None
    trees = (loaded.params, loaded.state)
    chosen = statistics.choose(system, *trees, stats, train, seed=saved.config.seed)
    return loaded._replace(state=chosen.state), Exported(chosen.name, chosen.about)


def statistics_of(workdir: PathLike) -> Exported:
    """Returns what a folder that `jaxvae export` wrote says of its statistics; nothing of a run."""
    if not released.is_released(workdir):
        return Exported()
    try:
        found = Exported(**released.read_page(workdir).get("statistics", {}))
    except TypeError:
        found = Exported("", "")
    if found.name not in STATS or not isinstance(found.about, str) or not found.about.isprintable():
        raise UserError(
            f"{paths.path(workdir) / released.CONFIG} is damaged: what it says of statistics cannot be "
            "read."
        )
    return found


def _read_exported(folder: PathLike, template: Tree) -> Tree:
    """Returns the trees of an exported folder in the form of `template` (from `jax.eval_shape`).

    Raises:
        UserError: for a damaged file, and one of another model.
    """
    path = paths.path(folder) / FILE
    arrays, wanted = safetensors.read(path), flatten(template)
    have = {name: (x.shape, x.dtype) for name, x in arrays.items()}
    need = {name: (x.shape, x.dtype) for name, x in wanted.items()}
    differing = sorted(
        name for name in have.keys() | need.keys() if have.get(name) != need.get(name)
    )
    if differing:
        raise UserError(
            f"{path} is of another model: {one_line(', '.join(differing[:3]))} "
            f"differ{'s' if len(differing) == 1 else ''}."
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(arrays[_name(path)]), template
    )


def flatten(tree: Tree) -> dict[str, Any]:
    """Returns the leaves of `tree` by name."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
