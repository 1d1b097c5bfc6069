"""How many layers a net may have that is built from settings of which nobody knows who wrote them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn


class TooManyLayers(ValueError):
    """A net has more layers than `at_most` allows."""


@contextlib.contextmanager
def at_most(layers: int) -> Iterator[None]:
    """Raises `TooManyLayers` where this thread traces nets in this block that call more layers than so
    many; one inside another counts, too."""
    called = 0

    def count(call: Any, args: Any, kwargs: Any, _: Any) -> Any:
        nonlocal called
        called += 1
        if called > layers:
            raise TooManyLayers(f"it has more than {layers:,} layers")
        return call(*args, **kwargs)

    with nn.intercept_methods(count):
        yield
