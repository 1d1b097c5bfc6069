"""Experiments of a few lines, whose cells take a moment: for tests of what plans and runs them."""

import itertools
import json

from jaxvae import writers

DEVICE = "A processor, 2 cores (cpu)"
_NUMBERS = itertools.count()

CELLS = """
from experiments.needs import Needs
from experiments.runner import Cell

CELLS = [Cell(name, None, needs=Needs(**needs)) for name, needs in {cells!r}.items()]
"""

MAIN = """
import json, os, signal, sys, time
from pathlib import Path

argv, here = sys.argv[1:], Path(__file__).parent
cell = argv[argv.index("--cell") + 1]
seed = int(argv[argv.index("--seeds") + 1].split(":")[0])


def note(what):
    cores = sorted(os.sched_getaffinity(0))
    found = {"cell": cell, "seed": seed, "what": what, "cores": cores, "time": time.monotonic()}
    with open(here / "notes", "a") as file:
        file.write(json.dumps(found | {"argv": argv}) + "\\n")


def save(*_):
    note("saved")
    sys.exit(75)


if cell.endswith("sleeps"):
    signal.signal(signal.SIGTERM, save)
note("start")
if cell.endswith("fails"):
    print("\\n".join(f"line {i}" for i in range(40)))
    sys.exit(3)
time.sleep(30 if cell.endswith("sleeps") else 0.3)
(here / "results").mkdir(exist_ok=True)
line = {"cell": cell, "seed": seed, "metric": "loss", "protocol": "p", "value": 1.0 + seed}
with open(here / "results" / "new.jsonl", "a") as file:
    file.write(json.dumps(line | {"steps": 10, "seconds": 0.3, "device": DEVICE}) + "\\n")
note("end")
"""


def make(folder, **experiments):
    """Returns the folder of experiments, whose name no other has: for each its cells, by name what
    `Needs` is given."""
    root = folder / f"fakes_{next(_NUMBERS)}"
    for name, cells in experiments.items():
        (root / name).mkdir(parents=True)
        (root / name / "cells.py").write_text(CELLS.format(cells=cells))
        (root / name / "__main__.py").write_text(f"DEVICE = {DEVICE!r}\n{MAIN}")
        writers.write_json(root / name / "expected.json", {"cells": []})
    return root


def result(root, name, cell, seed=0, **changes):
    """Adds a line to the results of an experiment."""
    line = {"cell": cell, "seed": seed, "metric": "loss", "protocol": "p", "value": 1.0 + seed}
    line |= {"steps": 10, "seconds": 0.5, "device": DEVICE, **changes}
    writers.append(root / name / "results" / "old.jsonl", line)


def publish(root, name, *cells, **more):
    """Gives an experiment published numbers."""
    entries = [
        {"cell": cell, "metric": "loss", "protocol": "p", "value": 1.0, "source": "Table 1"}
        for cell in cells
    ]
    writers.write_json(root / name / "expected.json", {"cells": entries, **more})


def notes(root, name):
    """Returns what the processes of an experiment have noted, in order."""
    path = root / name / "notes"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
