"""How a run is asked to stop: SIGTERM and Ctrl-C are heard, and acted on once the state is saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax

EXIT_SIGTERM = 75  # sysexits' "temporary failure": start the same command again to go on
EXIT_SIGINT = 130


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
        """Returns whether to save and stop now; with several processes, all of them at the same
        step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
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
