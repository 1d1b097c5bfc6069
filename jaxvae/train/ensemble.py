"""Many trainings as one compiled program: seeds and hyper-parameters of one system, each with
metrics and a state of its own.

Every member is trained exactly as `train.fit` would train it alone, with the same keys and batches.
How the members share the program (`members`):

    "vmap"     side by side: every operation works on all members. For GPU and TPU, where one small
               net leaves most of the device idle.
    "map"      one after the other inside the program, each for a whole call of many steps, so that
               its weights stay in the cache. For dense nets on CPU, where side by side gains
               nothing: a matrix product fills the cores.
    "unroll"   written out one after the other, one step per call. For convolutions on CPU: side by
               side they become grouped convolutions and in a loop they miss XLA's fast path; both
               are many times slower.

The default follows this rule; `benchmarks/ensemble.py` measures it. With several devices the
members are spread over them; where there are more devices than members, several can share the
batch of each (`batch_devices`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxvae import parallel
from jaxvae.data.preprocess import Preprocess, make_preprocess
from jaxvae.data.source import Source, from_arrays
from jaxvae.errors import UserError, check_count, check_number, check_seed, unknown
from jaxvae.train import folder as folders
from jaxvae.train.driver import drive
from jaxvae.train.members import AXIS, MODES, Members, without
from jaxvae.train.optimisers import Optimisers
from jaxvae.train.plan import Phase, Plan, as_phases, make_plan
from jaxvae.train.recorder import Recorder
from jaxvae.train.signals import listen
from jaxvae.train.step import TrainState
from jaxvae.types import Array, Batch, Model, Tree

STEPS_PER_CALL = 64

Draw = Callable[[Array, int], Array]  # (rng, n) -> x [n, ...], drawn inside the compiled step


class Ensemble(NamedTuple):
    """What `train_ensemble` returns; K members, setting by setting, and seed by seed in each."""

    train_state: TrainState  # every leaf [K, ...]
    settings: list[dict[str, Any]]  # of each member: its seed and hyper-parameters
    metrics: list[dict[str, float]]  # of each member: the means since the last log line but one
    # member -> (step, what was not finite there); the others went on
    frozen: dict[int, tuple[int, list[str]]]


def member(ensemble: Ensemble, i: int) -> TrainState:
    """Returns the state of member i. A frozen member's is the last one known to be finite."""
    check_count("i", i, least=0)
    if i >= (count := len(ensemble.settings)):
        raise UserError(f"there is no member {i}: the ensemble has {count}, 0 to {count - 1}.")
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
    lists = {"seeds": seeds} | {f"hyper-parameter {name}": hyper[name] for name in hyper}
    for name, values in lists.items():
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
    batch_devices: int = 1,
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
        workdir: gets `config.json`, `metrics.jsonl` (with "member" in each line, of training alone)
            and `checkpoints/`; a run that was stopped or killed goes on there, with the same bits.
        log_every, save_every: steps between log lines and between checkpoints (default: at the end
            alone).
        config: what describes this run, compared at resume, beside what is known here.
        mesh: of devices for the members; default: all of them.
        batch_devices: devices that share the batch of a member, a slice each, as in data-parallel
            training; the members are spread over all devices by so many. The numbers stay those of
            one device, up to rounding.
        steps_per_call: compiled together.
        on_log: called as (step, train_state) after each log line; the state is reused when it
            returns.

    Raises:
        UserError: for settings that cannot work, found before anything is compiled where possible.
        signals.Stopped: after SIGTERM or Ctrl-C, once the state is saved.
    """
    if not callable(build):
        raise UserError(
            "build must be a function (**hyper) -> Model, which makes the model of each setting, not "
            f"a {type(build).__name__}."
        )
    settings = members_of(seeds, hyper)
    if jax.process_count() > 1:
        raise UserError(
            "an ensemble runs in one process, on all of its devices: give each process members of "
            "its own."
        )
    if members is not None and members not in MODES:
        raise unknown("members", members, MODES)
    check_count("batch_size", batch_size)
    check_count("steps_per_call", steps_per_call)
    source, prepare = _data(data, settings, preprocess, batch_size)
    plan = _plan(build, tx, settings, steps, batch_size, log_every, save_every)
    training = Members(
        build,
        plan,
        source,
        prepare,
        settings,
        _mesh(mesh, settings, batch_devices, batch_size),
        members,
        steps_per_call,
        on_log,
    )
    lengths = [phase.steps for phase in plan.phases]
    record = {
        **(config or {}),
        "members": settings,
        "batch_size": batch_size,
        "phases": lengths,
        **({"data": [source.name, source.split]} if data is source else {}),
    }
    identity = folders.identity(record)
    with folders.hold(workdir, identity) as (folder, check), listen() as signals:
        recorder = Recorder(folder, identity.config, plan.total, check=check)
        train_state = drive(plan, training, recorder, signals)
    return Ensemble(train_state, settings, training.last, training.frozen)


def _plan(
    build: Callable,
    tx: Optimisers,
    settings: list[dict[str, Any]],
    steps: int | None,
    batch_size: int,
    log_every: int,
    save_every: int | None,
) -> Plan:
    """Returns the plan that all settings share; each is built once from its numbers, so that they
    are checked."""
    every = [_phases(build, without(setting, "seed", "data"), steps) for setting in settings]
    lengths = [[phase.steps for phase in phases] for phases in every]
    if any(other != lengths[0] for other in lengths):
        raise UserError("every setting must have phases of the same lengths.")
    return make_plan(
        every[0],
        tx,
        preprocess=make_preprocess(),
        batch_size=batch_size,
        log_every=log_every,
        save_every=save_every,
    )


def _phases(build: Callable, hyper: dict[str, float], steps: int | None) -> list[Phase]:
    """Returns the phases of one setting."""
    built = build(**hyper)
    if isinstance(built, Model) == (steps is None):
        raise UserError(
            "give steps where build returns a model, and leave it out where it returns phases "
            "with their own."
        )
    phases = as_phases(built, steps)
    for phase in phases:
        given = [name for name in Phase._fields[2:] if getattr(phase, name) is not None]
        if given:
            raise UserError(f"phases of an ensemble share everything: leave out their {given[0]}.")
    return phases


def _mesh(
    mesh: Mesh | None, settings: list[dict[str, Any]], batch_devices: int, batch_size: int
) -> Mesh:
    """Returns the mesh of as many groups of `batch_devices` as cut the members into equal shares."""
    check_count("batch_devices", batch_devices)
    devices = jax.devices() if mesh is None else list(np.ravel(mesh.devices))
    if batch_devices > len(devices) or batch_size % batch_devices:
        raise UserError(
            f"{batch_devices} devices cannot share a batch of {batch_size}: give a batch_devices of "
            f"at most {len(devices)}, the devices there are, that divides the batch_size."
        )
    groups = len(devices) // batch_devices
    count = max(n for n in range(1, groups + 1) if len(settings) % n == 0)
    grid = np.asarray(devices[: count * batch_devices]).reshape(count, batch_devices)
    return Mesh(grid, (AXIS, parallel.AXIS))


# ---- data ------------------------------------------------------------------------------------


def _data(
    data: Draw | Sequence[Draw] | Source,
    settings: list[dict[str, Any]],
    preprocess: Preprocess | None,
    batch_size: int,
) -> tuple[Source, Callable[[Tree], Preprocess]]:
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
    draws: list[Draw]
    draws = list(data) if isinstance(data, Sequence) else [data] if callable(data) else []
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
            n, wholes = batch_size // parallel.axis_size(), map(parallel.whole_batch, draws)
            branches = [lambda rng, draw=draw: draw(rng, n) for draw in wholes]
            if callable(data):
                return Batch(branches[0](rng))
            return Batch(jax.lax.switch(hyper["data"], branches, rng))

        return draw

    return from_arrays(np.zeros((1, 1), np.float32), name="drawn"), prepare
