"""Data: `load(name, split)` gives a `Source`, `batch_at(source, seed, step, batch_size)` its batches.

`jaxvae.data.preprocess` turns batches into floats inside the compiled step; this package itself needs NumPy only.
"""

from jaxvae.data.source import Source, Splits, batch_at, batch_indices, from_arrays, load, names, overlap, splits

__all__ = ["Source", "Splits", "batch_at", "batch_indices", "from_arrays", "load", "names", "overlap", "splits"]
