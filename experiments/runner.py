"""Runs the cells of an experiment, keeps one line per number, and prints the table.

An experiment is a folder `experiments/<name>` with

    README.md       what is claimed, what was run, every protocol
    setting.py      what the paper trained: constants, nets, optimiser
    cells.py        the cells of the table
    figures.py      pictures of what has been run, into figures/
    expected.json   the published numbers (see `jaxvae.table`)
    results/        ours, one JSON line per number
    __main__.py     ends in `runner.main(FOLDER, CELLS)`

and whatever else it needs. `python -m experiments` finds the folder by itself, and plans with what
each cell says it needs (`experiments.needs`); `cells.py` has the cells as `CELLS`, or, where they
depend on options, `cells(**options)` and the options worth running as `VARIANTS`. Then

    python -m experiments.<name> [--cell C]... [--seeds A:B] [--smoke] [--table] [--markdown]
    python -m experiments.<name>.figures

run the cells, write `results/<cell>.jsonl` ("/" in a cell's name becomes "."), print ours beside
the paper's, and draw. A smoke run writes to `smoke/` and compares nothing: its numbers are those of
a tiny run.
"""

import argparse
import fnmatch
import functools
import importlib.metadata
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

from experiments.needs import Needs
from jaxvae import errors, host, table, terminal, writers
from jaxvae.errors import UserError

WRITTEN = {"results", "figures"}  # folders that runs write into
PAGE = "README.md"  # whose tables are written after them
PACKAGES = ("jax", "jaxlib", "flax", "optax", "jaxvae")


class Measure(NamedTuple):
    """One number that a cell measured."""

    metric: str  # "test_loss", "fid", ...
    protocol: str  # how it was measured; never empty
    value: float
    n: int  # examples or samples behind it
    steps: int  # training steps
    precision: str  # compute dtype and matmul precision, e.g. "float32, highest"


class Cell(NamedTuple):
    """One cell of a table: a name such as "mnist/vanilla", and what measures its numbers."""

    name: str
    run: Callable[[int, bool], list[Measure]]  # (seed, smoke)
    clear: Callable[[int, bool], None] = lambda seed, smoke: (
        None
    )  # called once the numbers of (seed, smoke) are on the disk
    check: Callable[[bool], None] = lambda smoke: (
        None
    )  # raises `UserError` where it cannot run; before any cell runs
    needs: Needs = Needs()  # what is known of it before it runs


class Option(NamedTuple):
    """What a command may be told: `--name VALUE`, a switch where `kind` is bool, or a bare word."""

    name: str
    default: Any
    kind: Callable[[str], Any]
    help: str
    repeatable: bool = False  # the value is then a list
    word: bool = False  # without its name, and required


SMOKE = Option("smoke", False, bool, "a tiny run, kept apart in smoke/")
OPTIONS = (
    Option("cell", None, str, "a cell, or a glob; all cells by default", repeatable=True),
    Option("seeds", "0:1", str, "A:B is A up to but not B, A is A alone"),
    SMOKE,
    Option("table", False, bool, "only print the table of what has been run"),
    Option("markdown", False, bool, "print the table in Markdown"),
)


def command(function: Callable) -> Callable:
    """Returns `function`, the body of a command: a `UserError` is one line on stderr and exit code 2,
    as is a full disk behind stdout; where nobody reads stdout any more it is 1."""

    @functools.wraps(function)
    def run_command(*args, **kwargs):
        try:
            found = function(*args, **kwargs)
        except UserError as error:
            terminal.complain(str(error))
            raise SystemExit(2) from None
        except OSError as error:
            if not terminal.refuses(error):
                raise
            raise SystemExit(terminal.end(error)) from None
        if (refused := terminal.flush()) is not None:
            raise SystemExit(terminal.end(refused))
        return found

    return run_command


@command
def main(
    folder: Path,
    cells: Sequence[Cell] | Callable[..., Sequence[Cell]],
    argv: Sequence[str] | None = None,
    options: Sequence[Option] = (),
) -> None:
    """Runs what the command line asks for. A user's mistake is one line on stderr and exit code 2.

    Args:
        folder: the experiment's folder.
        cells: all its cells, in the order in which they run; with options, a function of them by
            name that returns the cells.
        argv: the arguments; by default those of the process.
        options: of this experiment alone; those that are not at their default go into each result's
            command.
    """
    folder = Path(folder)
    args = parse(
        f"experiments.{folder.name}",
        "Runs the cells, keeps one line per number, and prints ours beside the paper's.",
        (*OPTIONS, *options),
        argv,
    )
    values = {option.name: getattr(args, option.name) for option in options}
    words = "".join(
        f" --{o.name} {shlex.quote(str(values[o.name]))}"
        for o in options
        if values[o.name] != o.default
    )
    cells = cells(**values) if callable(cells) else cells
    chosen, seeds = select(cells, args.cell), parse_seeds(args.seeds)
    if not args.table:
        table.join(*table.load(folder))  # a broken file is found before the run, not after it
        writers.make_folder(target(folder, args.smoke))
        for cell in chosen:
            cell.check(args.smoke)
        code = code_facts(folder)
        for seed in seeds:
            for cell in chosen:
                run(folder, cell, seed, code, smoke=args.smoke, words=words)
    print_table(folder, smoke=args.smoke, markdown=args.markdown)


def run(
    folder: Path,
    cell: Cell,
    seed: int,
    code: dict[str, Any],
    *,
    smoke: bool = False,
    words: str = "",
) -> list[dict[str, Any]]:
    """Returns the result lines of one cell and seed, after appending them to its file; `code` goes
    into each.

    `words` are the experiment's own options, as they were given.
    """
    print(f"{cell.name}, seed {seed} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    measures = cell.run(seed, smoke)
    seconds = time.perf_counter() - start
    command_line = (
        f"python -m experiments.{folder.name} --cell {cell.name} --seeds {seed}:{seed + 1}"
    )
    command_line += (" --smoke" if smoke else "") + words
    lines = record(folder, cell.name, seed, measures, code, seconds, command_line, smoke=smoke)
    for line in lines:
        print(f"  {line['metric']} ({line['protocol']}) = {line['value']:.6g}", file=sys.stderr)
    cell.clear(seed, smoke)
    print(f"  {seconds:.1f} s", file=sys.stderr, flush=True)
    return lines


def record(
    folder: Path,
    cell: str,
    seed: int,
    measures: Sequence[Measure],
    code: dict[str, Any],
    seconds: float,
    command_line: str,
    *,
    smoke: bool = False,
) -> list[dict[str, Any]]:
    """Returns the result lines of what was measured of one cell and seed, after appending them to
    its file.

    Args:
        folder: the experiment's folder.
        code: `code_facts` of the code as it was imported.
        seconds: what training and measuring took.
        command_line: what measures the same again.

    Raises:
        UserError: for a measure that is no result, before anything is written.
    """
    facts = {**code, "device": device(), "seconds": round(seconds, 3), "command": command_line}
    lines = [
        table.check_result(
            {"cell": cell, "seed": seed, **m._asdict(), **facts} | {"value": float(m.value)}, cell
        )
        for m in measures
    ]
    for line in lines:
        writers.append(target(folder, smoke) / f"{cell.replace('/', '.')}.jsonl", line)
    return lines


def remove(folder: Path) -> None:
    """Removes a run's folder; moved away first, so that no half of it is ever gone on with.

    Raises:
        UserError: where the disk refuses.
    """
    old = folder.with_name(f".{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    with writers.disk("remove", folder):
        if folder.exists():
            folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def target(folder: Path, smoke: bool) -> Path:
    """Returns the folder of the result lines."""
    return folder / ("smoke" if smoke else "results")


def print_table(folder: Path, *, smoke: bool = False, markdown: bool = False) -> None:
    """Prints the published numbers and ours; of smoke runs, ours alone."""
    results, expected = table.load(folder, target(folder, smoke).name)
    if smoke:
        expected = {"title": "Smoke run: tiny, not comparable with any paper", "cells": []}
    title = " - ".join(expected[name] for name in ("title", "source") if expected.get(name))
    text = table.render(table.join(results, expected), markdown=markdown)
    print(f"{title}\n\n{text}" if title else text)


class Named(Protocol):
    """What can be asked for by name."""

    @property
    def name(self) -> str:
        """Its name."""
        ...


N = TypeVar("N", bound=Named)


def select(every: Sequence[N], patterns: Sequence[str] | None, what: str = "cell") -> list[N]:
    """Returns the cells that any of the names or globs asks for, in their own order; all for none.

    Args:
        every: cells, or what else has names.
        patterns: names and globs.
        what: what they are, in words.

    Raises:
        UserError: for a name or glob that fits none.
    """
    names = [each.name for each in every]
    for pattern in patterns or ():
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise errors.unknown(what, pattern, names)
    return [
        c
        for c in every
        if not patterns or any(fnmatch.fnmatchcase(c.name, pattern) for pattern in patterns)
    ]


def parse_seeds(text: str) -> range:
    """Returns the seeds of "A:B", A up to but not B, or the one of "A". Raises `UserError` for
    other text."""
    first, colon, last = text.partition(":")
    try:
        start = int(first)
        seeds = range(start, int(last) if colon else start + 1)
    except ValueError:
        raise UserError(
            f"--seeds must be A:B or A in whole numbers, such as 0:3, not {text!r}."
        ) from None
    if start < 0 or not seeds:
        raise UserError(
            f"--seeds {text} holds no seed: A:B runs from A >= 0 up to but not B, such as 0:3."
        )
    return seeds


def code_facts(folder: Path) -> dict[str, Any]:
    """Returns commit and versions; taken before a run, as files may change during it."""
    return {"commit": commit(folder), "versions": versions()}


def commit(folder: Path) -> str:
    """Returns the short commit of the repository around `folder`, or "unknown".

    "-dirty" is added where tracked files differ from it, other than results, pictures and any `PAGE`.
    """

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, text=True, check=True
        ).stdout

    try:
        name = git("rev-parse", "--short", "HEAD").strip()
        changed = git("diff", "--name-only", "-z", "HEAD").split("\0")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + (
        table.DIRTY
        if any(
            path and WRITTEN.isdisjoint((at := PurePosixPath(path)).parts) and at.name != PAGE
            for path in changed
        )
        else ""
    )


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device() -> str:
    """Returns the hardware and its platform: "NVIDIA H200 x1 (gpu)", or on a CPU "AMD EPYC, 1 of 2
    cores (cpu)"."""
    import jax

    devices = jax.devices()
    kind, where = devices[0].device_kind, devices[0].platform
    return (
        f"{host.processor()}, {host.cores()} (cpu)"
        if where == "cpu"
        else f"{kind} x{len(devices)} ({where})"
    )


def parse(
    name: str, description: str, options: Sequence[Option], argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Returns the values of the options of the command `python -m <name>`, by name.

    Raises:
        UserError: for an unknown option, with the nearest one, and a value of the wrong kind.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}", description=description, allow_abbrev=False
    )
    for option in options:
        kind: dict[str, Any] = {"type": option.kind, "metavar": option.name.upper()}
        if option.kind is bool:
            kind = {"action": "store_true"}
        elif option.repeatable:
            kind["action"] = "append"
        default = "" if option.default in (None, False) else f" (default: {option.default})"
        about = (option.help + ("; repeatable" if option.repeatable else "") + default).replace(
            "%", "%%"
        )
        if option.word:
            parser.add_argument(option.name, help=about, **kind)
        else:
            flag, dest = f"--{option.name}", option.name.replace("-", "_")
            parser.add_argument(flag, dest=dest, default=option.default, help=about, **kind)

    def fail(message: str) -> NoReturn:
        raise UserError(f"{message}: see --help.")

    parser.error = fail
    args, rest = parser.parse_known_args(argv)
    if rest:
        known = [f"--{option.name}" for option in options if not option.word]
        raise errors.unknown("argument", rest[0], (*known, "--help"))
    return args
