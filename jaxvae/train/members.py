"""The members of an ensemble as an engine of the driver, and the compiled program of many steps of
every one of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvae import parallel
from jaxvae.data.preprocess import Preprocess
from jaxvae.data.source import Source, batch_indices, read_checked
from jaxvae.train.checkpoint import Restored
from jaxvae.train.example import check_labels, first_batch, first_indices
from jaxvae.train.loop import Loop, LoopState, convolves, empty_sums, no_bad, one_step
from jaxvae.train.plan import Phase, Plan
from jaxvae.train.recorder import Recorder
from jaxvae.train.step import TrainState, init_state, make_train_step
from jaxvae.types import Array, Batch, Mean, Model, Tree

AXIS = "members"  # of the mesh, whose other axis, parallel.AXIS, shares the batch of a member
PARAMETERS = "parameters or optimiser state"  # what is not finite where every metric was
MODES = ("vmap", "map", "unroll")


class Members:
    """The `driver.Engine` of many trainings in one program; leaves of their state are [K, ...]."""

    def __init__(
        self,
        build: Callable[..., Model | Sequence[Phase]],
        plan: Plan,
        source: Source,
        prepare: Callable[[Tree], Preprocess],
        settings: list[dict[str, Any]],
        mesh: Mesh,
        mode: str | None,
        steps_per_call: int,
        on_log: Callable[[int, TrainState], None] | None,
    ):
        self.build, self.plan, self.source, self.prepare = build, plan, source, prepare
        self.settings, self.mesh, self.mode = settings, mesh, mode
        self.steps_per_call, self.on_log = steps_per_call, on_log
        self.tx, self.batch_size = plan.phases[0].tx, plan.phases[0].batch_size
        self.last: list[dict[str, float]] = [{} for _ in settings]
        self.frozen: dict[int, tuple[int, list[str]]] = {}
        self.split = NamedSharding(mesh, PartitionSpec(AXIS))
        types = {name: np.int32 if name == "data" else np.float32 for name in settings[0]}
        types.pop("seed")
        hyper = {name: np.array([s[name] for s in settings], t) for name, t in types.items()}
        self.hyper = jax.device_put(hyper, self.split)
        self.first = read_checked(source, first_indices(source, self.batch_size))
        if source.size > 1:  # not drawn
            self._check_data()
        self.resident = jax.device_put(source.arrays, NamedSharding(mesh, PartitionSpec()))
        keys = jnp.stack([jax.random.key(setting["seed"]) for setting in settings])
        init = jax.jit(jax.vmap(self._init), out_shardings=self.split)
        self.initial: TrainState | None = init(self.hyper, jax.device_put(keys, self.split))
        self.shapes = parallel.shapes(self.initial, self.split)
        empty = (jax.vmap(lambda h, t, i=i: self._empty(h, t, i)) for i in range(len(plan.phases)))
        self.empty = [jax.jit(each, out_shardings=self.split) for each in empty]

    def _check_data(self) -> None:
        """Raises `UserError` for data that do not fit the first setting's model, while their values
        are known."""
        preprocess, model = self.prepare({}), self.plan.phases[0].model
        check_labels(self.source, preprocess, self.batch_size)
        example = first_batch(self.source, preprocess, self.batch_size)
        jax.eval_shape(lambda rng: model.init(rng, example), jax.random.key(0))

    # ---- of one member: traced, with hyper-parameters [] -----------------------------------

    def _model(self, hyper: Tree, i: int) -> Model:
        """Returns the model of phase i."""
        built = self.build(**without(hyper, "data"))
        return built if isinstance(built, Model) else list(built)[i].model

    def _example(self, hyper: Tree) -> Batch:
        """Returns a batch as `fit` initialises with, as a model may start from what it is given."""
        return self.prepare(hyper)(jax.random.key(0), self.first)

    def _init(self, hyper: Tree, rng: Array) -> TrainState:
        """Returns the state at step 0, with optimiser states for all groups that any phase moves."""
        models = [self._model(hyper, i) for i in range(len(self.plan.phases))]
        first = models[0]._replace(objectives=tuple(o for m in models for o in m.objectives))
        return init_state(first, self.tx, rng, self._example(hyper))

    def _empty(self, hyper: Tree, train: TrainState, i: int) -> tuple[Tree, Tree]:
        """Returns the empty sums of phase i, and the marks of a member that is finite so far."""
        step = make_train_step(self._model(hyper, i), self.tx)
        sums = empty_sums(step, train, jax.eval_shape(self._example, hyper))
        return sums, {**no_bad(sums), PARAMETERS: jnp.full((), -1, jnp.int32)}

    # ---- what the driver asks for ------------------------------------------------------------

    def template(self, i: int) -> tuple[TrainState, Tree]:
        """Returns shape and place of what `pack` returns in phase i."""
        sums, bad = jax.eval_shape(self.empty[i], self.hyper, self.shapes)
        beside = {"sums": sums, "bad": bad, "step": self.shapes.step}
        beside = parallel.shapes(beside, self.split)
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        step = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
        return self.shapes._replace(step=step), beside

    def enter(self, i: int, train_state: TrainState | None) -> LoopState:
        """Returns the state as phase i begins; members that were frozen before stay so."""
        if train_state is None:
            assert self.initial is not None  # a run is at step 0 once
            train_state, self.initial = self.initial, None
        sums, bad = self.empty[i](self.hyper, train_state)
        marks = np.asarray(bad[PARAMETERS]).copy()
        for number, (at, _) in self.frozen.items():
            marks[number] = at
        return LoopState(train_state, sums, {**bad, PARAMETERS: jax.device_put(marks, self.split)})

    def resume(self, i: int, restored: Restored, recorder: Recorder) -> LoopState:
        """Returns the state that a checkpoint of phase i holds."""
        self.initial = None
        for line in recorder.lines():
            if line["split"] == "train":
                self.last[line["member"]] = without(line, "step", "split", "member")
            else:
                self.frozen[line["member"]] = (line["at"], line["not_finite"])
        beside = restored.sums
        train_state = restored.train_state._replace(step=beside["step"])
        return LoopState(train_state, beside["sums"], beside["bad"])

    def pack(self, step: int, loop_state: LoopState) -> tuple[TrainState, Tree]:
        """Returns what a checkpoint keeps: the run's step in the state, each member's beside it."""
        train_state, sums, bad = loop_state
        beside = {"sums": sums, "bad": bad, "step": train_state.step}
        return train_state._replace(step=jnp.asarray(step, jnp.int32)), beside

    def compile(self, i: int, loop_state: LoopState) -> Loop:
        """Returns the compiled loop of all members in phase i."""
        width = self.batch_size if self.source.size > 1 else 1  # data that are drawn need no index

        def step_of(hyper: Tree) -> Callable:
            return one_step(make_train_step(self._model(hyper, i), self.tx), self.prepare(hyper))

        index = np.zeros((len(self.settings), 1, width), np.int32)
        args = (self.hyper, loop_state, self.resident, index)
        call, max_steps = compile_members(step_of, self.mode, self.mesh, self.steps_per_call, args)

        def advance(loop_state: LoopState, first: int, count: int) -> LoopState:
            indices = np.zeros((len(self.settings), max_steps, width), np.int32)
            if width > 1:
                seeds = {setting["seed"] for setting in self.settings}  # shared by many settings
                rows = {
                    seed: [self._indices(seed, first + at) for at in range(count)] for seed in seeds
                }
                for number, setting in enumerate(self.settings):
                    indices[number, :count] = rows[setting["seed"]]
            indices = jax.device_put(indices, NamedSharding(self.mesh, _rows(indices)))
            return call(self.hyper, loop_state, self.resident, indices, np.int32(count))

        return Loop(advance, max_steps)

    def _indices(self, seed: int, step: int) -> np.ndarray:
        return batch_indices(self.source.size, seed, step, self.batch_size)

    def check(self, recorder: Recorder, loop_state: LoopState) -> None:
        """Raises nothing: a member that is not finite is frozen, the others go on."""

    def report(self, recorder: Recorder, i: int, step: int, loop_state: LoopState) -> LoopState:
        """Logs the means of every member since the last line, and once each member that stopped
        being finite."""
        sums, bad = jax.device_get((loop_state.sums, loop_state.bad))
        for number in range(len(self.settings)):
            marks = {name: int(at[number]) for name, at in bad.items() if at[number] >= 0}
            if marks and number not in self.frozen:
                first = min(marks.values())
                names = sorted(name for name, at in marks.items() if at == first)
                self.frozen[number] = (first, names)
                line = {"step": step, "split": "frozen", "member": number}
                recorder.write({**line, "at": first, "not_finite": names})
            if number not in self.frozen:
                means = {n: Mean(m.total[number], m.count[number]) for n, m in sums.items()}
                # an objective whose turn has not come reports nothing
                self.last[number] = {n: float(m) for n, m in means.items() if m.count > 0}
                line = {"step": step, "split": "train", "member": number}
                recorder.write({**line, **self.last[number]})
        loop_state = loop_state._replace(sums=jax.tree.map(jnp.zeros_like, loop_state.sums))
        if self.on_log is not None:
            self.on_log(step, loop_state.train)
        return loop_state

    def evaluate(self, recorder: Recorder, i: int, step: int, loop_state: LoopState) -> None:
        """Returns None: members are not evaluated while they train."""

    def finished(self, i: int) -> None:
        """Returns None: no member ends the run of all."""

    def saved(self, step: int, loop_state: LoopState, evaluated: bool) -> None:
        """Does nothing."""


def without(tree: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Returns `tree` without the entries of these names."""
    return {name: value for name, value in tree.items() if name not in names}


# ---- one call: many steps of every member --------------------------------------------------


def compile_members(
    step_of: Callable[[Tree], Callable], mode: str | None, mesh: Mesh, max_steps: int, args: tuple
) -> tuple[Callable, int]:
    """Returns the compiled (hyper, loop_state, data, indices [K, S, B], count) -> loop_state, and
    S, the largest count.

    Args:
        step_of: hyper-parameters of one member -> its `loop.one_step`.
        mode: one of `MODES`; None chooses by device and net.
        mesh: over which the members are spread.
        max_steps: S; but 1 for "unroll".
        args: hyper, loop_state, data and indices of the first call, with indices [K, 1, B].
    """
    shared = mesh.size > 1 and mesh.shape.get(parallel.AXIS, 1) > 1
    advance = _one_member(step_of, branch=not shared)
    mode = _choose(advance, args) if mode is None else mode
    call, each, replicated = _all_members(advance, mode), PartitionSpec(AXIS), PartitionSpec()
    if mesh.size > 1:
        specs = (each, each, replicated, _rows(args[-1]), replicated)
        call = jax.shard_map(call, mesh=mesh, in_specs=specs, out_specs=each, check_vma=False)
    return jax.jit(call, donate_argnums=1), 1 if mode == "unroll" else max_steps


def _rows(indices: np.ndarray) -> PartitionSpec:
    """Returns how indices [K, S, B] are spread: members over one axis, the batch over the other; data
    that are drawn have one row, which all of them get."""
    return PartitionSpec(AXIS, None, parallel.AXIS if indices.shape[-1] > 1 else None)


def _one_member(step_of: Callable[[Tree], Callable], *, branch: bool) -> Callable:
    """Returns (hyper, loop_state, data, indices [S, B], count) -> loop_state of one member,
    which stays as it is once it is frozen.

    Args:
        branch: whether a frozen member may skip its steps: not where devices share a batch, as all of
            them must come to a collective.
    """

    def steps(hyper, loop_state: LoopState, data, indices, count) -> LoopState:
        step = step_of(hyper)

        def body(i, before: LoopState) -> LoopState:
            after = step(before._replace(bad=_metrics(before.bad)), data, indices[i])
            return after._replace(bad={**after.bad, PARAMETERS: before.bad[PARAMETERS]})

        if indices.shape[0] == 1:
            return _keep_if_finite(body(0, loop_state), loop_state)
        return _keep_if_finite(jax.lax.fori_loop(0, count, body, loop_state), loop_state)

    def advance(hyper, loop_state: LoopState, data, indices, count) -> LoopState:
        going = _all_below_zero(loop_state.bad)
        if (
            not branch or indices.shape[0] == 1
        ):  # on CPU convolutions are slow inside a branch, as in a loop
            after = steps(hyper, loop_state, data, indices, count)
            return _where(going, after, loop_state)
        return jax.lax.cond(
            going, lambda state: steps(hyper, state, data, indices, count), lambda s: s, loop_state
        )

    return advance


def _keep_if_finite(after: LoopState, before: LoopState) -> LoopState:
    """Returns `after` where its metrics and arrays are finite, else `before` with the marks of what
    is not."""
    trees = (after.train.params, after.train.opt_state)
    leaves = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(x.dtype, jnp.floating)]
    arrays = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))
    metrics = _all_below_zero(_metrics(after.bad))
    mark = jnp.where(metrics & ~arrays, after.train.step - 1, after.bad[PARAMETERS])
    train, sums = _where(metrics & arrays, (after.train, after.sums), (before.train, before.sums))
    return LoopState(train, sums, {**after.bad, PARAMETERS: mark})


def _all_members(advance: Callable, mode: str) -> Callable:
    """Returns `advance` of one member as that of all, side by side or one after the other."""

    def side_by_side(hyper, loop_state, data, indices, count):
        return jax.vmap(advance, (0, 0, None, 0, None))(hyper, loop_state, data, indices, count)

    def in_turn(hyper, loop_state, data, indices, count):
        def one(member):
            hyper, loop_state, indices = member
            return advance(hyper, loop_state, data, indices, count)

        return jax.lax.map(one, (hyper, loop_state, indices))

    def written_out(hyper, loop_state, data, indices, count):
        found = []
        for i in range(indices.shape[0]):
            one_hyper, one_state = jax.tree.map(lambda x, i=i: x[i], (hyper, loop_state))
            found.append(advance(one_hyper, one_state, data, indices[i], count))
        return jax.tree.map(lambda *x: jnp.stack(x), *found)

    return {"vmap": side_by_side, "map": in_turn, "unroll": written_out}[mode]


def _choose(advance: Callable, args: tuple) -> str:
    """Returns the mode for this device and net."""
    if jax.default_backend() != "cpu":
        return "vmap"
    hyper, loop_state, data, indices = args
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (hyper, loop_state))
    traced = jax.make_jaxpr(lambda *a: advance(*a, np.int32(1)))(*first, data, indices[0])
    return "unroll" if convolves(traced.jaxpr) else "map"


def _metrics(bad: dict[str, Array]) -> dict[str, Array]:
    return {name: at for name, at in bad.items() if name != PARAMETERS}


def _all_below_zero(marks: dict[str, Array]) -> Array:
    return jnp.all(jnp.stack(list(marks.values())) < 0)


def _where(condition: Array, if_true: Any, if_false: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)
