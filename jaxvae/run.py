"""A run's folder: whose it is, how it is resumed and stopped, and how its model is loaded again."""

import contextlib
import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxvae import checkpoint, writers
from jaxvae.checkpoint import Checkpoints, Damaged
from jaxvae.errors import UserError
from jaxvae.types import Batch, Model, Params, State

EXIT_SIGTERM = 75  # sysexits' "temporary failure": start the same command again to go on
EXIT_SIGINT = 130
LENGTH = (  # may differ at resume
    "steps",
    "epochs",
    "second_steps",
    "second_epochs",
    "log_every",
    "eval_every",
    "save_every",
    "keep",
    "progress",
    "tensorboard",
    "workdir",
)


class Stopped(SystemExit):
    """A run that was asked to stop and saved its state: exits with 75 after SIGTERM, 130 after
    Ctrl-C."""


class Loaded(NamedTuple):
    """A trained model: `model, params, state = jaxvae.load(workdir)`."""

    model: Model
    params: Params
    state: State


def check(workdir: str | Path, config: dict[str, Any]) -> None:
    """Raises `UserError` where `workdir` cannot take a run of this config; writes nothing.

    It must be new, empty, or hold a run whose config is the same but for its length (the fields
    that differ are listed).
    """
    path = Path(workdir)
    if re.match(r"\w+:/", str(workdir)):  # Path has made one slash of two
        raise UserError(f"{workdir}: the run folder must be on a local or mounted disk.")
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: choose a folder.")
        taken = path.is_dir() and any(not name.startswith(".") for name in os.listdir(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Choose another folder.") from None
    if not taken:
        return
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds files but no run of jaxvae: choose an empty or new folder.")
    saved, wanted = _with_defaults(read_config(path)), as_json(config)
    names = [
        n
        for n in dict.fromkeys((*saved, *wanted))
        if n not in LENGTH and saved.get(n) != wanted.get(n)
    ]
    if names:
        rows = ", ".join(f"{n} is {saved.get(n)!r} there and {wanted.get(n)!r} here" for n in names)
        raise UserError(
            f"{path} holds a run with another config: {rows}. Use the same settings to resume it, "
            "or another folder."
        )


def as_json(config: dict[str, Any]) -> dict[str, Any]:
    """Returns `config` as it will be read back from JSON: NumPy's numbers plain, tuples as lists.

    Raises:
        UserError: for a value that JSON does not have.
    """
    try:
        return json.loads(
            json.dumps(
                config, default=lambda x: x.tolist() if hasattr(x, "tolist") else x.__fspath__()
            )
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"config must be made of numbers, text, lists and dicts ({error})."
        ) from None


def _with_defaults(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of a preset with the defaults of options that its version did not have
    yet."""
    from jaxvae import config

    preset = config.PRESETS.get(saved.get("preset"))
    if preset is None:
        return saved
    import dataclasses

    fields = {
        f.name: f.default
        for f in dataclasses.fields(preset)
        if f.default is not dataclasses.MISSING
    }
    return {**as_json({n: v for n, v in fields.items() if n not in config.PLACES}), **saved}


@contextlib.contextmanager
def folder(workdir: str | Path, config: dict[str, Any]):
    """Holds `workdir` for this run: checked (`check`), made where it is missing, and locked by the
    first process.

    Raises:
        UserError: as `check`; and where the folder cannot be written or is in use.
    """
    check(workdir, config)
    path = Path(workdir)
    if jax.process_index() > 0:  # the first process writes for all
        yield path
        return
    with checkpoint.lock(path):
        if not (path / "config.json").is_file():
            writers.write_json(
                path / "config.json", {"config": config, "versions": checkpoint.versions()}
            )
        yield path


def read_config(workdir: str | Path) -> dict[str, Any]:
    """Returns the config of the run in `workdir`.

    Raises:
        UserError: where there is none, or it cannot be read.
    """
    page = Path(workdir) / "config.json"
    if not page.is_file():
        raise UserError(f"{workdir} holds no run of jaxvae: there is no config.json in it.")
    content = writers.read_json(page)
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise UserError(f"{page} is not the config of a run of jaxvae.")
    return content["config"]


class Signals:
    """Whether SIGTERM or SIGINT has arrived; the first one asks to save and stop, a second SIGINT
    stops at once."""

    def __init__(self):
        self.received: int | None = None

    def __call__(self, number, frame):
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def stop_at(self, step: int) -> bool:
        """Returns whether to save and stop now; with several processes, all of them at the same
        step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self.received is not None

    @property
    def code(self) -> int:
        return EXIT_SIGINT if self.received == signal.SIGINT else EXIT_SIGTERM


@contextlib.contextmanager
def listen():
    """Yields `Signals` that catch SIGTERM and Ctrl-C inside the block (in the main thread of a
    single process).

    A signal that nobody in the block acted on, as it came after the last step, is a `Stopped` at
    its end: what was run is whole, but nothing may follow it.
    """
    signals, before = Signals(), {}
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
        before = {
            number: signal.signal(number, signals) for number in (signal.SIGTERM, signal.SIGINT)
        }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals.received is not None:
        raise Stopped(signals.code)


def restore_latest(checkpoints: Checkpoints, template: Any, say=print):
    """Returns the newest intact checkpoint as (train_state, sums, meta), or None where there is
    none.

    Damaged ones are reported and removed: what they held is computed again.

    Args:
        template: step -> (train_state, sums) of the shape that a checkpoint of that step must have.

    Raises:
        UserError: for a checkpoint of another model, or where every checkpoint is damaged.
    """
    steps = checkpoints.steps()
    for step in reversed(steps):
        try:
            restored = checkpoints.restore(step, *template(step))
        except Damaged as error:
            say(f"{error}: going back to the checkpoint before it.")
            damaged = error
            continue
        for later in steps[steps.index(step) + 1 :]:
            checkpoints.delete(later)
        return restored
    if steps:
        raise UserError(
            f"{damaged}, and there is no other: delete {checkpoints.folder.parent} to start again."
        )
    return None


def step_of(workdir: str | Path, step: int | str = "latest") -> int:
    """Returns the number of the checkpoint that `step` means in a run, or in a folder that `jaxvae
    export` wrote.

    Of a run of two stages it is the second's.

    Raises:
        UserError: where there is no such checkpoint.
    """
    if (Path(workdir) / "model.safetensors").is_file():
        return int(writers.read_json(Path(workdir) / "config.json").get("step", 0))
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


def checkpoints_of(workdir: str | Path) -> Checkpoints:
    """Returns the checkpoints of a run, to read; of two stages those of the second. Raises
    `UserError` before it has begun."""
    folder = Path(workdir)
    if (folder / "first").is_dir():
        if not (folder / "second" / "config.json").is_file():
            raise UserError(
                f"{folder} has no second stage yet: start the command that trains it again, or "
                "use its first stage "
                f"alone, {folder / 'first'}."
            )
        folder = folder / "second"
    return Checkpoints(folder / "checkpoints", read_only=True)


def load(
    workdir: str | Path,
    *,
    step: int | str = "latest",
    model: Model | None = None,
    example: Batch | None = None,
) -> Loaded:
    """Returns the model of a run with its trained parameters: `model, params, state =
    load(workdir)`.

    A run with a moving average of its parameters gives the average.

    Args:
        workdir: the run's folder, or one that `jaxvae export` wrote (which has one step). That of a
            two-stage VAE gives both stages, composed; the folder `first` in it is a run of its own.
        step: "latest", "best" (by the validation metric of the run), or a step that was kept; of
            two stages the second's.
        model, example: for runs that `fit` made from a model of your own: that model and a batch in
            the shape of its data. Runs of the command line need neither.

    Raises:
        UserError: where there is no run or no such checkpoint, it is damaged, or it is of another
            model.
    """
    composed = False
    if model is None:
        from jaxvae import config

        saved = read_config(workdir)
        model, example = config.rebuild(saved)
        composed = saved["preset"] == "two_stage_vae"
    elif example is None:
        raise UserError(
            "load needs an example batch beside the model: one in the shape of its data."
        )
    if (Path(workdir) / "model.safetensors").is_file():  # what `jaxvae export` wrote
        from jaxvae import export

        params, state = jax.eval_shape(model.init, jax.random.key(0), example)
        return Loaded(model, *export.load(workdir, {"params": params, "state": state}).values())
    chosen = step_of(workdir, step)
    if composed:
        from jaxvae import stages

        return stages.load(Path(workdir), chosen, model)
    checkpoints = Checkpoints(Path(workdir) / "checkpoints", read_only=True)
    try:
        page = checkpoints.meta(chosen)
        params, state = jax.eval_shape(model.init, jax.random.key(0), example)
        ema = params if any(path.startswith("['ema']") for path in page["tree"]["model"]) else None
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
            {"params": params, "state": state, "ema": ema},
        )
        trees = checkpoints.restore_tree(chosen, "model", template, page)
    except Damaged as error:
        raise UserError(f"{error}: load another of {checkpoints.steps()} with step=...") from None
    return Loaded(model, trees["ema"] if ema is not None else trees["params"], trees["state"])
