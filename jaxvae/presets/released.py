"""The released form of a trained model: a folder of files that anyone can read and that run nothing.

    model.safetensors   parameters and state, by name
    config.json         settings, step, versions and commit, the command
    evaluation.json     its numbers, each with protocol and n, where `jaxvae evaluate` was run
    samples.png         64 samples of it, where they can be drawn
    README.md           its card

`export.export` writes one, `load.load` reads it; `zoo` and `hub` are where there are some. Training
cannot go on from it: optimiser, keys and order of data are not there.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from jaxvae import paths, safetensors, writers
from jaxvae.errors import UserError, one_line
from jaxvae.paths import PathLike
from jaxvae.train.folder import EXPORTED as MODEL
from jaxvae.train.folder import no_run

FORMAT = 1  # of config.json; one without a number is of the first
CONFIG, EVALUATION, PICTURE, CARD = "config.json", "evaluation.json", "samples.png", "README.md"
FILES = (MODEL, EVALUATION, PICTURE, CARD, CONFIG)  # in the order in which they are written
Page = dict[str, Any]


def is_released(folder: PathLike) -> bool:
    """Returns whether `folder` holds a model in this form; raises `UserError` where that cannot be
    read."""
    path = paths.path(folder) / MODEL
    with writers.disk("read", path):
        return path.is_file()


def read_page(folder: PathLike) -> Page:
    """Returns config.json of a released model.

    Raises:
        UserError: where there is none, it is damaged, or it is of a later version of jaxvae.
    """
    path = paths.path(folder) / CONFIG
    with writers.disk("read", path):
        known = path.is_file()
    if not known:
        raise no_run(folder)
    page = writers.read_json(path)
    if not isinstance(page, dict) or not isinstance(page.get("config"), dict):
        raise UserError(f"{path} is not the config of a run of jaxvae.")
    number = page.get("format", 1)
    if type(number) is not int or number < 1:
        raise UserError(f"{path} is damaged: its format is {one_line(repr(number))}.")
    if number > FORMAT:
        raise UserError(
            f"{folder} is a model in format {number}, and this version of jaxvae reads up to "
            f"{FORMAT}: pip install --upgrade jaxvae."
        )
    step = page.get("step", 0)
    if type(step) is not int or step < 0:
        raise UserError(f"{path} is damaged: its step is {one_line(repr(step))}.")
    return page


@contextlib.contextmanager
def readable(folder: PathLike) -> Iterator[None]:
    """Turns every error inside the block into a `UserError` of one line, where `folder` holds a released
    model: its settings may come from anywhere."""
    if not is_released(folder):
        yield
        return
    try:
        yield
    except UserError as error:
        raise UserError(one_line(str(error), 1000)) from None
    except Exception as error:
        why = one_line(f"{type(error).__name__}: {error}")
        raise UserError(
            f"{paths.path(folder) / CONFIG} makes no model ({why}): it is damaged, or of another "
            "version of jaxvae. Export it again."
        ) from None


def read_evaluation(folder: PathLike) -> Page | None:
    """Returns what `jaxvae evaluate` has written in a folder: "step", "data", "split", and as "metrics"
    a list of {metric, value, error, n, protocol}; None where there is nothing.

    Raises:
        UserError: for a file that is damaged.
    """
    path = paths.path(folder) / EVALUATION
    with writers.disk("read", path):
        known = path.is_file()
    if not known:
        return None
    page = writers.read_json(path)
    rows = page.get("metrics") if isinstance(page, dict) else None
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise UserError(f"{path} is damaged: delete it, and run jaxvae evaluate again.")
    return page


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), str) for name in ("metric", "protocol"))
        and all(row[name].isprintable() for name in ("metric", "protocol"))
        and isinstance(row.get("value"), (int, float, list))
        and isinstance(row.get("error"), (int, float, type(None)))
        and isinstance(row.get("n"), (int, type(None)))
    )


def check_target(out: PathLike) -> None:
    """Raises `UserError` unless a model can be written to `out`: a new or empty folder, or one that
    holds a released model, which is then replaced."""
    out = paths.path(out)
    with writers.disk("read", out):
        if out.exists() and not out.is_dir():
            raise UserError(f"{out} is a file: choose a folder.")
        taken = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if taken and MODEL not in taken:
        raise UserError(f"{out} holds other files: choose an empty or new folder.")
    if CONFIG in taken:  # model.safetensors is a name that others use, too
        read_page(out)
    elif taken and not _is_ours(out / MODEL):
        raise UserError(
            f"{out} holds weights that are not jaxvae's: choose an empty or new folder."
        )


def _is_ours(path: PathLike) -> bool:
    """Returns whether `export.export` wrote the weights, as they say themselves."""
    try:
        return safetensors.read_metadata(path).get("format") == "jaxvae"
    except UserError:
        return False


def write(out: PathLike, files: Mapping[str, bytes]) -> None:
    """Writes a released model: config.json goes first and comes last, so that no reader sees the
    weights of one model under the settings of another; of an earlier model in `out` nothing stays.

    Raises:
        UserError: where the disk refuses.
    """
    folder = paths.path(out)
    with writers.disk("write", folder):
        for name in (CONFIG, *(name for name in FILES if name not in files)):
            if (folder / name).is_file():
                (folder / name).unlink()
    for name in (name for name in FILES if name in files):
        writers.write_bytes(folder / name, files[name])
