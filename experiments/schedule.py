"""Runs what fits into some hours, the most telling first: each cell a process of its own.

A cell without any number comes before a second seed, a second before a third; then published
numbers before those of other protocols, those before extras; then the shorter. What was stopped on
its way comes first of all. On an accelerator, cells that a sweep trains as one program are one.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.needs import duration
from experiments.plan import SEEDS, Candidate
from experiments.processes import Stops, cores_of, environment, kept_to, kill, listening
from jaxvae.errors import UserError, check_number

MARGIN = 1.1  # of the time that is left, for an expectation
TIMING = 600.0  # seconds that the first steps of a cell may take to time, compilation included
GRACE = 120.0  # seconds that a process that was asked to stop has to save
LAST = 12  # lines that are shown of a cell that failed
LEAST_DISK = 64 * 2**20  # bytes; below, nothing more is begun
POLL = 0.2  # seconds
FAILED = 1  # exit code

Choose = Callable[[Sequence[Candidate]], Sequence[Candidate]]


class Late(UserError):
    """No answer in the time that there was."""


class Task(NamedTuple):
    """What one process runs."""

    label: str
    argv: tuple[str, ...]  # after "python -m"
    runs: frozenset[tuple[str, int]]  # (key of a candidate, seed) that it settles
    seconds: float | None  # expected
    timed: tuple[tuple[str, int], ...]  # (key of a candidate, models at once) to time for that
    shares: frozenset[tuple]  # no two that meet in these run side by side
    order: tuple  # the smallest first


class Running(NamedTuple):
    """A task whose process runs."""

    task: Task
    process: subprocess.Popen
    log: Path
    cores: tuple[int, ...]
    start: float


class Clock(NamedTuple):
    """Seconds of a seed of a net, as timed: (experiment, net, models at once) -> per step."""

    steps: dict[tuple[str, str, int], float]

    def expected(self, c: Candidate, members: int = 1) -> float | None:
        """Returns the seconds of one seed, as timed here, else as the survey expects them."""
        timed = self.steps.get((c.experiment, c.net, members))
        return c.seconds if timed is None else timed * c.steps


def cell_task(c: Candidate, seed: int, package: str, clock: Clock, place: int) -> Task:
    """Returns the task of one cell and seed."""
    argv = (f"{package}.{c.experiment}", "--cell", c.cell, "--seeds", f"{seed}:{seed + 1}")
    seconds = clock.expected(c)
    timed = ((c.key, 1),) if seconds is None and c.can_time else ()
    shares = {(c.experiment, *c.words, c.shares, seed)} if c.shares else set()
    new = sum(1 for s in range(seed) if s not in c.have)  # seeds that come before it
    return Task(
        " ".join((c.experiment, c.cell, *c.words, f"seed {seed}")),
        (*argv, *c.words),
        frozenset({(c.key, seed)}),
        seconds,
        timed,
        frozenset(shares),
        (seed not in c.stopped, len(c.have) + new, c.rank, seconds or 0.0, place),
    )


def sweep_task(
    members: Sequence[Candidate], seeds: int, package: str, clock: Clock, place: int
) -> Task:
    """Returns the task of an ensemble: of so many seeds of its cells, those without numbers, at
    once."""
    module, *words = members[0].ensemble
    nets: dict[str, list[tuple[Candidate, int]]] = {}
    for c in members:
        for seed in range(seeds):
            if seed not in c.have:
                nets.setdefault(c.net, []).append((c, seed))
    known = [clock.expected(runs[0][0], len(runs)) for runs in nets.values()]
    total = None
    if all(seconds is not None for seconds in known):
        total = sum((s or 0.0) * len(runs) for s, runs in zip(known, nets.values(), strict=True))
    timed = () if total is not None else tuple((r[0][0].key, len(r)) for r in nets.values())
    stopped = any(c.ensemble_stopped for c in members)
    runs = frozenset((c.key, seed) for each in nets.values() for c, seed in each)
    order = (not stopped, min(len(c.have) for c in members), min(c.rank for c in members))
    return Task(
        f"{module} {' '.join(words)}, {len(runs)} runs at once",
        (f"{package}.{module}", *words, "--seeds", f"0:{seeds}"),
        runs,
        total,
        timed,
        frozenset(),
        (*order, total or 0.0, place),
    )


def tasks(
    candidates: Sequence[Candidate],
    settled: set[tuple[str, int]],
    package: str,
    platform: str,
    clock: Clock,
) -> list[Task]:
    """Returns what is left to run, the most telling first; `settled` are (key, seed) that need no
    more."""
    found, sweeps = [], {}
    for place, c in enumerate(candidates):
        new = [seed for seed in range(SEEDS) if seed not in c.have]
        new = new[: max(0, SEEDS - len(c.have))]
        left = [seed for seed in new if (c.key, seed) not in settled]
        if c.lacks or not left:
            continue
        if c.ensemble and platform != "cpu":
            sweeps.setdefault((c.experiment, c.ensemble), place)
        else:
            found += [cell_task(c, seed, package, clock, place) for seed in left]
    for (experiment, ensemble), place in sweeps.items():
        members = [c for c in candidates if (c.experiment, c.ensemble) == (experiment, ensemble)]
        # what was stopped goes on with all of its seeds
        least = max((seed for c in members for seed in c.ensemble_stopped), default=0)
        for seeds in range(1 + least, SEEDS + 1):
            task = sweep_task(members, seeds, package, clock, place)
            if not task.runs <= settled:  # all seeds at once before fewer
                found.append(task._replace(order=(*task.order[:3], -seeds, place)))
    return sorted(found, key=lambda task: task.order)


class Scheduler:
    """Starts processes, watches them, and says what becomes of them."""

    def __init__(self, root: Path, hours: float, jobs: int, stops: Stops, choose: Choose):
        check_number("--hours", hours, above=0.0)
        self.root, self.jobs, self.stops, self.chosen = root, jobs, stops, choose
        self.cores = cores_of(jobs)
        self.end = time.monotonic() + 3600 * hours
        self.clock, self.running = Clock({}), []
        self.settled: set[tuple[str, int]] = set()
        self.candidates: list[Candidate] = []
        self.platform = "unknown"
        self.failed, self.late = [], []  # labels; late is what could not be timed in what was left
        self.full = False

    def left(self) -> float:
        """Returns the seconds that are left."""
        return self.end - time.monotonic()

    def run(self) -> int:
        """Returns the exit code: 0, 1 where a cell failed, 75 or 130 where it was asked to stop."""
        self.survey()
        with tempfile.TemporaryDirectory(prefix="experiments-") as logs:
            try:
                self.loop(Path(logs))
            finally:
                for each in self.running:  # none, unless something went wrong here
                    kill(each.process, signal.SIGTERM)
        if not (self.stops.signals or self.full):
            self.say_what_is_left()
        if self.full:
            say(f"stopped: the disk of {self.root} is full; every number measured so far is kept.")
        if self.failed:
            say(f"{len(self.failed)} failed: {'; '.join(self.failed)}.")
        return self.stops.code or (FAILED if self.failed or self.full else 0)

    def loop(self, logs: Path) -> None:
        """Starts and watches processes until nothing more fits, or it is asked to stop."""
        while True:
            self.watch()
            if self.stops.signals or self.left() <= 0:
                self.stop()
                return
            self.full = self.full or self.disk() < LEAST_DISK
            while not self.full and len(self.running) < self.jobs and not self.stops.signals:
                task = self.choose()
                if task is None:
                    break
                self.start(task, logs)
            if not self.running:
                return
            time.sleep(POLL)

    def say_what_is_left(self) -> None:
        """Says what did not fit."""
        rest = tasks(self.candidates, self.settled, self.root.name, self.platform, self.clock)
        known = [task for task in rest if task.seconds is not None]
        if known:
            needed = duration(known[0].seconds or 0.0)
            say(f"left for another time: {len(known)}; the next, {known[0].label}, needs {needed}")
        if self.late:
            say(f"left for another time, as timing it did not fit: {'; '.join(self.late)}")
        for task in rest:
            if task.seconds is None and not task.timed:
                say(f"not run, as nothing says how long it takes: python -m {' '.join(task.argv)}")

    def disk(self) -> int:
        """Returns the bytes that are free."""
        stat = os.statvfs(self.root)
        return stat.f_bavail * stat.f_frsize

    # ---- planning ----------------------------------------------------------------------------

    def survey(self) -> None:
        """Learns what there is, from a process of its own. Raises `UserError` as it does."""
        found = self.ask("--jobs", str(self.jobs))
        self.platform = found["platform"]
        if self.jobs > 1 and self.platform != "cpu":
            raise UserError("--jobs is for a CPU: an accelerator trains one cell at a time.")
        names = {"words", "have", "stopped", "ensemble_stopped", "lacks", "ensemble"}
        every = [
            Candidate(**{k: tuple(v) if k in names else v for k, v in c.items()})
            for c in found["candidates"]
        ]
        self.candidates = list(self.chosen(every))
        if len(self.candidates) < len(every):  # a sweep would train those that are not chosen, too
            left_out = set(every) - set(self.candidates)
            partial = {(c.experiment, c.ensemble) for c in left_out}
            self.candidates = [
                c._replace(ensemble=()) if (c.experiment, c.ensemble) in partial else c
                for c in self.candidates
            ]
        wanting: dict[str, list[str]] = {}
        for c in self.candidates:
            if c.lacks and len(c.have) < SEEDS:
                wanting.setdefault(f"{c.experiment}: {', '.join(c.lacks)}", []).append(c.cell)
        for what, cells in wanting.items():
            say(f"skipped for want of it: {what} ({len(cells)} cells)")

    def ask(self, *words: str, within: float = math.inf) -> Any:
        """Returns what `experiments.plan` answers, in a process with the cores of one job; it is
        ended after `within` seconds. Raises `UserError` as that does, and `Late`."""
        end = time.monotonic() + within
        argv = [sys.executable, "-m", "experiments.plan", "--root", str(self.root), *words]
        with kept_to(self.cores[0]):
            process = subprocess.Popen(
                argv,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(self.root),
                start_new_session=True,
            )
        while True:
            try:
                out, err = process.communicate(timeout=POLL)
                break
            except subprocess.TimeoutExpired:
                if self.stops.signals or time.monotonic() > end:
                    kill(process, signal.SIGKILL)
        if self.stops.signals:
            raise SystemExit(self.stops.code)
        if process.returncode == -signal.SIGKILL and time.monotonic() > end:
            raise Late(f"no answer within {duration(within)}.")
        if process.returncode:
            raise UserError(err.strip().rpartition("\n")[2] or "the survey failed without a word.")
        return json.loads(out.strip().rpartition("\n")[2])

    def choose(self) -> Task | None:
        """Returns the first task that fits into what is left, timed first where that is needed."""
        while True:
            left = self.left() / MARGIN
            shared = {s for r in self.running for s in r.task.shares}
            busy = {run for r in self.running for run in r.task.runs}
            for task in tasks(
                self.candidates, self.settled | busy, self.root.name, self.platform, self.clock
            ):
                if task.runs & busy or task.shares & shared:
                    continue
                if task.timed:
                    if self.running:
                        continue  # a clock beside other work would be wrong
                    self.time(task)
                    break
                if task.seconds is not None and task.seconds <= left:
                    return task
            else:
                return None
            if self.stops.signals or self.left() <= 0:
                return None

    def time(self, task: Task) -> None:
        """Times the first steps of what a task trains; what cannot be timed, or not in `TIMING`
        seconds and half of the time that is left, is not run."""
        for key, members in task.timed:
            c = next(c for c in self.candidates if c.key == key)
            what = f"{members} at once" if members > 1 else "one"
            say(f"timing the first steps of {c.experiment} {c.net}, {what} ...")
            limit = min(TIMING, self.left() / 2)
            words = "--time", key, "--members", str(members), "--within", f"{limit / 2:.1f}"
            try:
                seconds = self.ask(*words, within=limit)["seconds"]
            except UserError as error:
                say(f"  cannot be timed: {error}")
                told = self.late if limit < TIMING and isinstance(error, Late) else self.failed
                told.append(f"{c.experiment} {c.net}")
                self.settled |= {
                    (other.key, seed)
                    for other in self.candidates
                    if (other.experiment, other.net) == (c.experiment, c.net)
                    for seed in range(SEEDS)
                } | set(task.runs)
                return
            self.clock.steps[c.experiment, c.net, members] = seconds / max(c.steps, 1)
            say(f"  about {duration(seconds)} for each")

    # ---- processes ---------------------------------------------------------------------------

    def start(self, task: Task, logs: Path) -> None:
        """Starts a task on the cores of a free job."""
        taken = [r.cores for r in self.running]
        cores = next(c for c in self.cores if c not in taken)
        log = logs / f"{len(self.settled)}.{time.monotonic_ns()}"
        expected = duration(task.seconds or 0.0)
        say(f"{task.label}: about {expected}, {duration(self.left())} left")
        with kept_to(cores), open(log, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *task.argv],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(self.root),
                cwd=self.root.parent,
                start_new_session=True,
            )
        self.running.append(Running(task, process, log, cores, time.monotonic()))

    def watch(self) -> None:
        """Says what became of processes that have ended."""
        for each in [r for r in self.running if r.process.poll() is not None]:
            self.running.remove(each)
            self.settled |= each.task.runs
            took = duration(time.monotonic() - each.start)
            code = each.process.returncode
            if code == 0:
                say(f"{each.task.label}: done in {took}")
                continue
            self.failed.append(each.task.label)
            keys = {key for key, _ in each.task.runs}  # another seed would fail as this one did
            self.settled |= {(key, seed) for key in keys for seed in range(SEEDS)}
            say(f"{each.task.label}: failed after {took}, exit code {code}. Its last lines:")
            for line in each.log.read_text(errors="replace").splitlines()[-LAST:]:
                say(f"  {line}")

    def stop(self) -> None:
        """Asks all that runs to save and stop, waits, and says so."""
        why = "asked to stop" if self.stops.signals else "the time is over"
        for each in self.running:
            say(f"{each.task.label}: stopped, {why}; started again, it goes on from what it saved")
            kill(each.process, signal.SIGTERM)
        end, heard = time.monotonic() + GRACE, len(self.stops.signals)
        while any(r.process.poll() is None for r in self.running):
            if time.monotonic() > end or len(self.stops.signals) > heard:
                for each in self.running:
                    kill(each.process, signal.SIGKILL)
            time.sleep(POLL)
        self.running.clear()


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def run(root: Path, hours: float, jobs: int = 1, choose: Choose = list) -> int:
    """Returns the exit code of running what fits into `hours`.

    Args:
        root: the folder of the experiments.
        hours: after which what still runs is asked to save and stop.
        jobs: how many run side by side, on a CPU.
        choose: which of all candidates may run.

    Raises:
        UserError: for hours that are not above 0, more jobs than cores, a damaged file of results.
    """
    with listening() as stops:
        return Scheduler(Path(root), hours, jobs, stops, choose).run()
