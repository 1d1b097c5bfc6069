"""From the words of a command line to one command.

A user's mistake ends with one line on stderr and exit code 2, as does a full disk; a loss that is not
finite with 3; a run that was asked to stop with 75 (SIGTERM) or 130 (Ctrl-C), after it has saved; a
command whose output nobody reads any more with 1.
"""

import contextlib
import functools
import io
import itertools
import operator
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxvae import host, paths, terminal
from jaxvae.errors import UserError, unknown

NAME = "jaxvae: "  # before what is said on stderr
USAGE = """usage: jaxvae COMMAND ...

commands:
  train PRESET   train a model; `jaxvae train PRESET --help` lists its options
{commands}

presets:
{presets}

options:
  --version      show the version
  --help         show this text

example:
  jaxvae train vae --data digits --latent-dim 2 --workdir runs/digits
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words, alone=argv is None)
    except SystemExit as stop:  # of --help
        refused = terminal.flush()
        if refused is None or stop.code:
            raise
        return terminal.end(refused, NAME)
    refused = terminal.flush()
    return code if refused is None or code else terminal.end(refused, NAME)


def _run(argv: list[str], *, alone: bool) -> int:
    """Runs one command, says what went wrong in a line, and returns the exit code; `alone` where the
    process is for nothing else."""
    try:
        return _main(argv, alone=alone)
    except UserError as error:
        terminal.complain(f"{NAME}{error}")
        return 2
    except KeyboardInterrupt:  # before a run listens for it: there is nothing to save
        return 130
    except OSError as error:
        if not terminal.refuses(error):
            raise
        return terminal.end(error, NAME)
    except (MemoryError, RuntimeError) as error:
        words = ("RESOURCE_EXHAUSTED", "Out of memory")
        if not isinstance(error, MemoryError) and not any(each in str(error) for each in words):
            raise
        terminal.complain(
            f"{NAME}out of memory: use smaller networks, a smaller batch, or --accumulate."
        )
        return 2


def _main(argv: list[str], *, alone: bool) -> int:
    with host.importing(for_good=alone):
        command = _command(argv)
    return command()


def _command(argv: list[str]) -> Callable[[], int]:
    """Returns what the words ask for, with all that it needs imported and its options checked."""
    from jaxvae.presets import PRESETS

    if not argv or argv[0] in ("-h", "--help", "help"):
        return functools.partial(_explain, 0 if argv else 2)
    if argv[0] == "--version":
        return _say_version
    if argv[0] != "train":
        return _other(argv)
    if len(argv) == 1:
        raise UserError(
            f"train needs a preset: {', '.join(PRESETS)}. Example: jaxvae train vae "
            "--workdir runs/vae"
        )
    if argv[1] in ("-h", "--help"):
        return functools.partial(_explain, 0)
    if argv[1] not in PRESETS:
        raise unknown("preset", argv[1], PRESETS)
    settings = parse(PRESETS[argv[1]].options, argv[2:], f"jaxvae train {argv[1]}")
    settings.check()
    from jaxvae.data import known, names

    if not known(settings.data):
        raise unknown("data set", settings.data, names())
    if settings.convolves:
        host.keep_freed_memory()
    host.keep_compiled(settings.compilation_cache)
    from jaxvae.cli.train import run_train

    return functools.partial(run_train, settings)


def _explain(code: int) -> int:
    """Prints what the commands are, and returns the exit code."""
    from jaxvae.cli import options
    from jaxvae.presets import PRESETS

    presets = "\n".join(
        f"  {name:<14} {preset.options.__doc__}" for name, preset in PRESETS.items()
    )
    rows = "\n".join(f"  {name:<14} {cls.__doc__}" for name, (cls, _) in options.COMMANDS.items())
    print(USAGE.format(presets=presets, commands=rows), end="")
    return code


def _say_version() -> int:
    """Prints the version."""
    import jaxvae

    print(f"jaxvae {jaxvae.__version__}")
    return 0


def _other(argv: list[str]) -> Callable[[], int]:
    """Returns a command of `options.COMMANDS`."""
    import importlib

    from jaxvae.cli import options

    word = argv[0]
    groups = {name.split()[0] for name in options.COMMANDS if " " in name}
    if word in groups:
        known = [name.split()[1] for name in options.COMMANDS if name.startswith(f"{word} ")]
        if len(argv) == 1 or argv[1] in ("-h", "--help"):
            return functools.partial(_explain, 0)
        if argv[1] not in known:
            raise unknown(f"command {word}", argv[1], known)
        word = " ".join(argv[:2])
    if word not in options.COMMANDS:
        raise unknown("command", word, {"train", *(name.split()[0] for name in options.COMMANDS)})
    cls, module = options.COMMANDS[word]
    settings = parse(cls, argv[len(word.split()) :], f"jaxvae {word}")
    options.check(settings)
    metrics = getattr(settings, "metrics", None) or ()
    if {"fid", "kid", "lpips"} & set(metrics):  # what takes their features convolves
        host.keep_freed_memory()
    if hasattr(settings, "compilation_cache"):  # of the commands that compute
        host.keep_compiled(settings.compilation_cache)
    commands = importlib.import_module(f"jaxvae.cli.{module}")
    return functools.partial(getattr(commands, f"run_{word.replace(' ', '_')}"), settings)


def parse(cls, args: Sequence[str], prog: str):
    """Returns `args` as the dataclass `cls`, explained by --help; a mistake is one line."""
    import dataclasses

    import tyro

    names = [f"--{f.name.strip('_').replace('_', '-')}" for f in dataclasses.fields(cls)]
    switches = [f.name for f in dataclasses.fields(cls) if f.type in (bool, "bool")]
    flags = [f"--no-{name.replace('_', '-')}" for name in switches]
    for arg in args:
        option = arg.split("=")[0].replace("_", "-")
        if not option.startswith("--"):  # a place, or what an option is given
            continue
        if option not in (*names, *flags, "--help"):
            raise unknown("option", option, [*names, *flags])
        if "=" in arg and option[2:].replace("-", "_") in switches:
            raise UserError(f"{option} takes no value: give {option} or --no-{option[2:]}.")
    problem = io.StringIO()
    try:
        with contextlib.redirect_stderr(problem):
            found = tyro.cli(cls, args=list(args), prog=prog)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise _mistake(problem.getvalue(), prog, _words(cls)) from None
    values = {f.name: getattr(found, f.name) for f in dataclasses.fields(cls)}
    places = {name: _placed(value) for name, value in values.items()}
    changed = {name: value for name, value in places.items() if value is not values[name]}
    return dataclasses.replace(found, **changed) if changed else found


def _placed(value: Any) -> Any:
    """Returns the value of an option, where it is an address as one: as a `Path` it has lost a
    slash."""
    if isinstance(value, tuple):
        places = tuple(map(_placed, value))
        return value if all(map(operator.is_, places, value)) else places
    return paths.path(value) if isinstance(value, Path) and paths.address(value) else value


def _words(cls: Any) -> list[str]:
    """Returns the names of a command's words that belong to no option, such as RUN."""
    import dataclasses

    from tyro.conf import Positional

    return [
        next(mark.metavar for mark in marks if getattr(mark, "metavar", None))
        for field in dataclasses.fields(cls)
        if Positional in (marks := getattr(field.type, "__metadata__", ()))
    ]


def _mistake(box: str, prog: str, words: Sequence[str]) -> UserError:
    """Returns the error that says in one line what tyro's box says in many; `words` are those that the
    command takes without an option."""
    text = _one_line(box)
    choice = re.match(
        r"invalid choice '(.*?)' for argument '(--\S+)'\. Expected one of \((.*?)\)", text
    )
    if choice:
        words = [word for word in re.findall(r"'(.*?)'", choice[3]) if word != "None"]
        return unknown(choice[2], choice[1], words)
    kind = re.match(
        r"Error parsing (--\S+): .*?no type matching (\S+) could be instantiated from \['(.*?)'\]",
        text,
    )
    if kind:
        return UserError(
            f"{kind[1]} takes {kind[2]}, not {kind[3]!r}. `{prog} --help` explains it."
        )
    number = re.match(r"Error parsing (--\S+): invalid literal for int\(\).*?: '(.*)'", text)
    if number:
        return UserError(f"{number[1]} takes INT, not {number[2]!r}. `{prog} --help` explains it.")
    several = re.match(r"Error parsing (--\S+): Could not find valid parse for .*?: \[(.*)\]", text)
    if several:
        return UserError(f"{several[1]} does not take {several[2]}. `{prog} --help` explains it.")
    extra = re.match(r"Unrecognized options: (.*)\.$", text)
    if extra:
        usage = " ".join([prog, *words])
        return UserError(
            f"what {extra[1]} is for is not clear: `{usage}` takes no more than options."
        )
    missing = re.match(r"Missing from [^:]*: (--\S+ \S+)", text)
    if missing:
        return UserError(f"{missing[1]} is required. `{prog} --help` lists the options.")
    empty = re.match(r"Missing value for argument '(--\S+)'", text)
    if empty:
        return UserError(f"{empty[1]} needs a value. `{prog} --help` explains it.")
    # an argument without an option
    place = re.match(r"Missing (?:from [^:]*: (\S+)|value for argument '(\w+)')", text)
    if place:
        word = (place[1] or place[2]).upper()
        usage = " ".join([prog, *(words or [word])])
        return UserError(f"{word} is required, as in `{usage}`. `{prog} --help` explains it.")
    return UserError(f"{text} `{prog} --help` lists the options.")


def _one_line(box: str) -> str:
    """Returns the first paragraph of a boxed message as one sentence."""
    rows = [row.strip("│╭╮╰╯─ ") for row in box.splitlines()]
    # a rule is of minus signs where the terminal has no lines
    rows = ["" if set(row) == {"-"} else row for row in rows]
    start = next((i for i, row in enumerate(rows) if row), 0) + 1  # behind the title
    words = list(itertools.takewhile(bool, itertools.dropwhile(lambda row: not row, rows[start:])))
    text = re.sub(r"\s+", " ", " ".join(words)).replace("{None}|", "") or "wrong options"
    return text if text.endswith((".", "!", "?")) else text + "."
