"""All benchmarks by one command."""

import types
from pathlib import Path

import pytest

from benchmarks import __main__ as every
from benchmarks import overview
from experiments import blocks


def test_every_module_that_measures_is_run():
    folder = Path(every.__file__).parent
    shared = {"__init__", "__main__", "contest", "measure", "overview"}
    there = {path.stem for path in folder.glob("*.py")} - shared
    assert set(every.NAMES) == there - {"tpu", "torture"}  # hours, and other environments
    assert set(overview.CONTESTS) < set(every.NAMES)


def test_the_help_says_what_takes_hours_and_is_not_run(capsys):
    with pytest.raises(SystemExit) as end:
        every.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and all(name in said for name in every.NAMES)
    assert "`python -m benchmarks.torture`" in said and "`make tpu` and `make cuda`" in said


def test_one_that_fails_leaves_the_others_and_is_said(monkeypatch, capsys):
    ran, pages = [], []

    def run(words, **_):
        ran.append(words[-1])
        return types.SimpleNamespace(returncode=int(words[-1] == "benchmarks.ar1"))

    def refill(root, paths):
        pages.extend(path.relative_to(root.parent).as_posix() for path in paths)
        return blocks.Refilled([], [])

    monkeypatch.setattr(every.subprocess, "run", run)
    monkeypatch.setattr(every.blocks, "refill", refill)
    with pytest.raises(SystemExit) as end:
        every.main(["--only", "ar1", "--only", "start"])
    assert end.value.code == 1 and ran == ["benchmarks.ar1", "benchmarks.start"]
    assert pages == ["README.md", "benchmarks/README.md"]
    assert "ar1 failed: its last result stays." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        every.main(["--only", "fidd"])
    assert "unknown benchmark 'fidd'. Did you mean 'fid'?" in capsys.readouterr().err
