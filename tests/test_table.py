import json
import math

import pytest

from jaxvae import table, writers
from jaxvae.errors import UserError
from jaxvae.table import Row


def result(seed, value, cell="mnist/vanilla", metric="test_loss", protocol="released", **more):
    return {
        "cell": cell,
        "seed": seed,
        "metric": metric,
        "protocol": protocol,
        "value": value,
        **more,
    }


def entry(
    value, cell="mnist/vanilla", metric="test_loss", protocol="released", source="Table 1", **more
):
    return {
        "cell": cell,
        "metric": metric,
        "protocol": protocol,
        "value": value,
        "source": source,
        **more,
    }


def one(results, **expected) -> Row:
    [row] = table.join(results, {"cells": [entry(**expected)]})
    return row


def test_mean_sd_and_difference_by_hand():
    row = one([result(0, 1.0), result(1, 2.0), result(2, 6.0)], value=4.0)
    assert (row.mean, row.n, row.difference) == (3.0, 3, -1.0)
    assert row.sd == pytest.approx(math.sqrt(7.0))  # (4 + 1 + 9) / 2: n - 1 in the denominator
    assert row.status == "reproduced"


@pytest.mark.parametrize(
    ("paper", "more", "status"),
    [
        (12.0, {}, "reproduced"),  # ours 10 +- 1, so the edge lies at 10 + 2 * 1
        (12.01, {}, "differs"),
        (7.99, {}, "differs"),
        (8.0, {}, "reproduced"),
        (13.0, {"sd": 1.2}, "reproduced"),  # 2 sqrt(1 + 1.44) = 3.124
        (13.13, {"sd": 1.2}, "differs"),
        (13.0, {"tolerance": 1.2}, "reproduced"),  # stands in for the sd
        (13.13, {"tolerance": 1.2}, "differs"),
        (13.0, {"sd": 0.0, "tolerance": 1.2}, "differs"),  # an sd that is printed wins
    ],
)
def test_status_at_the_edges(paper, more, status):
    row = one([result(0, 9.0), result(1, 10.0), result(2, 11.0)], value=paper, **more)
    assert row.sd == 1.0
    assert row.status == status


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"sd": 0.201}, None),
        ({"sd": 0.199}, "seeds spread 5 times as far as the paper's"),
        ({"sd": 0.02}, "seeds spread 50 times as far as the paper's"),
        ({"sd": 0.02, "reason": "of another net"}, "of another net"),
        ({"sd": 0.0}, None),  # what rounding left
        ({"tolerance": 0.02}, None),  # a tolerance is no spread
        ({}, None),
    ],
)
def test_seeds_that_land_anywhere_reproduce_nothing(more, reason):
    row = one([result(0, 9.0), result(1, 10.0), result(2, 11.0)], value=10.0, **more)
    assert (row.status, row.reason) == (
        ("reproduced", "") if reason is None else ("differs", reason)
    )
    if reason is not None:
        assert f"differs: {reason}" in table.render([row])


def test_fewer_than_three_seeds_claim_nothing():
    single = one([result(0, 4.0)], value=4.0)
    assert (single.status, single.mean, single.sd, single.n, single.difference) == (
        "n < 3",
        4.0,
        None,
        1,
        0.0,
    )
    two = one([result(0, 4.0), result(1, 6.0)], value=4.0)
    assert (two.status, two.mean, two.n) == ("n < 3", 5.0, 2)
    assert two.sd == pytest.approx(math.sqrt(2.0))
    none = one([], value=4.0)
    assert (none.status, none.mean, none.n, none.difference) == ("not run", None, 0, None)


def test_the_newest_line_of_a_seed_counts():
    row = one([result(0, 99.0), result(1, 2.0), result(2, 3.0), result(0, 1.0)], value=2.0)
    assert (row.mean, row.n) == (2.0, 3)


def test_protocols_are_never_mixed():
    rows = table.join(
        [result(0, 1.0), result(0, 5.0, protocol="budget-100-steps"), result(0, 7.0, metric="kl")],
        {"cells": [entry(1.0), entry(3.0, cell="fashion_mnist/vanilla")]},
    )
    assert [(r.cell, r.metric, r.protocol, r.paper, r.mean, r.status) for r in rows] == [
        ("mnist/vanilla", "test_loss", "released", 1.0, 1.0, "n < 3"),
        ("fashion_mnist/vanilla", "test_loss", "released", 3.0, None, "not run"),
        ("mnist/vanilla", "test_loss", "budget-100-steps", None, 5.0, "no paper value"),
        ("mnist/vanilla", "kl", "released", None, 7.0, "no paper value"),
    ]


def test_a_seed_that_diverged_is_not_reproduced():
    row = one([result(0, 1.0), result(1, 1.0), result(2, math.nan)], value=1.0)
    assert row.status == "differs"
    assert math.isnan(row.mean)
    assert math.isnan(row.sd)
    row = one([result(0, math.inf), result(1, -math.inf), result(2, 1.0)], value=1.0)
    assert row.status == "differs"
    assert "nan +- nan (3)" in table.render([row])


@pytest.mark.parametrize("name", ["cell", "seed", "metric", "protocol", "value"])
def test_a_result_lacks_something(name):
    record = result(0, 1.0)
    del record[name]
    with pytest.raises(UserError, match=f"no '{name}' in") as info:
        table.join([record], {"cells": []})
    assert "\n" not in str(info.value)


def test_a_result_without_a_protocol_in_words_or_a_number():
    with pytest.raises(UserError, match="no 'protocol'"):
        table.join([result(0, 1.0, protocol="")], {"cells": []})
    with pytest.raises(UserError, match="'value' must be a number, not True"):
        table.join([result(0, True)], {"cells": []})
    with pytest.raises(UserError, match="'protocol' must be text, not 3"):
        table.join([result(0, 1.0, protocol=3)], {"cells": []})


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ([], "list of objects"),
        ({"cells": [3]}, "list of objects"),
        ({"cells": [entry(1.0, source="")]}, "no 'source'"),
        ({"cells": [entry(None)]}, "no 'value'"),
        ({"cells": [entry("1.0")]}, "'value' must be a number, not '1.0'"),
        ({"cells": [entry(math.nan)]}, "value must be finite"),
        ({"cells": [entry(1.0, sd=-0.1)]}, "at least 0"),
        ({"cells": [entry(1.0, tolerance="wide")]}, "'tolerance' must be a number"),
        ({"cells": [entry(1.0), entry(2.0)]}, "mnist/vanilla test_loss released twice"),
    ],
)
def test_a_wrong_expected_json(expected, message):
    with pytest.raises(UserError, match=message) as info:
        table.join([], expected)
    assert "\n" not in str(info.value)


ROWS = table.join(
    [
        *(
            result(seed, 107.0 + 0.25 * seed, device="cpu x1 (cpu)", precision="float32", steps=10)
            for seed in range(3)
        ),
        *(result(seed, 30.0, cell="a", metric="fid", protocol="p|q") for seed in range(3)),
        result(0, 0.5, cell="extra"),
    ],
    {
        "cells": [
            entry(107.73, tolerance=1.0, source="Figure 1 (decoded)"),
            entry(
                20.5,
                cell="a",
                metric="fid",
                protocol="p|q",
                sd=0.5,
                n=5,
                reason="other data",
                note="by hand",
            ),
            entry(5, cell="never"),
        ]
    },
)


def test_render_for_a_terminal():
    assert table.render(ROWS).splitlines() == [
        "cell           metric     protocol            paper            ours (seeds)  difference  "
        "status",
        "-------------  ---------  --------  ---------------  ----------------------  ----------  "
        "-------------------",
        "mnist/vanilla  test_loss  released       107.73 [1]  107.25 +- 0.25 (3) [2]       -0.48  "
        "reproduced",
        "a              fid        p|q       20.5 +- 0.5 [3]       30.00 +- 0.00 (3)       +9.50  "
        "differs: other data",
        "never          test_loss  released            5 [4]                                      "
        "not run",
        "",
        "Not published, protocol: released",
        "",
        "cell    test_loss",
        "-----  ----------",
        "extra  0.5000 (1)",
        "",
        "[1] Figure 1 (decoded); no sd printed, a tolerance of 1 stands in for it",
        "[2] cpu x1 (cpu), float32, 10 steps",
        "[3] Table 1; n = 5; by hand",
        "[4] Table 1",
        "reproduced: n >= 3 seeds, |ours - paper| <= 2 sqrt(sd_ours^2 + sd_paper^2), and sd_ours <= "
        "5 sd_paper where that is printed",
    ]


def test_render_markdown():
    lines = table.render(ROWS, markdown=True).splitlines()
    assert lines[0] == "| cell | metric | protocol | paper | ours (seeds) | difference | status |"
    assert lines[1] == "| --- | --- | --- | ---: | ---: | ---: | --- |"
    assert lines[2].startswith(
        "| mnist/vanilla | test_loss | released | 107.73 [1] | 107.25 ± 0.25 (3) [2] | -0.48 |"
    )
    assert lines[2].endswith("| -0.48 | reproduced |")
    assert (
        lines[3]
        == "| a | fid | p\\|q | 20.5 ± 0.5 [3] | 30.00 ± 0.00 (3) | +9.50 | differs: other data |"
    )
    assert lines[4] == "| never | test_loss | released | 5 [4] |  |  | not run |"
    assert lines[6:11] == [
        "Not published, protocol: released",
        "",
        "| cell | test_loss |",
        "| --- | ---: |",
        "| extra | 0.5000 (1) |",
    ]
    assert lines[12] == "1. Figure 1 (decoded); no sd printed, a tolerance of 1 stands in for it"


def test_what_is_not_published_has_a_line_for_a_cell_and_a_column_for_a_metric():
    """In the order of the paper's cells; a protocol is never mixed with another."""
    nats = {"protocol": "nats", "device": "gpu", "steps": 9}
    lines = [
        result(0, 2.0, "b", "kl", **nats),
        result(0, 1.0, "a", "rec", **nats),
        result(1, 3.0, "a", "rec", **nats),
        result(0, 7.0, "b", "rec", protocol="bits"),
        result(0, 5.0, "own", "kl", protocol="nats"),
    ]
    rows = table.join(lines, {"cells": [entry(1.0, "a"), entry(1.0, "b")]})
    assert table.render(rows).splitlines()[5:] == [
        "Not published, protocol: nats",
        "",
        "cell          kl                 rec",
        "-----  ---------  ------------------",
        "a [2]             2.000 +- 1.414 (2)",
        "b [2]  2.000 (1)",
        "own    5.000 (1)",
        "",
        "Not published, protocol: bits",
        "",
        "cell        rec",
        "----  ---------",
        "b     7.000 (1)",
        "",
        "[1] Table 1",
        "[2] gpu, 9 steps",
        table.LEGEND,
    ]


def test_numbers_of_one_cell_with_other_settings_have_their_own_footnotes():
    lines = [result(0, 1.0, "a", "kl", steps=9), result(0, 2.0, "a", "rec", steps=90)]
    assert table.render(table.join(lines, {"cells": []})).splitlines()[2:] == [
        "cell             kl            rec",
        "----  -------------  -------------",
        "a     1.000 (1) [1]  2.000 (1) [2]",
        "",
        "[1] 9 steps",
        "[2] 90 steps",
    ]


def test_a_folder_without_published_numbers_has_no_legend():
    assert table.render(table.join([result(0, 1.0, "a")], {"cells": []})).splitlines() == [
        "Not published, protocol: released",
        "",
        "cell  test_loss",
        "----  ---------",
        "a     1.000 (1)",
    ]


@pytest.mark.parametrize(
    ("values", "paper", "text"),
    [
        ([0.01234, 0.01236], 0.012, "0.012350 +- 0.000014 (2)"),
        ([107.523, 107.540], 107.7, "107.531 +- 0.012 (2)"),  # two figures of the sd
        ([12345.0, 12349.0], 12000, "12347.0 +- 2.8 (2)"),
        ([3.0e-9], 1e-9, "3.000e-09 (1)"),
        ([0.0], 0.25, "0.000 (1)"),
        ([-52.25], -52.2, "-52.25 (1)"),
    ],
)
def test_digits(values, paper, text):
    row = one([result(seed, value) for seed, value in enumerate(values)], value=paper)
    assert f"  {text}  " in table.render([row])


def test_load_a_folder(tmp_path):
    assert table.load(tmp_path) == ([], {"cells": []})
    assert (
        table.render(table.join(*table.load(tmp_path))) == "no results and no published numbers yet"
    )
    expected = {"title": "T", "source": "S", "cells": [entry(1.0)]}
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    writers.append(tmp_path / "results" / "b.jsonl", result(0, 1.0))
    writers.append(tmp_path / "results" / "a.jsonl", result(0, math.nan, metric="kl"))
    writers.append(tmp_path / "results" / "b.jsonl", result(0, 2.0))
    writers.append(tmp_path / "smoke" / "b.jsonl", result(0, 9.0))
    results, read = table.load(str(tmp_path))
    assert read == expected
    assert [(r["metric"], r["value"]) for r in results[1:]] == [
        ("test_loss", 1.0),
        ("test_loss", 2.0),
    ]
    assert math.isnan(results[0]["value"])
    assert [r["value"] for r in table.load(tmp_path, "smoke")[0]] == [9.0]


def test_load_names_the_file(tmp_path):
    writers.append(tmp_path / "results" / "b.jsonl", result(0, 1.0, protocol=""))
    with pytest.raises(UserError, match=r"results/b\.jsonl: there is no 'protocol'"):
        table.load(tmp_path)


def test_an_earlier_version_stands_beside_and_is_not_compared():
    earlier = {"value": 3.0, "sd": 0.1, "source": "as submitted"}
    row = one([result(seed, 10.0) for seed in range(3)], value=10.0, earlier=earlier)
    assert (row.status, row.difference) == ("reproduced", 0.0)
    text = table.render([row])
    assert "10.0 [1]; 3.0 +- 0.1 [2]" in text
    assert "[2] as submitted" in text


@pytest.mark.parametrize("earlier", [{"value": 3.0}, {"value": "3", "source": "s"}])
def test_an_earlier_version_needs_a_number_and_its_source(earlier):
    with pytest.raises(UserError, match=r"expected.json, earlier of .*'(source|value)'"):
        one([], value=10.0, earlier=earlier)


def footnotes(*lines):
    """Returns the footnotes of a table of these result lines of one number."""
    text = table.render(table.join(lines, {"cells": []}))
    return [line.partition("] ")[2] for line in text.splitlines() if line.startswith("[")]


SAME = {"device": "cpu", "precision": "float32", "steps": 9, "n": 100, "commit": "abc1234"}


def test_seeds_that_ran_alike_have_a_footnote_without_commits():
    lines = [result(seed, 1.0, **SAME) for seed in range(3)]
    assert footnotes(*lines) == ["cpu, float32, 9 steps, measured on 100"]


def test_seeds_of_different_commits_are_marked():
    newer = SAME | {"commit": "def5678"}
    lines = [result(0, 1.0, **newer), result(1, 1.0, **SAME), result(2, 1.0, **newer)]
    assert footnotes(*lines) == [
        "cpu, float32, 9 steps, measured on 100; commits differ: def5678 (seeds 0, 2); "
        "abc1234 (seed 1)"
    ]
    replaced = [result(seed, 2.0, **SAME) for seed in (0, 2)]  # the newest line of a seed counts
    assert footnotes(*lines, *replaced) == ["cpu, float32, 9 steps, measured on 100"]


@pytest.mark.parametrize(
    ("name", "value"), [("device", "gpu"), ("precision", "bfloat16"), ("steps", 90), ("n", 7)]
)
def test_seeds_that_ran_under_different_conditions_are_marked(name, value):
    [note] = footnotes(result(0, 1.0, **SAME), result(1, 1.0, **(SAME | {name: value})))
    assert note.startswith("runs differ: cpu, float32, 9 steps, measured on 100 (seed 0); ")
    assert str(value) in note and note.endswith(" (seed 1)")


def test_a_commit_with_changes_is_marked_also_of_one_seed():
    dirty = SAME | {"commit": "abc1234-dirty"}
    assert footnotes(result(0, 1.0, **dirty)) == [
        "cpu, float32, 9 steps, measured on 100; commit abc1234 with changes that were not committed"
    ]
    assert footnotes(result(0, 1.0, **dirty), result(1, 1.0, **SAME)) == [
        "cpu, float32, 9 steps, measured on 100; commits differ: abc1234 with changes that were "
        "not committed (seed 0); abc1234 (seed 1)"
    ]


def test_a_line_without_a_commit_stands_apart_from_one_with():
    assert footnotes(result(0, 1.0), result(1, 1.0, commit="abc1234")) == [
        "commits differ: unknown (seed 0); abc1234 (seed 1)"
    ]
