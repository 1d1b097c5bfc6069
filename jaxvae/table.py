"""Our numbers beside the paper's: `load` a folder, `join` them, `render` tables.

    experiments/<name>/expected.json        the published numbers, written by hand
    experiments/<name>/results/*.jsonl      ours, one JSON line per number, written by the runner

`expected.json` is one object:

    {"title":  "A Variational Auto-Encoder, test set",
     "source": "Kingma & Welling 2014, arXiv 1312.6114",
     "cells":  [{"cell": "mnist/vanilla", "metric": "test_loss", "protocol": "released",
                 "value": 107.73,
                 "source": "Figure 1 (decoded)",       where in the paper, or in its code
                 "sd": 0.4,                            optional: sd over the paper's runs
                 "n": 5,                               optional: how many runs
                 "tolerance": 1.0,                     optional: stands in for the sd, see below
                 "earlier": {"value": 110.2, "sd": 0.5, "source": "submission"},   optional: shown beside it, not compared
                 "reason": "...",                      optional: why ours differs, if it does
                 "empty": "...",                       optional: why no cell can be measured like it
                 "note": "..."}]}                      optional: anything else worth a footnote

**Status of a row.** With ours = mean and sample sd (n - 1 in the denominator) over seeds,

    reproduced       n >= 3, |ours - paper| <= 2 sqrt(sd_ours^2 + sd_paper^2), sd_ours <= 5 sd_paper
    differs          n >= 3, otherwise; with the recorded reason
    n < 3            one or two seeds: the numbers are shown, nothing is claimed
    not run          no seed
    no paper value   we measured what the paper does not print; shown in tables of their own

sd_paper is "sd" where the paper prints one. Where it prints one run only, "tolerance" is used *as
if it were that sd* (so the paper's number may lie 2 tolerances away even if our sd is 0), and a
footnote says so. With neither, sd_paper is 0. Our own sd is bounded where the paper prints one above
0: seeds that land anywhere are near any mean. (By an F-test, three seeds of the paper's own spread
are beyond that bound, of five, in 0.5 % of cases.)

A result line has at least "cell", "seed", "metric", "protocol" and "value". For each seed of a
(cell, metric, protocol) the newest line counts, which is the later one in its file.

Seeds that stand behind one number should come from one commit, device, precision, number of steps
and of examples. Where they do not, the number's footnote says which seed comes from which; it names
a commit, too, where the code differed from it ("-dirty").
"""

import math
import statistics
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxvae import writers
from jaxvae.errors import UserError

Record = dict[str, Any]

HEAD = ("cell", "metric", "protocol", "paper", "ours (seeds)", "difference", "status")
LEGEND = (
    "reproduced: n >= 3 seeds, |ours - paper| <= 2 sqrt(sd_ours^2 + sd_paper^2), "
    "and sd_ours <= 5 sd_paper where that is printed"
)
SPREAD = 5.0  # times the paper's sd, at most
DIRTY = "-dirty"  # ends the name of a commit from which the code differed
_RIGHT = (3, 4, 5)  # columns of numbers


class Row(NamedTuple):
    """One number of the paper and ours beside it. None: not printed there, or not run here."""

    cell: str
    metric: str
    protocol: str
    paper: float | None
    paper_sd: float | None  # as printed there; no tolerance
    mean: float | None  # ours, over seeds
    sd: float | None  # sample sd over seeds; None below two seeds
    n: int  # seeds
    difference: float | None  # ours - paper
    status: str  # "reproduced", "differs", "n < 3", "not run" or "no paper value"
    reason: str = ""  # why ours differs, where that is recorded
    source: str = ""  # where the paper's number stands, and what stands in for its sd
    setting: str = ""  # device, precision, steps and n of ours; commits where they need a word
    earlier: Record | None = None  # an earlier version's value, sd and source


def load(folder: writers.PathLike, results: str = "results") -> tuple[list[Record], Record]:
    """Returns `(results, expected)` of an experiment's folder; both may be empty.

    Raises:
        UserError: for a broken file, or a line that is no result.
    """
    folder = Path(folder)
    lines = []
    for path in sorted((folder / results).glob("*.jsonl")):
        for number, record in enumerate(writers.read(path), start=1):
            try:
                lines.append(check_result(record, str(path)))
            except UserError as error:
                raise UserError(f"{error} It is line {number} of that file.") from None
    path = folder / "expected.json"
    return lines, (writers.read_json(path) if path.exists() else {"cells": []})


def check_result(record: Record, where: str = "results") -> Record:
    """Returns `record` if it is a result, a number with its protocol; else raises `UserError`."""
    if record.get("seed") is None:
        raise UserError(
            f"{where}: there is no 'seed' in {_short(record)}. Add it, or remove the line."
        )
    return _check(record, where)


def join(results: Sequence[Record], expected: Mapping[str, Any]) -> list[Row]:
    """Returns the rows of the table: first the paper's, in its order, then what only we measured.

    Args:
        results: result lines, older ones first.
        expected: the content of `expected.json`.

    Raises:
        UserError: for a result without a protocol, a published number without cell, metric,
            protocol, value or source, or one that is there twice.
    """
    ours: dict[tuple[str, str, str], dict[Any, Record]] = {}
    for record in results:
        record = check_result(record)
        ours.setdefault(_key(record), {})[record["seed"]] = record  # the newest line of a seed
    paper: dict[tuple[str, str, str], Record] = {}
    for entry in _entries(expected):
        if _key(entry) in paper:
            raise UserError(f"expected.json has {' '.join(_key(entry))} twice: remove one.")
        paper[_key(entry)] = entry
    keys = dict.fromkeys([*paper, *ours])
    return [_row(key, list(ours.get(key, {}).values()), paper.get(key)) for key in keys]


def render(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """Returns the tables as text, aligned for a terminal (in ASCII) or in Markdown, with footnotes.

    First the published numbers with ours beside them, a line each. Then, for each protocol, what
    only we measured: a line for a cell, a column for a metric.

    The paper's numbers are shown as recorded; ours with at least as many decimals. Footnotes say
    where a published number stands; on what device, in what precision and for how many steps ours
    ran, and on how many examples it was measured; and what differs between its seeds.
    """
    if not rows:
        return "no results and no published numbers yet"
    notes: dict[str, int] = {}

    def mark(text: str) -> str:
        return f" [{notes.setdefault(text, len(notes) + 1)}]" if text else ""

    published = [_compared(row, row.paper, mark) for row in rows if row.paper is not None]
    parts = [grid((HEAD, *published), _RIGHT, markdown)] if published else []
    for protocol in dict.fromkeys(row.protocol for row in rows if row.paper is None):
        parts.append(f"Not published, protocol: {protocol}")
        lines = _by_metric(rows, protocol, mark)
        parts.append(grid(lines, range(1, len(lines[0])), markdown))
    foot = [f"{i}. {text}" if markdown else f"[{i}] {text}" for text, i in notes.items()]
    legend = [LEGEND] if published else []
    end = ["\n".join(foot), *legend] if markdown else ["\n".join([*foot, *legend])]
    text = "\n\n".join(part for part in [*parts, *end] if part)
    return text.replace("+-", "±") if markdown else text


def _compared(row: Row, paper: float, mark: Callable[[str], str]) -> tuple[str, ...]:
    """Returns the line of a published number."""
    status = row.status + (f": {row.reason}" if row.reason and row.status == "differs" else "")
    printed = _printed(paper, row.paper_sd) + mark(row.source)
    if row.earlier:
        before = _printed(row.earlier["value"], row.earlier.get("sd"))
        printed += f"; {before}{mark(row.earlier['source'])}"
    mean, difference = _ours(row)
    mean += mark(row.setting)
    return row.cell, row.metric, row.protocol, printed, mean, difference, status


def _by_metric(
    rows: Sequence[Row], protocol: str, mark: Callable[[str], str]
) -> list[tuple[str, ...]]:
    """Returns what only we measured under a protocol: a line for a cell, in the order of all rows,
    a column for a metric."""
    unpublished = (row for row in rows if row.paper is None and row.protocol == protocol)
    ours = {(row.cell, row.metric): row for row in unpublished}
    metrics = list(dict.fromkeys(metric for _, metric in ours))
    lines: list[tuple[str, ...]] = [("cell", *metrics)]
    for cell in dict.fromkeys(row.cell for row in rows):
        found = [ours.get((cell, metric)) for metric in metrics]
        if any(found):
            settings = {row.setting for row in found if row}
            one = len(settings) == 1  # then it stands behind the name, else behind each number
            line = [cell + (mark(*settings) if one else "")]
            for row in found:
                mean = _ours(row)[0] if row else ""
                line.append(mean + mark(row.setting) if row and not one else mean)
            lines.append(tuple(line))
    return lines


def grid(lines: Sequence[Sequence[str]], right: Container[int], markdown: bool) -> str:
    """Returns lines, a head first, as a table; the columns `right` are numbers."""
    if markdown:
        rule = ["---:" if i in right else "---" for i in range(len(lines[0]))]
        ruled = (lines[0], rule, *lines[1:])
        escaped = ([text.replace("|", "\\|") for text in line] for line in ruled)
        return "\n".join("| " + " | ".join(line) + " |" for line in escaped)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def aligned(line: Sequence[str]) -> str:
        cells = (
            f"{t:>{w}}" if i in right else f"{t:<{w}}"
            for i, (t, w) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(aligned, (lines[0], ["-" * w for w in widths], *lines[1:])))


def _printed(value: float, sd: float | None) -> str:
    return f"{value}" if sd is None else f"{value} +- {sd}"


def _entries(expected: Mapping[str, Any]) -> list[Record]:
    """Returns the published numbers, checked."""
    entries = expected.get("cells") if isinstance(expected, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError('expected.json must be an object with a list of objects "cells".')
    for entry in entries:
        texts, numbers = ("cell", "metric", "protocol", "source"), ("value", "sd", "tolerance")
        _check(entry, "expected.json", texts, numbers)
        spreads = [entry.get("sd", 0), entry.get("tolerance", 0)]
        bounded = all(0 <= spread < math.inf for spread in spreads)
        if not math.isfinite(entry["value"]) or not bounded:
            raise UserError(
                "expected.json: value must be finite, sd and tolerance at least 0, in "
                f"{_short(entry)}."
            )
        if "earlier" in entry:
            where = f"expected.json, earlier of {_short(entry)}"
            _check(entry["earlier"], where, ("source",), ("value", "sd"))
    return entries


def _check(
    record: Record,
    where: str,
    texts: tuple[str, ...] = ("cell", "metric", "protocol"),
    numbers: tuple[str, ...] = ("value",),
) -> Record:
    """Returns `record` if it has these texts, a value, and numbers where numbers belong; else
    raises `UserError`."""
    for name in (*texts, "value"):
        if record.get(name) in (None, ""):
            raise UserError(
                f"{where}: there is no {name!r} in {_short(record)}. Add it, or remove the line."
            )
    for names, kinds, what in ((texts, str, "text"), (numbers, (int, float), "a number")):
        for name in names:
            if name in record and (
                isinstance(record[name], bool) or not isinstance(record[name], kinds)
            ):
                raise UserError(
                    f"{where}: {name!r} must be {what}, not {record[name]!r}, in {_short(record)}."
                )
    return record


def _row(key: tuple[str, str, str], records: list[Record], entry: Record | None) -> Row:
    """Returns the row of a key: our newest record of each seed beside the paper's number."""
    values = [record["value"] for record in records]
    n = len(values)
    mean = sum(values) / n if values else None
    sd = _sd(values)
    paper, paper_sd = (entry["value"], entry.get("sd")) if entry else (None, None)
    difference = None if mean is None or paper is None else mean - paper
    reason, source = (entry.get("reason", ""), _source(entry)) if entry else ("", "")
    if mean is None:
        status = "not run"
    elif entry is None or difference is None:
        status = "no paper value"
    elif sd is None or n < 3:
        status = "n < 3"
    else:
        spread = entry.get("tolerance", 0.0) if paper_sd is None else paper_sd
        status = "reproduced" if abs(difference) <= 2 * math.hypot(sd, spread) else "differs"
        if paper_sd and sd > SPREAD * paper_sd:
            status = "differs"
            reason = reason or f"seeds spread {sd / paper_sd:.0f} times as far as the paper's"
    earlier, setting = entry.get("earlier") if entry else None, _setting(records)
    numbers = (paper, paper_sd, mean, sd, n, difference)
    return Row(*key, *numbers, status, reason, source, setting, earlier)


def _sd(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def _source(entry: Record) -> str:
    parts = [entry["source"]]
    if "n" in entry:
        parts.append(f"n = {entry['n']}")
    if "sd" not in entry and entry.get("tolerance"):
        parts.append(f"no sd printed, a tolerance of {entry['tolerance']:g} stands in for it")
    return "; ".join([*parts, *([entry["note"]] if entry.get("note") else [])])


def _setting(records: list[Record]) -> str:
    """Returns under what the seeds ran; where that differs between them, which ran under what."""
    runs = _by_seed(records, _conditions)
    text = "runs differ: " + _spelled(runs) if len(runs) > 1 else "".join(runs)
    commits = _by_seed(records, lambda record: record.get("commit") or "unknown")
    named = {_commit(name): seeds for name, seeds in commits.items()}
    if len(commits) > 1:
        return "; ".join(filter(None, [text, "commits differ: " + _spelled(named)]))
    if any(name.endswith(DIRTY) for name in commits):
        return "; ".join(filter(None, [text, f"commit {next(iter(named))}"]))
    return text


def _conditions(record: Record) -> str:
    steps = f"{record['steps']} steps" if record.get("steps") is not None else None
    n = f"measured on {record['n']}" if record.get("n") is not None else None
    return ", ".join(
        str(part) for part in (record.get("device"), record.get("precision"), steps, n) if part
    )


def _by_seed(records: list[Record], describe: Callable[[Record], str]) -> dict[str, list[Any]]:
    """Returns the seeds of each description."""
    seeds: dict[str, list[Any]] = {}
    for record in records:
        seeds.setdefault(describe(record), []).append(record["seed"])
    return seeds


def _spelled(seeds: Mapping[str, list[Any]]) -> str:
    return "; ".join(
        f"{text or 'not recorded'} (seed{'s' * (len(found) > 1)} {', '.join(map(str, found))})"
        for text, found in seeds.items()
    )


def _commit(name: str) -> str:
    """Returns the name of a commit, and what "-dirty" means."""
    clean = name.removesuffix(DIRTY)
    return name if clean == name else f"{clean} with changes that were not committed"


def ours(row: Row) -> str:
    """Returns our mean +- sd (n) as text, "" where nothing was run."""
    return _ours(row)[0]


def _ours(row: Row) -> tuple[str, str]:
    """Returns our mean +- sd (n), and the difference, as text."""
    if row.mean is None:
        return "", ""
    digits = 3 - _magnitude(row.mean)  # four figures of the mean,
    if row.sd:
        digits = min(max(digits, 1 - _magnitude(row.sd)), digits + 2)  # better two of the sd,
    text = f"{row.paper}"
    digits = max(
        digits, 0 if "e" in text else len(text.partition(".")[2])
    )  # and all of the paper's

    def show(value: float, sign: str = "") -> str:
        return f"{value:{sign}.{digits}f}" if digits <= 7 else f"{value:{sign}.3e}"

    spread = "" if row.sd is None else f" +- {show(row.sd)}"
    difference = "" if row.difference is None else show(row.difference, "+")
    return f"{show(row.mean)}{spread} ({row.n})", difference


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0


def _key(record: Record) -> tuple[str, str, str]:
    return record["cell"], record["metric"], record["protocol"]


def _short(record: Record) -> str:
    names = ("cell", "seed", "metric", "protocol", "value")
    text = str({name: record[name] for name in names if name in record})
    return text if len(text) <= 200 else text[:197] + "..."
