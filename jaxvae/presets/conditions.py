"""What samples are conditioned on: classes one after the other, or what examples show."""

import jax
import jax.numpy as jnp

from jaxvae.data.preprocess import Preprocess
from jaxvae.presets.config import System
from jaxvae.types import Array, Batch

SHOWN = 8  # examples that conditions are taken of: with 64 samples, a column of the picture each


def of_classes(classes: int, n: int, label: int | None = None) -> Array:
    """Returns one-hot labels [n, classes], one class after the other, or all of `label`."""
    which = jnp.arange(n) % classes if label is None else jnp.full(n, label)
    return jax.nn.one_hot(which, classes)


def of_examples(batch: Batch, n: int) -> Array | None:
    """Returns the conditions of the first examples of a batch, one after the other: [n, ...].

    All draws of an example have the same condition, noise and all.
    """
    if batch.cond is None:
        return None
    shown = batch.cond[:SHOWN]
    return shown[jnp.arange(n) % len(shown)]


def of_samples(system: System, batch: Batch | None, n: int) -> Array | None:
    """Returns what n samples are conditioned on [n, ...], and None where they are not.

    Args:
        system: what a run is of.
        batch: held-out examples, preprocessed; None will do where samples are not conditioned on any.
    """
    if system.classes is not None:
        return of_classes(system.classes, n)
    return None if system.on_examples is None or batch is None else of_examples(batch, n)


def example_like(
    preprocess: Preprocess, shape: tuple[int, ...], num_classes: int | None, n: int = 2
) -> Batch:
    """Returns a batch in the shape of a run's, which holds no arrays.

    Args:
        preprocess: of the run.
        shape: of one example of its data.
        num_classes: of the data, where they have labels.
        n: examples.
    """
    examples = {"x": jax.ShapeDtypeStruct((n, *shape), jnp.uint8)}
    if num_classes is not None:
        examples["label"] = jax.ShapeDtypeStruct((n,), jnp.int32)
    return jax.eval_shape(preprocess, jax.random.key(0), examples)
