"""A kind of mishap, and what comes of a try."""

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings

from jaxvae.errors import UserError


class Try(NamedTuple):
    """One try: what came of it, in a word or two, and what was lost, if anything was."""

    outcome: str
    lost: str | None = None


class Kind(NamedTuple):
    """A kind of mishap: `round(rng, place)` yields its tries, in an empty folder.

    Attributes:
        runs: that it happens to, one in each round, in turn: `round(rng, place, run)`.
    """

    name: str
    round: Callable[..., Iterator[Try]]
    runs: tuple[str, ...] = ()

    def run_of(self, number: int) -> tuple[str, ...]:
        """Returns the run of a round, by its number; nothing where a round is of none."""
        return (self.runs[number % len(self.runs)],) if self.runs else ()


def lost(what: str) -> Try:
    """Returns a try that was lost."""
    return Try("lost", what)


def one_line(error: BaseException) -> str:
    """Returns where an error that nobody expected came from."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).splitlines()[0][:200] if str(error) else ""
    return f"{type(error).__name__}: {text} ({Path(at.filename).name}:{at.lineno})"


def expected(error: UserError, **must: Any) -> Try:
    """Returns the try that ends in a `UserError`: lost where it is not one short line."""
    text = str(error)
    if "\n" in text or not text or len(text) > 2000:
        return lost(f"not one line: {text[:300]!r}")
    return Try("refused")


def drawn(strategy: Any, count: int, number: int, what: Callable[[Any], Try]) -> list[Try]:
    """Returns `what(value)` of `count` values that hypothesis draws, the same ones for a number."""
    found: list[Try] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(value):
        try:
            found.append(what(value))
        except UserError as error:
            found.append(expected(error))
        except BaseException as error:  # a traceback for the user: what is looked for
            if isinstance(error, KeyboardInterrupt):
                raise
            found.append(lost(one_line(error)))

    run()
    return found
