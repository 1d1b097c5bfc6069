"""What `import jaxvae` gives: each name at first use, the same that type checkers see."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import jaxvae

TREE = ast.parse(Path(jaxvae.__file__).read_text())


def imported_for_type_checkers():
    """Returns name -> module that it is imported from, of the block under `TYPE_CHECKING`."""
    [block] = [node for node in TREE.body if isinstance(node, ast.If)]
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_type_checkers_see_the_names_that_are_imported_at_first_use():
    names = {
        name: f"jaxvae.{jaxvae._NAMES[name]}" if name in jaxvae._NAMES else "jaxvae"
        for name in jaxvae.__all__
    }
    assert imported_for_type_checkers() == names
    assert set(jaxvae._NAMES) <= set(jaxvae.__all__)


def test_every_name_is_what_its_module_has():
    for name, module in imported_for_type_checkers().items():
        if module == "jaxvae":
            assert getattr(jaxvae, name) is importlib.import_module(f"jaxvae.{name}")
        else:
            assert getattr(jaxvae, name) is getattr(importlib.import_module(module), name)


def test_the_package_alone_imports_no_jax():
    code = "import sys, jaxvae; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
