"""Images per second of one training step over 1, 2, 4 and 8 devices, jitted over the mesh and pmapped.

    python -m benchmarks.scaling [--rounds 5] [--seconds 2] [--devices 1 2 4 8] [--table]

The same global batch, on the devices before the clock starts, on any number of them. On a CPU the
devices are simulated and share its cores, so that all of them together have no more to work with
than one: what is lost there is the price of cutting the step and of adding up gradients. On GPUs
they are the first ones that are there, and the rate should grow with their number. `vae` is the MLP
of `step_time` with 1,024 images; `soft_intro_vae` is that net's Soft-IntroVAE with 512, two objectives
and 13 passes of a net. The pmapped step keeps the state that it is given (it donates nothing). Each
program has a process of its own; they take turns (`benchmarks.contest`), and medians are compared.
"""

import argparse
import functools
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import contest, measure, step_time
from experiments.runner import command
from jaxvae import Batch, models, parallel
from jaxvae.errors import UserError, check_count
from jaxvae.table import grid
from jaxvae.train import init_state, make_train_step

SIZES = {"vae": 1024, "soft_intro_vae": 512}  # images of a global batch
FORMS = ("jit", "pmap")
COUNTS = (1, 2, 4, 8)


def model(name: str):
    """Returns the model of a program."""
    of = models.vae if name == "vae" else models.soft_intro_vae
    return of(*step_time.pair(), latent_dim=step_time.LATENT_DIM)


def stepper(name: str, devices: Sequence[Any], form: str) -> Callable[[], Any]:
    """Returns a step over `devices` on one batch, which gives its metrics."""
    each, tx = model(name), optax.adam(1e-3)
    x = np.random.default_rng(0).random((SIZES[name], 784), dtype=np.float32)
    step = make_train_step(each, tx)
    state = init_state(each, tx, jax.random.key(0), Batch(x))
    mesh = parallel.make_mesh(devices)
    state = parallel.put(state, parallel.replicated(mesh))
    batch, sharding = Batch(x), parallel.batch_sharded(mesh)
    if form == "jit":
        compiled = parallel.jit_step(step, mesh)
    else:
        batch = parallel.shard(batch, len(devices))  # [devices, B / devices, ...]
        compiled = parallel.pmap_step(step, list(devices))
    batch = parallel.put(batch, sharding)

    def advance():
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics

    return advance


def program(name: str, count: int, form: str, seconds: float) -> contest.Program:
    """Returns the program of a model over so many devices, simulated where JAX computes on the
    CPU."""
    jax.config.update("jax_num_cpu_devices", count)  # before JAX looks for devices
    devices = jax.devices()
    if len(devices) < count:
        raise UserError(f"there are {len(devices)} devices, not {count}.")
    return measure.program(stepper(name, devices[:count], form), SIZES[name], seconds)


def present() -> float:
    """Returns how many devices there are, asked in a process of its own: a TPU or GPU that this one
    holds is not there for the programs. Any number is simulated on a CPU."""
    words = [sys.executable, "-c", "import jax; print(jax.default_backend(), jax.device_count())"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    platform, count = said.split()[-2:]
    return math.inf if platform == "cpu" else int(count)


def table() -> str:
    """Returns the kept results as Markdown: rates in units of one jitted device's."""
    results = measure.kept("scaling")
    counts = sorted({count for result in results for count in result["devices_used"]})
    rows, notes = [], {}
    for result in results:
        rates = {name: rate["median"] for name, rate in result["rates"].items()}
        alone = result.get("alone", {})
        marks = {
            name: measure.mark(notes, name, rate, alone.get(name))
            for name, rate in result["rates"].items()
        }
        for name in SIZES:
            key = f"{name}/1/jit"
            one = rates[key]
            for form in FORMS:
                keys = [f"{name}/{count}/{form}" for count in counts]
                shown = [f"{rates[k] / one:.2f}{marks[k]}" if k in rates else "" for k in keys]
                of_one = f"{one:,.0f}{marks[key]}"
                rows.append([measure.where(result), name, form, of_one, *shown])
    if not rows:
        return measure.NOTHING
    head = ("device", "step", "form", "images/s of one", *(f"on {count}" for count in counts))
    said = "The same global batch; on a CPU the devices are simulated and share its cores; medians."
    return f"{grid([head, *rows], range(3, len(head)), True)}\n\n{said}{measure.foot(notes)}"


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the kept results as Markdown")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per program and round")
    parser.add_argument(
        "--devices",
        type=int,
        nargs="+",
        help="besides one; default: 2 4 8, as far as they are there",
    )
    args = parser.parse_args(argv)
    if args.table:
        print(table())
        return
    check_count("--rounds", args.rounds)
    for count in args.devices or ():
        check_count("--devices", count)
        if any(size % count for size in SIZES.values()):
            raise UserError(f"--devices {count} does not divide {sorted(SIZES.values())} images.")
    there = present()
    counts = sorted({1, *(args.devices or (count for count in COUNTS if count <= there))})
    if counts[-1] > there:
        raise UserError(f"--devices {counts[-1]}: there are {there}.")
    rates: dict[str, Any] = {}
    alone: dict[str, float] = {}
    for name in SIZES:
        found = contest.contest(
            {
                f"{name}/{count}/{form}": functools.partial(
                    program, name, count, form, args.seconds
                )
                for count in counts
                for form in FORMS
            },
            args.rounds,
        )
        rates |= measure.summary(found.rates)
        alone |= found.solo
        for key in found.rates:
            print(f"{key}: {rates[key]['median']:,.0f} images/s", flush=True)
    result = {
        "benchmark": "scaling",
        "unit": "images/s",
        "batch_sizes": SIZES,
        "devices_used": counts,
        "rounds": args.rounds,
        "seconds": args.seconds,
        **measure.machine(),
        "rates": rates,
        "alone": alone,
        "command": f"python -m benchmarks.scaling --rounds {args.rounds} --seconds "
        f"{args.seconds:g} --devices {' '.join(map(str, counts))}",
    }
    print(measure.write("scaling", result))


if __name__ == "__main__":
    main()
