"""The tests of the tests: every process collects the same ones, and no more workers start than
fit."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import workers

ROOT = Path(__file__).parents[1]

# Collects the suite as if it were another day, and prints every id with a digest of its parameters.
COLLECT = """
import hashlib, json, sys, time
clock = time.time
time.time = lambda: clock() + float(sys.argv[1])
import numpy as np
import pytest

def content(value):
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if isinstance(value, np.ndarray):
        return repr((value.shape, value.dtype, value.tobytes()))
    if isinstance(value, dict):
        return content(list(value.items()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + ", ".join(map(content, value)) + "]"
    return type(value).__name__

class Report:
    def pytest_collection_finish(self, session):
        found = {}
        for item in session.items:
            params = content(getattr(item, "callspec", None) and item.callspec.params)
            found[item.nodeid] = hashlib.sha256(params.encode()).hexdigest()
        print("COLLECTED", json.dumps(list(found.items())))

sys.exit(pytest.main(sys.argv[2:], plugins=[Report()]))
"""


def collect(*paths, later=0.0, cwd=ROOT, **environment):
    """Starts a process that collects the tests of `paths` with its clock `later` seconds ahead."""
    options = ["-q", "--co", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    options += [f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), *map(str, paths)]
    return subprocess.Popen(
        [sys.executable, "-c", COLLECT, str(later), *options],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def collected(process):
    """The ids in their order, each with the digest of its parameters."""
    out, _ = process.communicate(timeout=600)
    lines = [line for line in out.splitlines() if line.startswith("COLLECTED ")]
    assert len(lines) == 1, out[-2000:]
    return json.loads(lines[0].removeprefix("COLLECTED "))


def elsewhere(folder):
    """Another place and another order of hashes: what differs between two processes or machines."""
    places = ("HOME", "TMPDIR", "JAXVAE_DATA_DIR", "XDG_CACHE_HOME")
    return {"cwd": folder, "later": 1e8, "PYTHONHASHSEED": "2"} | dict.fromkeys(places, str(folder))


@pytest.mark.long
def test_every_process_collects_the_same_tests(tmp_path):
    """Neither ids nor parameters depend on time, hash order or place: workers compare theirs."""
    here = collect(ROOT / "tests", PYTHONHASHSEED="1")
    there = collect(ROOT / "tests", **elsewhere(tmp_path))
    here, there = collected(here), collected(there)
    assert len(here) > 1000
    differ = [(a, b) for a, b in zip(here, there, strict=False) if a != b]
    assert not differ, f"{len(differ)} differ, the first is {differ[0]}"
    assert len(here) == len(there)
    told = [name for name, _ in here if any(text in name for text in ("\\x", " at 0x", str(ROOT)))]
    assert told == [], "bytes, addresses and paths have no place in an id"


def test_every_test_is_of_one_target_and_what_checks_a_change_has_all_that_are_not_slow():
    recipes = (ROOT / "Makefile").read_text()
    told = re.findall(
        r"^(test\S*|torture):.*\n(?:\t.*\n)*?\t.*pytest.* -m '?([^'\n]+)'?$", recipes, re.M
    )
    chosen = dict(told)
    assert set(chosen) == {"test", "test-long", "torture"}
    for long, slow in itertools.product((False, True), repeat=2):
        marks = {"long": long, "slow": slow}
        runs = [name for name in chosen if eval(chosen[name], {}, marks)]
        assert runs == ["torture" if slow else "test-long" if long else "test"]
    assert {"make test", "make test-long"} <= set((ROOT / ".ci/run").read_text().splitlines())


@pytest.mark.parametrize(
    ("cores", "gigabytes", "count"),
    [
        (2, 21, 2),
        (1, 64, 1),
        (64, 256, 8),  # more than 8 wait for each other
        (64, 8, 4),  # many cores, little memory
        (64, 7.9, 3),
        (64, 0.5, 1),
        (0.5, 64, 1),  # half a core of a container
        (3.5, 64, 3),
        (16, float("inf"), 8),
    ],
)
def test_as_many_workers_as_cores_and_memory_hold(cores, gigabytes, count):
    assert workers.number(cores, gigabytes * 2**30) == count


GIB = 2**30
HOST = {"/proc/meminfo": "MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\nHugePages_Total: 0\n"}
GROUP = {
    "/proc/self/cgroup": "0::/box\n",
    "/sys/fs/cgroup/cpu.max": "400000 100000\n",
    "/sys/fs/cgroup/box/cpu.max": "max 100000\n",
    "/sys/fs/cgroup/box/memory.max": f"{8 * GIB}\n",
    "/sys/fs/cgroup/box/memory.current": f"{5 * GIB}\n",
    "/sys/fs/cgroup/box/memory.stat": f"anon {2 * GIB}\ninactive_file {3 * GIB}\n",
}


@pytest.mark.parametrize(
    ("files", "cores", "gigabytes"),
    [
        ({}, 16, float("inf")),  # another system: all cores count, and memory is not known
        (HOST, 16, 32),
        ({**HOST, "/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5, 32),  # a container's own root
        ({**HOST, **GROUP}, 4, 6),  # the groups around count; pages of files can be given back
        ({**HOST, **GROUP, "/sys/fs/cgroup/box/memory.max": "max\n"}, 4, 32),
        ({**HOST, **GROUP, "/proc/self/cgroup": "4:memory:/box\n"}, 4, 32),  # version 1 alone
        ({**HOST, **GROUP, "/proc/self/cgroup": "0::/../outside\n"}, 4, 32),
    ],
    ids=["unknown", "host", "root", "group", "no limit", "version 1", "outside"],
)
def test_cores_and_memory_are_what_the_groups_leave(monkeypatch, files, cores, gigabytes):
    def read(path):
        if str(path) not in files:
            raise FileNotFoundError(str(path))
        return files[str(path)]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert workers.resources(read) == (cores, gigabytes * GIB)


def test_the_peak_of_this_process_is_known():
    assert 2**26 < workers.peak() < 2**36


def test_a_worker_that_holds_too_much_is_named():
    peaks = {"gw0": 3 * GIB // 2, "gw1": 3 * GIB // 2 + 1}
    assert workers.too_large(peaks, 1.5 * GIB) == ["gw1"]
    assert workers.too_large(peaks, 0) == []


LARGE = """
import numpy as np

def test_that_holds_much():
    assert np.ones(2**26).sum() == 2**26  # half a gigabyte
"""


@pytest.mark.parametrize(
    ("processes", "limit", "large"),
    [("1", "0.6", "gw0"), ("0", "0.6", "this process"), ("0", "0", None)],
)
def test_a_run_with_too_large_a_worker_fails(tmp_path, processes, limit, large):
    (tmp_path / "test_large.py").write_text(LARGE)
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", processes, "test_large.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "JAXVAE_TEST_MEMORY": limit},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == (0 if large is None else 1)
    assert ("held more than" in done.stdout) == (large is not None)
    assert large is None or f"{large} held more than 0.6 GiB" in done.stdout
