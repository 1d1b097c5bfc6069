"""python -m experiments.zoo: trains the models of the zoo that are missing, and puts them into the package.

python -m experiments.zoo [--only NAME]...    trains, measures and exports what is not there with these settings
python -m experiments.zoo --list              each model: whether it is there, what it costs, its settings

The settings are data, experiments/zoo.json: words of `jaxvae train` and `jaxvae evaluate`. A run stays in
runs/zoo, where an interrupted one goes on. A model that is too large, or cannot be loaded, is not put
into the package.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import processes, runner
from experiments.needs import duration
from experiments.runner import Option
from jaxvae import paths, table, writers
from jaxvae.errors import UserError
from jaxvae.presets import export, load, released, zoo

SETTINGS = Path(__file__).with_name("zoo.json")
SETTING = "setting.json"  # in the folder of a model: what it was trained with
RUNS = Path("runs/zoo")
LARGEST, ALL = 3_000_000, 20_000_000  # bytes of a model, and of all of them
OPTIONS = (
    Option("only", None, str, "only NAME, or a glob of it", repeatable=True),
    Option("list", False, bool, "each model: whether it is there, what it costs, its settings"),
    Option("runs", RUNS, Path, "folder of the runs"),
)


class Wanted(NamedTuple):
    """A model that the zoo should have."""

    name: str
    train: str  # words after `jaxvae train`
    evaluate: str | None  # words after `jaxvae evaluate RUN`; None: it has nothing to measure
    seconds: float  # of both on one core, roughly
    license: str
    also: tuple[str, ...] = ()  # other data sets that `experiments.family` trains it on

    @property
    def setting(self) -> dict[str, str | None]:
        """What makes two models the same."""
        return {"train": self.train, "evaluate": self.evaluate}


def wanted(only: Sequence[str] | None = None) -> list[Wanted]:
    """Returns the models of the settings; those alone that a name or glob in `only` asks for.

    Raises:
        UserError: for a name or glob that fits none.
    """
    page = writers.read_json(SETTINGS)
    found = [Wanted(**entry, license=page["license"]) for entry in page["entries"]]
    return runner.select(found, only, "model of the zoo")


def state(each: Wanted, root: Path) -> str:
    """Returns "there", "missing" or "of another setting"."""
    if each.name not in zoo.names(root):
        return "missing"
    page = root / each.name / SETTING
    same = page.is_file() and writers.read_json(page) == each.setting
    return "there" if same else "of another setting"


def command(*words: str) -> None:
    """Runs `jaxvae WORDS` in a process of its own; raises `UserError` where it fails."""
    here = processes.environment(Path(__file__).parent)
    code = subprocess.run(
        [sys.executable, "-m", "jaxvae", *words], env=here, check=False
    ).returncode
    if code:
        raise UserError(f"`jaxvae {shlex.join(words)}` ends with exit code {code}.")


def make(each: Wanted, root: Path, runs: Path) -> None:
    """Trains, measures and exports a model into the zoo at `root`.

    Raises:
        UserError: where a command fails, and for a model that the zoo does not take.
    """
    run, out = runs / each.name, runs / "exported" / each.name
    preset, *words = shlex.split(each.train)
    command("train", preset, *words, "--workdir", str(run), "--no-progress")
    if each.evaluate is not None:
        command("evaluate", str(run), *shlex.split(each.evaluate))
    export.export(run, out, license=each.license, name=f"zoo:{each.name}")
    writers.write_json(out / SETTING, each.setting)
    files = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
    there = sum(size_of(root / name) for name in zoo.names(root) if name != each.name)
    found = problems(out)
    if there + size_of(out) > ALL:
        found.append(f"the zoo would have {there + size_of(out):,} bytes, more than {ALL:,}")
    if found:
        raise UserError(f"{each.name}: {'; '.join(found)}.")
    setting = files.pop(SETTING)
    released.write(root / each.name, files)
    writers.write_bytes(root / each.name / SETTING, setting)


def size_of(folder: Path) -> int:
    """Returns the bytes of the files in a folder."""
    return sum(paths.size(path) for path in folder.iterdir())


def problems(folder: Path) -> list[str]:
    """Returns why the zoo does not take the model in `folder`; nothing where it does."""
    found, names = [], {path.name for path in folder.iterdir()}
    needed = {*released.FILES, SETTING} - {released.EVALUATION, released.PICTURE}
    if missing := sorted(needed - names):
        found.append(f"{', '.join(missing)} missing")
    if others := sorted(names - {*released.FILES, SETTING}):
        found.append(f"{', '.join(others)} too many")
    if (size := size_of(folder)) > LARGEST:
        found.append(f"{size:,} bytes, more than {LARGEST:,}")
    try:
        load.load(folder)
    except UserError as error:
        found.append(str(error))
    return found


def print_list(models: Sequence[Wanted], root: Path) -> None:
    """Prints a line for each model."""
    rows = [("", "state", "size", "expected", "settings")]
    for each in models:
        here = each.name in zoo.names(root)
        size = f"{size_of(root / each.name) / 1e6:.2f} MB" if here else ""
        words = each.train + (f"; evaluate {each.evaluate}" if each.evaluate else "")
        cost = f"about {duration(each.seconds)}"
        rows.append((each.name, state(each, root), size, cost, words))
    print(table.grid(rows, (2, 3), False))


@runner.command
def main(argv: Sequence[str] | None = None, root: Path | None = None) -> None:
    """Does what the command line asks for, in the zoo at `root`. A user's mistake is one line on
    stderr and exit code 2."""
    root = zoo.FOLDER if root is None else root
    args = runner.parse("experiments.zoo", "Trains the models of the zoo.", OPTIONS, argv)
    models = wanted(args.only)
    if args.list:
        return print_list(models, root)
    for each in models:
        if state(each, root) == "there":
            print(f"{each.name}: there, with these settings.")
            continue
        print(f"{each.name}: about {duration(each.seconds)}", flush=True)
        make(each, root, args.runs)
        print(f"{each.name}: {size_of(root / each.name) / 1e6:.2f} MB in {root / each.name}")
    return None


if __name__ == "__main__":
    main()
