"""Where data sets are looked for, and where they are prepared."""

import os
from pathlib import Path

from jaxvae import paths
from jaxvae.paths import PathLike

DEFAULTS = ("~/.cache/jaxvae", "~/tensorflow_datasets")


def roots(data_dir: PathLike | None = None) -> list[str]:
    """Returns the folders to look in, first to last.

    `data_dir` alone where it is given; else JAXVAE_DATA_DIR, TFDS_DATA_DIR, ~/.cache/jaxvae and
    ~/tensorflow_datasets. A folder may be an address such as gs://bucket/data.
    """
    known = (os.environ.get("JAXVAE_DATA_DIR"), os.environ.get("TFDS_DATA_DIR"), *DEFAULTS)
    chosen = [data_dir] if data_dir else known
    return list(dict.fromkeys(expand(root) for root in chosen if root))


def target(data_dir: PathLike | None = None) -> str:
    """Returns the folder to prepare in: `data_dir`, else TFDS_DATA_DIR, else JAXVAE_DATA_DIR, else
    ~/tensorflow_datasets."""
    known = (os.environ.get("TFDS_DATA_DIR"), os.environ.get("JAXVAE_DATA_DIR"), DEFAULTS[1])
    return expand(data_dir or next(root for root in known if root))


def expand(root: PathLike) -> str:
    """Returns `root` with ~ spelled out, and a scheme whose slashes `Path` has merged (gs:/bucket)
    as it was."""
    root = os.path.expanduser(os.fspath(root))
    return paths.address(root) or root


def remote(root: PathLike) -> bool:
    """Returns whether `root` is an address such as gs://bucket/data."""
    return paths.address(root) is not None


def cache() -> Path:
    """Returns the folder for what can be made again: ~/.cache/jaxvae."""
    return Path(os.path.expanduser(DEFAULTS[0]))
