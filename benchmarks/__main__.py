"""Every benchmark of this machine, one after the other, and one table of what is kept.

    make bench
    python -m benchmarks [--only NAME]... [--table]

Each has a process of its own, with its defaults. Of one that fails, as most do where the machine is not
quiet, the result from before stays, and the others go on. In the end the table is printed, and so are
the tables in README.md and benchmarks/README.md. `benchmarks.torture` and `benchmarks.tpu` take hours
and are not among them.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import measure, overview
from experiments import blocks
from experiments.runner import command

ROOT = Path(__file__).parents[1]
NAMES = tuple(overview.BENCHMARKS)
OTHERS = (
    "Not among them, as they take hours: `python -m benchmarks.torture` (mishaps), and `make tpu` and "
    "`make cuda` (what compilers make of every preset)."
)


def run(names: Iterable[str]) -> list[str]:
    """Runs benchmarks in turn; returns those that failed."""
    failed = []
    for name in names:
        print(f"\n{name}", flush=True)
        words = [sys.executable, "-m", f"benchmarks.{name}"]
        if subprocess.run(words, cwd=ROOT, check=False).returncode:
            failed.append(name)
    return failed


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=OTHERS, prog="python -m benchmarks"
    )
    parser.add_argument("--table", action="store_true", help="print the kept results as Markdown")
    parser.add_argument("--only", action="append", metavar="NAME", help=", ".join(NAMES))
    args = parser.parse_args(argv)
    if args.table:
        print(overview.table())
        return
    failed = run(measure.chosen("benchmark", args.only, NAMES))
    pages = [ROOT / "README.md", ROOT / "benchmarks" / "README.md"]
    refilled = blocks.refill(ROOT / "experiments", pages)
    print(f"\n{overview.table()}")
    for problem in [
        *(f"{name} failed: its last result stays." for name in failed),
        *refilled.failed,
    ]:
        print(problem, file=sys.stderr)
    raise SystemExit(1 if failed or refilled.failed else 0)


if __name__ == "__main__":
    main()
