"""Where files are kept: a path on a disk, or an address in a bucket such as gs://bucket/run; how one is
replaced on a disk. And trained models that are called by a name, zoo:NAME or hf:USER/NAME, which is no
place to write to.

Whoever is given a place calls `path`, and uses what it returns as a `pathlib.Path`. An object store is no
disk: an object appears whole or not at all and cannot be appended to, and folders are but the beginnings
of names. `writers` knows the difference.
"""

import contextlib
import functools
import os
import re
import uuid
from pathlib import Path
from typing import Any, cast

from jaxvae.errors import UserError

PathLike = str | os.PathLike[str]
SCHEMES = ("gs", "s3", "az", "hf")  # those of etils.epath
NAMED = ("zoo", "hf")  # trained models: of this package, of the Hugging Face Hub


def address(place: PathLike) -> str | None:
    """Returns the address that `place` is, such as "gs://bucket/run", also where `Path` has merged its
    slashes (gs:/bucket/run); None for a path on a disk."""
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9]+):/+(.*)", os.fspath(place), re.DOTALL)
    return None if found is None else f"{found[1]}://{found[2]}"


def named(place: PathLike) -> tuple[str, str] | None:
    """Returns ("zoo", "vae/mnist") of zoo:vae/mnist, a trained model by its name; None for a place."""
    kind, colon, name = os.fspath(place).partition(":")
    return (kind, name) if colon and kind in NAMED and address(place) is None else None


def path(place: PathLike) -> Path:
    """Returns `place` to read and write: a `Path`, or of an address a path of etils.epath, which has the
    methods of one.

    Raises:
        UserError: for an address of an unknown kind, and for the name of a trained model.
    """
    where = address(place)
    if named(place):
        raise UserError(
            f"{os.fspath(place)} is the name of a trained model, to be used as RUN: choose a folder."
        )
    if where is None:
        return Path(place)
    if where.partition(":")[0] not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UserError(f"{where}: use a folder on a disk, or an address that begins with {known}.")
    return cast(Path, _epath().Path(where))


def resolved(place: PathLike) -> Path:
    """Returns the whole path of `place`: from the root, without links; an address is whole, and so is
    a name."""
    if named(place):
        return Path(place)
    found = path(place)
    return found if address(found) else found.resolve()


def size(place: PathLike) -> int:
    """Returns the bytes of a file."""
    found: Any = path(place).stat()
    return found.length if address(place) else found.st_size


def replace(file: PathLike, data: bytes, *, lasting: bool = True) -> None:
    """Writes a whole file on a disk in one move: readers, and whoever comes after a kill, see the old one
    or the new one, never half of it. Of several writers at once the last one stays.

    Args:
        lasting: whether to wait until the disk has the bytes: after a loss of power, too, the file is the
            old one or the new one.

    Raises:
        OSError: where the disk refuses; the old file then stays, and nothing else.
    """
    part = Path(file).parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with open(part, "wb") as new:
            new.write(data)
            if lasting:
                new.flush()
                os.fsync(new.fileno())
        os.replace(part, file)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def refused(doing: str, place: PathLike, error: Exception) -> UserError:
    """Returns the error that says in one line why a bucket refused: "cannot <doing> <address>"."""
    why = next(iter(str(error).splitlines()), "")[:300] or "no reason given"
    install = isinstance(error, ImportError)  # of what etils needs for this kind of address
    advice = "Check the address, and that this account may read and write there"
    if str(address(place)).startswith("gs:"):
        advice += " (gcloud auth application-default login)"
        advice = "Install it: pip install 'jaxvae[gcs]'" if install else advice
    return UserError(f"cannot {doing} {address(place)} ({type(error).__name__}: {why}). {advice}.")


@functools.cache
def _epath() -> Any:
    """Returns etils.epath, whose file systems ask the bucket each time: others write there, too."""
    from etils import epath
    from fsspec.config import conf

    for name in ("gcs", "s3"):
        conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    return epath
