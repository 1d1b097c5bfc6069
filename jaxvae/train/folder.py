"""A run's folder: whose it is, and where a run in it goes on."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxvae import paths, writers
from jaxvae.errors import UserError
from jaxvae.paths import PathLike
from jaxvae.train import checkpoint, lease
from jaxvae.train.checkpoint import Checkpoints, Damaged, Restored
from jaxvae.train.step import TrainState
from jaxvae.types import Tree

EXPORTED = "model.safetensors"  # in the folder of a model without what training needs
LENGTH = (  # what may differ when a run is resumed
    "steps",
    "epochs",
    "log_every",
    "eval_every",
    "save_every",
    "keep",
    "patience",
    "progress",
    "tensorboard",
    "workdir",
)


class Folder(NamedTuple):
    """The folder of a run, held by this process or by the first one."""

    path: Path | None  # None: nothing is kept
    check: Callable[[], None] = lambda: None  # raises `UserError` where it is no longer held


class Identity(NamedTuple):
    """What makes a run the same run when it is started again."""

    config: dict[str, Any]  # as JSON has it
    may_differ: tuple[str, ...] = LENGTH  # names that do not count
    defaults: dict[str, Any] = {}  # noqa: RUF012 - of names that an older config does not have
    renewed: Callable[[dict], dict] = lambda saved: saved  # an older config, in the names of now


def identity(config: dict[str, Any] | Identity) -> Identity:
    """Returns the identity of a run that `config` describes; raises `UserError` as `as_json`."""
    config = config if isinstance(config, Identity) else Identity(config)
    return config._replace(config=as_json(config.config), defaults=as_json(config.defaults))


def check(workdir: PathLike, run: dict[str, Any] | Identity) -> None:
    """Raises `UserError` where `workdir` cannot take this run; writes nothing.

    It must be new, empty, or hold a run of the same identity (the fields that differ are listed).
    """
    path = paths.path(workdir)
    if paths.address(path) and not str(path).startswith("gs:"):
        raise UserError(
            f"{path}: the run folder must be on a local or mounted disk, or in a bucket at gs://, "
            "which are what Orbax writes to."
        )
    with writers.disk("read", path):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file: choose a folder.")
        taken = path.is_dir() and any(not file.name.startswith(".") for file in path.iterdir())
        if not taken:
            return
        known, exported = (path / "config.json").is_file(), (path / EXPORTED).is_file()
    if exported:
        raise UserError(
            f"{path} holds an exported model, without optimiser and data order: training cannot go on "
            "there. Choose a new folder."
        )
    if not known:
        raise UserError(f"{path} holds files but no run of jaxvae: choose an empty or new folder.")
    wanted, may_differ, defaults, renewed = identity(run)
    saved = {**defaults, **renewed(read_config(path))}
    names = [
        name
        for name in dict.fromkeys((*saved, *wanted))
        if name not in may_differ and saved.get(name) != wanted.get(name)
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


@contextlib.contextmanager
def hold(workdir: PathLike | None, run: dict[str, Any] | Identity) -> Iterator[Folder]:
    """Holds `workdir` for this run: checked (`check`), made where it is missing, and locked by the
    first process. With None there is nothing to hold.

    Raises:
        UserError: as `check`; and where the folder cannot be written or is in use.
    """
    run = identity(run)
    if workdir is None:
        yield Folder(None)
        return
    check(workdir, run)
    path = paths.path(workdir)
    if jax.process_index() > 0:  # the first process writes for all
        yield Folder(path)
        return
    with lease.lock(path) as check_held:
        if not (path / "config.json").is_file():
            writers.write_json(
                path / "config.json", {"config": run.config, "versions": checkpoint.versions()}
            )
        yield Folder(path, check_held)


def no_run(workdir: PathLike) -> UserError:
    """Returns the error for a place without a run, which says what is there."""
    place = paths.path(workdir)
    with writers.disk("read", place):
        if place.is_dir():
            why = "there is no config.json in it"
        else:
            why = "it is a file, not a folder" if place.exists() else "there is no such folder"
    return UserError(f"{workdir} holds no run of jaxvae: {why}.")


def read_config(workdir: PathLike) -> dict[str, Any]:
    """Returns the config of the run in `workdir`.

    Raises:
        UserError: where there is none, or it cannot be read.
    """
    page = paths.path(workdir) / "config.json"
    with writers.disk("read", workdir):
        known = page.is_file()
    if not known:
        raise no_run(workdir)
    content = writers.read_json(page)
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise UserError(f"{page} is not the config of a run of jaxvae.")
    return content["config"]


def restore_latest(
    checkpoints: Checkpoints,
    template: Callable[[int], tuple[TrainState, Tree]],
    say: Callable[[str], None] = print,
) -> Restored | None:
    """Returns the newest intact checkpoint as (train_state, sums, meta), or None where there is
    none.

    Damaged ones are reported and removed: what they held is computed again.

    Args:
        template: step -> (train_state, sums) of the shape that a checkpoint of that step must have.

    Raises:
        UserError: for a checkpoint of another model, or where every checkpoint is damaged.
    """
    steps, damaged = checkpoints.steps(), None
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
    if damaged is not None:
        raise UserError(
            f"{damaged}, and there is no other: delete {checkpoints.folder.parent} to start again."
        )
    return None
