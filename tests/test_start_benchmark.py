"""The benchmark of starts: a first one with an empty cache, a second one with what it left."""

import json

import pytest

from benchmarks import measure, start
from jaxvae import host
from jaxvae.errors import UserError

TINY = ["vae", "--hidden", "4", "--latent-dim", "2", "--batch-size", "8"]


@pytest.mark.slow
def test_a_first_start_fills_the_cache_and_a_second_one_adds_nothing(tmp_path):
    cache = tmp_path / "cache"
    held = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert start.first_step(TINY, cache, tmp_path / name) > 0
        compiled = host.compiled_folder(str(cache))
        held.append(sorted(path.name for path in (cache / compiled).iterdir()))
        lines = (tmp_path / name / "run" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[0])["step"] == 1
    assert held[0] and {n for n in held[1] if "atime" not in n} <= set(held[0])


def test_a_command_that_fails_is_said_with_its_last_line(tmp_path):
    with pytest.raises(UserError, match="`vae --dat x` ends with 2: jaxvae: .*'--data'"):
        start.first_step(["vae", "--dat", "x"], tmp_path / "cache", tmp_path)


def test_the_clock_stops_at_the_first_line_of_the_log(tmp_path, monkeypatch):
    program = """
import sys, time
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--workdir") + 1])
time.sleep(0.3)
run.mkdir()
(run / "metrics.jsonl").write_text("{}")
time.sleep(1.5)
(run / "ended").touch()
"""
    monkeypatch.setattr(start, "PROGRAM", program)
    assert 0.3 <= start.first_step(["vae"], tmp_path / "cache", tmp_path) < 1.5
    assert (tmp_path / "run" / "ended").is_file()  # what is compiled later is in the cache, too


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('Done.')", "`vae` ends with 0: Done."),
        ("raise SystemExit(3)", "`vae` ends with 3: it says nothing"),
        ("import time; time.sleep(60)", "`vae` has no step after 0.5 seconds."),
    ],
)
def test_a_run_without_a_step_is_said(program, said, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "PROGRAM", program)
    monkeypatch.setattr(start, "LIMIT", 0.5)
    with pytest.raises(UserError, match=f"^{said}$"):
        start.first_step(["vae"], tmp_path / "cache", tmp_path)


def test_bytecode_is_there_before_the_first_start(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "module.py").write_text("x = 1")
    start.compile_bytecode(tmp_path)
    assert len(list(tmp_path.glob("inner/__pycache__/module.*.pyc"))) == 1


def test_nobody_else_has_chosen_a_cache(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/theirs")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "60")
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "0")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "/theirs")
    of_caches = [name for name in start.environment() if "CACHE" in name or "BYTECODE" in name]
    assert [name for name in of_caches if name.startswith(("JAX_", "PYTHON"))] == []
    monkeypatch.setattr(start, "BARE", "print(1, flush=True); import time; time.sleep(2)")
    assert start.bare() < 2.0
    monkeypatch.setattr(start, "BARE", "")
    with pytest.raises(UserError, match="cannot import"):
        start.bare()


def test_each_round_has_a_cache_of_its_own_and_two_runs(monkeypatch):
    seen = []

    def first_step(words, cache, place):
        seen.append((cache, cache.exists()))
        cache.mkdir(exist_ok=True)
        (place / "run").mkdir()  # of a new run
        return float(len(seen))

    monkeypatch.setattr(start, "first_step", first_step)
    assert start.starts(["vae"], 2) == {"first": [1.0, 3.0], "second": [2.0, 4.0]}
    assert [there for _, there in seen] == [False, True, False, True]
    assert seen[0][0] == seen[1][0] != seen[2][0] == seen[3][0]


def test_what_is_kept_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    assert start.table() == measure.NOTHING
    monkeypatch.setattr(measure, "busy_cores", lambda: 0.1)
    monkeypatch.setattr(start, "CASES", {"gan": "gan", "vae": "vae"})
    monkeypatch.setattr(start, "bare", lambda: 2.0)
    monkeypatch.setattr(
        start,
        "starts",
        lambda words, rounds: {"first": [14.0], "second": [4.0 if words == ["gan"] else 2.0]},
    )
    start.main(["--rounds", "1", "--only", "gan"])
    assert "gan: 14.0 s, then 4.0 s: 3.5x" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    start.main(["--rounds", "1"])
    kept = json.loads((tmp_path / "start.cpu.json").read_text())
    assert kept["command"] == "python -m benchmarks.start --rounds 1"
    capsys.readouterr()
    start.main(["--table"])
    rows = capsys.readouterr().out.splitlines()[2:4]
    assert rows[0].endswith("| `train gan` | 14.0 | 4.0 | 3.5 | 2.0 | 6.0 |")
    assert rows[1].endswith("| `train vae` | 14.0 | 2.0 | 7.0 | 2.0 |  |")
    monkeypatch.setattr(measure, "busy_cores", lambda: 1.5)
    for words, said in (
        (["--only", "gna"], "unknown program 'gna'. Did you mean 'gan'?"),
        (["--rounds", "0"], "--rounds must be"),
        ([], "not kept: 1.5 of these cores were at work"),
    ):
        with pytest.raises(SystemExit) as end:
            start.main(words)
        assert end.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bare", "second", "said"),
    [
        ([9.0, 2.0, 2.0, 2.0], [4.0, 5.6, 4.0], "the seconds of gan, second go from 4 to 5.6"),
        ([9.0, 2.0, 2.0, 2.8], [4.0, 5.0, 4.0], "the seconds of bare go from 2 to 2.8"),
    ],
)
def test_seconds_that_go_up_and_down_are_not_kept(
    bare, second, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(measure, "busy_cores", lambda: 0.0)
    monkeypatch.setattr(start, "CASES", {"gan": "gan"})
    values = {"first": [14.0, 14.0, 14.0], "second": second}
    monkeypatch.setattr(start, "starts", lambda words, rounds: values)
    monkeypatch.setattr(start, "bare", bare_in_turn(bare))
    with pytest.raises(SystemExit) as end:
        start.main([])
    err = capsys.readouterr().err
    advice = ": not kept. Let nothing else run on this machine, and measure again.\n"
    assert end.value.code == 2 and err == said + advice
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(start, "bare", bare_in_turn([9.0, 2.0, 2.0, 2.0]))  # the first warms up
    values["second"] = [4.0, 5.0, 4.0]
    start.main([])
    assert [path.name for path in tmp_path.iterdir()] == ["start.cpu.json"]


def bare_in_turn(seconds):
    left = iter(seconds)
    return lambda: next(left)
