"""Processes side by side: their cores, their environment, and how they are asked to stop."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxvae.errors import UserError, check_count

STOPPED, INTERRUPTED = 75, 130  # exit codes


def cores_of(jobs: int) -> list[tuple[int, ...]]:
    """Returns the cores of each job; all of them for one.

    Raises:
        UserError: for more jobs than cores.
    """
    check_count("--jobs", jobs)
    if not hasattr(os, "sched_getaffinity"):
        if jobs > 1:
            raise UserError("--jobs needs a system on which a process can be kept to some cores.")
        return [()]
    cores = sorted(os.sched_getaffinity(0))
    if jobs > len(cores):
        raise UserError(f"--jobs {jobs} is more than the {len(cores)} cores there are.")
    share = len(cores) // jobs
    return [tuple(cores[i * share : (i + 1) * share]) for i in range(jobs)]


@contextlib.contextmanager
def kept_to(cores: Sequence[int]) -> Iterator[None]:
    """Keeps this process, and those that it starts in the block, to some cores."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Stops:
    """Whether Ctrl-C or SIGTERM has asked to stop; a second one stops without waiting."""

    def __init__(self):
        self.signals: list[int] = []

    def __call__(self, number: int, frame: Any) -> None:
        self.signals.append(number)

    @property
    def code(self) -> int:
        """The exit code that says which came first; 0 for none."""
        if not self.signals:
            return 0
        return INTERRUPTED if self.signals[0] == signal.SIGINT else STOPPED


@contextlib.contextmanager
def listening() -> Iterator[Stops]:
    """Yields a `Stops` that hears Ctrl-C and SIGTERM inside the block."""
    stops = Stops()
    before = {n: signal.signal(n, stops) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kill(process: subprocess.Popen, number: int) -> None:
    """Sends a signal to a process and what it has started, where it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def environment(root: Path) -> dict[str, str]:
    """Returns the environment of a process that finds the experiments and this library."""
    here = str(Path(__file__).parents[1])
    paths = dict.fromkeys([str(root.parent), here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
