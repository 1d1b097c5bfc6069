"""Images per second of one training step over 1, 2, 4 and 8 devices, jitted over the mesh and pmapped.

    python -m benchmarks.scaling [--rounds 5] [--seconds 2] [--devices 1 2 4 8] [--table]

The same global batch on any number of devices. On a CPU the devices are simulated and share its
cores, so that all of them together have no more to work with than one: what is lost there is the
price of cutting the step and of adding up gradients. On accelerators they are the first ones, and
the rate should grow with their number. `vae` is the MLP of `step_time` with 1,024 images;
`soft_intro_vae` is that net's Soft-IntroVAE with 512, which has two objectives and eight passes. Each
program has a process of its own; they take turns (`benchmarks.contest`), and medians are compared.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import contest, measure, step_time
from experiments.runner import command
from jaxvae import Batch, models, nets, parallel
from jaxvae.errors import UserError, check_count
from jaxvae.table import grid
from jaxvae.train import init_state, make_train_step

SIZES = {"vae": 1024, "soft_intro_vae": 512}  # images of a global batch
FORMS = ("jit", "pmap")


def model(name: str):
    """Returns the model of a program."""
    if name == "vae":
        return step_time.model()
    latent_dim = step_time.LATENT_DIM
    encoder = nets.mlp((400,), 2 * latent_dim, heads=2, init="xavier")
    decoder = nets.mlp((400,), (784,), init="xavier")
    return models.soft_intro_vae(encoder, decoder, latent_dim=latent_dim)


def stepper(name: str, devices: Sequence[Any], form: str) -> Callable[[], Any]:
    """Returns a step over `devices` on one batch, which gives its metrics."""
    each, tx = model(name), optax.adam(1e-3)
    x = np.random.default_rng(0).random((SIZES[name], 784), dtype=np.float32)
    step = make_train_step(each, tx)
    state = init_state(each, tx, jax.random.key(0), Batch(x))
    if form == "jit":
        mesh = parallel.make_mesh(devices)
        batch = parallel.put(Batch(x), parallel.batch_sharded(mesh))
        state = parallel.put(state, parallel.replicated(mesh))
        compiled = parallel.jit_step(step, mesh)
    else:
        batch = parallel.shard(Batch(x), len(devices))
        compiled = parallel.pmap_step(step, list(devices))

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


def table() -> str:
    """Returns the kept results as Markdown: rates in units of one jitted device's."""
    rows, counts = [], []
    for result in measure.kept("scaling"):
        counts = [str(count) for count in result["devices_used"]]
        for name in SIZES:
            for form in FORMS:
                rates = result["rates"]
                one = rates[f"{name}/{counts[0]}/jit"]["median"]
                shares = [rates[f"{name}/{count}/{form}"]["median"] / one for count in counts]
                shown = [f"{share:.2f}" for share in shares]
                rows.append([measure.where(result), name, form, f"{one:,.0f}", *shown])
    head = ("device", "step", "form", "images/s of one", *(f"on {count}" for count in counts))
    return "\n\n".join(
        [
            grid([head, *rows], range(3, len(head)), True),
            "The same global batch; on a CPU the devices are simulated and share its cores; medians.",
        ]
    )


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the kept results as Markdown")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per program and round")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    args = parser.parse_args(argv)
    if args.table:
        print(table())
        return
    check_count("--rounds", args.rounds)
    for count in args.devices:
        check_count("--devices", count)
        if any(size % count for size in SIZES.values()):
            raise UserError(f"--devices {count} does not divide {sorted(SIZES.values())} images.")
    rates: dict[str, Any] = {}
    alone: dict[str, float] = {}
    for name in SIZES:
        found = contest.contest(
            {
                f"{name}/{count}/{form}": functools.partial(
                    program, name, count, form, args.seconds
                )
                for count in args.devices
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
        "devices_used": args.devices,
        "rounds": args.rounds,
        "seconds": args.seconds,
        **measure.machine(),
        "rates": rates,
        "alone": alone,
        "command": f"python -m benchmarks.scaling --rounds {args.rounds} --seconds "
        f"{args.seconds:g} --devices {' '.join(map(str, args.devices))}",
    }
    print(measure.write("scaling", result))


if __name__ == "__main__":
    main()
