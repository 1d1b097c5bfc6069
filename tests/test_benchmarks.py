"""All benchmarks by one command, and their one table."""

import json
import types
from pathlib import Path

import pytest

from benchmarks import __main__ as every
from benchmarks import measure
from experiments import blocks


def keep(folder, name, rates, ratios, **more):
    page = {
        "benchmark": name,
        "unit": "images/s",
        "batch_size": 7,
        "device": "A chip",
        "cores": 2,
        "platform": "cpu",
        "rates": {key: {"median": rate} for key, rate in rates.items()},
        "speed_ratio": dict.fromkeys(ratios, 9.9),
        **more,
    }
    (folder / f"{name}.cpu.json").write_text(json.dumps(page))


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    return tmp_path


def test_every_module_that_measures_is_run():
    folder = Path(every.__file__).parent
    shared = {"__init__", "__main__", "contest", "measure"}
    there = {path.stem for path in folder.glob("*.py")} - shared
    assert set(every.NAMES) == there - {"tpu", "torture"}  # hours, and other environments
    assert set(every.WHAT) < set(every.NAMES)


def test_the_table_has_what_was_measured_by_turns(results):
    steps = {"step": 300.0, "pytorch_eager": 150.0, "pytorch_compiled": 200.0}
    keep(results, "infogan", steps, ["pytorch_eager", "pytorch_compiled"], alone={})
    keep(results, "ensemble", {"one": 5.0, "pytorch_eager": 2.0}, ["pytorch_eager"], alone={})
    nets = {"extract/squeezenet/jaxvae": 30.0, "extract/squeezenet/torch": 40.0}
    keep(results, "fid", nets, ["squeezenet"], alone={}, batch_size={"squeezenet": 3})
    small = {"step": 8.0, "pytorch_eager": 8.0}
    keep(results, "soft_intro", small, ["pytorch_eager"], alone={}, shrink=4)
    keep(results, "step_time", {"step": 1.0, "pytorch_eager": 1.0}, ["pytorch_eager"])
    head, _, *rows, _, last = every.table().splitlines()
    assert head.count("|") == 8
    tails = [row.split("| images/s | ")[1] for row in rows]
    assert tails == [
        "300 | eager | 150 | 2.00 |",
        "300 | compiled | 200 | 1.50 |",
        "8.0 | eager | 8.0 | 1.00 |",
        "5.0 | eager | 2.0 | 2.50 |",
        "30.0 | eager | 40.0 | 0.75 |",
    ]
    assert "residual nets / 4, batch 7 |" in rows[2] and "squeezenet, batch 3 |" in rows[4]
    again = "In one process with PyTorch, and to be measured again: step_time on A chip, 2 cores."
    assert last == f"Medians. {again}"


def test_one_that_fails_leaves_the_others_and_is_said(results, monkeypatch, capsys):
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
