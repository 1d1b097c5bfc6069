"""Command lines that make no sense end in one line; none begins to work."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from jaxvae.cli import options
from jaxvae.cli import train as training
from jaxvae.cli.main import main
from jaxvae.presets import PRESETS
from torture.kinds import Kind, Try, drawn, lost

COUNT = 40  # command lines of a round
VALUES = ["0", "-1", "1", "2.5", "nan", "inf", "1e400", "x", "", " ", "None", "true", "²", "9" * 30]
VALUES += [
    "--",
    "-",
    "\0",
    "\n",
    "../..",
    "gs://bucket/run",
    "tfds:none",
    "npz:",
    "folder:",
    "train[:]",
]
USED = {name: cls for name, (cls, _) in options.COMMANDS.items() if name != "weights fetch"}


def names_of(cls: type) -> list[str]:
    """Returns the options of a command."""
    return [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(cls)]


def words_of(place: Path) -> st.SearchStrategy[list[str]]:
    """Returns command lines: a preset or a command, or what is none, and options with values that
    seldom fit."""
    presets = [(["train", name], preset.options) for name, preset in PRESETS.items()]
    commands = [(name.split(), cls) for name, cls in USED.items()]
    heads = st.sampled_from([*presets, *commands])
    value = st.sampled_from(VALUES) | st.text(max_size=6) | st.integers().map(str)

    def after(head):
        words, cls = head
        names = st.sampled_from(names_of(cls)) if names_of(cls) else st.nothing()
        one = st.tuples(names | st.text(max_size=8), value).map(list)
        alone = (names | value).map(lambda word: [word])
        some = st.lists(one | alone, min_size=1, max_size=4)
        end = ["--workdir", str(place / "run")] if words[0] == "train" else [str(place / "none")]
        return some.map(lambda parts: [*words, *(w for part in parts for w in part), *end])

    nonsense = st.lists(st.text(max_size=6) | st.sampled_from(VALUES), min_size=1, max_size=3)
    return heads.flatmap(after) | nonsense


def built(config) -> int:
    """Stands for training: what it is asked for is only built."""
    PRESETS[training.record.name_of(config)].build(config, (8, 8, 1), 10)
    return 0


def command_lines(rng: np.random.Generator, place: Path) -> Iterator[Try]:
    """Yields tries of command lines."""

    def one(argv: list[str]) -> Try:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(argv)
            except SystemExit as end:  # of --help
                code = end.code
        text = err.getvalue()
        if code in (0, None):
            return Try("understood")
        if code != 2 or text.count("\n") != 1 or not text.startswith("jaxvae: "):
            return lost(f"{argv}: exit {code}, {text[:300]!r}")
        return Try("refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HOME", str(place))
        patch.setattr(training, "run_train", built)
        yield from drawn(words_of(place), COUNT, int(rng.integers(2**32)), one)


KINDS = (Kind("command_line", command_lines),)
