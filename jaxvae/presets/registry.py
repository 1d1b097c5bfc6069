"""Presets by name. Those of the library are imported at first use: a run needs one of them."""

import importlib
import sys
from collections.abc import Iterator, Mapping, MutableMapping

from jaxvae.presets.config import Options, Preset


class Registry(MutableMapping[str, Preset]):
    """Presets by name, some of which are still to be imported: all that asks for names alone imports
    none. More can be added.

    Args:
        modules: name -> the preset, or the module whose `PRESET` it is.
    """

    def __init__(self, modules: Mapping[str, str | Preset]):
        self._found: dict[str, Preset | str] = dict(modules)

    def __getitem__(self, name: str) -> Preset:
        found = self._found[name]
        if isinstance(found, str):
            found = self._found[name] = importlib.import_module(found).PRESET
        return found

    def __setitem__(self, name: str, preset: Preset) -> None:
        self._found[name] = preset

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __repr__(self) -> str:
        return f"Registry({', '.join(self)})"

    def copy(self) -> "Registry":
        """Returns another one of the same presets."""
        return Registry(self._found)

    __copy__ = copy

    def name_of(self, options: type[Options]) -> str:
        """Returns the name of the first preset of these options, of those whose modules are imported
        before the others; raises `StopIteration` where none has them."""

        def is_to_import(name: str) -> bool:
            found = self._found[name]
            return isinstance(found, str) and found not in sys.modules

        imported_first = sorted(self, key=is_to_import)  # each part in its order
        return next(name for name in imported_first if self[name].options is options)
