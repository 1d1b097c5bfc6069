"""A tiny selection of the mishaps, and that what is lost is seen."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import strategies as st

from jaxvae import writers
from jaxvae.errors import UserError
from torture import __main__ as program
from torture import files, kinds, runs, soak, stops, words
from torture.kinds import Kind, Try

pytestmark = [  # a checkpoint that cannot be read leaves coroutines behind
    pytest.mark.usefixtures("swept"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


def counted(*chosen: Kind, rounds: int = 1, seed: int = 0):
    """Returns what the program counts of some kinds."""
    return program.torture(chosen, seed, seconds=60.0, rounds=rounds)


@pytest.mark.parametrize(
    "kind", [k for k in files.KINDS if k.name != "checkpoint"], ids=lambda k: k.name
)
def test_damaged_files_are_refused_or_read_as_they_were(kind, monkeypatch):
    monkeypatch.setattr(files, "ON_ONE_FILE", 4)
    found = counted(kind)
    assert found["lost"] == [] and found["kinds"][kind.name]["survived"] == 4


def test_damaged_checkpoints_are_refused_or_read_as_they_were(tmp_path):
    tries = list(itertools.islice(files.checkpoints(np.random.default_rng(0), tmp_path), 12))
    assert [found.lost for found in tries] == [None] * 12
    assert {found.outcome for found in tries} == {"refused", "read as it was"}


def test_command_lines_that_make_no_sense_end_in_one_line(monkeypatch):
    monkeypatch.setattr(words, "COUNT", 15)
    found = counted(*words.KINDS)
    assert found["lost"] == [] and found["kinds"]["command_line"]["tries"] == 15


# ---- what is lost is seen ------------------------------------------------------------------------


def test_tries_are_counted_and_a_round_that_breaks_is_lost(capsys):
    def well(rng, place):
        assert list(place.iterdir()) == []
        yield from [Try("refused")] * 2

    def badly(rng, place):
        yield Try("refused")
        yield kinds.lost(f"number {rng.integers(10**6)}")
        raise ValueError("two\nlines")

    chosen = Kind("well", well), Kind("badly", badly)
    found, again = counted(*chosen, rounds=2), counted(*chosen, rounds=2)
    assert found["lost"] == again["lost"] != counted(*chosen, rounds=2, seed=1)["lost"]
    counts = {
        name: [each[n] for n in ("tries", "survived", "lost")]
        for name, each in found["kinds"].items()
    }
    assert counts == {"well": [4, 4, 0], "badly": [6, 2, 4]}
    assert found["kinds"]["badly"]["outcomes"] == {"lost": 4, "refused": 2}
    assert found["lost"][1].startswith("badly, round 0: the round ends: ValueError: two (")
    assert capsys.readouterr().err.count("badly, round 0") == 2 * 3


def test_a_mishap_happens_to_every_run_in_turn():
    happened = []

    def stop(rng, place, run):
        happened.append(run)
        yield Try("refused")

    found = counted(Kind("stop", stop, ("dense", "conv", "two_stage")), rounds=4)
    assert found["lost"] == [] and happened == ["dense", "conv", "two_stage", "dense"]
    assert found["kinds"]["stop"]["runs"] == {"dense": 2, "conv": 1, "two_stage": 1}
    assert {k.name for k in stops.KINDS if k.runs == tuple(runs.RUNS)} >= {"kill", "sigterm"}


def test_the_last_line_says_how_many_were_survived(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program, "prepare", lambda: None)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(files, "ON_ONE_FILE", 3)
    out = tmp_path / "a" / "results.json"
    argv = ["--kind", "npz", "--kind", "tar", "--rounds", "1", "--results", str(out)]
    assert program.main(argv) == 0
    assert capsys.readouterr().out == "tries 6, survived 6, lost 0\n"
    page = json.loads(out.read_text())
    assert (page["tries"], page["lost"], list(page["kinds"])) == (6, [], ["npz", "tar"])


def test_a_reader_without_a_checksum_is_silently_wrong(tmp_path):
    path, rng = tmp_path / "x.bin", np.random.default_rng(0)
    path.write_bytes(bytes(50))
    tries = list(files.read_again(rng, path, lambda: [path.read_bytes()]))
    assert "x.bin: silently wrong" in {found.lost for found in tries}
    assert path.read_bytes() == bytes(50)


def test_tracebacks_and_errors_of_two_lines_are_lost():
    def what(number):
        if number == 0:
            raise KeyError("x")
        raise UserError("one line" if number == 1 else "two\nlines")

    tries = kinds.drawn(st.integers(0, 2), 20, 0, what)
    outcomes = {found.outcome: found.lost for found in tries}
    assert set(outcomes) == {"lost", "refused"} and outcomes["refused"] is None
    said = "".join(found.lost or "" for found in tries)
    assert "KeyError: 'x' (test_torture.py:" in said and "not one line" in said


def test_an_end_that_differs_in_one_bit_is_another_end():
    want = {"a": np.array([0.0, np.nan], np.float32), "log": ["x"]}
    assert runs.differences({**want, "a": want["a"].copy()}, want) == []
    assert runs.differences({**want, "a": -want["a"]}, want) == ["a"]
    assert runs.differences({"a": want["a"]}, want) == ["log"]
    assert runs.differences({**want, "more": 1}, want) == ["more"]


def test_a_checkpoint_or_a_line_that_is_gone_is_seen(tmp_path):
    def save(step):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)

    log = tmp_path / "metrics.jsonl"
    for step in (5, 10, 15):
        writers.append(log, {"step": step, "loss": 1.0, "images_per_s": 3.0})
    save(10)
    (tmp_path / "checkpoints" / "15.orbax-checkpoint-tmp").mkdir()
    before = stops.safe_lines(tmp_path)
    assert before[1] == {".": 10} and len(before[0]["."]) == 2
    writers.cut_back(log, 10)
    assert stops.kept(*before, tmp_path) is None
    writers.cut_back(log, 5)
    assert "lost 1 lines of its log up to step 10" in stops.kept(*before, tmp_path)
    (tmp_path / "checkpoints" / "10").rmdir()
    save(3)
    assert stops.kept(*before, tmp_path) == ". had checkpoint 10 and has 3"


def soaked(memory, files=(9, 9), threads=(5, 5)):
    """Returns a minute's counts, of which the last half has other numbers."""
    halves = [range(30), range(30, 60)]
    return [
        soak.Held(second + 0.5, memory[i], files[i], threads[i])
        for i, half in enumerate(halves)
        for second in half
    ]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (soaked((2**30, 2**30 + 2**24)), []),
        (soaked((2**30, 2**29)), []),
        (soaked((2**30, 2**30 + 2**25)), ["memory grows from 1024.0 to 1056.0 MiB"]),
        (soaked((1, 1), files=(9, 10)), ["files grow from 9.0 to 10.0"]),
        (soaked((1, 1), threads=(5, 60)), ["threads grow from 5.0 to 60.0"]),
    ],
)
def test_what_a_long_run_leaks_is_seen(counts, said):
    assert soak.grown(counts, 60.0)["lost"] == said


@pytest.mark.slow
def test_a_minute_of_soaking(tmp_path, capsys):
    out = tmp_path / "soak.json"
    words = ["--minutes", "1", "--save-every", "100", "--results", str(out)]
    assert soak.main(words) in (0, 1)  # a minute warms up, too
    found = json.loads(out.read_text())
    assert found["steps"] > 500 and found["evaluations"] > 2
    assert found["early"]["files"] == found["late"]["files"] > 3
    assert "images_read" in found and "evaluations: memory" in capsys.readouterr().out
