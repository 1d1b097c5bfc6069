"""How a run is asked to stop: SIGTERM and Ctrl-C are heard, and acted on once the state is saved."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

EXIT_SIGTERM = 75  # sysexits' "temporary failure": start the same command again to go on
EXIT_SIGINT = 130

_QUESTIONS = itertools.count()  # questions in the life of this process


class Stopped(SystemExit):
    """A run that was asked to stop and saved its state: exits with 75 after SIGTERM, 130 after
    Ctrl-C."""


class Signals:
    """Whether SIGTERM or SIGINT has arrived; the first one asks to save and stop, a second SIGINT
    stops at once."""

    def __init__(self):
        self.received: int | None = None

    def __call__(self, number, frame):
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def stop_at(self, step: int) -> bool:
        """Returns whether to save and stop now; with several processes, which must ask equally often,
        all of them at the same step.

        A notice to any of them is one to all. JAX then names the next number to be asked about, and
        is asked about each: a step would not do, for a call may compute many.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))
        return self.received is not None

    @property
    def code(self) -> int:
        """The exit code of a run that stops now."""
        return EXIT_SIGINT if self.received == signal.SIGINT else EXIT_SIGTERM


@contextlib.contextmanager
def listen() -> Iterator[Signals]:
    """Yields `Signals` that catch SIGTERM and Ctrl-C inside the block (in the main thread of a
    single process).

    A signal that nobody in the block acted on, as it came after the last step, is a `Stopped` at
    its end: what was run is whole, but nothing may follow it.
    """
    signals, before = Signals(), {}
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
        before = {
            number: signal.signal(number, signals) for number in (signal.SIGTERM, signal.SIGINT)
        }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals.received is not None:
        raise Stopped(signals.code)
