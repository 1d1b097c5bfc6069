"""The rooms of the package: imports go down, none goes round, each room says what it is for, and no
function is longer than a reader can hold, and names say what they hold."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [  # from the ground up; a room may import its own files and those of lower floors
    {"abilities", "errors"},
    {"paths"},
    {"host", "terminal", "types"},
    {"arithmetic", "parallel", "processes", "writers"},
    {"archives", "safetensors"},
    {"noise", "plots", "table"},
    {"charts", "distributions"},
    {"objectives"},
    {"data", "nets"},
    {"models"},
    {"metrics"},
    {"train"},
    {"testing"},
    {"presets"},
    {"cli"},
    {"__main__"},
]
ROOMS = ("cli", "data", "metrics", "models", "nets", "presets", "testing", "train")
# Imports inside functions are for start-up time alone: help must answer before JAX is loaded, and
# heavy packages that few need are loaded by who needs them.
STARTUP = {"cli/main.py", *(f"presets/{path.name}" for path in (ROOT / "jaxvae/presets").glob("*"))}
STARTUP |= {"data/prepare.py", "data/official.py"}  # builders load TensorFlow Datasets
STARTUP |= {"data/shapes.py"}  # which draws in JAX, and jaxvae.data starts without it


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted((ROOT / "jaxvae").rglob("*.py"))}


def imports_of(module):
    """Yields (imported module of ours, whether inside a function) of every import of a file."""
    tree = ast.parse(FILES[module].read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            while name and name not in FILES:
                name = name.rpartition(".")[0]
            if name and name != "jaxvae":
                yield name, id(node) in inside


def floor_of(module):
    room = module.split(".")[1] if "." in module else module
    return next((i for i, rooms in enumerate(FLOORS) if room in rooms), None)


def test_every_file_is_on_a_floor():
    assert [m for m in FILES if m != "jaxvae" and floor_of(m) is None] == []


@pytest.mark.parametrize("module", [module for module in FILES if module != "jaxvae"])
def test_imports_go_down(module):
    room = module.split(".")[1]
    for name, _ in imports_of(module):
        assert name.split(".")[1] == room or floor_of(name) < floor_of(module), name


def test_no_import_goes_round():
    edges = {m: {name for name, _ in imports_of(m) if name != m} for m in FILES}
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for name in sorted(edges[module]):
                visit(name)
            path.pop()
            done.add(module)

    for module in FILES:
        visit(module)


def test_imports_inside_functions_are_for_startup_alone():
    for module, path in FILES.items():
        if str(path.relative_to(ROOT / "jaxvae")) not in STARTUP and module != "jaxvae":
            assert [name for name, inside in imports_of(module) if inside] == [], module


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_says_what_it_is_for_and_exports_what_it_names(room):
    module = importlib.import_module(f"jaxvae.{room}")
    assert len(module.__doc__.split()) > 20
    files = {path.stem for path in (ROOT / "jaxvae" / room).glob("*.py")} - {"__init__"}
    assert files <= set(re.findall(r"\w+", module.__doc__))
    for name in getattr(module, "__all__", ()):
        assert hasattr(module, name), name


# ---- where each module is tested -----------------------------------------------------------------


def test_each_module_has_a_test_file_by_its_name():
    modules = (
        path.relative_to(ROOT / "jaxvae")
        for path in FILES.values()
        if path.stem not in ("__init__", "__main__")
    )
    files = {path: ROOT / "tests" / path.parent / f"test_{path.name}" for path in modules}
    assert [str(path) for path, file in files.items() if not file.is_file()] == []


def lines_of_code(function: ast.FunctionDef) -> int:
    """Returns the lines of a function, signature and all, without its docstring."""
    first = function.body[0]
    is_docstring = ast.get_docstring(function) is not None
    spoken = first.end_lineno - first.lineno + 1 if is_docstring else 0
    return function.end_lineno - function.lineno + 1 - spoken


@pytest.mark.parametrize("folder", ["jaxvae", "experiments"])
def test_no_function_has_more_than_80_lines_of_code(folder):
    long = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (lines := lines_of_code(node)) > 80:
                long[f"{path.relative_to(ROOT)}:{node.name}"] = lines
    assert not long


def public_functions(node: ast.AST):
    """Yields the functions and methods that a file offers, and those of its public classes."""
    for child in getattr(node, "body", []):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            if isinstance(child, ast.FunctionDef):
                yield child
            else:
                yield from public_functions(child)


@pytest.mark.parametrize("folder", ["jaxvae", "experiments", "benchmarks"])
def test_every_public_function_has_a_docstring(folder):
    silent = [
        f"{path.relative_to(ROOT)}:{function.name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for function in public_functions(ast.parse(path.read_text()))
        if not ast.get_docstring(function)
    ]
    assert silent == []


# ---- names ---------------------------------------------------------------------------------------

VAGUE = {"asked", "cut", "most", "own", "whole"}  # of anything


def names_of(tree: ast.AST):
    """Yields (line, name) of all that a file gives a name: variables, arguments, fields, functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


@pytest.mark.parametrize("folder", ["jaxvae", "experiments", "benchmarks", "docs", "tests"])
def test_names_say_what_they_hold(folder):
    vague = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in names_of(ast.parse(path.read_text()))
        if name.strip("_").lower() in VAGUE
    ]
    assert vague == []
