"""One training as an engine of the driver: its states, its data, its evaluation."""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxvae import nets, parallel
from jaxvae.data.preprocess import Augment, augmented
from jaxvae.data.source import Source, batch_indices
from jaxvae.errors import UserError, unknown
from jaxvae.objectives import COLLAPSED, collapse, floored
from jaxvae.train.checkpoint import Restored
from jaxvae.train.evaluate import make_evaluator
from jaxvae.train.example import batch_shape, check_labels, first_batch
from jaxvae.train.loop import Loop, LoopState, compile_loop, empty_sums, no_bad
from jaxvae.train.optimisers import init_optimisers, optimisers
from jaxvae.train.plan import Plan, check_patience
from jaxvae.train.recorder import Recorder
from jaxvae.train.statistics import OVER, default_stats, make_reestimator, moments_of
from jaxvae.train.step import (
    TrainState,
    groups,
    init_state,
    is_measurable,
    make_eval_step,
    make_train_step,
)
from jaxvae.types import Batch, Model, Tree

GROW = 0x6805  # folded into the key of the new parameters of a grown model
WATCHED = 1000  # lines that a model's `watch` is shown
BESIDE = ("step", "split", "stats")  # in a line of the log, beside its values

OnEval = Callable[[int, TrainState], None]
OnLog = Callable[[int, str, dict[str, float]], None]


class Training:
    """The `driver.Engine` of one training.

    Making it checks nets, data and optimisers of every phase against each other, and what the
    evaluation measures.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        mesh: Mesh,
        seed: int,
        options: dict[str, Any],
        best: tuple[str, str],
        steps_per_call: int | None = None,
        on_eval: OnEval | None = None,
        on_log: OnLog | None = None,
        augment: Augment | None = None,
        patience: int | None = None,
    ):
        self.plan, self.source, self.mesh, self.seed = plan, source, mesh, seed
        self.steps_per_call, self.on_eval, self.on_log = steps_per_call, on_eval, on_log
        self.augment, self.best, self.patience = augment, best, patience
        self.everywhere = parallel.replicated(mesh)
        self.last: dict[str, dict[str, float]] = {}  # split -> the values of its last line
        self.rows: deque[dict[str, float]] = deque(maxlen=WATCHED)  # training's, of this phase
        self.validated: dict[int, float] = {}  # step -> what chooses the best, in the last phase
        self.data: dict[str, jax.Array] | None = None  # put on the devices at first use
        self.evaluators: dict[int, tuple[Callable, str]] = {}  # and with whose statistics
        for phase in plan.phases:
            parallel.check_batch(phase.batch_size, mesh)
        self.steps = [  # traced once for all that asks for their shapes or compiles them
            jax.jit(make_train_step(p.model, p.tx, ema_decay=p.ema_decay, **options), inline=True)
            for p in plan.phases
        ]
        self.examples = self._examples()
        for example in self.examples:
            self._check_augment(example)
        self.initial: TrainState | None = self._initial(ema=plan.phases[0].ema_decay is not None)
        self.templates = self._templates()
        for i in range(len(plan.phases)):
            self._check_evaluation(i, best[0])
        self._check_patience()

    def _examples(self) -> list[Batch]:
        """Returns a batch of each phase, which shows the range of the data."""
        kinds = [(phase.preprocess, phase.batch_size) for phase in self.plan.phases]
        found: dict[tuple[int, int], Batch] = {}
        for preprocess, batch_size in kinds:
            if (id(preprocess), batch_size) not in found:
                check_labels(self.source, preprocess, batch_size)
                found[id(preprocess), batch_size] = first_batch(self.source, preprocess, batch_size)
        return [found[id(preprocess), batch_size] for preprocess, batch_size in kinds]

    def _check_augment(self, example: Batch) -> None:
        """Raises `UserError` where `augment` does not take a batch, or does not return its like."""
        if self.augment is None:
            return
        changed = jax.eval_shape(self.augment, jax.random.key(0), example)
        have, want = (jax.tree.map(lambda x: (x.shape, x.dtype), b) for b in (changed, example))
        if have != want:
            raise UserError("augment must return a batch of the shapes and types that it is given.")

    def _moved(self, i: int) -> list[Model]:
        """Returns the models that share their parameter groups with phase i: those from the last
        growth up to the next."""
        phases = self.plan.phases
        first = max(j for j in range(i + 1) if j == 0 or phases[j].grow is not None)
        rest = range(i + 1, len(phases))
        end = next((j for j in rest if phases[j].grow is not None), len(phases))
        return [phase.model for phase in phases[first:end]]

    def _initial(self, *, ema: bool) -> TrainState:
        """Returns the state at step 0, with optimiser states for all groups that any phase moves."""
        objectives = tuple(o for model in self._moved(0) for o in model.objectives)
        first = self.plan.phases[0]
        model = first.model._replace(objectives=objectives)
        rng = jax.random.key(self.seed)
        train_state = init_state(model, first.tx, rng, self.examples[0], ema=ema)
        return parallel.put(train_state, self.everywhere)

    def _restart(self, i: int, train_state: TrainState, example: Batch) -> TrainState:
        """Returns the state as phase i begins: parameters carried over to a grown model, new
        optimiser states."""
        phase, names = self.plan.phases[i], [groups(model) for model in self._moved(i)]
        names = tuple(dict.fromkeys(name for each in names for name in each))
        params, state, ema = train_state.params, train_state.state, train_state.ema
        if phase.grow is not None:
            rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), GROW), i)
            new = phase.model.init(rng, example)
            params, grown_state = _check_grown(i, phase.grow((params, state), new), new)
            if ema is not None:
                ema, _ = _check_grown(i, phase.grow((ema, state), new), new)
            state = grown_state
        opt_state = init_optimisers(optimisers(phase.tx, names), params)
        return train_state._replace(params=params, state=state, ema=ema, opt_state=opt_state)

    def _templates(self) -> list[tuple[TrainState, Tree]]:
        """Returns shape and place of state and sums in each phase.

        All have their place before a step is asked for its shapes: a trace of it is one for places,
        too, and the compiled loop is to find it.
        """

        state, found = parallel.shapes(self.initial, self.everywhere), []
        for i, (step, example) in enumerate(zip(self.steps, self.examples, strict=True)):
            if self.plan.restarts(i):
                state = jax.eval_shape(lambda s, e, i=i: self._restart(i, s, e), state, example)
                state = parallel.shapes(state, self.everywhere)
            self._check_parameters(i, state)
            batch = parallel.shapes(example, self.everywhere)
            sums = jax.eval_shape(lambda: empty_sums(step, state, batch))  # noqa: B023
            found.append((state, parallel.shapes(sums, self.everywhere)))
        return found

    def _check_parameters(self, i: int, state: TrainState) -> None:
        """Raises `UserError` where phase i has a model of other parameters and does not say how
        they grow."""
        phase = self.plan.phases[i]
        if i == 0 or phase.grow is not None:
            return
        wanted, _ = jax.eval_shape(phase.model.init, state.rng, self.examples[i])
        for name in groups(phase.model):
            have, want = (_shapes(params.get(name)) for params in (state.params, wanted))
            if have != want:
                raise UserError(
                    f"the model of phase {i} has parameters of another shape in the group {name!r}: "
                    "give the phase a grow, which carries what was learned over to them."
                )

    def _is_measured(self, i: int) -> bool:
        """Returns whether phase i is evaluated: the last one wherever there are data for it."""
        phase, last = self.plan.phases[i], i == len(self.plan.phases) - 1
        return phase.valid is not None and (last or is_measurable(phase.model))

    def _check_evaluation(self, i: int, best: str) -> None:
        """Raises `UserError` where phase i cannot be evaluated, or is the last and does not measure
        `best`."""
        phase, (state, _) = self.plan.phases[i], self.templates[i]
        if not self._is_measured(i) or phase.valid is None:
            return
        check_labels(phase.valid, phase.preprocess, phase.batch_size)
        example = batch_shape(phase.valid, phase.preprocess, phase.batch_size)
        mask = np.ones(phase.batch_size, np.float32)
        measured = jax.eval_shape(
            make_eval_step(phase.model), *(state.params, state.state, state.rng, example, mask)
        )
        if default_stats(phase.model, state.state) in OVER:
            trees = (state.params, state.state, state.rng, self.examples[i])
            jax.eval_shape(moments_of(phase.model), *trees)
        if i == len(self.plan.phases) - 1 and best not in measured:
            raise unknown("metric for best", best, measured)

    def _check_patience(self) -> None:
        """Raises `UserError` for a patience that cannot end the run."""
        last = len(self.plan.phases) - 1
        if self.patience is not None and not self._is_measured(last):
            raise UserError(
                "patience needs a metric of the validation split, and this run measures none: leave "
                "it out."
            )
        start, every = self.plan.start(last), self.plan.eval_every
        check_patience(self.patience, self.plan.total, every, start=start)

    # ---- what the driver asks for --------------------------------------------------------

    def template(self, i: int) -> tuple[TrainState, Tree]:
        """Returns shape and place of what `pack` returns in phase i."""
        return self.templates[i]

    def enter(self, i: int, train_state: TrainState | None) -> LoopState:
        """Returns the state as phase i begins."""
        self.rows.clear()
        if train_state is None:
            assert self.initial is not None  # a run is at step 0 once
            train_state, self.initial = self.initial, None
        if self.plan.restarts(i):
            begin = jax.jit(lambda s, e: self._restart(i, s, e), out_shardings=self.everywhere)
            example = jax.device_get(self.examples[i])
            return self._loop_state(begin(train_state, example), self._zeros(i))
        return self._loop_state(train_state, self._zeros(i))

    def resume(self, i: int, restored: Restored, recorder: Recorder) -> LoopState:
        """Returns the state that a checkpoint inside phase i holds."""
        self.initial = None
        for line in recorder.lines():
            self.last[line["split"]] = {
                name: value for name, value in line.items() if name not in BESIDE
            }
            if line["split"] == "train" and line["step"] > self.plan.start(i):
                self.rows.append(self.last["train"])
            if line["split"] == "valid" and line["step"] <= restored.meta["step"]:
                self._note_validated(line["step"], line)
        return self._loop_state(restored.train_state, restored.sums)

    def pack(self, step: int, loop_state: LoopState) -> tuple[TrainState, Tree]:
        """Returns what a checkpoint keeps."""
        return loop_state.train, loop_state.sums

    def compile(self, i: int, loop_state: LoopState) -> Loop:
        """Returns the compiled loop of phase i."""
        phase, start, before = self.plan.phases[i], self.plan.start(i), self.plan.examples_before(i)
        if self.source.arrays is not None and self.data is None:
            self.data = parallel.resident(self.source.arrays, self.mesh)

        def indices_of(step: int) -> np.ndarray:
            size, batch_size = self.source.size, phase.batch_size
            return batch_indices(size, self.seed, step - start, batch_size, first=before)

        return compile_loop(
            self.steps[i],
            loop_state,
            self.source,
            self.data,
            preprocess=augmented(phase.preprocess, self.augment),
            indices_of=indices_of,
            batch_size=phase.batch_size,
            mesh=self.mesh,
            steps_per_call=self.steps_per_call,
        )

    def check(self, recorder: Recorder, loop_state: LoopState) -> None:
        """Raises `NonFinite` for the first step at which a metric was not finite."""
        bad = {n: int(step) for n, step in jax.device_get(loop_state.bad).items() if step >= 0}
        if bad:
            first = min(bad.values())
            raise recorder.non_finite(first, sorted(n for n, step in bad.items() if step == first))

    def report(self, recorder: Recorder, i: int, step: int, loop_state: LoopState) -> LoopState:
        """Logs the means since the last line; returns the state with empty sums."""
        sums = jax.device_get(loop_state.sums)
        values = {name: float(mean) for name, mean in sums.items() if mean.count > 0}
        rate = recorder.rate(step, self.plan.phases[i].batch_size)
        recorder.note(values, rate)
        self._say(recorder, step, "train", {**values, "images_per_s": round(rate, 1)})
        self.rows.append(self.last["train"])
        recorder.warn("gamma", step, floored(values))
        for number, watch in enumerate(self.plan.phases[i].model.watch):
            recorder.warn(f"watch {number} of phase {i}", step, watch(list(self.rows)))
        return loop_state._replace(sums=self._zeros(i))

    def evaluate(
        self, recorder: Recorder, i: int, step: int, loop_state: LoopState
    ) -> dict[str, float] | None:
        """Returns the metrics of the validation split by the model of phase i, logged; None
        without one, and for a model that is not the last, which is not compared with that."""
        phase, state = self.plan.phases[i], loop_state.train
        if phase.valid is None or not self._is_measured(i):
            return None
        if i not in self.evaluators:
            options = {"preprocess": phase.preprocess, "seed": self.seed, "mesh": self.mesh}
            stats = default_stats(phase.model, state.state)
            mode = "batch" if stats == "batch" else "running"
            evaluator = make_evaluator(phase.model, phase.valid, stats=mode, **options)
            if stats in OVER:
                over = OVER[stats]
                of_data = make_reestimator(phase.model, self.source, over=over, **options)
                evaluator = _after(of_data, evaluator)
            self.evaluators = {i: (evaluator, stats)}
        params = state.params if state.ema is None else state.ema
        evaluator, stats = self.evaluators[i]
        found = evaluator(params, state.state)
        about = {"stats": stats} if nets.has_averages(state.state) else {}
        self._say(recorder, step, "valid", found, **about)
        bad = [name for name, value in found.items() if not math.isfinite(value)]
        if bad:
            raise recorder.non_finite(step, [f"{name} of the validation split" for name in bad])
        recorder.warn("collapse", step, collapse(found.get("kl", COLLAPSED)))
        self._note_validated(step, found)
        recorder.note_validated(self.best[0], found)
        return found if phase.model is self.plan.phases[-1].model else None  # the best is of that

    def _note_validated(self, step: int, values: dict[str, float]) -> None:
        """Remembers what patience looks at: of the last phase alone, whose model the run is of."""
        name = self.best[0]
        if step > self.plan.start(len(self.plan.phases) - 1) and name in values:
            self.validated[step] = values[name]

    def finished(self, i: int) -> str | None:
        """Returns why the run ends here: so many evaluations in vain, or None."""
        if self.patience is None or not self.validated:
            return None
        name, direction = self.best
        choose = max if direction == "max" else min
        best = choose(self.validated, key=lambda step: self.validated[step])  # the first of equals
        in_vain = sum(step > best for step in self.validated)
        if in_vain < self.patience:
            return None
        return (
            f"the run ends here: no better {name} of the validation split in {in_vain} evaluations. "
            f"The best checkpoint is of step {best}."
        )

    def saved(self, step: int, loop_state: LoopState, evaluated: bool) -> None:
        """Calls the user's function after an evaluation."""
        if evaluated and self.on_eval is not None:
            self.on_eval(step, loop_state.train)

    def _say(
        self, recorder: Recorder, step: int, split: str, values: dict[str, float], **about: str
    ) -> None:
        self.last[split] = values
        recorder.write({"step": step, "split": split, **about, **values})
        if self.on_log is not None and recorder.is_first_process:
            self.on_log(step, split, values)

    def _zeros(self, i: int) -> Tree:
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.templates[i][1])
        return parallel.put(zeros, self.everywhere)

    def _loop_state(self, train_state: TrainState, sums: Tree) -> LoopState:
        return LoopState(train_state, sums, parallel.put(no_bad(sums), self.everywhere))


def _after(reestimator: Callable, evaluator: Callable) -> Callable:
    """Returns `evaluator` of the statistics that `reestimator` gives."""
    return lambda params, state: evaluator(params, reestimator(params, state))


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): jnp.shape(x) for path, x in leaves}


def _check_grown(i: int, grown: Tree, new: Tree) -> Tree:
    """Returns `grown` if it is shaped like `new`, the trees that the model of phase i starts with;
    else raises `UserError`."""
    have, want = _shapes(tuple(grown)), _shapes(tuple(new))
    differing = [path for path in dict.fromkeys((*want, *have)) if have.get(path) != want.get(path)]
    if differing:
        path = differing[0]
        raise UserError(
            f"grow of phase {i} must return (params, state) like those of its model: {path} is "
            f"{have.get(path, 'absent')}, and {want.get(path, 'absent')} in the model."
        )
    return tuple(grown)
