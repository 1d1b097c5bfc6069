"""Training a model on a source of data. The parts are public too: the step (`step`), the compiled
loops (`loop`)."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvae import parallel, run, writers
from jaxvae.checkpoint import Checkpoints, fingerprint
from jaxvae.data.preprocess import make_preprocess
from jaxvae.data.source import Source
from jaxvae.errors import UserError, check_count, check_seed, unknown
from jaxvae.loop import LoopState, Preprocess, compile_loop, empty_sums, make_evaluator, no_bad
from jaxvae.objectives import COLLAPSED, collapse, floored
from jaxvae.step import (
    Optimisers,
    TrainState,
    groups,
    init_state,
    make_eval_step,
    make_train_step,
    optimisers,
)
from jaxvae.types import Model, Params, State

__all__ = [
    "Fit",
    "NonFinite",
    "Phase",
    "TrainState",
    "evaluate",
    "fit",
    "init_state",
    "make_eval_step",
    "make_evaluator",
    "make_train_step",
]


class Phase(NamedTuple):
    """A stretch of a run: `model` for `steps` steps. With a `tx` of its own it starts new optimiser
    states."""

    model: Model
    steps: int
    tx: Optimisers | None = None


class Fit(NamedTuple):
    """What `fit` returns."""

    train_state: TrainState
    metrics: dict[str, dict[str, float]]  # the last values by split, e.g. metrics["valid"]["elbo"]


class NonFinite(ArithmeticError):
    """A loss or parameter that is not a number: the run stops, and its last good checkpoint
    stays."""


def evaluate(
    model: Model, params: Params, state: State, source: Source, **options: Any
) -> dict[str, float]:
    """Returns the metrics of `model` over the whole of `source`: `elbo`, `rec`, `kl` in nats per
    example, at the highest matmul precision.

    Options are those of `make_evaluator`; use that to evaluate one model more than once.
    """
    return make_evaluator(model, source, **options)(params, state)


def fit(
    model: Model | Sequence[Phase],
    tx: Optimisers,
    source: Source,
    *,
    steps: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    workdir: str | Path | None = None,
    preprocess: Preprocess | None = None,
    valid: Source | None = None,
    log_every: int = 100,
    eval_every: int | None = None,
    save_every: int | None = None,
    keep: int = 2,
    best: tuple[str, str] | None = None,
    ema_decay: float | None = None,
    accumulate: int = 1,
    max_grad_norm: float | None = None,
    config: dict[str, Any] | None = None,
    mesh: Mesh | None = None,
    steps_per_call: int | None = None,
    progress: bool = False,
    on_eval: Callable[[int, TrainState], None] | None = None,
    on_log: Callable[[int, str, dict[str, float]], None] | None = None,
) -> Fit:
    """Trains `model` on `source` with every device there is, and returns the final state and
    metrics.

    The batch of step t is a pure function of (seed, t), and so is all noise: a run that was stopped
    or killed and started again in the same `workdir` ends with the same bits as one that never was
    (on CPU; on GPU with deterministic kernels).

    Args:
        model: a `Model` for `steps` steps, or a list of `Phase`s over the same parameter groups.
        tx: an optax transformation, or one for each parameter group.
        source: training data; on the devices where `source.arrays` is there, else read in blocks.
        steps: length of the run, with a single model.
        batch_size: of the global batch; a multiple of the number of devices.
        seed: of the parameters, the noise and the order of the data.
        workdir: gets `config.json`, `metrics.jsonl` and `checkpoints/`; None keeps nothing.
        preprocess: (rng, examples) -> Batch, inside jit; default: bytes to [0, 1].
        valid: evaluated every `eval_every` steps and at the end; its metric `best` chooses the best
            checkpoint.
        log_every: steps between lines of training means in the log.
        eval_every: steps between evaluations, each followed by a checkpoint (default: at the end
            alone).
        save_every: steps between further checkpoints (default: none).
        keep: newest checkpoints kept, beside the best one.
        best: (metric of `valid`, "max" or "min"); default: the ELBO, or the density where a model
            has one.
        ema_decay: keep a moving average of the parameters, and evaluate with it.
        accumulate, max_grad_norm: as in `make_train_step`.
        config: what describes this run, compared at resume. `fit` cannot see inside `model`, `tx`
            and `preprocess`: name here what you vary in them (default: the data and the settings
            above).
        mesh: default: all devices.
        steps_per_call: compiled together; default: chosen by device and network.
        progress: show a bar with loss, images/s and the time left.
        on_eval: called as (step, train_state) after each evaluation; copy what you keep, its arrays
            are donated.
        on_log: called as (step, split, values) with every line of the log, by the first process.

    Raises:
        UserError: for settings that cannot work, a folder that is in use or holds another run, a
            full disk.
        NonFinite: where a metric stops being a number; names the step and the metric.
        run.Stopped: after SIGTERM or Ctrl-C, once the state is saved (a SystemExit with its own
            code).
    """
    phases = _phases(model, steps)
    total = sum(phase.steps for phase in phases)
    for name, value in (("log_every", log_every), ("keep", keep)):
        check_count(name, value)
    for name, value in (
        ("eval_every", eval_every),
        ("save_every", save_every),
        ("steps_per_call", steps_per_call),
    ):
        if value is not None:
            check_count(name, value)
    mesh = parallel.make_mesh() if mesh is None else mesh
    parallel.check_batch(batch_size, mesh)
    preprocess = make_preprocess() if preprocess is None else preprocess
    check_seed("seed", seed)
    options = {"ema_decay": ema_decay, "accumulate": accumulate, "max_grad_norm": max_grad_norm}
    if config is None:
        config = {
            "data": source.name,
            "split": source.split,
            "size": source.size,
            "shape": source.shape,
            "batch_size": batch_size,
            "seed": seed,
            "phases": [phase.steps for phase in phases[:-1]],
            **options,
        }
    config = run.as_json(config)

    # Everything that can be refused is refused here, before a folder is touched: the state at step
    # 0,
    # its shape in every phase, and the evaluation.
    whole = parallel.replicated(mesh)
    example = preprocess(jax.random.key(0), source.read(first_indices(source, batch_size)))
    names = tuple(dict.fromkeys(name for phase in phases for name in groups(phase.model)))
    start = phases[0].model._replace(
        objectives=tuple(o for phase in phases for o in phase.model.objectives)
    )
    used = [tx if phases[0].tx is None else phases[0].tx]  # the optimisers of each phase
    for phase in phases[1:]:
        used.append(used[-1] if phase.tx is None else phase.tx)
    train_state = init_state(
        start, used[0], jax.random.key(seed), example, ema=ema_decay is not None
    )
    train_state = parallel.put(train_state, whole)
    starts = [sum(phase.steps for phase in phases[:i]) for i in range(len(phases))]
    train_steps = [
        make_train_step(phase.model, tx, **options) for phase, tx in zip(phases, used, strict=True)
    ]

    def enter(i: int, train_state: TrainState) -> TrainState:
        """Returns the state as phase i begins: new optimiser states where it has a `tx` of its
        own."""
        if phases[i].tx is None or i == 0:
            return train_state
        with jax.numpy_dtype_promotion("standard"):
            new = {
                name: t.init(train_state.params[name])
                for name, t in optimisers(used[i], names).items()
            }
        return parallel.put(train_state._replace(opt_state=new), whole)

    def phase_of(step: int) -> int:
        """Returns the phase whose optimiser states a checkpoint at `step` holds."""
        return max(i for i in range(len(phases)) if starts[i] < step or i == 0)

    templates, state = [], train_state
    for i, train_step in enumerate(train_steps):
        state = enter(i, state)
        templates.append((state, parallel.put(empty_sums(train_step, state, example), whole)))
    evaluator, best = None, _best(phases[-1].model, best)
    if valid is not None:
        evaluator = make_evaluator(
            phases[-1].model, valid, preprocess=preprocess, seed=seed, mesh=mesh
        )
        measured = jax.eval_shape(
            make_eval_step(phases[-1].model),
            state.params,
            state.state,
            state.rng,
            example,
            np.ones(batch_size, np.float32),
        )
        if best[0] not in measured:
            raise unknown("metric for best", best[0], measured)

    place = contextlib.nullcontext() if workdir is None else run.folder(workdir, config)
    with place as folder, run.listen() as signals:
        log = None if folder is None else folder / "metrics.jsonl"
        writes = log is not None and jax.process_index() == 0
        checkpoints = (
            None if folder is None else Checkpoints(folder / "checkpoints", keep=keep, best=best)
        )
        step, sums, last = 0, None, {}
        if checkpoints is not None:
            restored = run.restore_latest(checkpoints, lambda step: templates[phase_of(step)])
            if restored is not None:
                train_state, sums = restored.train_state, restored.sums
                step = int(train_state.step)
            if writes:
                writers.cut_back(log, step)
            last = (
                {line["split"]: _values(line) for line in writers.read(log) if "split" in line}
                if log.exists()
                else {}
            )
            if step > total:
                print(
                    f"{folder} is already at step {step}, beyond the {total} asked for: nothing "
                    "to do."
                )
        bar = _Bar(total, step, batch_size, progress)

        def say(split: str, values: dict[str, float]) -> None:
            last[split] = values
            if writes:
                writers.append(log, {"step": step, "split": split, **values})
            if on_log is not None and jax.process_index() == 0:
                on_log(step, split, values)

        def save(metrics=None) -> None:
            if checkpoints is None:
                return
            try:
                checkpoints.save(loop_state.train, loop_state.sums, config=config, metrics=metrics)
            except FloatingPointError as error:
                raise _non_finite(step, [str(error)], checkpoints) from None

        data = (
            None if source.arrays is None or step >= total else parallel.put(source.arrays, whole)
        )
        loop, warned = None, set()

        def warn(warning: str | None, about: str) -> None:
            if warning and about not in warned and jax.process_index() == 0:
                warned.add(about)
                where = "" if folder is None else f"{folder}, "  # which stage of two, for one
                print(f"jaxvae: {where}step {step}: {warning}", file=sys.stderr)

        try:
            for i, phase in enumerate(phases):
                end = starts[i] + phase.steps
                if step >= end:
                    continue
                if step == starts[i]:
                    train_state, sums = enter(i, train_state), None
                if sums is None:
                    sums = parallel.put(jax.device_get(templates[i][1]), whole)
                loop_state = LoopState(train_state, sums, parallel.put(no_bad(sums), whole))
                zeros = jax.device_get(templates[i][1])
                loop = compile_loop(
                    train_steps[i],
                    loop_state,
                    source,
                    data,
                    preprocess=preprocess,
                    batch_size=batch_size,
                    seed=seed,
                    mesh=mesh,
                    steps_per_call=steps_per_call,
                )
                since, clock = step, time.perf_counter()
                while step < end:
                    stops = [end, step + loop.most]
                    stops += [
                        step - step % every + every
                        for every in (log_every, eval_every, save_every)
                        if every
                    ]
                    target = min(stops)
                    loop_state = loop.advance(loop_state, step, target - step)
                    step = target
                    bar.show(step, loop_state)
                    evaluates = step == total or bool(eval_every and step % eval_every == 0)
                    saves = bool(save_every and step % save_every == 0)
                    stop = signals.stop_at(step)
                    if step % log_every == 0 or step == end or evaluates or saves or stop:
                        _check_finite(loop_state, checkpoints)
                    if step % log_every == 0 or step == end:
                        values = {
                            n: float(mean)
                            for n, mean in jax.device_get(loop_state.sums).items()
                            if mean.count > 0
                        }
                        rate = (step - since) * batch_size / (time.perf_counter() - clock)
                        bar.note(values, rate)
                        say("train", {**values, "images_per_s": round(rate, 1)})
                        warn(floored(values), "gamma")
                        loop_state = loop_state._replace(sums=parallel.put(zeros, whole))
                        since, clock = step, time.perf_counter()
                    if evaluates or saves or stop:
                        paused = time.perf_counter()
                        found = None
                        if evaluates and evaluator is not None:
                            state = loop_state.train
                            found = evaluator(
                                state.params if state.ema is None else state.ema, state.state
                            )
                            say("valid", found)
                            bad = [
                                name for name, value in found.items() if not math.isfinite(value)
                            ]
                            if bad:
                                raise _non_finite(
                                    step,
                                    [f"{name} of the validation split" for name in bad],
                                    checkpoints,
                                )
                            warn(collapse(found.get("kl", COLLAPSED)), "collapse")
                        save(found)
                        if evaluates and on_eval is not None:
                            on_eval(step, loop_state.train)
                        clock += time.perf_counter() - paused
                    if stop:
                        if checkpoints is not None:
                            checkpoints.wait()
                        raise run.Stopped(signals.code)
                loop.close()
                loop, train_state, sums = None, loop_state.train, None
            if checkpoints is not None:
                checkpoints.wait()
            elif not fingerprint(train_state.params)[1]:
                raise _non_finite(step, ["parameters"], None)
        finally:
            bar.close(step)
            if loop is not None:
                loop.close()
            if checkpoints is not None:
                with contextlib.suppress(
                    UserError
                ):  # what went wrong before matters more; wait() has told the rest
                    checkpoints.close()
    return Fit(train_state, last)


def _phases(model: Model | Sequence[Phase], steps: int | None) -> list[Phase]:
    if isinstance(model, Model):
        if steps is None:
            raise UserError("fit needs steps, the length of the run.")
        phases = [Phase(model, steps)]
    else:
        phases = list(model)
        if steps is not None or not phases:
            raise UserError(
                "a run is one model with steps, or a list of at least one Phase with steps of "
                "their own."
            )
    for phase in phases:
        check_count("steps", phase.steps)
    return phases


def _best(model: Model, best: tuple[str, str] | None) -> tuple[str, str]:
    """Returns the metric and direction that choose the best checkpoint."""
    if best is None:
        return (
            ("elbo", "max")
            if model.terms is not None or model.log_prob is None
            else ("log_prob", "max")
        )
    if len(best) != 2 or best[1] not in ("max", "min"):
        raise UserError(f"best must be (metric, 'max') or (metric, 'min'), not {best!r}.")
    return tuple(best)


def first_indices(source: Source, batch_size: int) -> np.ndarray:
    """Returns the indices of an example batch that shows the range of the data: bytes have theirs,
    floats are searched."""
    index = np.arange(batch_size) % source.size
    if source.arrays is not None and np.issubdtype(source.arrays["x"].dtype, np.floating):
        flat = source.arrays["x"].reshape(source.size, -1)
        ends = [int(flat.min(axis=1).argmin()), int(flat.max(axis=1).argmax())][:batch_size]
        index[: len(ends)] = ends
    return index


def _values(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in ("step", "split")}


def _check_finite(loop_state: LoopState, checkpoints: Checkpoints | None) -> None:
    bad = {name: int(step) for name, step in jax.device_get(loop_state.bad).items() if step >= 0}
    if bad:
        first = min(bad.values())
        raise _non_finite(
            first, sorted(name for name, step in bad.items() if step == first), checkpoints
        )


def _non_finite(step: int, names: list[str], checkpoints: Checkpoints | None) -> NonFinite:
    kept = checkpoints.steps() if checkpoints is not None else []
    where = f" The last good checkpoint is of step {kept[-1]}." if kept else ""
    advice = "Use a smaller learning rate or clip the gradients (max_grad_norm), in a new folder."
    return NonFinite(f"not finite at step {step}: {', '.join(names)}.{where} {advice}")


class _Bar:
    """The progress bar: loss, images/s and time left; nothing where it is not wanted."""

    def __init__(self, total: int, step: int, batch_size: int, wanted: bool):
        self.batch_size, self.bar, self.drawn = batch_size, None, time.perf_counter()
        if wanted and step < total:
            from tqdm import tqdm

            self.bar = tqdm(
                total=total,
                initial=step,
                unit="step",
                dynamic_ncols=True,
                mininterval=0.2,
                smoothing=0.1,
            )

    def show(self, step: int, loop_state: LoopState) -> None:
        if self.bar is not None and time.perf_counter() - self.drawn > 0.2:
            jax.block_until_ready(loop_state.bad)
            self.drawn = time.perf_counter()
            self.bar.update(step - self.bar.n)

    def note(self, values: dict[str, float], rate: float) -> None:
        if self.bar is not None:
            loss = next(
                (values[name] for name in ("loss", *values) if name in values), float("nan")
            )
            self.bar.set_postfix_str(f"loss {loss:.2f}, {rate:,.0f} images/s", refresh=False)

    def close(self, step: int) -> None:
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.close()
