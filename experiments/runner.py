"""Runs the cells of an experiment, keeps one line per number, and prints the table.

An experiment is a folder `experiments/<name>` with `expected.json` (see `jaxvae.table`) and a
`__main__.py` that ends in `runner.main(Path(__file__).parent, cells)`. Then

    python -m experiments.<name> [--cell C]... [--seeds A:B] [--smoke] [--table] [--markdown]

runs the cells, writes `results/<cell>.jsonl` ("/" in a cell's name becomes "."), and prints ours
beside the paper's. A smoke run writes to `smoke/` and compares nothing: its numbers are those of a
tiny run.
"""

import argparse
import fnmatch
import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

from jaxvae import errors, host, table, writers
from jaxvae.errors import UserError

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


class Option(NamedTuple):
    """An option of one experiment's own, which its cells depend on: `--name VALUE`."""

    name: str
    default: Any
    kind: Callable[[str], Any]
    help: str


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
    try:
        _main(Path(folder), cells, argv, options)
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _main(folder: Path, cells, argv: Sequence[str] | None, options: Sequence[Option]) -> None:
    args = _parse(folder, argv, options)
    own = {option.name: getattr(args, option.name) for option in options}
    words = "".join(
        f" --{o.name} {shlex.quote(str(own[o.name]))}" for o in options if own[o.name] != o.default
    )
    cells = cells(**own) if callable(cells) else cells
    chosen, seeds = select(cells, args.cell), parse_seeds(args.seeds)
    target = folder / ("smoke" if args.smoke else "results")
    if not args.table:
        table.join(*table.load(folder))  # a broken file is found before the run, not after it
        writers.make_folder(target)
        for cell in chosen:
            cell.check(args.smoke)
        code = {
            "commit": commit(folder),
            "versions": versions(),
        }  # as imported: files may change during the run
        for seed in seeds:
            for cell in chosen:
                run(folder, cell, seed, code, smoke=args.smoke, words=words)
    results, expected = table.load(folder, target.name)
    if args.smoke:
        expected = {"title": "Smoke run: tiny, not comparable with any paper", "cells": []}
    title = " - ".join(expected[name] for name in ("title", "source") if expected.get(name))
    text = table.render(table.join(results, expected), markdown=args.markdown)
    print(f"{title}\n\n{text}" if title else text)


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
    seconds = round(time.perf_counter() - start, 3)
    facts = {
        **code,
        "device": device(),
        "seconds": seconds,
        "command": f"python -m experiments.{folder.name} --cell {cell.name} --seeds "
        f"{seed}:{seed + 1}" + (" --smoke" if smoke else "") + words,
    }
    lines = [
        {"cell": cell.name, "seed": seed, **measure._asdict(), **facts} for measure in measures
    ]
    lines = [
        table.check_result({**line, "value": float(line["value"])}, cell.name) for line in lines
    ]
    path = folder / ("smoke" if smoke else "results") / f"{cell.name.replace('/', '.')}.jsonl"
    for line in lines:
        writers.append(path, line)
        print(f"  {line['metric']} ({line['protocol']}) = {line['value']:.6g}", file=sys.stderr)
    cell.clear(seed, smoke)
    print(f"  {seconds:.1f} s", file=sys.stderr, flush=True)
    return lines


def select(cells: Sequence[Cell], patterns: Sequence[str] | None) -> list[Cell]:
    """Returns the cells that any of the names or globs asks for, in their own order; all for none.

    Raises:
        UserError: for a name or glob that fits no cell.
    """
    names = [cell.name for cell in cells]
    for pattern in patterns or ():
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise errors.unknown("cell", pattern, names)
    return [
        c
        for c in cells
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


def commit(folder: Path) -> str:
    """Returns the short commit of the repository around `folder`, or "unknown".

    "-dirty" is added where tracked files differ from it, other than results.
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
        "-dirty"
        if any(path and "results" not in PurePosixPath(path).parts for path in changed)
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


def _parse(
    folder: Path, argv: Sequence[str] | None, options: Sequence[Option] = ()
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{folder.name}",
        description="Runs the cells, keeps one line per number, and prints ours beside the "
        "paper's.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--cell",
        action="append",
        metavar="NAME",
        help="a cell, or a glob; repeatable (default: all)",
    )
    parser.add_argument(
        "--seeds", default="0:1", metavar="A:B", help="A up to but not B, or A alone (default: 0:1)"
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny run, kept apart in smoke/")
    parser.add_argument(
        "--table", action="store_true", help="only print the table of what has been run"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")

    for option in options:
        parser.add_argument(
            f"--{option.name}",
            type=option.kind,
            default=option.default,
            metavar=option.name.upper(),
            help=f"{option.help} (default: {option.default})",
        )

    def fail(message: str) -> NoReturn:
        raise UserError(f"{message}: see --help.")

    parser.error = fail
    args, rest = parser.parse_known_args(argv)
    if rest:
        known = (
            "--cell",
            "--seeds",
            "--smoke",
            "--table",
            "--markdown",
            "--help",
            *(f"--{option.name}" for option in options),
        )
        raise errors.unknown("argument", rest[0], known)
    return args
