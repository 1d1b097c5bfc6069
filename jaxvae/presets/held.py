"""What the weights of a model hold, which is looked at before its net is built: settings may come from
anywhere, and a net of any size be asked for in a line."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxvae import nets
from jaxvae.errors import UserError, one_line
from jaxvae.paths import PathLike
from jaxvae.presets.options import LAYERS, WIDTH, Options

LAYERS_PER_ARRAY = 4  # in a net: there are layers within layers
MORE = 16  # layers without arrays, and lists of options that the net leaves alone
SMALL = 1024  # a width that costs nothing, whatever the weights are


class Held(NamedTuple):
    """The arrays of a model."""

    folder: PathLike  # where they are
    shapes: dict[str, tuple[int, ...]]  # by name, "params.decoder..."

    @property
    def largest(self) -> int:
        """Numbers in the largest array."""
        return max(map(math.prod, self.shapes.values()), default=0)


def check(config: Options, held: Held) -> None:
    """Raises `UserError` for options that ask for a larger net than weights are of: one of more layers
    (`Layers`, and the length of every list) than they have arrays and `MORE`, or wider (`Width`) than
    their largest."""
    limit = len(held.shapes) + MORE
    for field in dataclasses.fields(config):
        value: Any = getattr(config, field.name)
        marks = getattr(field.type, "__metadata__", ())
        if value is None or value == field.default:
            continue
        if isinstance(value, tuple):
            if len(value) > limit:
                raise _too_large(f"{field.name} has {len(value):,} entries", held)
        elif (LAYERS in marks and value > limit) or (
            WIDTH in marks and value > max(held.largest, SMALL)
        ):
            raise _too_large(f"{field.name} is {one_line(f'{value:,}', 40)}", held)


@contextlib.contextmanager
def bounded(held: Held) -> Iterator[None]:
    """Makes the start of a net of more layers than these weights can be of a `UserError`."""
    with nets.at_most(LAYERS_PER_ARRAY * len(held.shapes) + MORE):
        try:
            yield
        except nets.TooManyLayers as error:
            raise _too_large(str(error), held) from None


def _too_large(what: str, held: Held) -> UserError:
    return UserError(
        f"{held.folder}: the settings ask for a larger net than the weights are of: {what}, and they "
        f"are {len(held.shapes):,} arrays of at most {held.largest:,} numbers."
    )
