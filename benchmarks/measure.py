"""Timing that two programs share fairly: they take turns in one process, and the medians are compared."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"


def alternate(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Returns the rates that each run reports, the runs taking turns `rounds` times."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rates[name].append(run())
    return rates


def rate(step: Callable[[], Any], finish: Callable[[Any], Any], per_step: int, seconds: float) -> float:
    """Returns `per_step` times the steps per second of `step`, waited for with `finish`."""
    count, start = 0, time.perf_counter()
    while True:
        for _ in range(10):
            value = step()
        count += 10
        if time.perf_counter() - start > seconds:
            finish(value)
            return per_step * count / (time.perf_counter() - start)


def machine() -> dict[str, Any]:
    """Returns what a figure depends on: processor or accelerator, cores, and versions."""
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    try:
        import torch

        versions["torch"] = torch.__version__
    except ImportError:
        pass
    device = jax.devices()[0]
    kind = _processor() if device.platform == "cpu" else device.device_kind
    where = {"device": kind, "platform": device.platform, "devices": jax.device_count(), "cores": os.cpu_count()}
    return {**where, "versions": versions}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def summary(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Returns median, smallest and largest rate of each run."""
    return {n: {"median": statistics.median(r), "min": min(r), "max": max(r)} for n, r in rates.items()}


def write(name: str, result: dict[str, Any]) -> Path:
    """Writes `result` to benchmarks/results/<name>.<platform>.json and returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.{jax.devices()[0].platform}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
