"""What a command prints, where that can fail: its output goes into a file on a disk that is full, or to
a program that has ended."""

import contextlib
import errno
import os
import sys
from typing import TextIO

# Of a disk that is full, and of a reader that has gone.
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)


def flush() -> OSError | None:
    """Flushes stdout and stderr, and returns why stdout could not be written, or None.

    What cannot be written is dropped: Python would try again at its end, complain, and end with an
    exit code of its own.
    """
    refused = [_flush(stream) for stream in (sys.stdout, sys.stderr)]
    return refused[0]


def _flush(stream: TextIO | None) -> OSError | None:
    # none, as where there is no console; closed, or a stand-in that has no buffer
    if stream is None or getattr(stream, "closed", False) or not hasattr(stream, "flush"):
        return None
    try:
        stream.flush()
    except OSError as error:
        _drop(stream)
        return error
    return None


def _drop(stream: TextIO) -> None:
    """Empties the buffer of a stream that refuses it, and leaves the stream as it was."""
    with contextlib.suppress(
        OSError, ValueError, AttributeError
    ):  # without a file, without a buffer
        at = stream.fileno()
        kept, nowhere = os.dup(at), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, at)
            stream.flush()
        finally:
            os.dup2(kept, at)
            os.close(kept)
            os.close(nowhere)


def refuses(error: OSError) -> bool:
    """Returns whether an error is of printing: one such as a full disk gives, while stdout or stderr
    take no line."""
    if error.errno not in REFUSED or error.filename is not None:
        return False
    return any(map(_takes_nothing, (sys.stdout, sys.stderr)))


def _takes_nothing(stream: TextIO | None) -> bool:
    if stream is None or getattr(stream, "closed", False):
        return False
    try:
        stream.write("\n")
    except OSError:
        return True
    return _flush(stream) is not None


def complain(text: str) -> None:
    """Says on stderr, in one line, what is wrong, where stderr takes it; below what was printed before."""
    flush()
    with contextlib.suppress(OSError):
        print(" ".join(text.splitlines()), file=sys.stderr)  # a name may have several
    flush()


def end(refused: OSError, name: str = "") -> int:
    """Returns the exit code of a command whose output was refused: 1 where nobody reads it any more, as
    after `| head`, else 2, with a line that begins with `name`."""
    if refused.errno == errno.EPIPE:
        flush()
        return 1
    complain(
        f"{name}cannot write what is to be printed: {refused.strerror}. Free some space, or send it "
        "elsewhere."
    )
    return 2
