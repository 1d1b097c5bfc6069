"""Timing that two programs share fairly: they take turns in one process, and the medians are
compared."""

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxvae import host
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch, Model

RESULTS = Path(__file__).parent / "results"


def alternate(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Returns the rates that each run reports, the runs taking turns `rounds` times."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rates[name].append(run())
    return rates


def rate(
    step: Callable[[], Any], finish: Callable[[Any], Any], per_step: int, seconds: float
) -> float:
    """Returns `per_step` times the steps per second of `step`, waited for with `finish`."""
    count, start = 0, time.perf_counter()
    while True:
        for _ in range(10):
            value = step()
        count += 10
        if time.perf_counter() - start > seconds:
            finish(value)
            return per_step * count / (time.perf_counter() - start)


def advance(model: Model, tx: Any, batch: Batch) -> tuple[Callable[[], Any], float, Any]:
    """Returns a step of ours on one batch, which gives its metrics, the FLOPs that XLA counts in it,
    and the parameters that it starts from."""
    state = init_state(model, tx, jax.random.key(0), batch)
    start = jax.eval_shape(lambda: state.params)
    step = jax.jit(make_train_step(model, tx), donate_argnums=0).lower(state, batch).compile()
    analysis = step.cost_analysis() or {}
    flops = (analysis[0] if isinstance(analysis, list) else analysis).get("flops", math.nan)

    def once():
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return once, flops, start


def torch_runs(
    build: Callable[[], Any],
    x: Any,
    *,
    learning_rate: float,
    parameters: int,
    seconds: float,
    compiled: bool = True,
) -> dict[str, Callable[[], float]]:
    """Returns runs of PyTorch's step by name: eager (its default Adam), eager with the fused Adam,
    compiled with it.

    Args:
        build: () -> a module whose call on a batch returns its mean loss.
        x: the batch, as an array.
        learning_rate: of Adam.
        parameters: how many the module must have.
        seconds: of a run.
        compiled: whether to have the last one.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = torch.from_numpy(x).to(device)

    def run(compiled: bool, fused: bool):
        torch.manual_seed(0)
        vae = build().to(device)
        assert sum(p.numel() for p in vae.parameters()) == parameters
        loss_of = torch.compile(vae) if compiled else vae
        adam = torch.optim.Adam(vae.parameters(), lr=learning_rate, fused=fused or None)

        def step():
            adam.zero_grad(set_to_none=True)
            loss = loss_of(batch)
            loss.backward()
            adam.step()
            return loss

        for _ in range(10):
            step()
        wait = (
            (lambda loss: torch.cuda.synchronize())
            if device == "cuda"
            else (lambda loss: loss.item())
        )
        return lambda: rate(step, wait, len(x), seconds)

    runs = {"pytorch_eager": run(False, False), "pytorch_eager_fused_adam": run(False, True)}
    return {**runs, "pytorch_compiled": run(True, True)} if compiled else runs


def machine() -> dict[str, Any]:
    """Returns what a figure depends on: processor or accelerator, cores, and versions."""
    versions = {"python": platform.python_version(), "jax": jax.__version__}
    try:
        import torch

        versions["torch"] = torch.__version__
    except ImportError:
        pass
    device = jax.devices()[0]
    kind = host.processor() if device.platform == "cpu" else device.device_kind
    where = {
        "device": kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
    }
    return {**where, "versions": versions}


def summary(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Returns median, smallest and largest rate of each run."""
    return {
        n: {"median": statistics.median(r), "min": min(r), "max": max(r)} for n, r in rates.items()
    }


def report(result: dict[str, Any]) -> None:
    """Prints the rates of a result and their ratios to PyTorch's."""
    setting = f"{result['device']}, {result['unit']}, batch {result['batch_size']}"
    print(f"{setting}: median (min to max) of {result['rounds']} rounds")
    for name, r in result["rates"].items():
        print(f"  {name:<26} {r['median']:>10,.0f}  ({r['min']:,.0f} to {r['max']:,.0f})")
    for name, ratio in result["speed_ratio"].items():
        print(f"  step against {name}: {ratio:.2f}x")


def write(name: str, result: dict[str, Any]) -> Path:
    """Writes `result` to benchmarks/results/<name>.<platform>.json and returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.{jax.devices()[0].platform}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
