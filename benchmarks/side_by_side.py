"""Two trainings in the plane on a CPU: side by side, each on half of the cores, against one after
the other on all of them.

    python -m benchmarks.side_by_side [--cell C --cell C] [--rounds 5] [--steps 500] [--table]

It answers what `python -m experiments --hours H --jobs 2` is for. Each program is a process of its
own, as cells are, kept to its cores before JAX starts its threads, and trains a cell of
`experiments.soft_intro_2d` in its second phase: nets, batch, optimiser and steps in one compiled
loop. The pair and the single one take turns; a pair has taken as long as the longer of the two.
`ratio` is the medians' quotient: above 1, two cells are done sooner side by side. On a CPU that
other programs use, and where the rates of either differ by more than a third, the figures are
printed and not kept.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from benchmarks import contest, measure
from experiments import processes, runner
from experiments.runner import Option
from experiments.soft_intro_2d import cells, setting
from jaxvae.data import toy2d
from jaxvae.errors import UserError, check_count, unknown
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch

CELL = "8gaussians/soft_intro_vae"
OPTIONS = (
    Option("cell", None, str, f"one or two cells of the plane; by default {CELL}", repeatable=True),
    Option("rounds", 5, int, "of the pair and the single one in turn"),
    Option("steps", 500, int, "of training, for each program and round"),
    Option("width", 256, int, "of the hidden layers"),
    Option("table", False, bool, "print the kept results as Markdown, measure nothing"),
    Option("train", None, str, "a cell that this process trains, so many steps for each line"),
)


def stepper(cell: str, steps: int, width: int) -> Callable[[], None]:
    """Returns what trains a cell for `steps` steps more, compiled; and waits for them."""
    run = cells.ALL[cell]
    model, tx = setting.phases(run.method, hidden=width, **run.hyper)[-1].model, setting.optimiser()
    draw, size = toy2d.toy(run.data).draw, setting.BATCH_SIZE
    step = make_train_step(model, tx)

    def body(_, state):
        return step(state, Batch(draw(jax.random.fold_in(state.rng, ~state.step), size)))[0]

    with jax.default_matmul_precision("highest"):
        state = init_state(model, tx, jax.random.key(0), Batch(draw(jax.random.key(0), size)))
        many = jax.jit(lambda state: jax.lax.fori_loop(0, steps, body, state), donate_argnums=0)
        many = many.lower(state).compile()

    def advance() -> None:
        nonlocal state
        state = jax.block_until_ready(many(state))

    return advance


def train(cell: str, steps: int, width: int) -> None:
    """Says "ready", then trains for each line on stdin and answers it."""
    advance = stepper(cell, steps, width)
    advance()
    print("ready", flush=True)
    for _ in sys.stdin:
        advance()
        print("done", flush=True)


@contextlib.contextmanager
def trainings(
    pairs: Sequence[tuple[str, Sequence[int]]], steps: int, width: int
) -> Iterator[list[Callable[[], Callable[[], None]]]]:
    """Yields for each (cell, cores) a function that has its process train, and returns one that
    waits for it.

    Raises:
        UserError: where such a process ends.
    """
    root, started = Path(cells.__file__).parents[1], []
    environment = {**processes.environment(root), "JAX_PLATFORMS": "cpu"}
    with contextlib.ExitStack() as stack:
        for cell, cores in pairs:
            argv = [sys.executable, "-m", "benchmarks.side_by_side", "--train", cell]
            argv += ["--steps", f"{steps}", "--width", f"{width}"]
            with processes.kept_to(cores):
                process = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
                )
            stack.enter_context(process)  # its pipes are closed, and it is waited for, after
            stack.callback(process.kill)
            started.append(process)

        def heard(process: subprocess.Popen) -> None:
            if not process.stdout.readline():
                raise UserError(f"a training ended with exit code {process.wait()}.")

        def go(process: subprocess.Popen) -> Callable[[], None]:
            process.stdin.write("\n")
            process.stdin.flush()
            return lambda: heard(process)

        for process in started:
            heard(process)  # compiled
        yield [lambda p=process: go(p) for process in started]


def rates(pair: Sequence[str], rounds: int, steps: int, width: int) -> dict[str, list[float]]:
    """Returns steps/s of both programs together: side by side, and one after the other."""
    every, halves = processes.cores_of(1)[0], processes.cores_of(2)
    where = [*zip(pair, halves, strict=True), *((cell, every) for cell in pair)]

    def run(*groups: Sequence[Callable[[], Callable[[], None]]]) -> float:
        start = time.perf_counter()
        for group in groups:  # one after the other; all of a group at once
            for wait in [go() for go in group]:
                wait()
        return 2 * steps / (time.perf_counter() - start)

    with trainings(where, steps, width) as (one, other, first, second):
        runs = {
            "side_by_side": lambda: run([one, other]),
            "one_after_the_other": lambda: run([first], [second]),
        }
        measure.alternate(runs, 1)  # warm up
        return measure.alternate(runs, rounds)


def table() -> str:
    """Returns the kept results as Markdown."""
    lines = ["| device | cells | side by side, steps/s | one after the other | ratio |"]
    lines.append("| --- | --- | ---: | ---: | ---: |")
    kept = measure.kept("side_by_side")
    if not kept:
        return measure.NOTHING
    notes: dict[str, int] = {}
    for result in kept:
        both = " | ".join(
            f"{rate['median']:.1f}{measure.mark(notes, name, rate)}"
            for name, rate in result["rates"].items()
        )
        device, pair = measure.where(result), ", ".join(result["cells"])
        lines.append(f"| {device} | {pair} | {both} | {result['ratio']:.2f} |")
    return "\n".join(lines) + measure.foot(notes)


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints, and keeps the result. A user's mistake is one line on stderr and exit code
    2."""
    args = runner.parse("benchmarks.side_by_side", __doc__.splitlines()[0], OPTIONS, argv)
    for name in ("rounds", "steps", "width"):
        check_count(f"--{name}", getattr(args, name))
    if args.table:
        print(table())
        return
    given = args.cell or [CELL]
    for cell in [*given, *filter(None, [args.train])]:
        if cell not in cells.ALL:
            raise unknown("cell", cell, cells.ALL)
    if len(given) > 2:
        raise UserError(f"--cell: two cells are compared, not {len(given)}.")
    if args.train is not None:
        train(args.train, args.steps, args.width)
        return
    if len(processes.cores_of(1)[0]) < 2:
        raise UserError("two cells side by side need two cores.")
    jax.config.update("jax_platforms", "cpu")
    busy, pair = measure.busy_cores(), [given[0], given[-1]]
    values = rates(pair, args.rounds, args.steps, args.width)
    found = measure.summary(values)
    ratio = found["side_by_side"]["median"] / found["one_after_the_other"]["median"]
    words = "".join(f" --cell {cell}" for cell in args.cell or ())
    words += f" --rounds {args.rounds} --steps {args.steps} --width {args.width}"
    result = {
        "benchmark": "side_by_side",
        "unit": "steps/s",
        "cells": pair,
        "batch_size": setting.BATCH_SIZE,
        "width": args.width,
        "rounds": args.rounds,
        "steps": args.steps,
        **measure.machine(),
        "busy_cores_before": busy,
        "rates": found,
        "ratio": ratio,
        "command": f"python -m benchmarks.side_by_side{words}",
    }
    for name, r in found.items():
        print(f"  {name:<20} {r['median']:>8.2f} steps/s  ({r['min']:.2f} to {r['max']:.2f})")
    print(f"  side by side against one after the other: {ratio:.2f}x")
    measure.check_quiet(busy)  # cores that others use are not halves
    contest.check(values, longer="--steps")
    print(measure.write("side_by_side", result))


if __name__ == "__main__":
    main()
