"""The examples that a training looks at before it begins: what its nets and its checks see of the data."""

from typing import Any

import jax
import numpy as np

from jaxvae.data.preprocess import Preprocess
from jaxvae.data.source import Source, read_checked
from jaxvae.errors import UserError, check_kind
from jaxvae.types import Array, Batch


def check_labels(source: Source, preprocess: Preprocess, batch_size: int) -> None:
    """Lets `preprocess` see the smallest and the largest label of data in memory, which it may refuse:
    inside `jit`, where it sees the others, it cannot."""
    label = (source.arrays or {}).get("label")
    if label is None:
        return
    ends = np.resize([np.argmax(label), np.argmin(label)], batch_size)
    index = np.minimum(ends, source.size - 1)  # labels may be no [n]
    _shape(preprocess, read_checked(source, index))


def first_batch(source: Source, preprocess: Preprocess, batch_size: int) -> Batch:
    """Returns a batch that shows the range of the data, made by one program.

    Raises:
        UserError: for labels that `preprocess` refuses, and where it does not return a `Batch`.
    """
    examples = read_checked(source, first_indices(source, batch_size))
    _shape(preprocess, examples)

    @jax.jit
    def preprocessed(examples: dict[str, Array]) -> Batch:
        return preprocess(jax.random.key(0), examples)

    return preprocessed(jax.device_put(examples))


def batch_shape(source: Source, preprocess: Preprocess, batch_size: int) -> Batch:
    """Returns the shapes of `first_batch`, which nothing computes; raises what that raises."""
    return _shape(preprocess, read_checked(source, first_indices(source, batch_size)))


def _shape(preprocess: Preprocess, examples: dict[str, Any]) -> Batch:
    """Returns the shapes of a batch; `preprocess` may look at the labels, not at the pixels."""
    others = {name: values for name, values in examples.items() if name != "x"}

    def batch_of(x: Array) -> Batch:
        batch = preprocess(jax.random.key(0), {"x": x, **others})
        check_kind("batch", batch, Batch, "Batch(x), or Batch(x, cond)")
        if not hasattr(batch.x, "dtype"):
            raise UserError(f"x must be an array [batch, ...], not {type(batch.x).__name__}.")
        return batch

    return jax.eval_shape(batch_of, examples["x"])


def first_indices(source: Source, batch_size: int) -> np.ndarray:
    """Returns the indices of an example batch that shows the range of the data: bytes have theirs,
    floats are searched."""
    index = np.arange(batch_size) % source.size
    if source.arrays is not None and np.issubdtype(source.arrays["x"].dtype, np.floating):
        flat = source.arrays["x"].reshape(source.size, -1)
        ends = [int(flat.min(axis=1).argmin()), int(flat.max(axis=1).argmax())][:batch_size]
        index[: len(ends)] = ends
    return index
