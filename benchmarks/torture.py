"""The full run of `tests/torture`: hundreds of kills, requests to stop, damaged files and nonsensical
commands, and two half hours of training that may not grow.

    python -m benchmarks.torture [--only NAME]... [--table]

Each part is `python -m torture` (or `torture.soak`) in tests/ with a number of rounds, and keeps its
counts in results/torture.NAME.json, with what was lost. Where a part loses something the others go
on, and the exit code is 1.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from experiments.runner import command
from jaxvae.table import grid

ROOT = Path(__file__).parents[1]
LONG = "600"  # minutes, which no part reaches: rounds end it
FILES = ("npz", "images", "idx", "array_record", "tar", "weights", "config")


def kinds(*names: str, rounds: int) -> list[str]:
    """Returns the words of a part that has so many rounds of each kind."""
    each = [word for name in names for word in ("--kind", name)]
    return ["torture", *each, "--rounds", str(rounds), "--minutes", LONG]


PARTS = {
    "kill": kinds("kill", rounds=36),
    "sigterm": kinds("sigterm", rounds=8),
    "disturbed": kinds("full_disk", "other_devices", "two_writers", "one_of_two", rounds=9),
    "checkpoint": kinds("checkpoint", rounds=10),
    "files": kinds(*FILES, rounds=15),
    "command_line": kinds("command_line", rounds=10),
    "soak": ["torture.soak", "--minutes", "30", "--save-every", "1000"],
    "soak_often": ["torture.soak", "--minutes", "30", "--save-every", "100"],
}
SAID = {
    "kill": "kill -9 at a random moment of a run, which then goes on to the same bits",
    "sigterm": "SIGTERM at a random moment, the same",
    "full_disk": "a disk without room for the run, then with room",
    "other_devices": "a run, not of an ensemble, goes on with another number of devices",
    "two_writers": "two processes want the same folder",
    "one_of_two": "one of two processes is killed, asked to stop or finds its disk full; one alone goes on",
    "checkpoint": "a file of a checkpoint with flipped, cut or strange bytes",
    "config": "a config.json of that kind, or with other values",
    "command_line": "a command line that hypothesis makes up",
}


def kept(name: str) -> dict[str, Any] | None:
    """Returns the counts of a part, or None."""
    path = measure.RESULTS / f"torture.{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def soaked(name: str) -> str:
    """Returns what a soak found, as a sentence, or ""."""
    found = kept(name)
    if found is None:
        return ""
    early, late = found["early"], found["late"]
    return (
        f"Training from images on a disk for {found['seconds'] / 60:.0f} minutes, a checkpoint "
        f"every {found['save_every']} steps: "
        f"{found['steps']:,} steps, {found['evaluations']:,} evaluations: memory "
        f"{early['memory'] / 2**20:.1f} MiB in the second sixth of the time, "
        f"{late['memory'] / 2**20:.1f} MiB in the last; open files {early['files']:.1f}, "
        f"{late['files']:.1f}; threads {early['threads']:.1f}, {late['threads']:.1f}: "
        f"{'; '.join(found['lost']) or 'nothing grows'}."
    )


def table() -> str:
    """Returns the kept counts as Markdown, then what the soaks found."""
    rows = []
    for name in PARTS:
        for kind, found in ((kept(name) or {}).get("kinds") or {}).items():
            outcomes = ", ".join(f"{n} {what}" for what, n in found["outcomes"].items())
            what = SAID.get(kind, f"a damaged file: {kind}")
            rows.append((what, *(f"{found[c]:,}" for c in ("tries", "survived", "lost")), outcomes))
    head = ("mishap", "tries", "survived", "lost", "what came of them")
    parts = [grid([head, *rows], (1, 2, 3), True) if rows else measure.NOTHING]
    parts += filter(None, map(soaked, (name for name in PARTS if name.startswith("soak"))))
    return "\n\n".join(parts)


def run(name: str) -> str:
    """Runs a part; returns what went wrong, or ""."""
    results = measure.RESULTS / f"torture.{name}.json"
    words = [sys.executable, "-m", *PARTS[name], "--results", str(results)]
    path = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    print(f"\n{name}", flush=True)
    results.unlink(missing_ok=True)  # what an earlier run counted is not of this one
    done = subprocess.run(words, cwd=ROOT / "tests", env=env, check=False)
    if not results.is_file():
        return f"{name} ends with {done.returncode} and has no counts"
    return f"{name} has lost something" if done.returncode else ""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the kept counts as Markdown")
    parser.add_argument("--only", action="append", metavar="NAME", help=", ".join(PARTS))
    args = parser.parse_args(argv)
    if args.table:
        print(table())
        return
    wrong = [said for said in map(run, measure.chosen("part", args.only, PARTS)) if said]
    print(f"\n{table()}")
    for said in wrong:
        print(said, file=sys.stderr)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
