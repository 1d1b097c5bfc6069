"""Writes of a checkpoint that fail in one of several processes, heard of at once.

Orbax writes behind the run, and where that fails the process waits for the others, and they for it,
until Orbax gives up on all of them ten minutes later.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def telling(failed: Callable[[Exception], None]) -> Iterator[None]:
    """Calls `failed` with an error that leaves the block."""
    try:
        yield
    except Exception as error:
        failed(error)
        raise


class Watched:
    """A future of Orbax that tells somebody of its error; no tuple, which Orbax would take apart."""

    def __init__(self, future: Any, failed: Callable[[Exception], None]):
        self.future, self.failed = future, failed

    def result(self, timeout: float | None = None) -> Any:
        """Returns what the future does; raises what it does, after a word of it."""
        with telling(self.failed):
            return self.future.result(timeout)


def watched(handler: Any, failed: Callable[[Exception], None]) -> Any:
    """Returns an Orbax handler that calls `failed` with what goes wrong behind the run, in its thread: as
    it writes, or as it puts what all have written together."""
    save, finalize = handler.async_save, handler.finalize

    async def async_save(*args: Any, **kwargs: Any) -> list[Watched]:
        return [Watched(each, failed) for each in await save(*args, **kwargs) or []]

    def told(*args: Any, **kwargs: Any) -> Any:
        with telling(failed):
            return finalize(*args, **kwargs)

    handler.async_save, handler.finalize = async_save, told
    return handler
