"""Every benchmark of this machine, one after the other, and one table of what is kept.

    make bench
    python -m benchmarks [--only NAME]... [--table]

Each has a process of its own, with its defaults. Of one that fails, as those do that compare with
PyTorch where the machine is not quiet, the result from before stays, and the others go on. In the end
the table is printed, and so are the tables in README.md and benchmarks/README.md.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from experiments import blocks
from experiments.runner import command
from jaxvae.table import grid

ROOT = Path(__file__).parents[1]
NAMES = (
    "step_time",
    "infogan",
    "soft_intro",
    "ensemble",
    "fid",
    "input",
    "ar1",
    "side_by_side",
    "start",
    "scaling",
)
WHAT = {
    "step_time": "VAE, MLP",
    "infogan": "first stage, InfoGAN net",
    "soft_intro": "Soft-IntroVAE, CIFAR-10's residual nets",
    "ensemble": "Soft-IntroVAE in the plane",
    "fid": "features of",
}
RIVALS = {
    "pytorch_eager": "eager",
    "pytorch_eager_fused_adam": "eager, fused Adam",
    "pytorch_compiled": "compiled",
}


def contests(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Returns what was timed against PyTorch in a result: (what, our program, PyTorch, its program),
    programs by their names in its rates."""
    what, size = WHAT[result["benchmark"]], result["batch_size"]
    if result["benchmark"] == "fid":
        return [
            (
                f"{what} {net}, batch {size[net]}",
                f"extract/{net}/jaxvae",
                "eager",
                f"extract/{net}/torch",
            )
            for net in result["speed_ratio"]
        ]
    if result.get("shrink", 1) != 1:
        what += f" / {result['shrink']}"
    what += f", batch {size}"
    ours = "one" if result["benchmark"] == "ensemble" else "step"
    return [(what, ours, RIVALS[name], name) for name in result["speed_ratio"]]


def table() -> str:
    """Returns every rate that was measured beside PyTorch's, by turns (`contest`), as Markdown."""
    rows, left = [], []
    for name in WHAT:
        for result in measure.kept(name):
            if "alone" not in result:  # of one process for both: nothing to go by
                left.append(f"{name} on {measure.where(result)}")
                continue
            rates = {program: rate["median"] for program, rate in result["rates"].items()}
            for what, ours, rival, theirs in contests(result):
                both = [
                    f"{rates[each]:,.{0 if rates[each] >= 100 else 1}f}" for each in (ours, theirs)
                ]
                where, unit = measure.where(result), result["unit"]
                ratio = f"{rates[ours] / rates[theirs]:.2f}"
                rows.append((where, what, unit, both[0], rival, both[1], ratio))
    said = "Medians."
    if left:
        said += f" In one process with PyTorch, and to be measured again: {'; '.join(left)}."
    if not rows:
        return f"{measure.NOTHING} {said}"
    head = ("device", "", "unit", "jaxvae", "PyTorch", "its rate", "ratio")
    return grid([head, *rows], (3, 5, 6), True) + f"\n\n{said}"


def run(names: Iterable[str]) -> list[str]:
    """Runs benchmarks in turn; returns those that failed."""
    failed = []
    for name in names:
        print(f"\n{name}", flush=True)
        words = [sys.executable, "-m", f"benchmarks.{name}"]
        if subprocess.run(words, cwd=ROOT, check=False).returncode:
            failed.append(name)
    return failed


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], prog="python -m benchmarks"
    )
    parser.add_argument("--table", action="store_true", help="print the kept results as Markdown")
    parser.add_argument("--only", action="append", metavar="NAME", help=", ".join(NAMES))
    args = parser.parse_args(argv)
    if args.table:
        print(table())
        return
    failed = run(measure.chosen("benchmark", args.only, NAMES))
    pages = [ROOT / "README.md", ROOT / "benchmarks" / "README.md"]
    refilled = blocks.refill(ROOT / "experiments", pages)
    print(f"\n{table()}")
    for problem in [
        *(f"{name} failed: its last result stays." for name in failed),
        *refilled.failed,
    ]:
        print(problem, file=sys.stderr)
    raise SystemExit(1 if failed or refilled.failed else 0)


if __name__ == "__main__":
    main()
