"""The full run of the mishaps: its parts, and the table of what they counted."""

import json
import types
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import measure, torture


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    return tmp_path


def test_all_kinds_are_in_some_part():
    from torture import files, stops, words

    known = {kind.name for kind in (*words.KINDS, *files.KINDS, *stops.KINDS)}
    kinds = [w for part in torture.PARTS.values() for a, w in pairwise(part) if a == "--kind"]
    assert sorted(kinds) == sorted(known) and set(torture.SAID) | set(torture.FILES) == known


@pytest.mark.slow
def test_a_part_is_run_kept_and_shown(results, monkeypatch, capsys):
    monkeypatch.setitem(torture.PARTS, "files", torture.kinds("npz", rounds=1))
    with pytest.raises(SystemExit) as end:
        torture.main(["--only", "files"])
    assert end.value.code == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if "a damaged file: npz" in line]
    counts = json.loads((results / "torture.files.json").read_text())["kinds"]["npz"]
    assert counts["lost"] == 0 < counts["tries"]
    assert row.startswith(
        f"| a damaged file: npz | {counts['tries']} | {counts['survived']} | 0 | "
    )


def test_what_is_lost_is_said_and_the_others_go_on(results, monkeypatch, capsys):
    ran = []

    def run(words, *, env, **_):
        assert env["PYTHONPATH"].endswith("/mine")
        kind = words[words.index("--kind") + 1] if "--kind" in words else "soak"
        ran.append(kind)
        if kind != "sigterm":  # which dies without counts; those of before are not taken for its
            Path(words[-1]).write_text("{}")
        return types.SimpleNamespace(returncode=int(kind in ("kill", "sigterm")))

    (results / "torture.sigterm.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.setattr(torture.subprocess, "run", run)
    monkeypatch.setattr(torture, "table", str)
    with pytest.raises(SystemExit) as end:
        torture.main([])
    assert end.value.code == 1 and len(ran) == len(torture.PARTS)
    said = capsys.readouterr().err.splitlines()
    assert said == ["kill has lost something", "sigterm ends with 1 and has no counts"]
    with pytest.raises(SystemExit):
        torture.main(["--only", "kills"])
    assert "unknown part 'kills'. Did you mean 'kill'?" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "steps"), [("soak", 1000), ("soak_often", 100)])
def test_the_soak_is_shown_in_a_sentence(results, name, steps):
    held = {"seconds": 400.0, "memory": 2**29, "files": 30.0, "threads": 50.0}
    page = {"seconds": 1800.0, "steps": 12_345, "evaluations": 67, "lost": []}
    page["save_every"] = steps
    page |= {"early": held, "late": {**held, "memory": 2**29 + 2**20}}
    (results / f"torture.{name}.json").write_text(json.dumps(page))
    assert torture.table().endswith(
        f"for 30 minutes, a checkpoint every {steps} steps: 12,345 steps, 67 evaluations: memory "
        "512.0 MiB in the second sixth of the time, 513.0 MiB in the last; open files 30.0, 30.0; "
        "threads 50.0, 50.0: nothing grows."
    )
