"""Data: `load(name, split)` gives a `Source`, `batch_at(source, seed, step, batch_size)` its
batches.

`jaxvae.data.preprocess` turns batches into floats inside the compiled step; this package itself
needs NumPy only (and Pillow, scikit-learn or TensorFlow Datasets for the data sets that come that
way).
"""

from jaxvae.data.images import folder, from_iterator, npz
from jaxvae.data.source import (
    Source,
    Splits,
    batch_at,
    batch_indices,
    binarised,
    from_arrays,
    known,
    load,
    names,
    overlap,
    splits,
)

__all__ = [
    "Source",
    "Splits",
    "batch_at",
    "batch_indices",
    "binarised",
    "folder",
    "from_arrays",
    "from_iterator",
    "known",
    "load",
    "names",
    "npz",
    "overlap",
    "splits",
]
