"""What pages show of commands, printed anew: tables that nobody types.

    <!-- table: python -m experiments.vae --table --markdown -->

    | ... |

    <!-- end -->

What stands between the two marks is what the command prints. The README beside the folder of the
experiments has such blocks, and so have theirs and pages of docs/. Commands run in this process: most of what they
need is loaded once for all of them.
"""

import contextlib
import io
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jaxvae import writers
from jaxvae.errors import UserError

MARK = "<!-- table:"
BLOCK = re.compile(  # a mention of the first mark inside a line opens nothing
    r"^<!-- table: (?P<command>[^\r\n]*?) -->(?P<line>\r?\n)(?P<body>.*?)<!-- end -->",
    re.DOTALL | re.MULTILINE,
)


class Refilled(NamedTuple):
    """What became of the blocks of some pages."""

    changed: list[Path]  # pages that were written
    failed: list[str]  # why a block stays as it is


def pages(root: Path) -> list[Path]:
    """Returns the pages that may have blocks: the README beside the folder of the experiments, that
    of the benchmarks, those of docs/, and the README of each experiment."""
    beside = [root.parent / "README.md", root.parent / "benchmarks" / "README.md"]
    found = [*beside, *sorted(root.parent.glob("docs/*.md")), *sorted(root.glob("*/README.md"))]
    return [path for path in found if path.is_file()]


def printed(command: str, root: Path) -> str:
    """Returns what a command prints, run in this process.

    Args:
        command: "python -m MODULE [ARGUMENT]...".
        root: the folder of the experiments, beside which modules are looked for, too.

    Raises:
        UserError: for another kind of command, and one that fails.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"`{command}`: {error}.") from None
    if len(words) < 3 or words[:2] != ["python", "-m"]:
        raise UserError(f"`{command}`: a block's command must be python -m MODULE.")
    if str(root.parent) not in sys.path:
        sys.path.insert(0, str(root.parent))
    out, argv, code = io.StringIO(), sys.argv, 0
    sys.argv = words[2:]
    try:
        with contextlib.redirect_stdout(out), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".* found in sys\.modules", RuntimeWarning)
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except Exception as error:  # of a module that one experiment brings: the others go on
        raise UserError(f"`{command}` fails: {type(error).__name__}: {error}") from None
    finally:
        sys.argv = argv
    if code not in (0, None):
        raise UserError(f"`{command}` fails with exit code {code}.")
    return out.getvalue()


def refilled(text: str, root: Path, failed: list[str]) -> str:
    """Returns a page with what the commands of its blocks print now; the rest stays as it is.

    Args:
        text: the page.
        root: as in `printed`.
        failed: gets a line for each block that stays as it was.
    """

    def fill(match: re.Match[str]) -> str:
        if MARK in match["body"]:
            failed.append(f"the block of `{match['command']}` has no end.")
            return match[0]
        try:
            body = printed(match["command"], root).strip()
        except UserError as error:
            failed.append(str(error))
            return match[0]
        lines = f"{MARK} {match['command']} -->\n\n{body}\n\n<!-- end -->".splitlines()
        return match["line"].join(lines)

    last = text.rpartition("<!-- end -->")[2]
    if MARK in last:
        failed.append(f"the block at `{last[last.index(MARK) :].splitlines()[0]}` has no end.")
    return BLOCK.sub(fill, text)


def refill(root: Path, paths: Iterable[Path] | None = None) -> Refilled:
    """Returns which pages were written, after refilling their blocks; one that cannot be refilled
    stays as it is, and the others go on.

    Args:
        root: as in `printed`.
        paths: of pages; default: all (`pages`).

    Raises:
        UserError: where the disk refuses.
    """
    changed, failed = [], []
    for path in pages(root) if paths is None else paths:
        problems: list[str] = []
        before = path.read_bytes().decode()
        now = refilled(before, root, problems)
        failed += [f"{path}: {problem}" for problem in problems]
        if now != before:
            writers.write_bytes(path, now.encode())
            changed.append(path)
    return Refilled(changed, failed)
