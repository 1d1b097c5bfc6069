"""Runs that are killed, asked to stop, run into a full disk, go on with other devices, meet another
writer, or lose one of two processes: their end has the bits of a run that was left alone."""

import contextlib
import functools
import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import two_processes

from torture import runs
from torture.kinds import Kind, Try, lost
from torture.runs import RUNS

STOPS = 6  # tries on one run
SMALL = 2**22  # bytes of a small disk
# What a process of two ends with, where one is killed (JAX aborts the other), asked to stop, has no disk.
AFTER = {"kill": {-9, -6, 2, 0}, "ask": {75, 0}, "fill": {2, 0}}
AT_MOST = 90.0  # seconds in which a process ends with the other one; JAX would need 300
ENDINGS: dict[str, tuple[dict, float]] = {}  # run -> how it ends, left alone, and its seconds


def unstopped(name: str, place: Path) -> tuple[dict, float]:
    """Returns how a run ends that is left alone, and the seconds that it takes once all is compiled.

    Raises:
        AssertionError: where it does not end well by itself.
    """
    if name not in ENDINGS:
        for again in range(2):  # the first one compiles
            folder, begun = place / f"whole-{name}-{again}", time.perf_counter()
            said = place / "said"
            code = runs.ended(runs.start(name, folder, said=said))
            assert code == 0, f"{name} ends with {code}: {said.read_text()[-500:]}"
            seconds = time.perf_counter() - begun
        ENDINGS[name] = runs.ending(folder), seconds
    return ENDINGS[name]


def finish(name: str, folder: Path, place: Path, *, devices: int = 1) -> str | None:
    """Runs to the end; returns what is wrong with that."""
    said = place / "said"
    code = runs.ended(runs.start(name, folder, said=said, devices=devices))
    if code != 0:
        return f"{name} goes on and ends with {code}: {said.read_text()[-500:]}"
    if devices > 1:
        return None
    found = runs.differences(runs.ending(folder), unstopped(name, place)[0])
    return f"{name} ends otherwise: {', '.join(found[:5])}" if found else None


def kept(before: dict[str, list[str]], steps: dict[str, int], folder: Path) -> str | None:
    """Returns what of a run's checkpoints, and of its log up to them, is there no longer."""
    after = runs.saved(folder)
    for at, step in steps.items():
        if after.get(at, -1) < step:
            return f"{at} had checkpoint {step} and has {after.get(at)}"
        gone = set(before[at]) - set(runs.log_of(folder / at))
        if gone:
            return f"{at} lost {len(gone)} lines of its log up to step {step}: {min(gone)[:200]}"
    return None


def safe_lines(folder: Path) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Returns the lines that a run may not lose any more, and its newest checkpoints."""
    steps = runs.saved(folder)
    lines = {}
    for at, step in steps.items():
        numbered = [(line, json.loads(line)) for line in runs.log_of(folder / at)]
        lines[at] = [line for line, entry in numbered if entry.get("step", 0) <= step]
    return lines, steps


def stopped(rng: np.random.Generator, place: Path, name: str, *, ask: bool) -> Iterator[Try]:
    """Yields a try for each time that a run is killed, or asked to stop, at a random moment; one that
    ends before has its end checked, and another one begins."""
    _, seconds = unstopped(name, place)
    said, tries, begun = place / "said", [], 0
    folder = place / "run0"
    before: tuple[dict[str, list[str]], dict[str, int]] = ({}, {})
    while len(tries) < STOPS and begun < 4 * STOPS:
        begun, at = begun + 1, time.perf_counter()
        process = runs.start(name, folder, said=said)
        process.join(rng.uniform(0.0, seconds))
        if process.exitcode is not None:
            seconds = min(seconds, time.perf_counter() - at)  # it is shorter than it was
            if (wrong := finish(name, folder, place)) is not None:
                tries = [*tries[:-1], lost(f"after {len(tries)} stops: {wrong}")]
            folder, before = place / f"run{begun}", ({}, {})
            continue
        (process.terminate if ask else process.kill)()
        code = runs.ended(process)
        wrong = None if code in ((75, 0, -15) if ask else (0, -9)) else said.read_text()[-500:]
        if wrong is not None:
            tries.append(lost(f"{name}, stopped, ends with {code}: {wrong}"))
            continue
        wrong = kept(*before, folder) if folder.exists() else None
        before = safe_lines(folder) if folder.exists() else before
        phase = f"{name}, {max(before[1].values())}" if before[1] else f"{name}, nothing saved"
        tries.append(Try(f"exit {code}") if wrong is None else lost(f"{phase}: {wrong}"))
    wrong = finish(name, folder, place)
    if wrong is not None:
        tries = [*tries[:-1], lost(f"after {len(tries)} stops: {wrong}")]
    yield from tries


def full_disk(rng: np.random.Generator, place: Path, name: str) -> Iterator[Try]:
    """Yields the try of a run that no disk has room for, and that then finds room."""
    said = place / "said"
    unstopped(name, place)
    folder = place / "run"
    small = _small_disk(place / "disk") if rng.random() < 0.5 else None
    if small is None:
        limit = int(10 ** rng.uniform(3.6, 5.5))  # what it says is a file, too
        code = runs.ended(runs.start(name, folder, said=said, limit=limit))
        how = f"files of {limit} bytes"
    else:
        try:
            filled = int(rng.uniform(0, SMALL))
            (small / "other").write_bytes(bytes(filled))
            code = runs.ended(runs.start(name, small / "run", said=said))
            how = f"a disk with {SMALL - filled} bytes free"
            if (small / "run").exists():
                shutil.copytree(small / "run", folder)
        finally:
            subprocess.run(["umount", "-l", str(small)], check=True)
    text = said.read_text()
    refusal = text.strip().splitlines()[-1] if text.strip() else ""
    if code not in (0, 2) or (code == 2 and not refusal.startswith("jaxvae: ")):
        yield lost(f"{name}, {how}: exit {code}: {text[-700:]}")
        return
    if code == 2 and "Traceback" in text:
        yield lost(f"{name}, {how}: a traceback before the line: {text[:700]}")
        return
    if (wrong := finish(name, folder, place)) is not None:
        yield lost(f"{name}, {how}: {wrong}")
        return
    yield Try("had room" if code == 0 else "refused")


def _small_disk(place: Path) -> Path | None:
    """Returns a disk of `SMALL` bytes, or None where this process may not make one."""
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        return None
    return place


def other_devices(rng: np.random.Generator, place: Path, name: str) -> Iterator[Try]:
    """Yields the try of a run that goes on, again and again, with another number of devices: its
    log is that of one device, up to rounding."""
    want, seconds = unstopped(name, place)
    folder, said, used = place / "run", place / "said", []
    for _ in range(3):
        used.append(int(rng.choice([1, 2, 4, 8])))
        process = runs.start(name, folder, said=said, devices=used[-1])
        process.join(rng.uniform(0.3, 1.0) * seconds)
        process.terminate()
        code = runs.ended(process)
        if code not in (75, 0, -15):
            yield lost(f"{name} on {used} devices ends with {code}: {said.read_text()[-500:]}")
            return
    used.append(int(rng.choice([2, 4, 8])))
    wrong = finish(name, folder, place, devices=used[-1]) or _far(folder, want)
    yield Try("close") if wrong is None else lost(f"{name} on {used} devices: {wrong}")


def _far(folder: Path, want: dict) -> str | None:
    """Returns which line of a log is not that of one device to 1e-3."""
    for at in runs.saved(folder):
        have = [json.loads(line) for line in runs.log_of(folder / at)]
        lines = [json.loads(line) for line in want[f"{at} log"]]
        if [line["step"] for line in have] != [line["step"] for line in lines]:
            return f"{at} logs other steps"
        for a, b in zip(have, lines, strict=True):
            for key, value in b.items():
                if isinstance(value, float) and not np.isclose(a[key], value, rtol=1e-3, atol=1e-3):
                    return f"{at}, step {b['step']}: {key} is {a[key]}, on one device {value}"
    return None


def two_writers(rng: np.random.Generator, place: Path, name: str) -> Iterator[Try]:
    """Yields the try of two processes that want the same folder."""
    _, seconds = unstopped(name, place)
    both = []
    for i in range(2):
        both.append(runs.start(name, place / "run", said=place / f"said{i}"))
        time.sleep(rng.uniform(0.0, 0.5 * seconds) if rng.random() < 0.5 else 0.0)
    codes = [runs.ended(process) for process in both]
    texts = [(place / f"said{i}").read_text() for i in range(2)]
    refused = [text for code, text in zip(codes, texts, strict=True) if code != 0]
    ends = [text.strip().splitlines()[-1] if text.strip() else "" for text in refused]
    if len(refused) > 1 or not all("is in use by another run" in line for line in ends):
        yield lost(f"{name}: {codes}, {ends or texts}")
        return
    wrong = runs.differences(runs.ending(place / "run"), unstopped(name, place)[0])
    yield lost(f"{name}: {wrong[:5]}") if wrong else Try("refused" if refused else "in turn")


def one_of_two(rng: np.random.Generator, place: Path, name: str) -> Iterator[Try]:
    """Yields the tries of a run of two processes, one of which is killed, in the next one asked to stop,
    in the last without room on its disk, at a random moment after the first step."""
    for what in AFTER:
        yield _struck(rng, place, name, what)


def _struck(rng: np.random.Generator, place: Path, name: str, what: str) -> Try:
    """Returns what comes of one process of two that is struck: neither waits for the other, but that
    after a kill the other one is killed soon, too; then the run goes on in one process."""
    want, seconds = unstopped(name, place)
    folder, said = place / what, [place / f"{what}0", place / f"{what}1"]
    address = ("--coordinator", two_processes.free_address(), "--num-processes", "2")
    both = [
        runs.start(name, folder, *address, "--process-id", str(i), said=said[i]) for i in range(2)
    ]
    while not any(folder.rglob("metrics.jsonl")) and all(each.is_alive() for each in both):
        time.sleep(0.05)
    time.sleep(rng.uniform(0.0, seconds))
    which = int(rng.integers(2))
    begun = time.perf_counter()
    _strike(both[which], what, int(10 ** rng.uniform(2.0, 5.0)))
    if what == "kill":  # and the other one by what looks after them
        time.sleep(rng.uniform(0.0, 1.0))
        both[1 - which].kill()
    codes = {runs.ended(process) for process in both}
    how = f"{name}, {what} {which}"
    if time.perf_counter() - begun > AT_MOST:
        return lost(f"{how}: {codes} after {time.perf_counter() - begun:.0f} seconds")
    if not codes <= AFTER[what]:
        return lost(f"{how}: {codes}: {[path.read_text()[-500:] for path in said]}")
    if any("Traceback" in path.read_text() for path in said):
        return lost(f"{how}: a traceback: {[path.read_text()[-700:] for path in said]}")
    wrong = finish(name, folder, place, devices=2) or _far(folder, want)
    return Try(f"{what}: {_all(codes)}") if wrong is None else lost(f"{how}: {wrong}")


def _strike(process: Any, what: str, limit: int) -> None:
    """Does what happens to one of two processes, where it is still there."""
    if what == "fill":
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    else:
        (process.kill if what == "kill" else process.terminate)()


def _all(codes: set[int | None]) -> str:
    return "exit " + " and ".join(str(code) for code in sorted(codes, key=str))


EVERY = tuple(RUNS)
ALONE_OR_NOT = ("dense", "conv", "two_stage")  # an ensemble is of one process
KINDS = (
    Kind("kill", functools.partial(stopped, ask=False), EVERY),
    Kind("sigterm", functools.partial(stopped, ask=True), EVERY),
    Kind("full_disk", full_disk, EVERY),
    Kind("other_devices", other_devices, ALONE_OR_NOT),
    Kind("two_writers", two_writers, EVERY),
    Kind("one_of_two", one_of_two, ALONE_OR_NOT),
)
