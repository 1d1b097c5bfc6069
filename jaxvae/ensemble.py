"""Many trainings as one compiled program: seeds and hyper-parameters of one system, each with
metrics and a state of its own.

Every member is trained exactly as `train.fit` would train it alone, with the same keys and batches.
How the members share the program (`members`):

    "vmap"     side by side: every operation works on all members. For GPU and TPU, where one small net leaves most
               of the device idle.
    "map"      one after the other inside the program, each for a whole call of many steps, so that its weights stay
               in the cache. For dense nets on CPU, where side by side gains nothing: a matrix product fills the cores.
    "unroll"   written out one after the other, one step per call. For convolutions on CPU: side by side they become
               grouped convolutions and in a loop they miss XLA's fast path; both are many times slower.

The default follows this rule; `benchmarks/ensemble.py` measures it. With several devices the
members are spread over them.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvae import run, writers
from jaxvae.checkpoint import Checkpoints
from jaxvae.data.preprocess import make_preprocess
from jaxvae.data.source import Source, batch_indices, from_arrays
from jaxvae.errors import UserError, check_count, check_number, check_seed, unknown
from jaxvae.loop import LoopState, Preprocess, convolves, empty_sums, no_bad, one_step
from jaxvae.step import Optimisers, TrainState, init_state, make_train_step
from jaxvae.train import Phase
from jaxvae.types import Array, Batch, Mean, Model, Tree

AXIS = (
    "members"  # of the mesh; another name than parallel.AXIS, whose collectives must not run here
)
STEPS_PER_CALL = 64
PARAMETERS = "parameters or optimiser state"  # what is not finite where every metric was
MODES = ("vmap", "map", "unroll")

Draw = Callable[[Array, int], Array]  # (rng, n) -> x [n, ...], drawn inside the compiled step


class Ensemble(NamedTuple):
    """What `train_ensemble` returns; K members, setting by setting, and seed by seed in each."""

    train_state: TrainState  # every leaf [K, ...]
    settings: list[dict[str, Any]]  # of each member: its seed and hyper-parameters
    metrics: list[dict[str, float]]  # of each member: the means since the last log line but one
    frozen: dict[
        int, tuple[int, list[str]]
    ]  # member -> (step, what was not finite there); the others went on


def member(ensemble: Ensemble, i: int) -> TrainState:
    """Returns the state of member i. A frozen member's is the last one known to be finite."""
    return jax.tree.map(lambda x: x[i], ensemble.train_state)


def members_of(
    seeds: Sequence[int], hyper: Mapping[str, Sequence[float]] | None = None
) -> list[dict[str, Any]]:
    """Returns seed and hyper-parameters of each member: every setting (column of `hyper`) with
    every seed.

    Raises:
        UserError: for no or repeated seeds, lists of different lengths, and values that are no
            finite numbers.
    """
    hyper = dict(hyper or {})
    for name, values in (
        ("seeds", seeds),
        *((f"hyper-parameter {name}", values) for name, values in hyper.items()),
    ):
        if np.ndim(values) != 1:
            raise UserError(f"{name} must be a list, one value for each, not {values!r}.")
    seeds = list(seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds must be different whole numbers, at least one, not {seeds}.")
    for seed in seeds:
        check_seed("a seed", seed)
    lengths = {name: len(values) for name, values in hyper.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        rows = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise UserError(
            f"hyper-parameter lists must have one length, the number of settings: {rows}."
        )
    for name, values in hyper.items():
        for value in values:
            check_number(f"hyper-parameter {name}", value)
    settings = [
        {name: values[i] for name, values in hyper.items()}
        for i in range(next(iter(lengths.values()), 1))
    ]
    return [{"seed": seed, **setting} for setting in settings for seed in seeds]


def train_ensemble(
    build: Callable[..., Model | Sequence[Phase]],
    tx: Optimisers,
    data: Draw | Sequence[Draw] | Source,
    *,
    seeds: Sequence[int],
    hyper: Mapping[str, Sequence[float]] | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    preprocess: Preprocess | None = None,
    members: Literal["vmap", "map", "unroll"] | None = None,
    workdir: str | Path | None = None,
    log_every: int = 100,
    save_every: int | None = None,
    config: dict[str, Any] | None = None,
    mesh: Mesh | None = None,
    steps_per_call: int = STEPS_PER_CALL,
    on_log: Callable[[int, TrainState], None] | None = None,
) -> Ensemble:
    """Trains every setting of `hyper` with every seed in one compiled program, and returns all
    members.

    A member whose metrics or parameters are no longer finite is frozen at the beginning of that
    call (at most `steps_per_call` steps before) and reported; the others go on, with the same
    numbers as without it.

    Args:
        build: (**hyper) -> a `Model`, or a list of `Phase`s without optimisers of their own. Its
            arguments are traced scalars: constructors check concrete values only, so every setting
                is built once before.
        tx: an optax transformation, or one for each parameter group; the same for all members.
        data: (rng, n) -> x [n, ...] drawn inside the step, or a list of these, of which
            `hyper["data"]` gives each setting its number (it is not passed to `build`); or a
            `Source` whose arrays are in memory.
        seeds: of parameters, noise and order of the data.
        hyper: name -> one value for each setting.
        steps: length of the run, where `build` returns a model.
        batch_size: of each member.
        preprocess: (rng, examples) -> Batch, for a `Source`.
        members: "vmap", "map" or "unroll"; default: by device and net, see the module.
        workdir: gets `config.json`, `metrics.jsonl` (with "member" in each line) and
            `checkpoints/`; a run that was stopped or killed goes on there, with the same bits.
        log_every, save_every: steps between log lines and between checkpoints (default: at the end
            alone).
        config: what describes this run, compared at resume, beside what is known here.
        mesh: of devices for the members; default: all of them.
        steps_per_call: compiled together.
        on_log: called as (step, train_state) after each log line; the state is reused when it
            returns.

    Raises:
        UserError: for settings that cannot work, found before anything is compiled where possible.
        run.Stopped: after SIGTERM or Ctrl-C, once the state is saved.
    """
    settings = members_of(seeds, hyper)
    if jax.process_count() > 1:
        raise UserError(
            "an ensemble runs in one process, on all of its devices: give each process members of "
            "its own."
        )
    if members is not None and members not in MODES:
        raise unknown("members", members, MODES)
    counts = {
        "batch_size": batch_size,
        "log_every": log_every,
        "steps_per_call": steps_per_call,
        "save_every": save_every,
    }
    for name, value in counts.items():
        check_count(name, 1 if value is None and name == "save_every" else value)
    source, prepare = _data(data, settings, preprocess, batch_size)
    phases, *others = [
        _phases(build, _without(s, "seed", "data"), steps) for s in settings
    ]  # checks every setting
    if any(other != phases for other in others):
        raise UserError("every setting must have phases of the same lengths.")
    total = sum(phases)
    names = [name for name in settings[0] if name != "seed"]
    values = {
        name: np.array([s[name] for s in settings], np.int32 if name == "data" else np.float32)
        for name in names
    }

    devices = jax.devices() if mesh is None else list(np.ravel(mesh.devices))
    devices = devices[
        : max(n for n in range(1, len(devices) + 1) if len(settings) % n == 0)
    ]  # equal shares
    mesh = Mesh(np.asarray(devices), (AXIS,))
    split, whole = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())
    values, resident = jax.device_put(values, split), jax.device_put(source.arrays, whole)

    def models(hyper: Tree) -> list[Phase]:
        return _list(build(**_without(hyper, "data")), steps)

    def example(hyper: Tree) -> Batch:
        return prepare(hyper)(
            jax.random.key(0),
            {
                name: jnp.zeros((batch_size, *x.shape[1:]), x.dtype)
                for name, x in source.arrays.items()
            },
        )

    def init(hyper: Tree, rng: Array) -> TrainState:
        first = models(hyper)
        start = first[0].model._replace(
            objectives=tuple(o for phase in first for o in phase.model.objectives)
        )
        return init_state(start, tx, rng, example(hyper))

    def empty_of(hyper: Tree, train: TrainState, phase: int):
        sums = empty_sums(
            make_train_step(models(hyper)[phase].model, tx), train, jax.eval_shape(example, hyper)
        )
        return sums, {**no_bad(sums), PARAMETERS: jnp.full((), -1, jnp.int32)}

    keys = jnp.stack([jax.random.key(s["seed"]) for s in settings])
    train = jax.jit(jax.vmap(init), out_shardings=split)(values, jax.device_put(keys, split))
    record = {**(config or {}), "members": settings, "batch_size": batch_size, "phases": phases}
    if data is source:
        record["data"] = [source.name, source.split]

    place = contextlib.nullcontext() if workdir is None else run.folder(workdir, record)
    with place as folder, run.listen() as signals:
        log = None if folder is None else folder / "metrics.jsonl"
        checkpoints = None if folder is None else Checkpoints(folder / "checkpoints", best=None)
        starts = [sum(phases[:i]) for i in range(len(phases))]
        empty = [
            jax.jit(jax.vmap(lambda h, t, i=i: empty_of(h, t, i)), out_shardings=split)
            for i in range(len(phases))
        ]

        step, sums, bad, last = 0, None, None, [{} for _ in settings]
        frozen: dict[int, tuple[int, list[str]]] = {}
        if checkpoints is not None:

            def template(at):
                phase = max(i for i in range(len(phases)) if starts[i] < at or i == 0)
                sums, bad = empty[phase](values, train)
                return train._replace(step=jnp.zeros((), jnp.int32)), {
                    "sums": sums,
                    "bad": bad,
                    "step": train.step,
                }

            found = run.restore_latest(checkpoints, template)
            if found is not None:
                step, extra = int(found.train_state.step), found.sums
                train, sums, bad = (
                    found.train_state._replace(step=extra["step"]),
                    extra["sums"],
                    extra["bad"],
                )
            writers.cut_back(log, step)
            for line in writers.read(log) if log.exists() else ():
                if line["split"] == "train":
                    last[line["member"]] = {
                        k: v for k, v in line.items() if k not in ("step", "split", "member")
                    }
                else:
                    frozen[line["member"]] = (line["at"], line["not_finite"])

        def save():
            if checkpoints is not None:
                beside = {"sums": loop.sums, "bad": loop.bad, "step": loop.train.step}
                checkpoints.save(
                    loop.train._replace(step=jnp.asarray(step, jnp.int32)), beside, config=record
                )

        try:
            for i, length in enumerate(phases):
                end = starts[i] + length
                if step >= end:
                    continue
                fresh_sums, fresh_bad = empty[i](values, train)
                if step == starts[i] or sums is None:
                    sums, bad = fresh_sums, _carried(fresh_bad, frozen, split)
                loop = LoopState(train, sums, bad)
                index = np.zeros((len(settings), 1, _width(source, batch_size)), np.int32)
                call, most = _compile(
                    lambda h, i=i: one_step(make_train_step(models(h)[i].model, tx), prepare(h)),
                    members,
                    mesh,
                    steps_per_call,
                    (values, loop, resident, index),
                )
                while step < end:
                    stops = [end, step + most, step - step % log_every + log_every]
                    stops += [step - step % save_every + save_every] if save_every else []
                    target = min(stops)
                    picked = _indices(source, settings, step, target, most, batch_size)
                    loop = call(
                        values,
                        loop,
                        resident,
                        jax.device_put(picked, split),
                        np.int32(target - step),
                    )
                    step = target
                    stop = signals.received is not None
                    if step % log_every == 0 or step == end:
                        _report(loop, settings, step, last, frozen, log)
                        loop = loop._replace(sums=jax.tree.map(jnp.zeros_like, loop.sums))
                        if on_log is not None:
                            on_log(step, loop.train)
                    if step == total or stop or (save_every and step % save_every == 0):
                        save()
                    if stop:
                        if checkpoints is not None:
                            checkpoints.wait()
                        raise run.Stopped(signals.code)
                train, sums, bad = loop.train, None, None
            if checkpoints is not None:
                checkpoints.wait()
        finally:
            if checkpoints is not None:
                with contextlib.suppress(UserError):
                    checkpoints.close()
    return Ensemble(train, settings, last, frozen)


# ---- one call: many steps of every member ----------------------------------------------------


def _compile(
    step_of: Callable, members: str | None, mesh: Mesh, most: int, args: tuple
) -> tuple[Callable, int]:
    """Returns the compiled (values, loop, data, indices [K, most, B], count) -> loop, and
    `most`."""
    values, loop, data, index = args

    def steps(hyper, loop: LoopState, data, indices, count) -> LoopState:
        """Runs `count` steps of one member that is still going; keeps the old state where the new
        one is not finite."""
        one = step_of(hyper)

        def body(i, carry):
            new = one(carry._replace(bad=_without(carry.bad, PARAMETERS)), data, indices[i])
            return new._replace(bad={**new.bad, PARAMETERS: carry.bad[PARAMETERS]})

        new = body(0, loop) if indices.shape[0] == 1 else jax.lax.fori_loop(0, count, body, loop)
        finite = jnp.all(
            jnp.stack(
                [
                    jnp.all(jnp.isfinite(x))
                    for x in jax.tree.leaves((new.train.params, new.train.opt_state))
                    if jnp.issubdtype(x.dtype, jnp.floating)
                ]
            )
        )
        metrics = jnp.all(jnp.stack(list(_without(new.bad, PARAMETERS).values())) < 0)
        bad = {
            **new.bad,
            PARAMETERS: jnp.where(metrics & ~finite, new.train.step - 1, new.bad[PARAMETERS]),
        }
        keep = metrics & finite
        return LoopState(
            *(jax.tree.map(lambda a, b: jnp.where(keep, a, b), new[i], loop[i]) for i in (0, 1)),
            bad,
        )

    def unless_frozen(hyper, loop: LoopState, data, indices, count) -> LoopState:
        going = jnp.all(jnp.stack(list(loop.bad.values())) < 0)
        if (
            indices.shape[0] == 1
        ):  # convolutions on CPU are slow inside a branch, as they are in a loop
            return jax.tree.map(
                lambda a, b: jnp.where(going, a, b), steps(hyper, loop, data, indices, count), loop
            )
        return jax.lax.cond(
            going, lambda loop: steps(hyper, loop, data, indices, count), lambda loop: loop, loop
        )

    def all_members(mode: str):
        def call(values, loop, data, indices, count):
            if mode == "vmap":
                return jax.vmap(unless_frozen, (0, 0, None, 0, None))(
                    values, loop, data, indices, count
                )
            if mode == "map":
                return jax.lax.map(
                    lambda x: unless_frozen(*x[:2], data, x[2], count), (values, loop, indices)
                )
            each = [
                unless_frozen(
                    *jax.tree.map(lambda x, i=i: x[i], (values, loop)), data, indices[i], count
                )
                for i in range(indices.shape[0])
            ]
            return jax.tree.map(lambda *x: jnp.stack(x), *each)

        return call

    if members is None:
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (values, loop))
        traced = jax.make_jaxpr(lambda *args: unless_frozen(*args, np.int32(1)))(
            *first, data, index[0]
        )
        members = (
            "vmap"
            if jax.default_backend() != "cpu"
            else "unroll"
            if convolves(traced.jaxpr)
            else "map"
        )
    most = 1 if members == "unroll" else most
    call, member, none = all_members(members), PartitionSpec(AXIS), PartitionSpec()
    if mesh.size > 1:
        call = jax.shard_map(
            call,
            mesh=mesh,
            in_specs=(member, member, none, member, none),
            out_specs=member,
            check_vma=False,
        )
    return jax.jit(call, donate_argnums=1), most


# ---- data ------------------------------------------------------------------------------------


def _data(data, settings, preprocess, batch_size) -> tuple[Source, Callable[[Tree], Preprocess]]:
    """Returns the source, and what gives a member's `preprocess` for its hyper-parameters."""
    if isinstance(data, Source):
        if data.arrays is None:
            raise UserError(
                f"{data.name} is streamed: an ensemble needs a source whose arrays are in memory."
            )
        chosen = make_preprocess() if preprocess is None else preprocess
        return data, lambda hyper: chosen
    if preprocess is not None:
        raise UserError(
            "preprocess belongs to a Source: data that are drawn in the step come as they are."
        )
    draws = [data] if callable(data) else list(data) if isinstance(data, Sequence) else []
    if not draws or not all(callable(draw) for draw in draws):
        raise UserError(
            "data must be a function (rng, n) -> x, a list of such functions, or a Source."
        )
    if callable(data) and "data" in settings[0]:
        raise UserError("hyper['data'] chooses from a list of functions: pass data=[...].")
    if not callable(data):
        if "data" not in settings[0]:
            raise UserError(
                'data is a list: say which of it each setting takes with hyper["data"].'
            )
        for setting in settings:
            check_count('hyper["data"]', setting["data"], least=0)
            if setting["data"] >= len(draws):
                raise UserError(
                    f'hyper["data"] is {setting["data"]}, but data holds {len(draws)} functions, '
                    f"0 to {len(draws) - 1}."
                )
    shapes = {
        jax.eval_shape(lambda draw=draw: draw(jax.random.key(0), batch_size)).shape
        for draw in draws
    }
    if len(shapes) > 1 or next(iter(shapes))[:1] != (batch_size,):
        raise UserError(
            f"data drawn for n={batch_size} have shapes {sorted(shapes)}; they must be one shape "
            "[n, ...]."
        )

    def prepare(hyper: Tree) -> Preprocess:
        def draw(rng: Array, examples: dict[str, Array]) -> Batch:
            if callable(data):
                return Batch(data(rng, batch_size))
            return Batch(
                jax.lax.switch(
                    hyper["data"], [lambda rng, d=d: d(rng, batch_size) for d in draws], rng
                )
            )

        return draw

    return from_arrays(np.zeros((1, 1), np.float32), name="drawn"), prepare


def _width(source: Source, batch_size: int) -> int:
    return batch_size if source.size > 1 else 1


def _indices(
    source: Source, settings, step: int, target: int, most: int, batch_size: int
) -> np.ndarray:
    """Returns what each member's steps gather: [K, most, batch_size] int32, or one zero a step for
    data that are drawn."""
    picked = np.zeros((len(settings), most, _width(source, batch_size)), np.int32)
    if source.size > 1:
        rows = {
            seed: np.stack(
                [batch_indices(source.size, seed, at, batch_size) for at in range(step, target)]
            )
            for seed in {s["seed"] for s in settings}
        }
        for i, setting in enumerate(settings):
            picked[i, : target - step] = rows[setting["seed"]]
    return picked


# ---- bookkeeping -------------------------------------------------------------------------------


def _without(tree: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in names}


def _list(built: Model | Sequence[Phase], steps: int | None) -> list[Phase]:
    return [Phase(built, steps)] if isinstance(built, Model) else list(built)


def _phases(build: Callable, hyper: dict[str, float], steps: int | None) -> list[int]:
    """Returns the lengths of the phases of one setting, which is built from its concrete numbers so
    that they are checked."""
    built = build(**hyper)
    if isinstance(built, Model) == (steps is None):
        raise UserError(
            "give steps where build returns a model, and leave it out where it returns phases "
            "with their own."
        )
    phases = _list(built, steps)
    for phase in phases:
        check_count("steps", phase.steps)
        if phase.tx is not None:
            raise UserError("phases of an ensemble share one optimiser: leave out their tx.")
    return [phase.steps for phase in phases]


def _carried(bad: dict[str, Array], frozen: dict[int, tuple], sharding) -> dict[str, Array]:
    """Returns the marks of a new phase, in which members that were frozen before stay so."""
    marks = np.asarray(bad[PARAMETERS]).copy()
    for i, (at, _) in frozen.items():
        marks[i] = at
    return {**bad, PARAMETERS: jax.device_put(marks, sharding)}


def _report(
    loop: LoopState, settings, step: int, last: list, frozen: dict, log: Path | None
) -> None:
    """Logs the means of every member since the last line, and once each member that stopped being
    finite."""
    sums, bad = jax.device_get((loop.sums, loop.bad))
    for i in range(len(settings)):
        marks = {name: int(at[i]) for name, at in bad.items() if at[i] >= 0}
        if marks and i not in frozen:
            first = min(marks.values())
            frozen[i] = (first, sorted(name for name, at in marks.items() if at == first))
            if log is not None:
                writers.append(
                    log,
                    {
                        "step": step,
                        "split": "frozen",
                        "member": i,
                        "at": first,
                        "not_finite": frozen[i][1],
                    },
                )
        if i not in frozen:
            last[i] = {
                name: float(Mean(mean.total[i], mean.count[i])) for name, mean in sums.items()
            }
            if log is not None:
                writers.append(log, {"step": step, "split": "train", "member": i, **last[i]})
