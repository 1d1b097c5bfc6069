"""Presets by name, of which a run imports one."""

import copy
import subprocess
import sys

import pytest

from jaxvae import presets
from jaxvae.presets import PRESETS
from jaxvae.presets.config import Options
from jaxvae.presets.registry import Registry

SCRIPT = """
import sys
from jaxvae.presets import PRESETS

def imported():
    return [name for name in PRESETS if f"jaxvae.presets.{name}" in sys.modules]

assert "gan" in PRESETS and len(PRESETS) > 10 and imported() == []
config = PRESETS["gan"].options("run")
assert PRESETS.name_of(type(config)) == "gan"
print(*imported())
import jaxvae
print(jaxvae.presets.flow.__name__)
"""


def test_names_import_nothing_and_a_preset_imports_itself():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout.split() == ["gan", "jaxvae.presets.flow"], done.stderr


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_found_by_its_name_and_by_its_options(name):
    assert PRESETS[name] is getattr(presets, name).PRESET
    assert PRESETS.name_of(PRESETS[name].options) == name


def test_a_command_imports_its_preset_alone():
    script = (
        "import sys\nimport jaxvae.cli\nmain = sys.modules['jaxvae.cli.main']\n"
        "main._command(['train', 'flow', '--data', 'digits', '--workdir', 'x', "
        "'--compilation-cache', 'none'])\n"
        "from jaxvae.presets import PRESETS\n"
        "print(*[n for n in PRESETS if f'jaxvae.presets.{n}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["flow"], done.stderr


def test_names_do_not_hang_on_what_was_looked_up():
    both = Registry({"vae": "jaxvae.presets.vae", "mine": PRESETS["vae"]})
    assert both.name_of(PRESETS["vae"].options) == "vae"
    assert both["vae"] and both.name_of(PRESETS["vae"].options) == "vae"


def test_presets_can_be_added_and_removed():
    few = Registry({"vae": "jaxvae.presets.vae", "none": "jaxvae.presets.nowhere"})
    few["mine"] = PRESETS["gan"]
    assert list(few) == ["vae", "none", "mine"] and few["mine"] is PRESETS["gan"]
    assert few.name_of(PRESETS["gan"].options) == "mine"  # without the import of another
    other = copy.copy(few)
    del few["mine"]
    assert list(other) == ["vae", "none", "mine"]
    assert list(few | {"x": PRESETS["vae"]}) == ["vae", "none", "x"]
    assert "mine" not in few and len(few) == 2
    with pytest.raises(KeyError):
        few["mine"]
    with pytest.raises(ModuleNotFoundError):
        few["none"]
    del few["none"]
    with pytest.raises(StopIteration):
        few.name_of(Options)


def test_there_is_no_other_name():
    with pytest.raises(AttributeError, match=r"'jaxvae\.presets' has no attribute 'vea'"):
        presets.vea  # noqa: B018
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "mine", PRESETS["gan"])
        assert not hasattr(presets, "mine")  # which is no module
    assert {"PRESETS", "Preset", "vae", "cvae"} <= set(dir(presets))
    assert presets.Preset is type(PRESETS["vae"]) and presets.introspective.__name__
