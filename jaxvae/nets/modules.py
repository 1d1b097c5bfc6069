"""Linen modules that are to be nets: what does not fit is said before Flax or JAX say it."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
from flax.errors import (
    InvalidRngError,
    ScopeCollectionNotFound,
    ScopeParamNotFoundError,
    ScopeParamShapeError,
)

from jaxvae.errors import UserError
from jaxvae.types import Array

CALL = "__call__(self, x, *, cond=None, train)"


def check_module(module: Any) -> None:
    """Raises `UserError` unless `module` is a Linen module that can be called as `from_linen` does."""
    if not isinstance(module, nn.Module):
        given = (
            f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        )
        raise UserError(
            f"from_linen takes an instance of a flax.linen Module, such as Encoder(), not {given}."
        )
    try:
        inspect.signature(type(module).__call__).bind(module, None, cond=None, train=True)
    except TypeError as error:
        raise UserError(
            f"{type(module).__name__} cannot be called as a net ({error}): define {CALL}."
        ) from None


@contextlib.contextmanager
def fitting(x: Array, cond: Array | None) -> Iterator[None]:
    """Turns what Linen raises in a pass of x [B, ...] into a `UserError` that says what to do."""
    try:
        yield
    except (ScopeCollectionNotFound, ScopeParamNotFoundError, ScopeParamShapeError):
        raise UserError(
            f"these parameters do not fit a net for inputs of shape {x.shape[1:]} "
            f"{'without' if cond is None else 'with'} a condition: they are of another one; give "
            "inputs like those of training, or build the net as it was then."
        ) from None
    except InvalidRngError:
        raise UserError(
            "this module draws random numbers that it has no key for: the only stream is "
            "make_rng('dropout'), and a pass with stats='batch' has none: use nets.layers.Dropout instead "
            "of Linen's, or draw only where self.has_rng('dropout')."
        ) from None
