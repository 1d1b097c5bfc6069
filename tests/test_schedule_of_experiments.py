"""What runs first, side by side, and what becomes of cells that fail or are stopped."""

import os
import signal
import subprocess
import sys
import threading
import time

import fake_experiments as fakes
import pytest

from experiments import __main__ as command
from experiments import plan, processes, schedule
from experiments.plan import EXTRA, OTHER_PROTOCOL, PUBLISHED, Candidate
from experiments.schedule import Clock
from jaxvae.errors import UserError

CORES = sorted(os.sched_getaffinity(0))
two_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")


def candidate(cell, **changes):
    known = {
        "key": f"a {cell}",
        "experiment": "a",
        "words": (),
        "cell": cell,
        "net": cell,
        "steps": 10,
        "rank": PUBLISHED,
        "have": (),
        "stopped": (),
        "ensemble_stopped": (),
        "seconds": 1.0,
        "basis": "measured",
        "memory": None,
        "can_time": False,
        "lacks": (),
        "shares": "",
        "ensemble": (),
    }
    return Candidate(**{**known, **changes})


def order(*candidates, settled=(), platform="cpu", clock=None):
    clock = clock or Clock({})
    return schedule.tasks(candidates, set(settled), "experiments", platform, clock)


def labels(*candidates, **options):
    return [task.label.removeprefix("a ") for task in order(*candidates, **options)]


def test_the_most_telling_comes_first():
    found = labels(
        candidate("extra", rank=EXTRA),
        candidate("two", have=(0, 1)),
        candidate("slow", seconds=9.0),
        candidate("other", rank=OTHER_PROTOCOL),
        candidate("quick", seconds=0.5, have=(2,)),
        candidate("done", have=(3, 4, 5)),
        candidate("lacks", lacks=("a GPU or TPU",)),
        settled={("a extra", 1), ("a extra", 2), ("a other", 1), ("a other", 2)},
    )
    assert found == [
        "slow seed 0",
        "other seed 0",
        "extra seed 0",
        "quick seed 0",
        "slow seed 1",
        "quick seed 1",
        "two seed 2",
        "slow seed 2",
    ]


def test_what_was_stopped_comes_before_all():
    found = labels(candidate("new"), candidate("begun", have=(0,), stopped=(1,), rank=EXTRA))
    assert found[:2] == ["begun seed 1", "new seed 0"]


def test_three_seeds_are_enough_whichever_they_are():
    seven = candidate("x", have=(7,))
    assert labels(seven) == ["x seed 0", "x seed 1"]
    assert labels(seven, settled={("a x", 0)}) == ["x seed 1"]


def test_a_task_is_the_command_that_a_user_would_type():
    [task, *_] = order(candidate("x/y", words=("--budget", "0.05"), shares="x", have=(1,)))
    argv = ("experiments.a", "--cell", "x/y", "--seeds", "0:1", "--budget", "0.05")
    assert task.argv == argv
    assert task.runs == {("a x/y", 0)}
    assert task.shares == {("a", "--budget", "0.05", "x", 0)}


def test_an_accelerator_trains_a_sweep_as_one():
    members = [candidate(c, ensemble=("a.sweep", "t"), net=c[0]) for c in ("vx", "vy", "sx")]
    alone = candidate("alone")
    [sweep, *rest] = order(*members, alone, platform="gpu")
    assert sweep.argv == ("experiments.a.sweep", "t", "--seeds", "0:3")
    assert sweep.seconds == 9.0
    assert len(sweep.runs) == 9
    assert [task.label for task in rest[:2]] == [
        "a.sweep t, 6 runs at once",
        "a.sweep t, 3 runs at once",
    ]
    assert not any("sweep" in task.label for task in order(*members, alone))
    timed = [c._replace(seconds=None, can_time=True) for c in members]
    [sweep, *_] = order(*timed, platform="gpu")
    assert sweep.timed == (("a vx", 6), ("a sx", 3))
    clock = Clock({("a", "v", 6): 0.5, ("a", "s", 3): 1.0})
    [sweep, *_] = order(*timed, platform="gpu", clock=clock)
    assert sweep.seconds == 10 * (0.5 * 6 + 1.0 * 3)
    assert sweep.timed == ()
    settled = sweep.runs
    assert order(*timed, platform="gpu", settled=settled) == []


def test_a_sweep_is_expected_to_train_what_has_no_numbers():
    ensemble = {"ensemble": ("a.sweep", "t")}
    members = [candidate("x", have=(0,), **ensemble), candidate("y", **ensemble)]
    found = order(*members, platform="gpu")
    assert [(task.seconds, len(task.runs), task.argv[-1]) for task in found] == [
        (5.0, 5, "0:3"),
        (3.0, 3, "0:2"),
        (1.0, 1, "0:1"),
    ]
    one = [c._replace(have=(0,)) for c in members]
    assert [task.argv[-1] for task in order(*one, platform="gpu")] == ["0:3", "0:2"]


def test_a_sweep_that_was_stopped_comes_first_with_the_seeds_that_it_had():
    members = [candidate("x", ensemble=("a.sweep", "t"), ensemble_stopped=(0, 1), have=(0, 1))]
    found = order(candidate("new"), *members, platform="gpu")
    assert [task.argv[-1] for task in found if "a.sweep" in task.label] == ["0:3"]
    assert found[0].label == "a.sweep t, 1 runs at once"
    alone = order(candidate("new"), *members)  # on a CPU each cell is trained by itself
    assert [task.label for task in alone[:2]] == ["a new seed 0", "a new seed 1"]
    assert command.state(members[0]) == "2 of 3, seed 0, 1 stopped"


def test_a_sweep_is_not_for_a_part_of_its_cells(monkeypatch, tmp_path):
    members = [candidate(c, ensemble=("a.sweep", "t")) for c in ("x", "y")]
    answer = {"platform": "gpu", "candidates": [c._asdict() for c in members]}
    monkeypatch.setattr(schedule.Scheduler, "ask", lambda self, *words: answer)
    for choose, ensembles in ((list, 2), (lambda found: found[:1], 0)):
        scheduler = schedule.Scheduler(tmp_path, 1.0, 1, processes.Stops(), choose)
        scheduler.survey()
        assert sum(bool(c.ensemble) for c in scheduler.candidates) == ensembles


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_an_accelerator_trains_one_cell_at_a_time(monkeypatch, tmp_path):
    answer = {"platform": "gpu", "candidates": []}
    monkeypatch.setattr(schedule.Scheduler, "ask", lambda self, *words: answer)
    with pytest.raises(UserError, match="--jobs is for a CPU"):
        schedule.run(tmp_path, 1.0, 2)


@pytest.fixture
def run(monkeypatch):
    """Returns (root, hours, jobs) -> (exit code, scheduler); the survey is made in this process."""
    monkeypatch.setattr(schedule, "POLL", 0.02)

    def go(root, hours=1.0, jobs=1, answers=None):
        with processes.listening() as stops:
            scheduler = schedule.Scheduler(root, hours, jobs, stops, list)

            def ask(*words, within=None):
                if words[0] == "--time":
                    answer = (answers or {})[words[1]]
                    if isinstance(answer, Exception):
                        raise answer
                    return {"seconds": answer}
                found = plan.survey(root, fakes.DEVICE, jobs)
                candidates = [c._asdict() for c in found]
                return {"device": fakes.DEVICE, "platform": "cpu", "candidates": candidates}

            monkeypatch.setattr(scheduler, "ask", ask)
            return scheduler.run(), scheduler

    return go


def fake(tmp_path, *cells, **needs):
    """Returns an experiment of these cells, two seeds of each measured."""
    said = {"net": "n", "steps": 10, **needs}
    root = fakes.make(tmp_path, a=dict.fromkeys(cells, said))
    for cell in cells:
        for seed in (0, 1):
            fakes.result(root, "a", cell, seed)
    return root


@two_cores
def test_two_run_side_by_side_on_their_own_cores_and_a_failure_stops_no_other(
    tmp_path, run, capsys
):
    root = fake(tmp_path, "x", "fails", "y")
    code, _ = run(root, jobs=2)
    assert code == 1
    seen = fakes.notes(root, "a")
    assert next(n["argv"] for n in seen if n["cell"] == "y") == ["--cell", "y", "--seeds", "2:3"]
    assert sorted(n["cell"] for n in seen if n["what"] == "end") == ["x", "y"]
    used = {tuple(n["cores"]) for n in seen}
    half = len(CORES) // 2
    assert used == {tuple(CORES[:half]), tuple(CORES[half : 2 * half])}
    ends = {n["cell"]: n["time"] for n in seen if n["what"] == "end"}
    starts = {n["cell"]: n["time"] for n in seen if n["what"] == "start"}
    assert starts["fails"] < ends["x"]
    out = capsys.readouterr().out
    assert "a fails seed 2: failed after 1 s, exit code 3. Its last lines:\n  line 28\n" in out
    assert "  line 39\n" in out
    assert "  line 27\n" not in out
    assert out.endswith("1 failed: a fails seed 2.\n")
    assert os.sched_getaffinity(0) == set(CORES)


@two_cores
def test_cells_that_share_work_do_not_run_side_by_side(tmp_path, run):
    root = fake(tmp_path, "x", "y", shares="stage")
    assert run(root, jobs=2)[0] == 0
    what = [n["what"] for n in fakes.notes(root, "a")]
    assert what == ["start", "end", "start", "end"]


def test_what_does_not_fit_is_not_begun(tmp_path, run, capsys):
    root = fake(tmp_path, "x", "y")
    fakes.result(root, "a", "y", 0, seconds=3000.0)
    assert run(root, hours=0.5)[0] == 0
    assert {n["cell"] for n in fakes.notes(root, "a")} == {"x"}
    assert "left for another time: 1; the next, a y seed 2, needs 50 min" in capsys.readouterr().out


def test_what_lacks_something_is_skipped_and_said(tmp_path, run, capsys):
    root = fakes.make(tmp_path, a={"x": {"accelerator": True}, "y": {"accelerator": True}})
    assert run(root)[0] == 0
    assert capsys.readouterr().out == "skipped for want of it: a: a GPU or TPU (2 cells)\n"


def test_what_is_of_unknown_length_is_left_to_the_user(tmp_path, run, capsys):
    root = fakes.make(tmp_path, a={"x": {}})
    fakes.result(root, "a", "x", 0, seconds=None)
    fakes.result(root, "a", "x", 1, seconds=None)
    assert run(root)[0] == 0
    what = f"python -m {root.name}.a --cell x --seeds 2:3"
    assert capsys.readouterr().out == f"not run, as nothing says how long it takes: {what}\n"


def test_at_the_end_of_the_time_cells_are_asked_to_save(tmp_path, run, capsys):
    root = fake(tmp_path, "sleeps")
    assert run(root, hours=2 / 3600)[0] == 0
    assert [n["what"] for n in fakes.notes(root, "a")] == ["start", "saved"]
    assert "a sleeps seed 2: stopped, the time is over; started again" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_has_cells_save_and_ends_with_its_code(tmp_path, run, capsys, number, code):
    root = fake(tmp_path, "sleeps")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def ask():
        while not fakes.notes(root, "a"):
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    assert run(root)[0] == code
    asking.join()
    assert [n["what"] for n in fakes.notes(root, "a")] == ["start", "saved"]
    assert "stopped, asked to stop" in capsys.readouterr().out
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_of_unknown_speed_first_steps_are_timed(tmp_path, run, capsys, monkeypatch):
    root = fakes.make(tmp_path, a={"x": {"steps": 10, "net": "n"}, "y": {"steps": 40, "net": "n"}})
    fakes.result(root, "a", "x", 0, seconds=None)
    survey = plan.survey

    def timed(*args):
        return [c._replace(seconds=None, can_time=True, have=(0, 1)) for c in survey(*args)]

    monkeypatch.setattr(plan, "survey", timed)
    code, scheduler = run(root, hours=0.01, answers={"a x": 10.0, "a y": 40.0})
    assert code == 0
    assert scheduler.clock.steps == {("a", "n", 1): 1.0}
    assert [n["cell"] for n in fakes.notes(root, "a")] == ["x", "x"]  # y would take 40 s of 36
    out = capsys.readouterr().out
    assert out.count("timing the first steps of a n, one") == 1
    assert "left for another time: 1; the next, a y seed 2, needs 40 s" in out


@pytest.mark.parametrize(
    ("hours", "error", "code"),
    [
        (1.0, schedule.Late("no answer within 10 min."), 1),
        (0.3, schedule.Late("no answer within 9 min."), 0),  # with more time it might be
        (0.3, UserError("out of memory."), 1),
    ],
)
def test_what_cannot_be_timed_is_said_and_the_others_go_on(
    tmp_path, run, capsys, monkeypatch, hours, error, code
):
    root = fakes.make(tmp_path, a={"x": {"steps": 10, "net": "n"}, "y": {"steps": 10, "net": "m"}})
    survey = plan.survey

    def timed(*args):
        return [c._replace(seconds=None, can_time=True, have=(0, 1)) for c in survey(*args)]

    monkeypatch.setattr(plan, "survey", timed)
    assert run(root, hours=hours, answers={"a x": error, "a y": 1.0})[0] == code
    assert [n["cell"] for n in fakes.notes(root, "a")] == ["y", "y"]
    out = capsys.readouterr().out
    assert f"  cannot be timed: {error}\n" in out
    assert out.endswith("1 failed: a n.\n") == bool(code)
    left = "left for another time, as timing it did not fit: a n\n"
    assert out.endswith(left) == (not code)


def test_an_answer_that_does_not_come_is_not_waited_for(tmp_path, monkeypatch):
    root = fakes.make(tmp_path, a={})
    (root / "a" / "cells.py").write_text("import time\ntime.sleep(100)\nCELLS = []")
    scheduler = schedule.Scheduler(root, 1.0, 1, processes.Stops(), list)
    start = time.monotonic()
    with pytest.raises(schedule.Late, match=r"no answer within 1 s\."):
        scheduler.ask("--time", "a x", within=0.5)
    assert time.monotonic() - start < 20


def test_timing_has_ten_minutes_and_no_more_than_half_of_what_is_left(tmp_path, monkeypatch):
    calls = []

    def ask(self, *words, within):
        calls.append((within, words))
        return {"seconds": 10.0}

    monkeypatch.setattr(schedule.Scheduler, "ask", ask)
    for hours in (1.0, 0.1):
        scheduler = schedule.Scheduler(tmp_path, hours, 1, processes.Stops(), list)
        scheduler.candidates = [candidate("x", seconds=None, can_time=True)]
        scheduler.time(order(*scheduler.candidates)[0])
    assert calls[0] == (600.0, ("--time", "a x", "--members", "1", "--within", "300.0"))
    assert calls[1][0] == pytest.approx(180.0, abs=1.0)


def test_a_full_disk_stops_with_one_line(tmp_path, run, capsys, monkeypatch):
    root = fake(tmp_path, "x")
    monkeypatch.setattr(schedule.Scheduler, "disk", lambda self: 1000)
    assert run(root)[0] == 1
    assert fakes.notes(root, "a") == []
    said = f"stopped: the disk of {root} is full; every number measured so far is kept.\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf")])
def test_hours_that_are_none_are_refused(tmp_path, hours):
    with pytest.raises(UserError, match="--hours must be"):
        schedule.run(tmp_path, hours)


@pytest.mark.parametrize(("jobs", "said"), [(0, "--jobs"), (999, "--jobs 999 is more than the")])
def test_jobs_without_cores_are_refused(tmp_path, jobs, said):
    with pytest.raises(UserError, match=said):
        schedule.run(tmp_path, 1.0, jobs)


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--list", "--page"], "--list, --hours and --page are three commands: choose one."),
        (["--list", "--hours", "1"], "choose one."),
        (["--jobs", "2"], "--cell and --jobs belong to --list and --hours."),
        (["--page", "--cell", "a/x"], "--cell and --jobs belong to --list and --hours."),
        (["--hours", "-1"], "--hours must be greater than 0, not -1."),
        (["--hours", "some"], "invalid float value: 'some': see --help."),
        (["--list", "--cell", "a/xx"], "unknown cell 'a/xx'. Did you mean 'a/x'? --list shows"),
        (["--hour", "1"], "unknown argument '--hour'. Did you mean '--hours'?"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(tmp_path, capsys, argv, message):
    root = fakes.make(tmp_path, a={"x": {}})
    with pytest.raises(SystemExit) as info:
        command.main(argv, root)
    out, err = capsys.readouterr()
    assert (info.value.code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (root / "README.md").exists()


def test_the_list_says_state_cost_and_what_is_missing(tmp_path, capsys):
    root = fakes.make(tmp_path, a={"x": {"net": "n", "steps": 10}, "big": {"accelerator": True}})
    fakes.result(root, "a", "x", 0, seconds=200.0)
    command.main(["--list"], root)
    out = capsys.readouterr().out
    assert out.startswith("One seed of each cell, on ")
    [x] = [line for line in out.splitlines() if line.startswith("x ")]
    assert " ".join(x.split()) == f"x 1 of 3 about 3 min measured on {fakes.DEVICE}"
    [big] = [line for line in out.splitlines() if line.startswith("big ")]
    assert " ".join(big.split()) == "big 0 of 3 not known a GPU or TPU"


def test_hours_from_the_command_line_and_the_page_after_it(tmp_path):
    """Everything in processes of its own; run again there is nothing left."""
    root = fake(tmp_path, "x")
    fakes.publish(root, "a", "x")
    code = "import sys, pathlib; from experiments import __main__ as c; c.main(sys.argv[2:], "
    code += "pathlib.Path(sys.argv[1]))"
    argv = [sys.executable, "-c", code, str(root), "--hours", "0.1", "--cell", "a/*"]
    done = subprocess.run(argv, cwd=plan.ROOT.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a x seed 2: done in 1 s\n" in done.stdout
    page = (root / "README.md").read_text()
    row = "| x | loss | p | 1.0 [1] | 2.000 ± 1.000 (3) [2] | +1.000 | reproduced |"
    assert row in page
    assert f"+{row}" in done.stdout
