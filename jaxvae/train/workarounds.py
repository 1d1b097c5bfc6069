"""What Orbax and TensorStore do that a run cannot do with, put right once for the process: one notice
too many in the log, counters that are kept for ever, tracebacks of writes that nobody waits for."""

import contextlib
import functools
import logging
import sys
from typing import Any

# How tensorstore says that a disk refuses.
REFUSALS = ("RESOURCE_EXHAUSTED", "No space left", "File too large", "quota exceeded")
REFUSALS += ("PERMISSION_DENIED", "Read-only")


@functools.cache
def apply() -> None:
    """Applies them all; a second call does nothing."""
    _log_less()
    _ask_for_no_counters()
    _drop_late_callbacks()


def refusal(error: Exception) -> str | None:
    """Returns why the disk refused what TensorStore was to write, such as "No space left on device";
    None for an error of another kind."""
    if not any(words in str(error) for words in REFUSALS):
        return None
    return str(error).splitlines()[0].partition(" [")[0].rpartition(": ")[2]


def _log_less() -> None:
    """A checkpoint between two evaluations has no metrics, and needs none: Orbax would say so each time."""
    logging.getLogger("absl").addFilter(lambda record: "tracked_metric" not in record.getMessage())


def _ask_for_no_counters() -> None:
    """For a rate in its own log Orbax asks TensorStore for its counters around each checkpoint, and of
    each answer TensorStore keeps a part for ever: a run that saves often grew by it."""
    with contextlib.suppress(ImportError):  # nobody promises it
        from orbax.checkpoint._src.serialization import tensorstore_utils

        if hasattr(tensorstore_utils, "get_tensorstore_raw_bytes"):
            tensorstore_utils.get_tensorstore_raw_bytes = lambda *_: 0


def _drop_late_callbacks() -> None:
    """Where a write fails, Orbax closes the loop that it waited in, and TensorStore still calls back for
    the other files: Python would show a traceback for each, before the error itself."""
    shown = sys.unraisablehook

    def hook(found: Any) -> None:
        late = repr(found.exc_value) == "RuntimeError('Event loop is closed')"
        if not late or found.object is not None:
            shown(found)

    sys.unraisablehook = hook
