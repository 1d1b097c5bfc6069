"""What our numbers say of what the papers claim, one sentence for each claim.

A claim is of two cells, one of which is below the other (`claims` of `expected.json`), or that a
published number is reproduced. One by a protocol under which the paper has no number of that
metric is a question of ours about the paper's method, and stands apart.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.joined import Folder
from jaxvae import table
from jaxvae.table import Row

FAR = 3.0  # of the paper's standard deviations, for one or two seeds of ours

# Verdicts: three seeds or more against a claim, for it, or neither; one or two seeds against it, for
# it; no seed.
DEAD, HOLDS, OPEN, AGAINST, SO_FAR, EMPTY = range(6)


class Verdict(NamedTuple):
    """What our numbers say of a claim."""

    kind: int
    sentence: str
    theirs: bool = True  # by a protocol under which the paper has a number of that metric


TITLES = {  # in the order of the page, for claims by the papers' protocols; by ours
    DEAD: ("## Claims that did not survive", "### They did not survive"),
    AGAINST: (
        "### Against which one or two seeds speak",
        "### One or two seeds speak against them",
    ),
    HOLDS: ("### They hold", "### They hold"),
    SO_FAR: ("### One or two seeds speak for them", "### One or two seeds speak for them"),
    OPEN: 2 * ("### Undecided: within two standard deviations, or not finite",),
}
OURS = """\
## Claims under protocols of ours

What the papers say, asked by a metric or under a schedule that is not theirs: it tells of the method, not of the number
in print."""


def claims(folders: Sequence[Folder]) -> tuple[list[str], list[str]]:
    """Returns the parts on claims, each in one sentence: for the top, on those that did not survive
    under the papers' protocols, and on those that were asked under ours; and on all others."""
    found = [v for f in folders for v in [*of_claims(f), *of_rows(f)]]

    def listed(theirs: bool, *kinds: int) -> list[str]:
        parts = []
        for kind in kinds:
            lines = [f"- {v.sentence}" for v in found if (v.kind, v.theirs) == (kind, theirs)]
            parts += [TITLES[kind][not theirs], "\n".join(lines)] if lines else []
        return parts

    def unknown(theirs: bool) -> list[str]:
        n = sum((v.kind, v.theirs) == (EMPTY, theirs) for v in found)
        return [f"Of {n} more nothing is known, as a cell of theirs is not run."] if n else []

    ours = [*listed(False, *TITLES), *unknown(False)]
    rest = [*listed(True, HOLDS, SO_FAR, OPEN), *unknown(True)]
    top = listed(True, DEAD, AGAINST) + ([OURS, *ours] if ours else [])
    return top, (["## Other claims", *rest] if rest else [])


def of_claims(folder: Folder) -> list[Verdict]:
    """Returns the verdicts on what a paper says of two cells, that one is below the other."""
    found = []
    published = {(e["metric"], e["protocol"]) for e in folder.expected["cells"]}
    for claim in folder.expected.get("claims", ()):
        at = claim["metric"], claim["protocol"]
        theirs = at in published
        low, high = folder.row(claim["cell"], *at), folder.row(claim["below"], *at)
        if not (low and high and low.n and high.n):
            found.append(Verdict(EMPTY, claim["claim"], theirs))
            continue
        gap, n = (low.mean or 0.0) - (high.mean or 0.0), min(low.n, high.n)
        spread = math.hypot(low.sd or 0.0, high.sd or 0.0)
        far = abs(gap) > 2 * spread
        if n >= 3:
            kind = OPEN if not far else DEAD if gap >= 0 else HOLDS
        else:
            kind = AGAINST if gap >= 0 else SO_FAR
        by = f", {abs(gap) / spread:.1f} standard deviations" if n > 1 and spread else ""
        said = f"{_figures(abs(gap))} {'above' if gap >= 0 else 'below'}{by}"
        if not math.isfinite(gap):
            lost = not math.isfinite(low.mean or 0.0)
            kind, said = (DEAD if n >= 3 else AGAINST) if lost else OPEN, "not finite"
        found.append(
            Verdict(
                kind,
                f"{folder.name}: {claim['claim']}. By {claim['metric']} ({claim['protocol']}) "
                f"`{low.cell}` is at {_ours(low)}, `{high.cell}` at {_ours(high)}: {said}.",
                theirs,
            )
        )
    return found


def of_rows(folder: Folder) -> list[Verdict]:
    """Returns the verdicts on published numbers that ours differ from, and, of one or two seeds, on
    those that are far off."""
    found = []
    spreads = {
        (e["cell"], e["metric"], e["protocol"]): e.get("sd", e.get("tolerance", 0.0))
        for e in folder.expected["cells"]
    }
    for row in folder.rows:
        if row.paper is None or row.difference is None:
            continue
        theirs = spreads[row[:3]]
        if row.status == "differs":
            spread, kind, whose = math.hypot(row.sd or 0.0, theirs), DEAD, "standard deviations"
        elif row.status == "n < 3" and theirs and abs(row.difference) > FAR * theirs:
            whose = "of the paper's standard deviations" if row.paper_sd else "tolerances"
            spread, kind = theirs, AGAINST
        else:
            continue
        far = math.isfinite(row.difference) and spread
        by = f", {abs(row.difference) / spread:.1f} {whose} off" if far else ""
        why = f": {row.reason}" if row.reason else ""
        published = f"{row.paper}" + (f" ± {row.paper_sd}" if row.paper_sd is not None else "")
        found.append(
            Verdict(
                kind,
                f"{folder.name}: `{row.cell}` was published at {published} ({row.metric}, "
                f"{row.protocol}) and is at {_ours(row)}{by}{why}.",
            )
        )
    return found


def _figures(value: float) -> str:
    """Returns three figures of a number, without an exponent where it can be read without one."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ours(row: Row) -> str:
    return table.ours(row).replace("+-", "±").replace(" (", " (n = ")
