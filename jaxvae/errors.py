"""What a user did wrong, said in one line; the few checks that many constructors share."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class UserError(ValueError):
    """A mistake in the input. The command line prints its message alone and exits with code 2."""


class Damaged(ValueError):
    """What is wrong with a file, without its name: who reads the file knows what it is for."""


@contextmanager
def damage() -> Iterator[None]:
    """Turns every error inside into `Damaged`, on one line.

    zipfile, zlib, pickle, json and NumPy raise many kinds.
    """
    try:
        yield
    except Exception as error:
        ours = isinstance(error, Damaged)
        text = str(error) if ours else f"{type(error).__name__}: {error}"
        raise (type(error) if ours else Damaged)(one_line(text)) from None


def one_line(text: str, length: int = 200) -> str:
    """Returns text of a file as one line of at most `length` characters that a terminal can show."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."


def unknown(what: str, name: Any, known: Iterable[str]) -> UserError:
    """Returns the error for a name that is not one of `known`, with the nearest one suggested."""
    known = sorted(str(k) for k in known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {what} {name!r}.{hint} Choose from: {', '.join(known)}.")


def concrete(value: Any) -> bool:
    """Returns whether `value` is known now: traced hyper-parameters go unchecked."""
    from jax.core import Tracer

    return not isinstance(value, Tracer)


def check_kind(name: str, value: Any, kind: type, how: str) -> None:
    """Raises `UserError` unless `value` is a `kind`; `how` says what makes one."""
    if not isinstance(value, kind):
        given = value.__name__ if isinstance(value, type) else type(value).__name__
        article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
        raise UserError(f"{name} must be {article} {kind.__name__}, not {given}: {how}.")


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Raises `UserError` unless a concrete `value` is finite and inside the bounds given."""
    if not concrete(value):
        return
    try:
        number = float("not a number" if isinstance(value, str) else np.asarray(value))
    except (TypeError, ValueError):
        raise UserError(f"{name} must be a number, not {value!r}.") from None
    if not np.isfinite(number):
        raise UserError(f"{name} must be finite, not {number}.")
    if above is not None and not number > above:
        raise UserError(f"{name} must be greater than {above:g}, not {number:g}.")
    if least is not None and not number >= least:
        raise UserError(f"{name} must be at least {least:g}, not {number:g}.")
    if below is not None and not number < below:
        raise UserError(f"{name} must be below {below:g}, not {number:g}.")
    if at_most is not None and not number <= at_most:
        raise UserError(f"{name} must be at most {at_most:g}, not {number:g}.")


def check_seed(name: str, value: Any) -> None:
    """Raises `UserError` unless `value` is a seed that `jax.random.key` tells from all others."""
    check_count(name, value, least=0)
    if value >= 2**32:
        raise UserError(f"{name} must be below 2**32 = {2**32}, not {value}.")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises `UserError` unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise UserError(f"{name} must be a whole number, not {value!r}.")
    if value < least:
        raise UserError(f"{name} must be at least {least}, not {value}.")
