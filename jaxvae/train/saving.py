"""A checkpoint that cannot be written by one of several processes, heard of at once.

Orbax writes behind the run, and where that fails the process waits for the others, and they for it,
until Orbax gives up on all of them ten minutes later.
"""

import functools
from collections.abc import Callable
from typing import Any

# What Orbax's thread does before it waits for the other processes; no public names (Orbax 0.12).
STEPS = ("_wait_for_checkpointers", "_finalize_checkpoint")
PAGES = "_non_blocking_metadata_store"


def watched(manager: Any, failed: Callable[[Exception], None]) -> Any:
    """Returns an Orbax manager that calls `failed` with what goes wrong behind the run, in its thread."""
    for name in STEPS:
        _watch(manager, name, failed)
    _watch(getattr(manager, PAGES, None), "wait_until_finished", failed)
    return manager


def _watch(owner: Any, name: str, failed: Callable[[Exception], None]) -> None:
    work = getattr(owner, name, None)
    if work is None:  # in another Orbax
        return

    @functools.wraps(work)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            failed(error)
            raise

    setattr(owner, name, told)
