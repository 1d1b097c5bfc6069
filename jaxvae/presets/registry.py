"""Presets by name. Those of the library are imported at first use: a run needs one of them."""

import importlib
from collections.abc import Iterator, Mapping, MutableMapping

from jaxvae.presets.config import Options, Preset


class Registry(MutableMapping[str, Preset]):
    """A dictionary of presets, some of which are still to be imported: all that asks for names alone
    imports none.

    Args:
        modules: preset -> the module whose `PRESET` it is.
    """

    def __init__(self, modules: Mapping[str, str]):
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

    def name_of(self, options: type[Options]) -> str:
        """Returns the name of the preset of these options; raises `StopIteration` where none has them.

        Those that are imported are looked at first, as is the one that made them.
        """
        imported_first = sorted(self, key=lambda name: isinstance(self._found[name], str))
        return next(name for name in imported_first if self[name].options is options)
