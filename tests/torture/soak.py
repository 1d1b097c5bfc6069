"""One long run that streams images from the disk, evaluates and saves, while what it holds is counted.

    python -m torture.soak [--minutes 30] [--save-every 1000] [--results FILE]     # in tests/

What it holds may not grow: memory of the last sixth of the time is compared with that of the second
sixth (of 30 minutes: 25 to 30 with 5 to 10), open files and threads, too. Linux only: /proc says it.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae import host, plots, writers
from jaxvae.train.checkpoint import versions
from torture import __main__ as program
from torture import runs

GROWTH = 0.02  # share by which memory may grow
IMAGES, SIDE = 2000, 16
EVERY = 1.0  # seconds between counts


class Held(NamedTuple):
    """What a process holds at a moment."""

    seconds: float
    memory: int  # bytes, resident
    files: int
    threads: int


def held(pid: int, since: float) -> Held:
    """Returns what the process holds now."""
    at = Path(f"/proc/{pid}")
    memory = int((at / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    files, threads = len(list((at / "fd").iterdir())), len(list((at / "task").iterdir()))
    return Held(time.monotonic() - since, memory, files, threads)


def grown(counts: Sequence[Held], seconds: float) -> dict[str, Any]:
    """Returns the means of the second and of the last sixth of `seconds`, and in "lost" what has
    grown between them: memory by more than `GROWTH`, files and threads by half a one."""

    def mean(first: int, last: int) -> Held:
        part = [c for c in counts if first * seconds <= 6 * c.seconds < last * seconds]
        return Held(*np.mean(np.asarray(part, float), axis=0))

    early, late = mean(1, 2), mean(5, 6)
    lost = []
    if late.memory > (1 + GROWTH) * early.memory:
        lost.append(
            f"memory grows from {early.memory / 2**20:.1f} to {late.memory / 2**20:.1f} MiB"
        )
    for name in ("files", "threads"):
        a, b = getattr(early, name), getattr(late, name)
        if b > a + 0.5:
            lost.append(f"{name} grow from {a:.1f} to {b:.1f}")
    return {"early": early._asdict(), "late": late._asdict(), "lost": lost}


def soak(seconds: float, place: Path, save_every: int) -> dict[str, Any]:
    """Returns what `grown` says of a run with a checkpoint every `save_every` steps that is stopped
    after so many seconds, with the steps and evaluations that it came to."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 1), np.uint8)
    (place / "images").mkdir()
    for i, image in enumerate(images):
        plots.save_png(place / "images" / f"{i:05d}.png", image)
    folder, said, counts = place / "run", place / "said", []
    process = runs.start(f"soaked_{save_every}", folder, said=said)
    begun = time.monotonic()
    while process.exitcode is None and time.monotonic() - begun < seconds:
        process.join(EVERY)
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            counts.append(held(process.pid or 0, begun))
    process.terminate()
    code = runs.ended(process)
    if code != 75:
        raise RuntimeError(f"the run ends with {code}: {said.read_text()[-1000:]}")
    lines = writers.read(folder / "metrics.jsonl")
    evaluations = sum(line["split"] == "valid" for line in lines)
    steps = max(runs.saved(folder).values())
    done = {"steps": steps, "evaluations": evaluations, "images_read": steps * runs.SOAKED}
    return {"seconds": seconds, "save_every": save_every, **done, **grown(counts, seconds)}


def main(argv: Sequence[str] | None = None) -> int:
    """Soaks, keeps what was found, and says it in a line; returns 1 where something has grown."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m torture.soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--save-every", type=int, choices=runs.SAVE_EVERY, default=1000)
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="by default soak_SAVE_EVERY.json"
    )
    args = parser.parse_args(argv)
    if args.minutes < 0.5:
        parser.error("--minutes must be at least 0.5: less tells nothing")
    program.prepare()
    place = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place / "cache")
        found = soak(60 * args.minutes, place, args.save_every)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    results = args.results or program.RESULTS.with_name(f"soak_{args.save_every}.json")
    results.parent.mkdir(parents=True, exist_ok=True)
    about = {"processor": host.processor(), "versions": versions()}
    results.write_text(json.dumps({**found, **about}, indent=1) + "\n")
    early, late = found["early"], found["late"]
    print(
        f"{found['steps']:,} steps, {found['evaluations']:,} evaluations: memory "
        f"{early['memory'] / 2**20:.1f} -> {late['memory'] / 2**20:.1f} MiB, files "
        f"{early['files']:.1f} -> {late['files']:.1f}, threads {early['threads']:.1f} -> "
        f"{late['threads']:.1f}: {'; '.join(found['lost']) or 'nothing grows'}"
    )
    return 1 if found["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
