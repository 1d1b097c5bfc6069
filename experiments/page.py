"""python -m experiments.page: the page of every published number, `experiments/README.md`.

It joins what is written down with what has been measured, and types no number itself:

    <experiment>/expected.json   the published numbers that have a cell; beside them, optional,
                                 "claims": [{"claim": "...", "cell", "below": another cell, "metric",
                                 "protocol"}], what the paper says of two cells, and in an entry
                                 "empty": why no cell can be measured like it
    <experiment>/results/        ours
    published.json               the papers, the experiments of each, and the numbers without a cell
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import blocks, plan, runner
from experiments.claims import claims
from experiments.joined import Folder, count, read
from experiments.needs import duration, operations
from experiments.plan import Costs, Planned
from experiments.runner import Option
from jaxvae import table, writers
from jaxvae.errors import UserError
from jaxvae.table import Row

FILE, NUMBERS = "README.md", "published.json"
CPU = "any (cpu)"  # the device of what is empty: seconds are those of CPUs in the results
ALONE = "time alone"  # what is wanted where nothing else is
HEAD = """\
# Every published number, and ours

Of five papers: the tables, and the figures whose ends could be read. Written by `python -m experiments --page` from
`expected.json`, `published.json` and the result lines; edit those, not this page.

- **ours** is the mean over seeds ± their standard deviation (number of seeds). A footnote has device, precision, steps
  and on how many examples was measured; where seeds differ in that, it says which is which.
- **reproduced**: at least three seeds, the paper's mean lies within 2 sqrt(sd_ours² + sd_paper²) of ours, and ours spread at
  most five times as far as the paper's, where it says; else it **differs**. With fewer seeds nothing is claimed. A number under
  another protocol never counts for the paper's: it stands in a table of its own below.
- `python -m experiments --list` shows what every cell costs and lacks on your machine; `python -m experiments --hours 3`
  runs what fits, the most telling first, and writes this page anew.
"""


def text(root: Path) -> str:
    """Returns the page. Raises `UserError` for damaged files."""
    folders = read(root)
    path = root / NUMBERS
    papers = writers.read_json(path)["papers"] if path.exists() else []
    dead, others = claims(folders)
    parts = [HEAD.rstrip(), summary(folders, papers), *dead]
    told: set[str] = set()
    for paper in papers:
        mine = [f for f in folders if f.name in paper["experiments"]]
        told |= {f.name for f in mine}
        parts.append(f"## {paper['title']}")
        parts += [part for folder in mine for part in of_folder(folder)]
        parts += without_cells(paper, mine)
    for folder in folders:
        if folder.name not in told:
            parts += [f"## {folder.expected.get('title', folder.name)}", *of_folder(folder)]
    return "\n\n".join([*parts, *others, *empty(folders, plan.kept_costs(root))]) + "\n"


# ---- numbers -----------------------------------------------------------------------------------


def summary(folders: Sequence[Folder], papers: Sequence[Mapping[str, Any]]) -> str:
    """Returns the counts of each paper in Markdown."""
    head = ("paper", "rows", "without a cell", "run", "reproduced", "differ", "n < 3")
    lines = [head]
    for paper in papers:
        mine = [f for f in folders if f.name in paper["experiments"]]
        found, lacking = count([r for f in mine for r in f.rows]), len(cellless(paper, mine))
        numbers = (found.rows + lacking, lacking, *found[1:])
        lines.append((paper["title"], *map(str, numbers)))
    return table.grid(lines, range(1, len(head)), True)


def of_folder(folder: Folder) -> list[str]:
    """Returns the parts of an experiment: the published numbers with ours, then ours of the same
    cells and metrics under other protocols."""
    published = [r for r in folder.rows if r.paper is not None]
    numbers = {(r.cell, r.metric) for r in published}
    others = [r for r in folder.rows if r.paper is None and (r.cell, r.metric) in numbers]
    parts = [f"### [{folder.name}]({folder.name}/README.md): {folder.expected.get('source', '')}"]
    if published:
        parts.append(_rendered(published))
    if others:
        parts += ["Ours under other protocols, which do not compare with the paper's:"]
        parts.append(_rendered(others).replace("Not published, protocol", "Protocol"))
    return parts


def _rendered(rows: Sequence[Row]) -> str:
    legend = table.LEGEND.replace("+-", "±")
    return table.render(rows, markdown=True).removesuffix(legend).rstrip()


def cellless(paper: Mapping[str, Any], folders: Sequence[Folder]) -> list[Mapping[str, Any]]:
    """Returns the numbers of a paper that no experiment has: one with the same number for the same
    metric in `expected.json` has taken it over."""
    taken = {(e["metric"], e["value"], e.get("sd")) for f in folders for e in f.expected["cells"]}
    taken |= {
        (e["metric"], e["earlier"]["value"], e["earlier"].get("sd"))
        for f in folders
        for e in f.expected["cells"]
        if "earlier" in e
    }
    return [e for e in paper["numbers"] if (e["metric"], e["value"], e.get("sd")) not in taken]


def without_cells(paper: Mapping[str, Any], folders: Sequence[Folder]) -> list[str]:
    """Returns the part of a paper's numbers that have no cell, those of one row side by side."""
    found = cellless(paper, folders)
    if not found:
        return [paper["nothing"]] if "nothing" in paper and not folders else []
    parts = ["### Without a cell"]
    for source, why in dict.fromkeys((e["source"], e["why"]) for e in found):
        here = [e for e in found if (e["source"], e["why"]) == (source, why)]
        columns = list(dict.fromkeys(e["of"] for e in here))
        lines = [("", *columns)]
        for name in dict.fromkeys(e["name"] for e in here):
            values = {e["of"]: _value(e) for e in here if e["name"] == name}
            lines.append((name, *(values.get(column, "") for column in columns)))
        metric = ", ".join(dict.fromkeys(e["metric"] for e in here))
        parts.append(f"{source}, {metric}. No cell yet: {why}.")
        parts.append(table.grid(lines, range(1, len(columns) + 1), True))
    return parts


def _value(entry: Mapping[str, Any]) -> str:
    return f"{entry['value']}" + (f" ± {entry['sd']}" if "sd" in entry else "")


# ---- what is empty -----------------------------------------------------------------------------


def empty(folders: Sequence[Folder], costs: Costs) -> list[str]:
    """Returns the part on published numbers that are not run: what they want, and what they would
    cost on a CPU."""
    groups: dict[tuple[str, str, str], list[tuple[Row, Planned | None]]] = {}
    for folder in folders:
        for row in folder.rows:
            if row.status == "not run":
                each = next((p for p in folder.planned if _measures(p, row)), None)
                said = (each.cell.needs.net, _wants(each)) if each else ("", _reason(folder, row))
                groups.setdefault((folder.name, *said), []).append((row, each))
    if not groups:
        return ["## What is empty, and why", "Nothing."]
    known = {
        p.key: plan.timings(p.cell.name, p.cell.needs.protocols, f.lines)
        for f in folders
        for p in f.planned
    }
    wanted = [p for found in groups.values() for _, p in found if p]
    every = [p for f in folders for p in f.planned]
    expected = plan.estimates(every, known, CPU, 1, costs, wanted)
    lines = [("experiment", "cells", "numbers", "wants", "one seed of one cell on a CPU", "work")]
    for (name, _, wants), found in groups.items():
        cells = list(dict.fromkeys(r.cell for r, _ in found))
        seconds = [s for _, p in found if p and (s := expected[p.key][0]) is not None]
        lacking = [p for _, p in found if p and wants != ALONE]
        works = [w for p in lacking if (w := costs.of(p))]
        named = cells[0] + (f" … {cells[-1]} ({len(cells)})" if len(cells) > 1 else "")
        longest = duration(max(seconds)) if seconds else ""
        work = ""
        if works:
            largest = max(works)
            held = f"state of {max(1, round(largest.memory / 2**20)):,} MiB"
            work = f"{operations(largest.flops)}, {held}"
        lines.append((name, named, f"{len(found)}", wants, longest, work))
    return [
        "## What is empty, and why",
        "The longest cell of each kind. Times are those that result lines have from CPUs, or follow "
        "from them by the number of operations; what Inception takes beside them is not counted.",
        table.grid(lines, (2,), True),
    ]


def _measures(planned: Planned, row: Row) -> bool:
    protocols = planned.cell.needs.protocols
    return planned.cell.name == row.cell and (not protocols or row.protocol in protocols)


def _wants(planned: Planned) -> str:
    said = planned.cell.needs
    data = [f"data {name}" for name in said.data]
    weights = [f"weights {name}" for name in said.weights]
    hardware = ["a GPU or TPU"] if said.accelerator else []
    return ", ".join([*hardware, *weights, *data]) or ALONE


def _reason(folder: Folder, row: Row) -> str:
    entry = next(
        e
        for e in folder.expected["cells"]
        if (e["cell"], e["metric"], e["protocol"]) == tuple(row[:3])
    )
    return entry.get("empty", "no cell measures it under this protocol")


# ---- writing -----------------------------------------------------------------------------------


def write(root: Path) -> list[str]:
    """Returns the lines of the page that changed ("- before", "+ now"), after writing it, and the work
    of nets that had not been counted (`plan.WORK`); and a line for each cell that cannot be built.

    Raises:
        UserError: for damaged files, and where the disk refuses.
    """
    planned, costs = [p for folder in read(root) for p in folder.planned], plan.kept_costs(root)
    plan.keep_costs(root, planned, costs)
    broken = [f"{p.key} {why}" for p in planned for why in costs.why_not(p)]
    now, path = text(root), root / FILE
    before = path.read_text() if path.exists() else ""
    if now != before:
        writers.write_bytes(path, now.encode())
    changes = difflib.unified_diff(before.splitlines(), now.splitlines(), lineterm="", n=0)
    changed = [line for line in changes if not line.startswith(("---", "+++", "@@"))]
    return [*changed, *broken]


OPTIONS = (Option("root", str(plan.ROOT), str, "folder of the experiments"),)


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page, fills the tables of the other READMEs (`blocks`), and prints what changed. A
    user's mistake is one line on stderr and exit code 2."""
    about = "Writes the page of every published number and the tables of all READMEs anew."
    args = runner.parse("experiments.page", about, OPTIONS, argv)
    root = Path(args.root)
    print("\n".join(write(root)) or "the page is as it was.", flush=True)
    found = blocks.refill(root)
    for path in found.changed:
        print(f"{path.relative_to(root.parent)}: its tables are new.", flush=True)
    if found.failed:
        raise UserError("; ".join(found.failed))


if __name__ == "__main__":
    main()
