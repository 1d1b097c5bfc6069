"""Statistics of real images, kept on the disk: they take long, and never change."""

import hashlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae import archives, writers
from jaxvae.data import Source, places
from jaxvae.errors import Damaged, UserError
from jaxvae.metrics.frechet import Statistics

VERSION = 1  # of what is kept
LOOKED_AT = 64  # examples of a streamed source that are compared


def cached(
    folder: places.PathLike,
    source: Source,
    about: dict[str, Any],
    n: int,
    dimension: int,
    make: Callable[[], Statistics],
) -> Statistics:
    """Returns `make()`, if cached from a file in `folder`.

    The file is that of the data set's name, split, size, shape and content (of a streamed one, of
    some examples), and of everything in `about`. One that is damaged is made again; where the
    folder cannot be written, that is said.
    """
    key = json.dumps(
        {
            "version": VERSION,
            "data": source.name,
            "split": source.split,
            "size": source.size,
            "shape": source.shape,
            "content": content(source),
            **about,
        },
        sort_keys=True,
    )
    words = f"{source.name}-{source.split}-{about.get('extractor', '')}"
    words = re.sub(r"[^\w.-]+", "_", words)[-80:]
    path = Path(folder) / f"{words}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    if path.exists():
        try:
            return _read(path, key, n, dimension)
        except (OSError, ValueError) as error:
            print(f"jaxvae: {path} is damaged ({error}): it is made again.", file=sys.stderr)
    found = make()
    file = io.BytesIO()
    np.savez(file, mean=found.mean, cov=found.cov, n=found.n, key=key)
    try:
        writers.write_bytes(path, file.getvalue())
    except UserError as error:  # the result is worth more than its copy
        print(f"jaxvae: the statistics of {source.name} are not kept: {error}", file=sys.stderr)
    return found


def _read(path: Path, key: str, n: int, dimension: int) -> Statistics:
    arrays = archives.read_npz(path, ("mean", "cov", "n", "key"), kinds=archives.NUMBERS + "U")
    if str(arrays["key"]) != key:
        raise Damaged("it belongs to other images")
    mean, cov = arrays["mean"], arrays["cov"]
    fits = mean.shape == (dimension,) and cov.shape == (dimension, dimension)
    numbers = mean.dtype.kind == cov.dtype.kind == "f" and np.array_equal(arrays["n"], n)
    if not (fits and numbers and np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise Damaged("its arrays are not what they should be")
    return Statistics(mean, cov, n)


def content(source: Source) -> str:
    """Returns a digest of all images in memory, or of some of those that are streamed."""
    if source.arrays is not None:
        x = source.arrays["x"]
    else:
        chosen = np.linspace(0, source.size - 1, min(LOOKED_AT, source.size)).astype(int)
        x = source.read(chosen)["x"]
    total = hashlib.sha256(f"{x.dtype} {x.shape}".encode())
    for part in np.array_split(x, -(-x.nbytes // 2**24) or 1):
        total.update(np.ascontiguousarray(part).data)
    return total.hexdigest()
