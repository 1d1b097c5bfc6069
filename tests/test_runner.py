import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import __main__ as counts
from experiments import endpoints, runner
from experiments.runner import Cell, Measure
from jaxvae import errors, host, writers
from jaxvae.errors import UserError

EXPECTED = {
    "title": "A paper",
    "source": "arXiv 0000.00000",
    "cells": [
        {
            "cell": "mnist/a",
            "metric": "test_loss",
            "protocol": "released",
            "value": 100.5,
            "source": "Table 1",
        },
        {
            "cell": "mnist/never",
            "metric": "fid",
            "protocol": "p",
            "value": 3.0,
            "source": "Table 2",
        },
    ],
}


def cell(name, calls):
    def run(seed, smoke):
        calls.append((name, seed, smoke))
        return [
            Measure(
                "test_loss", "released", 100.0 + seed, 10_000, 20 if smoke else 7035, "float32"
            ),
            Measure("kl", "released", 25.0, 10_000, 20 if smoke else 7035, "float32"),
        ]

    return Cell(name, run)


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Returns a folder outside any repository, its cells and the list of their calls."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "paper"
    folder.mkdir()
    writers.write_json(folder / "expected.json", EXPECTED)
    calls = []
    return folder, [cell("mnist/a", calls), cell("mnist/b", calls), cell("cifar10/a", calls)], calls


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_writes_results_and_prints_the_table(experiment, capsys):
    folder, cells, calls = experiment
    runner.main(folder, cells, ["--cell", "mnist/*", "--seeds", "0:3"])
    assert calls == [(name, seed, False) for seed in (0, 1, 2) for name in ("mnist/a", "mnist/b")]
    assert sorted(path.name for path in (folder / "results").iterdir()) == [
        "mnist.a.jsonl",
        "mnist.b.jsonl",
    ]
    records = lines(folder / "results" / "mnist.a.jsonl")
    assert [(r["seed"], r["metric"], r["value"]) for r in records] == [
        (0, "test_loss", 100.0),
        (0, "kl", 25.0),
        (1, "test_loss", 101.0),
        (1, "kl", 25.0),
        (2, "test_loss", 102.0),
        (2, "kl", 25.0),
    ]
    last = records[-2]
    assert set(last) == {
        "cell",
        "seed",
        "metric",
        "protocol",
        "value",
        "n",
        "steps",
        "precision",
        "commit",
        "versions",
        "device",
        "seconds",
        "command",
    }
    assert last["cell"] == "mnist/a"
    assert last["protocol"] == "released"
    assert (last["n"], last["steps"], last["precision"]) == (10_000, 7035, "float32")
    assert last["command"] == "python -m experiments.paper --cell mnist/a --seeds 2:3"
    assert last["commit"] == "unknown"  # no repository here
    assert {"python", "jax", "jaxlib", "flax", "optax"} <= set(last["versions"])
    assert 0 <= last["seconds"] < 10
    out = capsys.readouterr().out
    assert out.startswith("A paper - arXiv 0000.00000\n\ncell ")
    [row] = [
        line for line in out.splitlines() if line.startswith("mnist/a") and "test_loss" in line
    ]
    assert "100.5 [1]" in row
    assert "101.0 +- 1.0 (3)" in row
    assert "+0.5" in row
    assert row.endswith("reproduced")
    [row] = [line for line in out.splitlines() if line.startswith("mnist/never")]
    assert row.endswith("not run")


def test_the_device_is_named(experiment):
    folder, cells, _ = experiment
    runner.main(folder, cells, ["--cell", "cifar10/a", "--seeds", "4"])
    hardware = f"{host.processor()}, {host.cores()} (cpu)"
    for record in lines(folder / "results" / "cifar10.a.jsonl"):
        assert record["device"] == hardware
        assert "core" in hardware
        assert record["seed"] == 4


def test_a_cell_that_cannot_run_is_refused_before_any_runs(experiment, capsys):
    folder, cells, calls = experiment

    def check(smoke):
        if not smoke:
            raise UserError("not on this machine.")

    cells = [*cells, Cell("mnist/large", cells[0].run, check=check)]
    with pytest.raises(SystemExit, match="2"):
        runner.main(folder, cells, [])
    assert not calls and capsys.readouterr().err == "not on this machine.\n"
    runner.main(folder, cells, ["--smoke", "--cell", "mnist/large"])
    assert len(calls) == 1


def test_all_cells_and_seed_0_by_default(experiment):
    folder, cells, calls = experiment
    runner.main(folder, cells, [])
    assert calls == [("mnist/a", 0, False), ("mnist/b", 0, False), ("cifar10/a", 0, False)]


def test_the_command_of_a_line_reproduces_it(experiment):
    folder, cells, calls = experiment
    runner.main(folder, cells, ["--cell", "mnist/b", "--seeds", "5:7", "--smoke"])
    command = lines(folder / "smoke" / "mnist.b.jsonl")[-1]["command"]
    calls.clear()
    runner.main(folder, cells, command.split()[3:])
    assert calls == [("mnist/b", 6, True)]


def test_smoke_runs_are_kept_apart(experiment, capsys):
    folder, cells, calls = experiment
    runner.main(folder, cells, ["--smoke"])
    assert all(smoke for *_, smoke in calls)
    assert not (folder / "results").exists()
    assert lines(folder / "smoke" / "mnist.a.jsonl")[0]["steps"] == 20
    out = capsys.readouterr().out
    assert "not comparable" in out
    assert "100.5" not in out
    assert "reproduced\n" not in out


def test_table_runs_nothing_and_writes_nothing(experiment, capsys):
    folder, cells, calls = experiment
    runner.main(folder, cells, ["--table"])
    assert calls == []
    assert [path.name for path in folder.iterdir()] == ["expected.json"]
    assert capsys.readouterr().out.count("not run") == 2
    runner.main(folder, cells, ["--table", "--markdown"])
    assert (
        "| mnist/a | test_loss | released | 100.5 [1] |  |  | not run |" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cell", "mnist/aa"], "unknown cell 'mnist/aa'. Did you mean 'mnist/a'?"),
        (["--cell", "mnist/a", "--cell", "svhn/*"], "unknown cell 'svhn/*'."),
        (["--seeds", "3:3"], "--seeds 3:3 holds no seed"),
        (["--seeds", "3:1"], "--seeds 3:1 holds no seed"),
        (["--seeds", "-1"], "--seeds -1 holds no seed"),
        (["--seeds", "one"], "--seeds must be A:B or A"),
        (["--seeds", "0:1:2"], "--seeds must be A:B or A"),
        (["--seeds", ""], "--seeds must be A:B or A"),
        (["--seeds"], "expected one argument: see --help."),
        (["--smoek"], "unknown argument '--smoek'. Did you mean '--smoke'?"),
        (["mnist/a"], "unknown argument 'mnist/a'."),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(experiment, capsys, argv, message):
    folder, cells, calls = experiment
    with pytest.raises(SystemExit) as info:
        runner.main(folder, cells, argv)
    assert info.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert calls == []
    assert not (folder / "results").exists()


def test_a_broken_results_file_is_found_before_the_run(experiment, capsys):
    folder, cells, calls = experiment
    (folder / "results").mkdir()
    (folder / "results" / "old.jsonl").write_text("{\n{}\n")
    with pytest.raises(SystemExit):
        runner.main(folder, cells, [])
    assert "old.jsonl, line 1 is broken" in capsys.readouterr().err
    assert calls == []


def test_a_folder_that_cannot_be_written_is_found_before_the_run(experiment, capsys):
    folder, cells, calls = experiment
    (folder / "results").write_text("a file in the way")
    with pytest.raises(SystemExit):
        runner.main(folder, cells, [])
    assert "cannot write in" in capsys.readouterr().err
    assert calls == []


def test_a_measure_without_a_protocol_is_not_written(experiment, capsys):
    folder, *_ = experiment
    bad = Cell(
        "mnist/a",
        lambda seed, smoke: [Measure("kl", "p", 1.0, 1, 1, ""), Measure("fid", "", 1.0, 1, 1, "")],
    )
    with pytest.raises(SystemExit):
        runner.main(folder, [bad], [])
    assert "no 'protocol'" in capsys.readouterr().err
    assert list((folder / "results").iterdir()) == []


def test_a_users_error_inside_a_cell_keeps_what_was_measured(experiment):
    folder, cells, _ = experiment

    def fail(seed, smoke):
        raise errors.UserError("no such data")

    with pytest.raises(SystemExit):
        runner.main(folder, [cells[0], Cell("mnist/z", fail)], [])
    assert len(lines(folder / "results" / "mnist.a.jsonl")) == 2


@pytest.mark.parametrize(("text", "seeds"), [("0:3", [0, 1, 2]), ("7", [7]), ("2:3", [2])])
def test_seeds(text, seeds):
    assert list(runner.parse_seeds(text)) == seeds


def test_cells_come_once_and_in_their_order():
    cells = [Cell(name, None) for name in ("b/x", "a/x", "a/y")]
    assert [c.name for c in runner.select(cells, ["a/*", "?/x"])] == ["b/x", "a/x", "a/y"]
    assert [c.name for c in runner.select(cells, ["a/y", "a/y"])] == ["a/y"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_and_when_it_is_dirty(tmp_path):
    def git(*args):
        name = ("-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *name, *args], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    folder = tmp_path / "experiments" / "paper"
    (folder / "results").mkdir(parents=True)
    (folder / "cells.py").write_text("1")
    (folder / "results" / "a.jsonl").write_text("")
    (folder / "figures").mkdir()
    (folder / "figures" / "a.png").write_text("")
    for page in (tmp_path / "README.md", folder / "README.md", folder.parent / "README.md"):
        page.write_text("the page")
    git("init", "-q")
    assert runner.commit(folder) == "unknown"  # nothing committed yet
    git("add", ".")
    git("commit", "-q", "-m", "one")
    head = git("rev-parse", "--short", "HEAD")
    assert runner.commit(folder) == head
    (folder / "results" / "a.jsonl").write_text("{}\n")
    (folder / "figures" / "a.png").write_text("drawn")  # by the cell that ran before
    for page in (tmp_path / "README.md", folder / "README.md", folder.parent / "README.md"):
        page.write_text("written after it")
    (folder / "new.py").write_text("untracked")
    assert runner.commit(folder) == head
    (folder / "cells.py").write_text("2")
    assert runner.commit(folder) == head + "-dirty"
    git("add", ".")
    assert runner.commit(folder) == head + "-dirty"


def test_no_git_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runner.commit(tmp_path) == "unknown"


ROOT = Path(runner.__file__).parent
NAMES = sorted(path.parent.name for path in ROOT.glob("*/__main__.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_the_same_files(name):
    folder = ROOT / name
    files = ("README.md", "__main__.py", "setting.py", "cells.py", "figures.py", "expected.json")
    assert [file for file in files if not (folder / file).is_file()] == []
    assert (folder / "results").is_dir()
    commands = (folder / "README.md").read_text()
    assert f"python -m experiments.{name} " in commands
    assert f"python -m experiments.{name}.figures" in commands
    pictures = {path.relative_to(folder).parts[0] for path in folder.rglob("*.png")}
    assert pictures - {"runs", "smoke"} <= {"figures"}  # what is not in git aside
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    assert "argparse" not in text  # one parser: the runner's


@pytest.mark.parametrize("name", NAMES)
def test_figures_answer_a_wrong_option_with_one_line_and_code_2(name, capsys):
    figures = importlib.import_module(f"experiments.{name}.figures")
    for argv in (["--sed", "0"], ["all"]):
        with pytest.raises(SystemExit) as end:
            figures.main(argv)
        assert end.value.code == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert err.startswith(f"unknown argument '{argv[0]}'")


def test_help_names_every_option(capsys):
    options = (
        *runner.OPTIONS,
        runner.Option("share", 0.5, float, "so many % of it"),
        runner.Option("what", None, str, "a bare word", word=True),
    )
    with pytest.raises(SystemExit, match="0"):
        runner.parse("experiments.paper", "About.", options, ["--help"])
    out = capsys.readouterr().out
    for text in ("--cell CELL", "repeatable", "--share SHARE", "so many % of it (default: 0.5)"):
        assert text in out
    args = runner.parse("experiments.paper", "", options, ["all", "--cell", "a", "--cell", "b"])
    assert (args.what, args.cell, args.share, args.smoke) == ("all", ["a", "b"], 0.5, False)


COMMAND = """
from experiments import runner

@runner.command
def main():
    {}

main()
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("body", ["print('x')", "[print('x', flush=True) for _ in range(2)]"])
def test_no_room_for_what_a_command_prints_is_one_line(body):
    words = [sys.executable, "-c", COMMAND.format(body)]
    env = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": str(ROOT.parent)}
    with open("/dev/full", "w") as full:
        options = {"stderr": subprocess.PIPE, "text": True, "env": env, "check": False}
        done = subprocess.run(words, stdout=full, **options)
    assert done.returncode == 2
    assert done.stderr.startswith("cannot write what is to be printed: No space left on device.")
    assert len(done.stderr.splitlines()) == 1
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as gone:
        done = subprocess.run(words, stdout=gone, **options)
    assert (done.returncode, done.stderr) == (1, "")


def test_end_points_of_what_has_been_run(experiment, capsys):
    folder, cells, _ = experiment
    main = runner.command(endpoints.main)
    with pytest.raises(SystemExit, match="2"):
        main(folder, "test_loss", "nats", [])
    assert capsys.readouterr().err == "nothing has been run: python -m experiments.paper first.\n"
    runner.main(folder, cells, ["--seeds", "0:2"])
    capsys.readouterr()
    main(folder, "test_loss", "nats", [])
    assert capsys.readouterr().out.strip() == "figures/test_loss.png"
    assert 2_000 < (folder / "figures" / "test_loss.png").stat().st_size < 100_000


def test_the_counts_of_published_numbers(experiment, monkeypatch, capsys):
    folder, cells, _ = experiment
    monkeypatch.setattr(counts, "FOLDER", folder.parent)
    runner.main(folder, cells, ["--cell", "mnist/a", "--seeds", "0:3"])
    assert counts.counts() == {"paper": (2, 1, 1, 1, 0)}
    capsys.readouterr()
    counts.main([])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| [paper](experiments/paper/README.md) | 2 | 1 | 1 | 1 | 0 |",
        "| all | 2 | 1 | 1 | 1 | 0 |",
    ]
