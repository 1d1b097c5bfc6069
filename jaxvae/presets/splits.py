"""What a run is trained and measured on: its splits, of a quick run the first part of each."""

from pathlib import Path

from jaxvae.data import Source, sets
from jaxvae.data.source import parse_split
from jaxvae.presets.config import QUICK_HELD_OUT, QUICK_TRAIN, Options, source


def training(config: Options, data_dir: Path | None = None) -> Source:
    """Returns what a config is trained on: its training split, of a quick run the first part."""
    found = source(config, config.split or "train", data_dir)
    return first(found, QUICK_TRAIN) if config.quick else found


def described(config: Options) -> Source | None:
    """Returns what `training` will, without its examples, where the name of the data tells: before
    their files are here. None of other data.

    Raises:
        UserError: for a split that does not exist.
    """
    known = sets.DATA_SETS.get(config.data)
    if known is None:
        return None
    split = config.split or known.splits.train
    _, part = parse_split(config.data, split, known.counts)
    size = part.stop - part.start
    size = min(size, QUICK_TRAIN) if config.quick else size
    return Source(config.data, split, size, known.shape, lambda _: {}, known.num_classes)


def held_out(config: Options, split: str) -> Source:
    """Returns what a run is measured on: its "valid" or "test", of a quick run the first part."""
    found = source(config, split)
    return first(found, QUICK_HELD_OUT) if config.quick else found


def first(source: Source, n: int) -> Source:
    """Returns the first n examples of a source, or all where it has fewer."""
    if source.size <= n:
        return source
    arrays = source.arrays
    return source._replace(
        split=f"{source.split}, the first {n}",
        size=n,
        arrays=None if arrays is None else {name: values[:n] for name, values in arrays.items()},
        indices=None if source.indices is None else source.indices[:n],
    )
