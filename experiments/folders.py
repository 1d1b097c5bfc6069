"""Folders of images that a cell asks for, by name, in a place for data."""

from pathlib import Path

from jaxvae.data import places
from jaxvae.errors import UserError


def folder_of(name: str) -> Path:
    """Returns the folder of images called `name`; raises `UserError` where there is none."""
    roots = places.roots()
    for root in roots:
        if (Path(root) / name).is_dir():
            return Path(root) / name
    raise UserError(
        f"{name} is a folder of images, and not in {', '.join(roots)}: put it there, or say where "
        "with JAXVAE_DATA_DIR."
    )
