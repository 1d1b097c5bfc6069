"""Presets by name. Those of the library are imported at first use: a run needs one of them."""

import importlib
import sys
from collections import UserDict
from typing import Any

from jaxvae.presets.config import Options, Preset


class Registry(UserDict[str, Any]):
    """Presets by name, made of a dictionary that has the preset of each or the module whose `PRESET` it is:
    what asks for names alone imports none."""

    def __getitem__(self, name: str) -> Preset:
        found = self.data[name]
        if isinstance(found, str):
            found = self.data[name] = importlib.import_module(found).PRESET
        return found

    def name_of(self, options: type[Options]) -> str:
        """Returns the name of the first preset of these options, of those whose modules are imported
        before the others; raises `StopIteration` where none has them."""

        def is_to_import(name: str) -> bool:
            found = self.data[name]
            return isinstance(found, str) and found not in sys.modules

        imported_first = sorted(self, key=is_to_import)  # each part in its order
        return next(name for name in imported_first if self[name].options is options)
