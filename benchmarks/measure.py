"""What the benchmarks share: rates, steps of both libraries, and results with the machine that they
are of."""

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import contest
from jaxvae import host
from jaxvae.errors import UserError, unknown
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch, Model

RESULTS = Path(__file__).parent / "results"
NOTHING = "Not run yet."  # in place of a table
BUSY = 0.3  # cores that others may use


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
    """Returns `per_step` times the steps per second of `step`, waited for with `finish`: after each
    step at first, then after as many as take a tenth of a second."""
    count, burst, start = 0, 1, time.perf_counter()
    while True:
        begun = time.perf_counter()
        for _ in range(burst):
            value = step()
        finish(value)
        count, now = count + burst, time.perf_counter()
        if now - start > seconds:
            return per_step * count / (now - start)
        if now - begun < 0.1:
            burst *= 2


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


PYTORCH = {  # name -> fused Adam, compiled
    "pytorch_eager": (False, False),
    "pytorch_eager_fused_adam": (True, False),
    "pytorch_compiled": (True, True),
}


def rivals(compiled: bool) -> list[str]:
    """Returns the names of PyTorch's programs, with or without the compiled one."""
    return [name for name, (_, is_compiled) in PYTORCH.items() if compiled or not is_compiled]


def torch_step(
    build: Callable[[], Any], x: Any, name: str, *, learning_rate: float, parameters: int
) -> Callable[[], Any]:
    """Returns a step of one of `PYTORCH` on one batch, which gives its loss.

    Args:
        build: () -> a module whose call on a batch returns its mean loss.
        x: the batch, as an array.
        name: of the program: eager (its default Adam), eager with the fused Adam, compiled with it.
        learning_rate: of Adam.
        parameters: how many the module must have.
    """
    import torch

    torch_precision()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fused, compiled = PYTORCH[name]
    batch = torch.from_numpy(x).to(device)
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

    return step


def wait_for(value: Any) -> None:
    """Waits until what a step gave, of either library, is there."""
    if hasattr(value, "cpu"):
        value.detach().cpu()
    else:
        jax.block_until_ready(value)


def program(
    step: Callable[[], Any], per_step: int, seconds: float, **facts: float
) -> contest.Program:
    """Returns the program of a step, of either library."""

    def run() -> float:
        return rate(step, wait_for, per_step, seconds)

    return contest.Program(run, {**facts, "per_step": per_step}, peak_memory)


def peak_memory() -> int:
    """Returns the most bytes that this process has held: on a GPU those of its library's
    allocator."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    elif jax.default_backend() == "gpu":
        return (jax.local_devices()[0].memory_stats() or {})["peak_bytes_in_use"]
    return contest.peak_memory()


def torch_precision(*, exact: bool = False) -> None:
    """Gives PyTorch's float32 products on a GPU the precision that ours have: TF32, JAX's default
    there, or all of float32."""
    import torch

    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact


def machine(*, exact: bool = False) -> dict[str, Any]:
    """Returns what a figure depends on: processor or accelerator, cores, precision of products, and
    versions; `exact` as in `torch_precision`."""
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
        "products": "tf32" if device.platform == "gpu" and not exact else "float32",
    }
    return {**where, "versions": versions}


def where(result: dict[str, Any]) -> str:
    """Returns on which device a result was measured, in words."""
    if result["platform"] == "cpu":
        return f"{result['device']}, {result['cores']} cores"
    return result["device"]


def kept(name: str) -> list[dict[str, Any]]:
    """Returns the results of a benchmark, one for each platform."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{name}.*.json"))]


def chosen(what: str, names: Sequence[str] | None, known: Collection[str]) -> Collection[str]:
    """Returns the names that a command line asks for, all of `known` for none; raises `UserError` for
    another `what`."""
    for name in names or ():
        if name not in known:
            raise unknown(what, name, known)
    return names or known


def check_quiet(busy: float) -> None:
    """Raises `UserError` where so many cores were at work before anything of ours was."""
    if busy > BUSY:
        raise UserError(
            f"not kept: {busy:.1f} of these cores were at work; measure on a quiet machine."
        )


def busy_cores(seconds: float = 1.0) -> float:
    """Returns how many cores are at work now, before anything of ours is, or nan where the system
    does not say."""
    try:
        before = _cpu_times()
        time.sleep(seconds)
        passed = [b - a for a, b in zip(before, _cpu_times(), strict=True)]
    except (OSError, ValueError):
        return math.nan
    idle = sum(passed[3:5])  # idle, and waiting for a disk
    return (os.cpu_count() or 1) * (1 - idle / sum(passed))


def _cpu_times() -> list[int]:
    """Returns the ticks that all cores have spent, by kind (Linux)."""
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def summary(rates: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Returns median, smallest and largest rate of each run."""
    return {name: contest.summary(each) for name, each in rates.items()}


def mark(
    notes: dict[str, int],
    name: str,
    rate: Mapping[str, float],
    solo: float | None = None,
    of: str = "rates",
) -> str:
    """Returns the number of a note, " [1]", where a contest would not keep what a program reached,
    and "" where it would. `notes` gets the note; the rest is as in `contest.doubt`."""
    said = contest.doubt(name, rate, solo, of)
    return f" [{notes.setdefault(said, len(notes) + 1)}]" if said else ""


def foot(notes: Mapping[str, int]) -> str:
    """Returns the notes of a table, to stand below it; "" where there is none."""
    if not notes:
        return ""
    lines = "\n".join(f"{number}. {said}" for said, number in notes.items())
    return f"\n\nTo be measured again on a quiet machine:\n\n{lines}"


def compared(found: contest.Result) -> dict[str, Any]:
    """Returns what a result keeps of a contest of "step", ours, against PyTorch: rates, those of
    each alone, ratios, peak memory, and what there is to do in a step."""
    rates = summary(found.rates)
    median, flops = rates["step"]["median"], found.facts["step"].get("flops")
    kept: dict[str, Any] = {
        "rates": rates,
        "alone": found.solo,
        "speed_ratio": {
            name: median / rates[name]["median"] for name in rates if name.startswith("pytorch")
        },
        "peak_mib": found.peak_mib,
        "before_mib": found.before_mib,
    }
    if flops is not None:
        per_step = found.facts["step"]["per_step"]
        kept["gflop_per_step"] = flops / 1e9
        kept["gflop_per_s"] = flops / 1e9 * median / per_step
    return kept


def report(result: dict[str, Any]) -> None:
    """Prints the rates of a result, their ratios to PyTorch's, and the peak memory of each."""
    setting = f"{result['device']}, {result['unit']}, batch {result['batch_size']}"
    print(f"{setting}: median (min to max) of {result['rounds']} rounds, peak memory")
    for name, r in result["rates"].items():
        form = ",.0f" if r["median"] >= 100 else ".2f"
        spread = f"({r['min']:{form}} to {r['max']:{form}})"
        mib = f"{result['peak_mib'][name]:,.0f} MiB" if "peak_mib" in result else ""
        print(f"  {name:<26} {r['median']:>10{form}}  {spread:<24} {mib}".rstrip())
    for name, ratio in result["speed_ratio"].items():
        print(f"  step against {name}: {ratio:.2f}x")
    if "gflop_per_step" in result:
        per_step, per_s = result["gflop_per_step"], result["gflop_per_s"]
        print(f"  {per_step:.1f} GFLOP a step, {per_s:,.0f} GFLOP/s")


def write(name: str, result: dict[str, Any]) -> Path:
    """Writes `result` to benchmarks/results/<name>.<platform>.json and returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.{jax.devices()[0].platform}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
