"""python -m experiments: how many published numbers have ours beside them, by experiment.

python -m experiments --list [--cell C]...               every cell: state, cost here, what it lacks
python -m experiments --hours H [--cell C]... [--jobs N] runs what fits, the most telling first
python -m experiments --page                             writes experiments/README.md and the tables of all pages anew

A cell is named EXPERIMENT/CELL here, such as 'soft_intro_2d/rings/vae', or by a glob.
"""

import difflib
import fnmatch
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import page, plan, processes, runner, schedule
from experiments.joined import count
from experiments.needs import duration
from experiments.plan import SEEDS, Candidate
from experiments.runner import Option
from jaxvae import table
from jaxvae.errors import UserError

FOLDER = Path(__file__).parent
HEAD = ("experiment", "rows", "run", "with 3 seeds or more", "reproduced", "differ")
LISTED = ("cell", "seeds", "expected", "from", "memory", "lacks here")
OPTIONS = (
    Option("list", False, bool, "every cell: what is there, what a seed costs here, what it lacks"),
    Option("hours", None, float, "run what fits into so many hours, then stop"),
    Option("cell", None, str, "only EXPERIMENT/CELL, or a glob of it", repeatable=True),
    Option("jobs", 1, int, "on a CPU: cells side by side, each with its share of the cores"),
    Option(
        "page",
        False,
        bool,
        "write experiments/README.md and the tables of all pages anew, and print what changed",
    ),
)


def counts(root: Path | None = None) -> dict[str, tuple[int, ...]]:
    """Returns for each experiment the numbers below the columns of `HEAD`."""
    found = {}
    root = FOLDER if root is None else root
    for folder in sorted(path.parent for path in root.glob("*/expected.json")):
        each = count(table.join(*table.load(folder)))
        known = each.reproduced, each.differ
        found[folder.name] = each.rows, each.run, sum(known), *known
    return found


def print_counts(root: Path) -> None:
    """Prints the counts in Markdown."""
    found = counts(root)
    found["all"] = tuple(map(sum, zip(*found.values(), strict=True)))
    print(f"| {' | '.join(HEAD)} |\n| --- |{' ---: |' * (len(HEAD) - 1)}")
    for name, numbers in found.items():
        linked = name if name == "all" else f"[{name}](experiments/{name}/README.md)"
        print(f"| {linked} | {' | '.join(map(str, numbers))} |")


def chosen(candidates: Sequence[Candidate], patterns: Sequence[str] | None) -> list[Candidate]:
    """Returns the candidates that any of the names or globs asks for; all for none.

    Raises:
        UserError: for a name or glob that fits no cell.
    """
    names = {c: f"{c.experiment}/{c.cell}" for c in candidates}
    for pattern in patterns or ():
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names.values()):
            near = difflib.get_close_matches(pattern, dict.fromkeys(names.values()), 1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"unknown cell {pattern!r}.{meant} --list shows all of them.")
    return [
        c
        for c in candidates
        if not patterns or any(fnmatch.fnmatchcase(names[c], pattern) for pattern in patterns)
    ]


def print_list(candidates: Sequence[Candidate], device: str) -> None:
    """Prints a table for each experiment and its options."""
    print(f"One seed of each cell, on {device}.")
    for at in dict.fromkeys((c.experiment, c.words) for c in candidates):
        lines = [LISTED]
        for c in candidates:
            if (c.experiment, c.words) == at:
                expected = "" if c.seconds is None else f"about {duration(c.seconds)}"
                memory = "" if c.memory is None else f"{max(1, round(c.memory / 2**20)):,} MiB"
                lines.append((c.cell, state(c), expected, c.basis, memory, "; ".join(c.lacks)))
        print(f"\n{' '.join((at[0], *at[1]))}\n\n{table.grid(lines, (2, 4), False)}")
    print("\nmemory: parameters and optimiser alone.")


def state(c: Candidate) -> str:
    """Returns what there is of a cell: "1 of 3, seed 1 stopped"."""
    there = "done" if len(c.have) >= SEEDS else f"{len(c.have)} of {SEEDS}"
    stopped = sorted({*c.stopped, *c.ensemble_stopped})
    return there + (f", seed {', '.join(map(str, stopped))} stopped" if stopped else "")


@runner.command
def main(argv: Sequence[str] | None = None, root: Path | None = None) -> None:
    """Does what the command line asks for, of the experiments in `root`. A user's mistake is one
    line on stderr and exit code 2."""
    root = FOLDER if root is None else root
    about = "Counts the published numbers that have ours beside them; plans and runs the rest."
    args = runner.parse("experiments", about, OPTIONS, argv)
    commands = [args.list, args.hours is not None, args.page]
    if sum(commands) > 1:
        raise UserError("--list, --hours and --page are three commands: choose one.")
    if (args.cell or args.jobs != 1) and (args.page or not any(commands)):
        raise UserError("--cell and --jobs belong to --list and --hours.")
    if args.list:
        with processes.kept_to(processes.cores_of(args.jobs)[0]):
            device = runner.device()
        print_list(chosen(plan.survey(root, device, args.jobs, True), args.cell), device)
    elif args.hours is not None:
        code = schedule.run(root, args.hours, args.jobs, lambda found: chosen(found, args.cell))
        # in a process of its own, as cells were: this one has never touched a device
        words = [sys.executable, "-m", "experiments.page", "--root", str(root)]
        done = subprocess.run(words, env=processes.environment(root), check=False)
        raise SystemExit(code or done.returncode)
    elif args.page:
        page.main(["--root", str(root)])
    else:
        print_counts(root)


if __name__ == "__main__":
    main()
