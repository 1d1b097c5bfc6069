"""Experiments, each with its published numbers and ours joined, and its cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import plan
from experiments.plan import Planned
from jaxvae import table
from jaxvae.table import Row


class Folder(NamedTuple):
    """An experiment, as the page needs it."""

    name: str
    expected: dict[str, Any]
    rows: list[Row]
    planned: list[Planned]
    lines: list[dict[str, Any]]

    def row(self, cell: str, metric: str, protocol: str) -> Row | None:
        """Returns our row of a number, or None where nothing was measured or published."""
        key = cell, metric, protocol
        return next((r for r in self.rows if r[:3] == key), None)


def read(root: Path) -> list[Folder]:
    """Returns the experiments of a folder. Raises `UserError` for damaged files."""
    found = []
    for name in plan.names(root):
        lines, expected = table.load(root / name)
        rows, planned = table.join(lines, expected), plan.cells_of(root, name)
        found.append(Folder(name, expected, rows, planned, lines))
    return found


class Counts(NamedTuple):
    """How many published numbers there are, and what became of them."""

    rows: int
    run: int
    reproduced: int
    differ: int
    few: int  # one or two seeds


def count(rows: Sequence[Row]) -> Counts:
    """Returns the counts of the rows that have a published number."""
    statuses = [row.status for row in rows if row.paper is not None]
    known = [statuses.count(status) for status in ("reproduced", "differs", "n < 3")]
    return Counts(len(statuses), len(statuses) - statuses.count("not run"), *known)
