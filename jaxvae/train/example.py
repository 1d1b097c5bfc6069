"""The examples that a training looks at before it begins: what its nets and its checks see of the data."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxvae.data.preprocess import Preprocess
from jaxvae.data.source import Source, read_checked
from jaxvae.types import Array, Batch


def check_labels(source: Source, preprocess: Preprocess, batch_size: int) -> None:
    """Lets `preprocess` see the smallest and the largest label of data in memory, which it may refuse:
    inside `jit`, where it sees the others, it cannot."""
    label = (source.arrays or {}).get("label")
    if label is None:
        return
    ends = np.resize([np.argmax(label), np.argmin(label)], batch_size)
    index = np.minimum(ends, source.size - 1)  # labels may be no [n]
    jax.eval_shape(*_of_pixels(preprocess, read_checked(source, index)))


def first_batch(source: Source, preprocess: Preprocess, batch_size: int) -> Batch:
    """Returns a batch that shows the range of the data, made by one program."""
    of_pixels, pixels = _first(source, preprocess, batch_size)
    return jax.jit(of_pixels)(pixels)


def batch_shape(source: Source, preprocess: Preprocess, batch_size: int) -> Batch:
    """Returns the shapes of `first_batch`, which nothing computes."""
    return jax.eval_shape(*_first(source, preprocess, batch_size))


def _first(
    source: Source, preprocess: Preprocess, batch_size: int
) -> tuple[Callable[[Array], Batch], Any]:
    return _of_pixels(preprocess, read_checked(source, first_indices(source, batch_size)))


def _of_pixels(
    preprocess: Preprocess, examples: dict[str, Any]
) -> tuple[Callable[[Array], Batch], Any]:
    """Returns `preprocess` as a function of pixels alone, and those of `examples`: it may look at the
    labels where the pixels are traced."""
    others = {name: values for name, values in examples.items() if name != "x"}
    return lambda x: preprocess(jax.random.key(0), {"x": x, **others}), examples["x"]


def first_indices(source: Source, batch_size: int) -> np.ndarray:
    """Returns the indices of an example batch that shows the range of the data: bytes have theirs,
    floats are searched."""
    index = np.arange(batch_size) % source.size
    if source.arrays is not None and np.issubdtype(source.arrays["x"].dtype, np.floating):
        flat = source.arrays["x"].reshape(source.size, -1)
        ends = [int(flat.min(axis=1).argmin()), int(flat.max(axis=1).argmax())][:batch_size]
        index[: len(ends)] = ends
    return index
