"""Programs that are timed against each other: each in its own process, in turn, alone first."""

import functools
import os
import signal

import pytest

from benchmarks import contest
from benchmarks.contest import Program
from jaxvae.errors import UserError


def steady(rate):
    return Program(lambda: rate, {"pid": os.getpid(), "work": 2.0})


def broken():
    raise ValueError("no such net\nand more")


def failing():
    return Program(lambda: 1 / 0)


def killed():
    return Program(lambda: os.kill(os.getpid(), signal.SIGKILL))


def counting(path):
    """Notes each of its turns in a file that it shares."""

    def run():
        with path.open("a") as notes:
            print(os.getpid(), file=notes)
        return 1.0

    return Program(run, {"pid": os.getpid()}, lambda: 3 * 2**20)


def test_each_has_its_process_and_all_take_turns(tmp_path):
    notes = tmp_path / "turns"
    names = ("a", "b")
    found = contest.contest({name: functools.partial(counting, notes) for name in names}, 2)
    a, b = (found.facts[name]["pid"] for name in names)
    assert len({a, b, os.getpid()}) == 3
    alone = 1 + contest.SOLO  # the first warms it up
    turns = [int(line) for line in notes.read_text().split()]
    assert turns == [a] * alone + [b] * alone + [a, b, a, b]
    assert found.rates == {"a": [1.0, 1.0], "b": [1.0, 1.0]} and found.solo == {"a": 1.0, "b": 1.0}
    assert found.peak_mib == {"a": 3.0, "b": 3.0} and found.before_mib["b"] > 3.0
    for pid in (a, b):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_memory_is_that_of_the_program_itself():
    found = contest.contest({"one": functools.partial(steady, 5.0)}, 1)
    assert found.rates == {"one": [5.0]} and found.facts["one"]["work"] == 2.0
    assert 5 < found.peak_mib["one"] < 1500
    held = bytearray(b"x") * 2**26
    assert contest.peak_memory() > len(held)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (broken, "rival failed: ValueError: no such net$"),
        (failing, "rival failed: ZeroDivisionError: division by zero$"),
        (killed, "rival ended without a word"),
    ],
)
def test_a_program_that_fails_is_named(build, says):
    with pytest.raises(UserError, match=says):
        contest.contest({"rival": build}, 1)


def test_what_company_or_the_machine_spoiled_is_refused():
    contest.check({"a": [8.1, 8.0, 10.6]}, {"a": 10.0})
    with pytest.raises(contest.Unfair, match="a reached 7.9 beside the others and 10 alone"):
        contest.check({"a": [7.9, 7.8, 8.0]}, {"a": 10.0})
    with pytest.raises(contest.Unfair, match="the rates of b go from 9 to 13: not kept"):
        contest.check({"a": [1.0, 1.0], "b": [9.0, 10.0, 13.0]}, {"a": 1.0, "b": 10.0})


def test_a_solo_rate_that_was_itself_disturbed_is_refused():
    contest.check({"a": [10.0, 10.0]}, {"a": 8.0})
    said = (
        "^b reached 33,253 beside the others and 19,769 alone, so its solo rate was disturbed: not "
        "kept. Let nothing else run on this machine, and measure again, perhaps with more --seconds"
    )
    with pytest.raises(contest.Unfair, match=said):
        contest.check({"a": [1.0], "b": [33_253.0]}, {"a": 1.0, "b": 19_769.0})


def test_without_solo_rates_the_spread_alone_counts():
    contest.check({"a": [3.0, 4.0]})
    said = "the seconds of a go from 3 to 4.3: not kept. .* measure again.$"
    with pytest.raises(contest.Unfair, match=said):
        contest.check({"a": [3.0, 4.3]}, of="seconds", longer="")
