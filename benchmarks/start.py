"""Seconds from `jaxvae train ...` to the first step in its log: of a first start, whose programs are
compiled, and of a second one, which finds them in the cache.

    python -m benchmarks.start [--rounds 3] [--table]
    python -m benchmarks.start --only NAME...          # printed and not kept

Each start is a process of its own with everything that a user waits for: Python, the libraries, the
data, initial parameters, the compiled loop. Each round begins with an empty cache (`--compilation-cache`);
the second start is a new run with the same command. Runs are of one step on generated data of the
shape of MNIST or CIFAR-10. `bare` is Python until it has imported JAX and jaxvae's training and knows
its devices: no start is shorter. Python's bytecode is there from the beginning, as pip leaves it where
it installs a package. Nothing is kept where the seconds of one of them differ by more than
a third between the rounds.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jaxvae
from benchmarks import contest, measure
from experiments.runner import command
from jaxvae.errors import UserError, check_count
from jaxvae.table import grid

BARE = "import jax, jaxvae.train, jaxvae.cli.main; jax.devices(); print(1, flush=True)"
PROGRAM = "from jaxvae.cli.main import main; raise SystemExit(main())"
CASES = {
    "vae": "vae --data fake_mnist",
    "gan": "gan --data fake_mnist",
    "two_stage_vae": "two_stage_vae --data fake_mnist",
    "soft_intro_vae": "soft_intro_vae --data fake_mnist",
    "soft_intro_vae, intro": "soft_intro_vae --net intro --data fake_cifar10 --batch-size 32",
}
STARTS = ("first", "second")
LIMIT = 1800.0  # seconds for one start


def first_step(words: Sequence[str], cache: Path, place: Path) -> float:
    """Returns the seconds from the start of `jaxvae` with `words` to the first line of its log, and
    waits until it has ended, so that all of its programs are in the cache.

    Raises:
        UserError: where it fails, with its last line.
    """
    run, said = place / "run", place / "said"
    options = ["--steps", "1", "--no-progress", "--workdir", str(run)]
    options += ["--compilation-cache", str(cache)]
    with said.open("w") as out:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "train", *words, *options],
            stdout=out,
            stderr=out,
            env=environment(),
        )
        try:
            while not logged(run) and process.poll() is None:
                time.sleep(0.005)
                if time.perf_counter() - begun > LIMIT:
                    raise UserError(f"`{' '.join(words)}` has no step after {LIMIT:g} seconds.")
            seconds = time.perf_counter() - begun
            code = process.wait()
        finally:
            process.kill()
            process.wait()
    if code or not logged(run):
        last = (said.read_text().strip().splitlines() or ["it says nothing"])[-1]
        raise UserError(f"`{' '.join(words)}` ends with {code}: {last}")
    return seconds


def logged(run: Path) -> bool:
    """Returns whether a run, or the first of its stages, has a line in its log."""
    return any(path.stat().st_size for path in run.rglob("metrics.jsonl"))


def bare() -> float:
    """Returns the seconds that a Python with the libraries takes."""
    begun = time.perf_counter()
    words = [sys.executable, "-c", BARE]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment()) as process:
        said = process.stdout.readline() if process.stdout is not None else b""
        seconds = time.perf_counter() - begun
    if not said:
        raise UserError("Python cannot import jax and jaxvae here: see above.")
    return seconds


def environment() -> dict[str, str]:
    """Returns the surroundings of a start: nobody else has chosen a cache of JAX or of Python, or what
    goes into it."""
    chosen = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    chosen += ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    chosen += tuple(name for name in os.environ if name.startswith("JAX_PERSISTENT_CACHE_"))
    kept = {name: value for name, value in os.environ.items() if name not in chosen}
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **kept}


def compile_bytecode(package: Path) -> None:
    """Leaves the bytecode of a package where a start looks for it."""
    words = [sys.executable, "-m", "compileall", "-q", str(package)]
    subprocess.run(words, env=environment(), check=True)


def starts(words: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each start, by `STARTS`."""
    found: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="start-") as folder:
            place = Path(folder)
            for name in STARTS:
                found[name].append(first_step(words, place / "cache", place))
                shutil.rmtree(place / "run")
    return found


def table() -> str:
    """Returns the kept results as Markdown."""
    rows, notes = [], {}
    for result in measure.kept("start"):
        bare_mark = measure.mark(notes, "bare", result["bare"], of="seconds")
        for name, found in result["seconds"].items():
            first, second = (found[start]["median"] for start in STARTS)
            marks = [
                measure.mark(notes, f"{name}, {start}", found[start], of="seconds")
                for start in STARTS
            ]
            of_bare = result["bare"]["median"]
            values = [f"{x:.1f}" for x in (first, second, first / second, of_bare)]
            noted = [x + y for x, y in zip(values, [*marks, "", bare_mark], strict=True)]
            noted.append(
                f"{(first - of_bare) / (second - of_bare):.1f}" if second > of_bare else ""
            )
            rows.append([measure.where(result), f"`train {CASES[name]}`", *noted])
    if not rows:
        return measure.NOTHING
    head = ("device", "", "first, s", "second, s", "ratio", "bare, s", "ratio without bare")
    said = "\n\nSeconds to the first step; medians."
    return grid([head, *rows], range(2, 7), True) + said + measure.foot(notes)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the kept results as Markdown")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", metavar="NAME", help=", ".join(CASES))
    args = parser.parse_args(argv)
    if args.table:
        print(table())
        return
    check_count("--rounds", args.rounds)
    names = measure.chosen("program", args.only, CASES)
    measure.check_quiet(measure.busy_cores())
    compile_bytecode(Path(jaxvae.__file__).parent)
    alone = [bare() for _ in range(1 + args.rounds)][1:]
    print(f"bare: {statistics.median(alone):.2f} s", flush=True)
    seconds: dict[str, Any] = {}
    values = {"bare": alone}
    for name in names:
        found = starts(CASES[name].split(), args.rounds)
        values |= {f"{name}, {start}": each for start, each in found.items()}
        seconds[name] = measure.summary(found)
        first, second = (seconds[name][start]["median"] for start in STARTS)
        said = f"{first:.1f} s, then {second:.1f} s: {first / second:.1f}x"
        print(f"{name}: {said}", flush=True)
    if args.only:  # for a look: a table of some would stand for all
        return
    contest.check(values, of="seconds", longer="")
    result = {
        "benchmark": "start",
        "unit": "s",
        "rounds": args.rounds,
        **measure.machine(),
        "bare": measure.summary({"bare": alone})["bare"],
        "seconds": seconds,
        "command": f"python -m benchmarks.start --rounds {args.rounds}",
    }
    print(measure.write("start", result))


if __name__ == "__main__":
    main()
