"""Data: `load(name, split)` gives a `Source`, `batch_at(source, seed, step, batch_size)` its batches.

    source        the contract: random access, order, static binarisation
    sets          the data sets by name; digits, toy2d, shapes, fake are made or embedded
    places, idx, official, builders, prepare, prepared    where files are, official ones, TFDS copies
    arrays, images    arrays, iterators, .npz files; folders of images
    preprocess, completion    batches to floats inside the compiled step; images with a part given
    stream        batches read ahead

Stands on the ground and needs NumPy only (and Pillow, scikit-learn or TensorFlow Datasets for the
data sets that come that way). May be imported by everything from models upwards.
"""

from jaxvae.data.arrays import from_iterator, npz
from jaxvae.data.images import folder
from jaxvae.data.sets import known, listing, load, names, overlap, splits
from jaxvae.data.source import Source, Splits, batch_at, batch_indices, binarised, from_arrays

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
    "listing",
    "load",
    "names",
    "npz",
    "overlap",
    "splits",
]
