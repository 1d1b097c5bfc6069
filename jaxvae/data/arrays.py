"""Arrays from anywhere as sources: .npz archives, plain iterators."""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxvae import archives
from jaxvae.data import places
from jaxvae.data.source import Source, from_arrays, parse_split
from jaxvae.errors import Damaged, UserError, one_line

PACKED = 512  # bytes for each byte of an .npz, at most; black rectangles on white reach 365


def npz(
    path: places.PathLike,
    *,
    x: str | None = None,
    label: str | None = None,
    split: str = "all",
    name: str | None = None,
    num_classes: int | None = None,
) -> Source:
    """Returns a `Source` over the arrays of an .npz file.

    Args:
        path: the file; nothing in it is unpickled. A compressed one may unpack to 512 times its
            size (and 8 MiB): half of what zeros reach, more than sprites do.
        x: the key of the examples [n, ...]; default: "x", "x_train", "images", "arr_0" or the only
            key.
        label: the key of the labels [n]; default: "label", "y", "y_train" or "labels" where there
            is one.
        split: a part over "all", as in "all[:55000]".
        name, num_classes: as in `from_arrays`.

    Raises:
        UserError: for a file that cannot be read or lacks the keys, and what `from_arrays` refuses.
    """
    path = Path(os.path.expanduser(path))
    try:
        keys = archives.npz_names(path)
        x, label = _keys(path, keys, x, label)
        arrays = archives.read_npz(path, dict.fromkeys(filter(None, (x, label))), ratio=PACKED)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except Damaged as error:
        raise UserError(
            f"{path} cannot be read as .npz ({error}): write it with numpy.savez(file, x=..., "
            "label=...), without objects."
        ) from None
    values, labels = arrays[x], arrays[label] if label else None
    name = name or path.stem
    if values.ndim == 3 and values.dtype == np.uint8:  # grey images without their channel
        values = values[..., None]
    if not values.ndim:
        raise UserError(f"{path} holds one number as {x!r}: give examples [n, ...].")
    _, part = parse_split(name, split, {"all": len(values)})
    if labels is not None:
        labels = np.atleast_1d(labels)
        if len(labels):  # a part may lack the last class of the file
            every_row = np.zeros((len(labels), 1), np.uint8)
            with _of(path):
                num_classes = from_arrays(every_row, labels, num_classes=num_classes).num_classes
        if len(labels) != len(values):
            raise UserError(
                f"{path} holds {len(labels)} labels and {len(values)} examples: give one label "
                "per example."
            )
        labels = labels[part]
    with _of(path):
        source = from_arrays(values[part], labels, name=name, split=split, num_classes=num_classes)
    return source._replace(origin=str(path), indices=range(part.start, part.stop))


@contextlib.contextmanager
def _of(path: Path) -> Iterator[None]:
    """Names the file in what is refused of its arrays."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _keys(path: Path, keys: list[str], x: str | None, label: str | None) -> tuple[str, str | None]:
    """Returns the keys of the examples and of the labels (None: there are none)."""
    only = keys[0] if len(keys) == 1 else None
    x = x or next((k for k in ("x", "x_train", "images", "arr_0") if k in keys), only)
    others = [k for k in keys if k != x]
    label = label or next((k for k in ("label", "y", "y_train", "labels") if k in others), None)
    listed = one_line(", ".join(keys))
    for key in filter(None, (x, label)):
        if key not in keys:
            raise UserError(f"{path} has no array {key!r}, only {listed}.")
    if x is None:
        raise UserError(
            f"{path} holds {listed or 'nothing'}: say which array has the examples with x=."
        )
    return x, label


def from_iterator(
    examples: Iterable[Any],
    *,
    spool: places.PathLike | None = None,
    most_bytes: int = 2**31,
    name: str = "iterator",
    num_classes: int | None = None,
) -> Source:
    """Returns a `Source` over what an iterator yields: x [...], or (x, label), or {"x": ...,
    "label": ...}.

    Training needs random access, so the iterator is read once, to its end: into memory, or with
    `spool` into a file there, of which only the examples in use are in memory.

    Args:
        examples: yields one example at a time.
        spool: a file to be written (raw bytes), for what does not fit in memory.
        most_bytes: in memory; beyond it, without `spool`, the answer is an error instead of
            swapping.
        name, num_classes: as in `from_arrays`.

    Raises:
        UserError: for an empty iterator, examples of several shapes or types, and too many of them
            for memory.
    """
    rows = _rows(examples)
    first = next(rows, None)
    if first is None:
        raise UserError("the iterator yields no example.")
    x0 = first[0]
    labels: list[int] = []
    store = _Memory() if spool is None else _Spool(spool, x0)
    for i, (x, label) in enumerate(itertools.chain([first], rows)):
        if x.shape != x0.shape or x.dtype != x0.dtype:
            raise UserError(
                f"example {i} has shape {x.shape} and type {x.dtype}, the first {x0.shape} and "
                f"{x0.dtype}: yield examples of one shape and type."
            )
        if (label is None) != (first[1] is None):
            raise UserError(
                f"example {i} {'lacks a' if label is None else 'has a'} label, unlike the first "
                "one."
            )
        if spool is None and (i + 1) * x0.nbytes > most_bytes:
            raise UserError(
                f"the iterator yields more than {most_bytes:,} bytes: pass spool=FILE, and it is "
                "kept there."
            )
        store.append(x)
        if label is not None:
            labels.append(label)
    array, label = store.close(), np.array(labels) if labels else None
    if spool is None:
        return from_arrays(array, label, name=name, num_classes=num_classes)
    checked, count = from_arrays(array[:1], None), None  # type and shape of x
    if label is not None:
        every_row = np.zeros((len(label), 1), np.uint8)
        labelled = from_arrays(every_row, label, num_classes=num_classes)
        label, count = label.astype(np.int32), labelled.num_classes

    def read(indices) -> dict[str, np.ndarray]:
        x = np.asarray(array[indices])
        x = x.astype(np.float32) if x.dtype != np.uint8 else x
        return {"x": x} if label is None else {"x": x, "label": label[indices]}

    return Source(name, "all", len(array), checked.shape, read, count, None, str(spool))


def _rows(examples: Iterable[Any]) -> Iterator[tuple[np.ndarray, int | None]]:
    """Yields (x, label) of each example, however it comes."""
    try:
        examples = iter(examples)
    except TypeError:
        raise UserError(
            f"examples must be an iterable, such as a list or a generator, not a "
            f"{type(examples).__name__}."
        ) from None
    for example in examples:
        if isinstance(example, dict) and "x" in example:
            x, label = example["x"], example.get("label")
        elif isinstance(example, tuple) and len(example) == 2:
            x, label = example
        elif isinstance(example, (dict, tuple)):
            what = f"{len(example)} values"
            if isinstance(example, dict):
                what = ", ".join(map(str, example))
            raise UserError(
                f"the iterator yields {what[:100]}: let it yield x, (x, label) or "
                f'{{"x": ..., "label": ...}}.'
            )
        else:
            x, label = example, None
        try:
            x, number = np.asarray(x), np.asarray(0 if label is None else label)
        except ValueError:
            raise UserError(
                "an example is no array, as its parts have different shapes: let the iterator yield "
                'x, (x, label) or {"x": ..., "label": ...}.'
            ) from None
        if number.size != 1:
            raise UserError(
                f"a label has the shape {number.shape}: let the iterator yield single examples, not "
                "batches."
            )
        if not np.issubdtype(number.dtype, np.integer):
            raise UserError(f"label must be a whole number, not {label!r}.")
        yield x, None if label is None else int(number.item())


class _Memory:
    """Examples in memory."""

    def __init__(self):
        self.rows: list[np.ndarray] = []

    def append(self, x: np.ndarray) -> None:
        self.rows.append(x)

    def close(self) -> np.ndarray:
        return np.stack(self.rows)


class _Spool:
    """A file of raw bytes that grows by one example at a time."""

    def __init__(self, path: places.PathLike, example: np.ndarray):
        self.path, self.count = Path(path), 0
        self.shape, self.dtype = example.shape, example.dtype
        try:
            self.file = open(self.path, "wb")  # noqa: SIM115 - closed in close()
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}. Choose another file."
            ) from None

    def append(self, x: np.ndarray) -> None:
        try:
            self.file.write(np.ascontiguousarray(x).tobytes())
        except OSError as error:
            self.file.close()
            self.path.unlink(missing_ok=True)
            raise UserError(
                f"cannot write {self.path}: {error.strerror}. Free some space or choose another "
                "file."
            ) from None
        self.count += 1

    def close(self) -> np.ndarray:
        self.file.close()
        return np.memmap(self.path, self.dtype, "r", shape=(self.count, *self.shape))
