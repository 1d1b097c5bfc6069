"""Trained models that come with this package: folders NAME/DATA of released models, found by looking.

`jaxvae.load("zoo:vae/mnist")`, and zoo:NAME in place of RUN in every command.
"""

from pathlib import Path
from typing import Any, NamedTuple

from jaxvae.errors import UserError, unknown
from jaxvae.presets import released

FOLDER = Path(__file__).parents[1] / "zoo"


class Entry(NamedTuple):
    """A model of the zoo."""

    name: str
    folder: Path
    preset: str
    data: str
    size: int  # bytes, all files
    number: dict[str, Any] | None  # the first of its numbers: metric, value, protocol, n
    command: str  # that made it


def names(root: Path | None = None) -> list[str]:
    """Returns the names of all models, such as "vae/mnist"."""
    root = FOLDER if root is None else root
    found = (path.parent for path in root.glob(f"*/*/{released.CONFIG}"))
    return sorted(folder.relative_to(root).as_posix() for folder in found)


def folder_of(name: str, root: Path | None = None) -> Path:
    """Returns the folder of a model; raises `UserError` for an unknown name, with the nearest one."""
    known = names(root)
    if not known:
        raise UserError(
            f"zoo:{name}: this installation has no zoo. `jaxvae pull USER/NAME` fetches."
        )
    if name not in known:
        raise unknown("model of the zoo", name, known)
    return (FOLDER if root is None else root) / name


def entries(root: Path | None = None) -> list[Entry]:
    """Returns all models, by name. Raises `UserError` for one that is damaged."""
    return [_entry(name, folder_of(name, root)) for name in names(root)]


def _entry(name: str, folder: Path) -> Entry:
    page, evaluation = released.read_page(folder), released.read_evaluation(folder)
    rows = [] if evaluation is None else evaluation["metrics"]
    config = page["config"]
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    number, command = (rows[0] if rows else None), str(page.get("command", ""))
    return Entry(
        name, folder, str(config.get("preset")), str(config.get("data")), size, number, command
    )
