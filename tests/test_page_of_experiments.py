"""The page of every published number: what stands on it follows from the files."""

import json

import fake_experiments as fakes
import pytest

from experiments import claims, joined, page, plan
from jaxvae import table, writers
from jaxvae.errors import UserError

ROOT = plan.ROOT
PUBLISHED = json.loads((ROOT / page.NUMBERS).read_text())["papers"]


def test_the_page_is_what_its_command_writes():
    assert (ROOT / page.FILE).read_text() == page.text(ROOT), "run `python -m experiments --page`"


def test_every_published_number_is_on_the_page():
    """Each row of `expected.json` with its status, each number without a cell, once."""
    text = (ROOT / page.FILE).read_text()
    rows = 0
    for name in plan.names(ROOT):
        for row in table.join(*table.load(ROOT / name)):
            if row.paper is not None:
                start = f"| {row.cell} | {row.metric} | {row.protocol} | {row.paper}"
                [line] = [x for x in text.splitlines() if x.startswith(start)]
                assert f"| {row.status}" in line
                rows += 1
    taken = 0
    for paper in PUBLISHED:
        folders = [f for f in joined.read(ROOT) if f.name in paper["experiments"]]
        found = page.cellless(paper, folders)
        taken += len(paper["numbers"]) - len(found)
        for entry in found:
            lines = [x for x in text.splitlines() if x.startswith(f"| {entry['name']} |")]
            assert any(f"| {entry['value']} " in line for line in lines), entry
    counted = text.partition("| paper | rows |")[2].partition("## ")[0].splitlines()[2:]
    values = [int(line.split(" | ")[1]) for line in counted if line]
    numbers = sum(len(paper["numbers"]) for paper in PUBLISHED)
    assert sum(values) == rows + numbers - taken


def test_numbers_without_a_cell_are_whole():
    for paper in PUBLISHED:
        keys = [(e["source"], e["metric"], e["name"], e["of"]) for e in paper["numbers"]]
        assert len(keys) == len(set(keys))
        for entry in paper["numbers"]:
            assert set(entry) - {"sd"} == {"name", "of", "metric", "value", "source", "why"}
            assert entry["source"] and entry["why"]
            assert isinstance(entry["value"], int | float)


def test_what_gains_a_cell_is_no_longer_without_one(tmp_path):
    paper = {
        "numbers": [
            {"metric": "fid", "value": 4.6},
            {"metric": "fid", "value": 12.6, "sd": 1.5},
            {"metric": "fid", "value": 13.4, "sd": 1.3},
            {"metric": "lpips", "value": 4.6},
        ]
    }
    entry = {"cell": "x", "metric": "fid", "protocol": "p", "source": "Table 1"}
    earlier = {"value": 13.4, "sd": 1.3, "source": "submission"}
    cells = [{**entry, "value": 4.6}, {**entry, "value": 12.6, "earlier": earlier}]
    folder = joined.Folder("a", {"cells": cells}, [], [], [])
    assert page.cellless(paper, [folder]) == [paper["numbers"][1], paper["numbers"][3]]
    assert page.cellless(paper, []) == paper["numbers"]


def folder(tmp_path, values, **expected):
    """Returns the experiment whose cells have these values, one for each seed."""
    root = fakes.make(tmp_path, a={cell: {} for cell in values})
    for cell, seeds in values.items():
        for seed, value in enumerate(seeds):
            fakes.result(root, "a", cell, seed, value=value)
    writers.write_json(root / "a" / "expected.json", {"cells": [], **expected})
    [found] = joined.read(root)
    return found


def claim(cell, below):
    return {
        "claim": "one is lower",
        "cell": cell,
        "below": below,
        "metric": "loss",
        "protocol": "p",
    }


@pytest.mark.parametrize(
    ("low", "high", "kind", "end"),
    [
        ((5, 6, 7), (1, 2, 3), claims.DEAD, "4 above, 2.8 standard deviations."),
        ((1, 2, 3), (5, 6, 7), claims.HOLDS, "4 below, 2.8 standard deviations."),
        ((1, 2, 3), (2, 3, 4), claims.OPEN, "1 below, 0.7 standard deviations."),
        ((2, 3, 4), (1, 2, 3), claims.OPEN, "1 above, 0.7 standard deviations."),
        ((5,), (1, 2, 3), claims.AGAINST, "3 above."),
        ((1,), (2000.5,), claims.SO_FAR, "2,000 below."),
        ((1, 2), (2, 3), claims.SO_FAR, "1 below, 1.0 standard deviations."),
        ((), (1, 2, 3), claims.EMPTY, "one is lower"),
        ((1, 2, float("nan")), (1, 2, 3), claims.DEAD, ": not finite."),
        ((1,), (float("nan"),), claims.OPEN, ": not finite."),
    ],
)
def test_the_verdict_on_a_claim(tmp_path, low, high, kind, end):
    found = folder(tmp_path, {"low": low, "high": high}, claims=[claim("low", "high")])
    [verdict] = claims.of_claims(found)
    assert verdict.kind == kind
    assert not verdict.theirs  # the paper has no number of it
    assert verdict.sentence.endswith(end)
    if low and "finite" not in end:
        assert f"`low` is at {sum(low) / len(low):.3f}"[:14] in verdict.sentence
        assert f"(n = {len(low)})" in verdict.sentence


def test_claims_under_protocols_of_ours_stand_apart(tmp_path):
    """One protocol is the paper's, of another cell; two are not, one of them by metric alone."""
    root = fakes.make(tmp_path, a={"low": {}, "high": {}})
    said = []
    for metric, protocol, flip in (
        ("loss", "p", False),
        ("loss", "q", True),
        ("kl", "p", False),
        ("kl", "q", True),
    ):
        for cell, seeds in {"low": (1, 2, 3), "high": (7, 8, 9)}.items():
            for seed, value in enumerate(seeds):
                line = {"value": float(value), "metric": metric, "protocol": protocol}
                fakes.result(root, "a", cell, seed, **line)
        at = ("high", "low") if flip else ("low", "high")
        one = claim(*at) | {"metric": metric, "protocol": protocol}
        said.append({**one, "claim": f"{metric} {protocol}"})
    said.append({**claim("low", "never"), "claim": "not run", "protocol": "q"})
    cells = [entry("other", 1.0), {**entry("other", 2.0), "metric": "kl", "protocol": "q"}]
    writers.write_json(root / "a" / "expected.json", {"cells": cells, "claims": said})
    top, rest = claims.claims(joined.read(root))

    def shown(parts):
        return [x if x.startswith("#") else x.split(".")[0].split("\n")[0] for x in parts]

    assert shown(top) == [
        "## Claims that did not survive",
        "- a: kl q",
        claims.OURS,
        "### They did not survive",
        "- a: loss q",
        "### They hold",
        "- a: kl p",
        "Of 1 more nothing is known, as a cell of theirs is not run",
    ]
    assert shown(rest) == ["## Other claims", "### They hold", "- a: loss p"]


def entry(cell, value, **more):
    return {"cell": cell, "metric": "loss", "protocol": "p", "source": "T", "value": value, **more}


def test_numbers_that_ours_differ_from(tmp_path):
    values = {"near": (1, 2, 3), "far": (1, 2, 3), "few": (2,), "little": (2,), "no_sd": (2,)}
    found = folder(
        tmp_path,
        values,
        cells=[
            entry("near", 2.5),
            entry("far", 12.0, sd=0.75, reason="they divide"),
            entry("few", 4.1, sd=0.5),
            entry("little", 3.4, sd=0.5),  # 2.8 of the paper's
            entry("no_sd", 40.0),
            entry("never", 1.0),
        ],
    )
    dead, against = claims.of_rows(found)
    assert (dead.kind, against.kind) == (claims.DEAD, claims.AGAINST)
    assert dead.theirs and against.theirs
    assert "`far` was published at 12.0 ± 0.75 (loss, p)" in dead.sentence
    assert dead.sentence.endswith("(n = 3), 8.0 standard deviations off: they divide.")
    assert against.sentence.endswith("(n = 1), 4.2 of the paper's standard deviations off.")


def test_claims_name_cells_that_exist():
    """Else they would stay unknown for ever."""
    for found in joined.read(ROOT):
        cells = {p.cell.name for p in found.planned}
        for said in found.expected.get("claims", ()):
            assert {said["cell"], said["below"]} <= cells
        names = {
            (c["cell"], c["below"], c["metric"], c["protocol"])
            for c in found.expected.get("claims", ())
        }
        assert len(names) == len(found.expected.get("claims", ()))


def test_what_is_empty_says_what_it_wants_and_costs(tmp_path):
    needs = {"steps": 20, "net": "n", "protocols": ("p",), "accelerator": True, "data": ("mnist",)}
    root = fakes.make(tmp_path, a={"x": needs, "y": needs, "z": {**needs, "steps": 10}})
    fakes.result(root, "a", "z", seconds=3600.0)
    cells = [entry("x", 1.0), entry("y", 2.0), entry("z", 1.0), entry("w", 3.0, empty="it burnt")]
    writers.write_json(root / "a" / "expected.json", {"cells": cells})
    [*_, empty] = page.empty(joined.read(root), plan.kept_costs(root))
    assert empty.splitlines()[2:] == [
        "| a | x … y (2) | 2 | a GPU or TPU, data mnist | 2.0 h |  |",
        "| a | w | 1 | it burnt |  |  |",
    ]


def test_writing_says_what_changed(tmp_path):
    root = fakes.make(tmp_path, a={"x": {}})
    fakes.publish(root, "a", "x")
    changes = page.write(root)
    assert (root / "README.md").read_text().splitlines() == [line[1:] for line in changes]
    assert page.write(root) == []
    fakes.result(root, "a", "x")
    old = "| x | loss | p | 1.0 [1] |  |  | not run |"
    new = "| x | loss | p | 1.0 [1] | 1.000 (1) [2] | +0.000 | n < 3 |"
    changes = page.write(root)
    assert f"-{old}" in changes
    assert f"+{new}" in changes
    (root / "a" / "results" / "old.jsonl").write_text("{\n{}\n")
    before = (root / "README.md").read_text()
    with pytest.raises(UserError, match=r"old\.jsonl, line 1 is broken"):
        page.write(root)
    assert (root / "README.md").read_text() == before
