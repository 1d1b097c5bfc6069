"""Files that survive a kill: JSON lines that are appended, everything else replaced in one move.

An object in a bucket cannot be appended to. It is written whole, which replaces it in one move, and
`Log` collects lines so that this is seldom.

JSON has no NaN and no infinity. They are written as the strings "nan", "inf" and "-inf" and read
back as floats; so do not log these three as text. Other floats keep all their digits (`repr`).
NumPy and JAX scalars and arrays are written as numbers and lists.
"""

import contextlib
import errno
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae import paths
from jaxvae.errors import UserError
from jaxvae.paths import PathLike

SECONDS = 10.0  # between two writes of a log to a bucket: an object takes one a second at most
# split -> metric -> (steps [n], values [n])
Curves = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]

_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_ADVICE = {
    errno.ENOSPC: "Free some space, or choose a folder on another disk.",
    errno.EDQUOT: "Free some space, or choose a folder on another disk.",
    errno.EFBIG: "Free some space, or choose a folder on another disk.",
    errno.EROFS: "Choose a folder that you may write to.",
    errno.EACCES: "Choose a folder that you may read and write.",
    errno.EPERM: "Choose a folder that you may read and write.",
}


def append(path: PathLike, record: Mapping[str, Any]) -> None:
    """Appends `record` to a JSON-lines file, in one write: after `kill -9` at most the last line is
    broken.

    A last line that an earlier kill cut off (it has no newline) is removed first. Makes the file
    and its folder where they are missing. In a bucket the whole object is written again.

    Raises:
        UserError: where the disk refuses, or is full (what got written is then taken back).
    """
    line = _line(record)
    if paths.address(path):
        write_bytes(path, _whole_lines(path) + line)
        return
    with disk("write", path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            size = _end_of_lines(file)
            if file.write(line) != len(line):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Log:
    """A log of JSON lines that this process alone writes.

    On a disk each line is appended at once. In a bucket lines are collected, and the whole log is
    written at most every `seconds`, and by `flush`: the bytes sent are the length of the log, each
    time. A kill loses the lines since then, so flush before whatever must not be newer than the log.

    Args:
        path: of the file.
        seconds: between two writes to a bucket.
    """

    def __init__(self, path: PathLike, seconds: float = SECONDS):
        self.path, self.seconds = path, seconds
        self.lines: list[bytes] = []  # not written yet
        self.content: bytes | None = None  # of the object, once it has been read
        self.sent = time.monotonic()

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a line; raises `UserError` as `append`."""
        if not paths.address(self.path):
            append(self.path, record)
            return
        self.lines.append(_line(record))
        if time.monotonic() - self.sent >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what was collected; raises `UserError` where the bucket refuses, and keeps it."""
        if not self.lines:
            return
        if self.content is None:
            self.content = _whole_lines(self.path)
        content = b"".join([self.content, *self.lines])
        write_bytes(self.path, content)
        self.content, self.lines, self.sent = content, [], time.monotonic()


def _whole_lines(path: PathLike) -> bytes:
    """Returns what an object holds up to its last newline; nothing where there is none."""
    with disk("read", path):
        file = paths.path(path)
        content = file.read_bytes() if file.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def read(path: PathLike) -> list[dict[str, Any]]:
    """Returns the records of a JSON-lines file; a broken last line (cut off, or not JSON) is left
    out.

    Raises:
        UserError: for a broken line before the last one, with its number, or a file that cannot be
            read.
    """
    return [record for _, record in _read(path)]


def cut_back(path: PathLike, step: int) -> None:
    """Keeps only the lines whose "step" is at most `step`, so that a resumed run can go on after
    it.

    Lines without a step and a broken last line are dropped, the others stay as they are, byte by
    byte. The file is replaced in one move. A missing file is fine.

    Raises:
        UserError: for a broken line before the last one, or where the disk refuses.
    """
    with disk("read", path):
        missing = not (paths.path(path).exists() if paths.address(path) else os.path.lexists(path))
    if missing:
        return
    kept = b"".join(line + b"\n" for line, record in _read(path) if _step(record) <= step)
    with disk("read", path):
        changed = paths.path(path).read_bytes() != kept
    if changed:
        write_bytes(path, kept)


def read_curves(path: PathLike) -> Curves:
    """Returns `{split: {metric: (steps [n], values [n])}}` from lines `{"step": 9, "split":
    "train", "loss": 1.2}`.

    Lines without a step or a split, and entries that are not numbers, are left out.
    """
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in read(path):
        step, split = record.pop("step", None), record.pop("split", None)
        if not isinstance(step, int) or not isinstance(split, str):
            continue
        for metric, value in record.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                points.setdefault(split, {}).setdefault(metric, []).append((step, value))

    def curve(pairs: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
        steps, values = zip(*pairs, strict=True)
        return np.array(steps, np.int64), np.array(values, np.float64)

    return {
        split: {metric: curve(pairs) for metric, pairs in metrics.items()}
        for split, metrics in points.items()
    }


def tensorboard(folder: PathLike) -> Callable[[int, str, dict[str, float]], None]:
    """Returns `write(step, split, values)` for `fit(on_log=...)`: scalars for TensorBoard, as
    split/metric, in `folder`.

    A resumed run goes on there; what it had written after the step it resumes from is purged.

    Raises:
        UserError: where tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError(
            "TensorBoard's files need tensorboardX: pip install 'jaxvae[tensorboard]'."
        ) from None
    opened = []

    def write(step: int, split: str, values: dict[str, float]) -> None:
        with disk("write", folder):
            if not opened:
                opened.append(SummaryWriter(os.fspath(folder), purge_step=step))
            for name, value in values.items():
                opened[0].add_scalar(f"{split}/{name}", value, step)
            opened[0].flush()

    return write


def write_json(path: PathLike, obj: Any) -> None:
    """Writes `obj` as indented JSON, in one move. Raises `UserError` where the disk refuses."""
    write_bytes(path, as_bytes(obj))


def as_bytes(obj: Any) -> bytes:
    """Returns the content of the file that `write_json` writes."""
    return f"{json.dumps(_plain(obj), indent=2, allow_nan=False)}\n".encode()


def read_json(path: PathLike) -> Any:
    """Returns what a JSON file holds. Raises `UserError` for a file that is missing or not JSON."""
    with disk("read", path):
        text = paths.path(path).read_bytes()
    try:
        return _restore(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file ({error}): repair or remove it.") from None


def write_bytes(path: PathLike, data: bytes) -> None:
    """Writes a whole file in one move: readers see the old one or the new one, never half of it.

    Makes the folder where it is missing. Raises `UserError` where the disk refuses; the old file
    then stays.
    """
    path = paths.path(path)
    if paths.address(path):
        with disk("write", path):
            path.write_bytes(data)
        return
    with disk("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        paths.replace(path, data)


def make_folder(path: PathLike) -> Path:
    """Returns `path`, made where it is missing, after a proof that files can be written in it.

    Raises:
        UserError: where they cannot; better before a long run than after it.
    """
    with disk("write in", path):
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"proof")
            file.flush()
    return Path(path)


@contextlib.contextmanager
def disk(doing: str, path: PathLike) -> Iterator[None]:
    """Turns what the disk, or the bucket, refuses inside the block into a `UserError`: "cannot <doing>
    <path>"."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if paths.address(path):  # whose clients have errors of their own
            raise paths.refused(doing, path, error) from None
        if not isinstance(error, OSError):
            raise
        advice = _ADVICE.get(error.errno or 0, "Check the path.")
        raise UserError(
            f"cannot {doing} {os.fspath(path)}: {error.strerror or error}. {advice}"
        ) from None


def _end_of_lines(file) -> int:
    """Returns the size of an open file after cutting off a last line that has no newline."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return size
    file.seek(0)
    end = file.readall().rfind(b"\n") + 1
    file.truncate(end)
    return end


def _read(path: PathLike) -> list[tuple[bytes, dict[str, Any]]]:
    """Returns each line, as bytes without its newline, with the record in it."""
    with disk("read", path):
        *lines, rest = paths.path(path).read_bytes().split(b"\n")  # `rest` is empty, or cut off
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _restore(json.loads(line))
        except ValueError:  # also what is not UTF-8
            record = None
        if isinstance(record, dict):
            pairs.append((line, record))
        elif number < len(lines) or rest:
            raise UserError(
                f"{path}, line {number} is broken: it is no JSON object. Repair or remove that "
                "line."
            )
    return pairs


def _step(record: dict[str, Any]) -> float:
    step = record.get("step")
    return step if isinstance(step, (int, float)) else math.inf


def _line(record: Mapping[str, Any]) -> bytes:
    if not isinstance(record, Mapping):
        raise UserError(
            f"a record must be a mapping from names to values, not {type(record).__name__}."
        )
    return (json.dumps(_plain(record), allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """Returns `value` in the types that JSON has."""
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy and JAX
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    return value


def _restore(value: Any) -> Any:
    """Returns `value` as read from JSON, with the three strings turned back into floats."""
    if isinstance(value, dict):
        return {k: _restore(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_restore(v) for v in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
