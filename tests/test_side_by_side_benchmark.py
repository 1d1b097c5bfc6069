"""The benchmark of two cells side by side: tiny trainings in processes, and what it refuses."""

import contextlib
import json
import os

import pytest

from benchmarks import measure, side_by_side

TINY = ["--rounds", "1", "--steps", "2", "--width", "8"]
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.mark.slow
@needs_two_cores
def test_a_tiny_measurement_is_kept_with_its_ratio(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(side_by_side.measure, "busy_cores", lambda: 0.0)
    cores = os.sched_getaffinity(0)
    pair = ["--cell", "8gaussians/vae", "--cell", "rings/vae"]
    side_by_side.main([*pair, *TINY])
    assert os.sched_getaffinity(0) == cores
    result = json.loads((tmp_path / "side_by_side.cpu.json").read_text())
    rates = [result["rates"][name] for name in ("side_by_side", "one_after_the_other")]
    assert all(rate["min"] == rate["median"] > 0 for rate in rates)
    assert result["ratio"] == rates[0]["median"] / rates[1]["median"]
    assert result["cells"] == ["8gaussians/vae", "rings/vae"]
    assert result["command"].endswith(" ".join([*pair, *TINY]))
    capsys.readouterr()
    side_by_side.main(["--table"])
    *_, row = capsys.readouterr().out.splitlines()
    assert "8gaussians/vae, rings/vae" in row and row.endswith(f" {result['ratio']:.2f} |")


def test_side_by_side_means_at_once_and_one_after_the_other_in_turn(monkeypatch):
    """With processes that only note what they are asked."""
    noted = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def __call__(self):
            noted.append(f"go {self.name}")
            return lambda: noted.append(f"wait {self.name}")

    def trainings(where, steps, width):
        cores = [sorted(at) for _, at in where]
        assert cores[0] + cores[1] == cores[2] == cores[3]
        return contextlib.nullcontext([Fake(i) for i in range(4)])

    monkeypatch.setattr(side_by_side, "trainings", trainings)
    cores_of = {1: [(0, 1)], 2: [(0,), (1,)]}
    monkeypatch.setattr(side_by_side.processes, "cores_of", cores_of.get)
    found = side_by_side.rates(["a", "b"], 1, 5, 8)
    assert set(found) == {"side_by_side", "one_after_the_other"}
    turn = ["go 0", "go 1", "wait 0", "wait 1", "go 2", "wait 2", "go 3", "wait 3"]
    assert noted == 2 * turn  # the first is to warm up


@needs_two_cores
def test_on_a_busy_machine_nothing_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(side_by_side.measure, "busy_cores", lambda: 2.0)
    found = {"side_by_side": [4.0, 6.0], "one_after_the_other": [2.0, 2.0]}
    monkeypatch.setattr(side_by_side, "rates", lambda *args: found)
    with pytest.raises(SystemExit) as end:
        side_by_side.main(TINY)
    said = capsys.readouterr()
    assert said.out.endswith("side by side against one after the other: 2.50x\n")
    assert end.value.code == 2 and said.err.startswith("not kept: 2.0 of these cores")
    assert list(tmp_path.iterdir()) == []


@needs_two_cores
def test_rates_that_go_up_and_down_are_printed_and_not_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(side_by_side.measure, "busy_cores", lambda: 0.0)
    found = {"side_by_side": [4.0, 4.0], "one_after_the_other": [1.6, 2.4]}
    monkeypatch.setattr(side_by_side, "rates", lambda *args: found)
    with pytest.raises(SystemExit) as end:
        side_by_side.main(TINY)
    said = capsys.readouterr()
    assert said.out.endswith("side by side against one after the other: 2.00x\n")
    assert end.value.code == 2 and said.err.startswith(
        "the rates of one_after_the_other go from 1.6 to 2.4: not kept. Let nothing else run"
    )
    assert said.err.endswith("perhaps with more --steps.\n") and said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    found["one_after_the_other"] = [1.7, 2.3]
    side_by_side.main(TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["side_by_side.cpu.json"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--cell", "8gaussian/vae"],
            "unknown cell '8gaussian/vae'. Did you mean '8gaussians/vae'",
        ),
        (3 * ["--cell", "rings/vae"], "--cell: two cells are compared, not 3."),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--train", "x"], "unknown cell 'x'"),
    ],
)
def test_mistakes_are_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        side_by_side.main(argv)
    err = capsys.readouterr().err
    assert end.value.code == 2 and message in err and err.count("\n") == 1
