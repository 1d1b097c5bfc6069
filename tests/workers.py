"""How many test workers a machine can hold, and how much memory one of them has taken."""

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

LARGEST = 8  # more wait for each other: the longest modules decide
EACH = 2 * 2**30  # bytes that a worker needs, with the programs it starts
GROUPS = Path("/sys/fs/cgroup")


def number(cores: float, memory: float) -> int:
    """Returns how many workers to start on this many cores and bytes of free memory: at least
    one."""
    return max(1, int(min(cores, LARGEST, memory / EACH)))


def resources(read: Callable[[Path], str] = Path.read_text) -> tuple[float, float]:
    """Returns the cores and the bytes of free memory that this process may use.

    That is what the machine has, or what the control groups (version 2) around the process leave of
    it: a container often sees all cores and all memory of its host.

    Args:
        read: gives the text of a file of /proc or /sys, or raises OSError.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores, memory = [float(usable or 1)], []
    for text in _texts(read, [Path("/proc/meminfo")]):
        memory.append(1024.0 * _table(text)["MemAvailable:"])
    for group in _groups(read):
        for text in _texts(read, [group / "cpu.max"]):
            quota, period = text.split()
            if quota != "max":
                cores.append(float(quota) / float(period))
        files = [group / name for name in ("memory.max", "memory.current", "memory.stat")]
        texts = _texts(read, files)
        if len(texts) == 3 and texts[0].strip() != "max":
            # pages of files that nobody has touched lately are given back when memory is short
            held = float(texts[1]) - _table(texts[2]).get("inactive_file", 0)
            memory.append(float(texts[0]) - held)
    return min(cores), min(memory, default=float("inf"))


def _texts(read, files):
    """Returns the texts of those files that can be read."""
    found = []
    for file in files:
        try:
            found.append(read(file))
        except OSError:
            continue
    return found


def _table(text):
    """Returns the numbers of lines like "MemAvailable: 1000 kB"."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def _groups(read):
    """Returns the folders of this process's control group and of those around it."""
    for text in _texts(read, [Path("/proc/self/cgroup")]):
        for line in text.splitlines():
            if line.startswith("0::"):
                group = GROUPS / line.removeprefix("0::").strip().lstrip("/")
                return [p for p in (group, *group.parents) if p.is_relative_to(GROUPS)]
    return [GROUPS]


def held() -> int:
    """Returns the bytes of memory that this process holds now, or held at most where only that is
    known."""
    for text in _texts(Path.read_text, [Path("/proc/self/statm")]):
        return resource.getpagesize() * int(text.split()[1])
    return peak()


def peak() -> int:
    """Returns the most bytes of memory that this process has held at once.

    On Linux from VmHWM: `getrusage` there counts what the parent held when it started this process.
    """
    for text in _texts(Path.read_text, [Path("/proc/self/status")]):
        for line in text.splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def too_large(peaks: dict[str, int], limit: float) -> list[str]:
    """Returns the names of the processes whose peak is above the limit; a limit of 0 allows any."""
    return [name for name, size in peaks.items() if 0 < limit < size]
