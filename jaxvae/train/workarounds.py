"""What Orbax and TensorStore do that a run cannot do with, put right once for the process: one notice
too many in the log, strings that are kept for ever, tracebacks of writes that nobody waits for.

What TensorStore (0.1.86) turns into a dictionary, it keeps: every string of it, at every call.
"""

import ast
import contextlib
import functools
import logging
import re
import sys
from typing import Any

import jax

# How TensorStore says that a disk or a bucket refuses: a status, or the reason at the end.
STATUSES = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED")
REASONS = ("No space left", "File too large", "quota exceeded", "Read-only", "Permission denied")
DETAILS = re.compile(r"(\s*\[[\w ]+='[^']*'\])*\s*$")  # such as [os_error_code='28']


@functools.cache
def apply() -> None:
    """Applies them all; a second call does nothing."""
    _log_less()
    _ask_for_no_counters()
    _keep_no_specs()
    _drop_late_callbacks()


def refusal(error: Exception) -> str | None:
    """Returns why the disk refused what TensorStore was to write, such as "No space left on device";
    None for an error of another kind."""
    for line in str(error).splitlines():
        text = DETAILS.sub("", line)
        reason = text.rstrip(": ").rpartition(": ")[2]
        if any(words in reason for words in REASONS) or any(words in text for words in STATUSES):
            return reason
    return None


def _log_less() -> None:
    """A checkpoint between two evaluations has no metrics, and needs none: Orbax would say so each time."""
    logging.getLogger("absl").addFilter(lambda record: "tracked_metric" not in str(record.msg))


def _ask_for_no_counters() -> None:
    """For a rate in its own log Orbax asks TensorStore for its counters around each checkpoint: a run
    that saves often grew by them."""
    with contextlib.suppress(ImportError):  # nobody promises it
        from orbax.checkpoint._src.serialization import tensorstore_utils

        if hasattr(tensorstore_utils, "get_tensorstore_raw_bytes"):
            tensorstore_utils.get_tensorstore_raw_bytes = lambda *_: 0


def _keep_no_specs() -> None:
    """Orbax asks for the spec of each array's store, at each checkpoint; as text it is not kept."""
    import tensorstore

    spec: Any = tensorstore.KvStore.Spec
    as_json = spec.to_json

    def to_json(self: Any, *args: Any, **options: Any) -> Any:
        if args or options:
            return as_json(self, *args, **options)
        try:
            found = ast.literal_eval(repr(self).removeprefix("KvStore.Spec(").removesuffix(")"))
            return jax.tree.map(_of_bytes, found)
        except (ValueError, SyntaxError):  # it writes its text otherwise than today
            return as_json(self)

    spec.to_json = to_json


def _of_bytes(value: Any) -> Any:
    r"""Returns a string whose bytes TensorStore wrote as \x.., one by one, and any other value as it is."""
    return value.encode("latin-1").decode() if isinstance(value, str) else value


def _drop_late_callbacks() -> None:
    """Where a write fails, Orbax closes the loop that it waited in, and TensorStore still calls back for
    the other files: Python would show a traceback for each, before the error itself."""
    shown = sys.unraisablehook

    def hook(found: Any) -> None:
        late = repr(found.exc_value) == "RuntimeError('Event loop is closed')"
        if not late or found.object is not None:
            shown(found)

    sys.unraisablehook = hook
