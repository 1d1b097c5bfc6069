"""Programs timed against each other, each in a process of its own: they take turns, one at work and
the others asleep.

Two libraries in one process share its threads, its allocator and its settings, and one may slow the
other down. So each program is built in its own process, is warmed up, and says how fast it is
before the next one starts: its solo rate. Then all take turns over several rounds. Figures that the
company or the machine spoiled are refused (`Unfair`), not reported.
"""

import multiprocessing
import os
import resource
import statistics
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from jaxvae.errors import UserError

LEAST = 0.8  # of its rate alone, to be reached beside the others, and the other way round
SPREAD = 1 / 3  # of its median, by which the rates of a program may differ
# an accelerator is shared, so neither they nor this process take all of its memory at once
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
SOLO = 3  # turns alone, of which the median counts


class Program(NamedTuple):
    """What a process times.

    Attributes:
        run: () -> the rate of one turn, such as images/s.
        facts: what else is to be said of it, such as its FLOPs; must be picklable.
        peak: () -> the most bytes that it held, where the process's resident memory is not what
            counts.
    """

    run: Callable[[], float]
    facts: Mapping[str, Any] = {}
    peak: Callable[[], int] | None = None


class Result(NamedTuple):
    """Rates of every program by name, over the rounds and alone; its facts; its peak memory, and
    what its process held before anything was built: the modules of this repository."""

    rates: dict[str, list[float]]
    solo: dict[str, float]
    facts: dict[str, Mapping[str, Any]]
    peak_mib: dict[str, float]
    before_mib: dict[str, float]


class Unfair(UserError):
    """Rates that must not be compared."""


class _Entrant(NamedTuple):
    process: Any
    pipe: Connection


def contest(builds: Mapping[str, Callable[[], Program]], rounds: int) -> Result:
    """Returns the rates of programs that take turns `rounds` times.

    Args:
        builds: program -> () -> `Program`, called in the program's own process: a function of a
            module, or a `functools.partial` of one.
        rounds: turns of each that are kept.

    Raises:
        Unfair: for a program that is below 80 % of its solo rate beside the others, whose solo rate
            is below 80 % of its median beside them, or whose rates differ by more than a third of
            their median. Nothing but a quiet machine helps.
        UserError: for a program that could not be built or that failed, with its last line.
    """
    entrants: dict[str, _Entrant] = {}
    solo, facts, rates = {}, {}, {name: [] for name in builds}
    peak, before = {}, {}
    try:
        for name, build in builds.items():
            entrants[name] = _enter(build)
            facts[name], held = _ask(name, entrants[name], None)  # built
            before[name] = _mib(held)
            _ask(name, entrants[name], "run")  # warm up
            solo[name] = statistics.median(_ask(name, entrants[name], "run") for _ in range(SOLO))
        for _ in range(rounds):
            for name, entrant in entrants.items():
                rates[name].append(_ask(name, entrant, "run"))
        for name, entrant in entrants.items():
            peak[name] = _mib(_ask(name, entrant, "peak"))
    finally:
        for process, pipe in entrants.values():
            pipe.close()
            process.kill()
            process.join()
    check(rates, solo)
    return Result(rates, solo, facts, peak, before)


def check(
    values: Mapping[str, Sequence[float]],
    solo: Mapping[str, float] | None = None,
    *,
    of: str = "rates",
    longer: str = "--seconds or --steps",
) -> None:
    """Raises `Unfair` unless every program was steady and, where `solo` has rates, as fast in company
    as alone.

    Args:
        values: of each program, one for each round.
        solo: rates alone.
        of: what `values` are, in words.
        longer: the options that make a turn longer; "" where there is none.
    """
    for name, each in values.items():
        said = doubt(name, summary(each), None if solo is None else solo[name], of)
        if said:
            again = f", perhaps with more {longer}" if longer else ""
            raise Unfair(
                f"{said}: not kept. Let nothing else run on this machine, and measure again{again}."
            )


def doubt(
    name: str, rate: Mapping[str, float], solo: float | None = None, of: str = "rates"
) -> str:
    """Returns why what a program reached must not be compared, "" where it may.

    Args:
        name: of the program.
        rate: its `summary`.
        solo: its rate alone, where there is one.
        of: as in `check`.
    """
    median, low, high = rate["median"], rate["min"], rate["max"]
    if solo is not None and min(median, solo) < LEAST * max(median, solo):
        said = f"{name} reached {_shown(median)} beside the others and {_shown(solo)} alone"
        return said if median < solo else f"{said}, so its solo rate was disturbed"
    if high - low > SPREAD * median:
        return f"the {of} of {name} go from {_shown(low)} to {_shown(high)}"
    return ""


def summary(values: Sequence[float]) -> dict[str, float]:
    """Returns median, smallest and largest of values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _enter(build: Callable[[], Program]) -> _Entrant:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, build), daemon=True)
    process.start()
    theirs.close()
    return _Entrant(process, ours)


def _ask(name: str, entrant: _Entrant, question: str | None) -> Any:
    """Returns the answer of a program; `None` waits for what it says of itself when it is built."""
    try:
        if question is not None:
            entrant.pipe.send(question)
        answer, error = entrant.pipe.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise UserError(f"{name} ended without a word: was it killed for its memory?") from None
    if error is not None:
        raise UserError(f"{name} failed: {error}")
    return answer


def _serve(pipe: Connection, build: Callable[[], Program]) -> None:
    """Builds a program and answers until nobody asks any more."""
    try:
        before = peak_memory()
        program = build()
        pipe.send(((dict(program.facts), before), None))
        while True:
            question = pipe.recv()
            answer = program.run if question == "run" else program.peak or peak_memory
            pipe.send((answer(), None))
    except (EOFError, BrokenPipeError):  # the contest is over
        return
    except BaseException as error:
        traceback.print_exc()
        pipe.send((None, f"{type(error).__name__}: {error}".splitlines()[0]))


def _mib(memory: int) -> float:
    return round(memory / 2**20, 1)


def peak_memory() -> int:
    """Returns the most bytes that this process has held.

    On Linux from VmHWM: `getrusage` there counts what the parent held when it started this process.
    """
    try:
        status = Path("/proc/self/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return held if sys.platform == "darwin" else held * 1024
