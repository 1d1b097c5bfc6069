"""The plan of a run: its phases, and what happens after which step."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from jaxvae.data.preprocess import Preprocess
from jaxvae.data.source import Source, check_source
from jaxvae.errors import UserError, check_count, check_kind
from jaxvae.train.optimisers import Optimisers
from jaxvae.types import Model

Trees = tuple[Any, Any]  # (params, state) of a model


class Phase(NamedTuple):
    """A stretch of a run: `model` for `steps` steps. What is None stays as in the phase before, or
    as `fit` was told.

    `grow((params, state), (new_params, new_state)) -> (params, state)` carries what the phase before
    has learned over to a model with other trees: it gets the trees as they are and those that
    `model.init` returns, and returns trees like the latter. A moving average of the parameters is
    carried over in the same way. `carry_over` is such a function. A phase with a `tx` or a `grow` starts
    new optimiser states.
    """

    model: Model
    steps: int
    tx: Optimisers | None = None
    preprocess: Preprocess | None = None
    batch_size: int | None = None
    valid: Source | None = None
    grow: Callable[[Trees, Trees], Trees] | None = None
    ema_decay: float | None = None


class Stretch(NamedTuple):
    """A `Phase` in a plan: what it did not bring is filled in."""

    model: Model
    steps: int
    tx: Optimisers
    preprocess: Preprocess
    batch_size: int
    valid: Source | None
    grow: Callable[[Trees, Trees], Trees] | None
    ema_decay: float | None = None


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    evaluate: bool
    save: bool
    stop: bool

    @property
    def checkpoint(self) -> bool:
        """Whether the state is saved: with every evaluation, at its own interval, and at a stop."""
        return self.evaluate or self.save or self.stop


class Plan(NamedTuple):
    """The phases of a run, at least one, and its intervals."""

    phases: tuple[Stretch, ...]
    brings_tx: tuple[bool, ...]  # whether a phase has an optimiser of its own
    log_every: int
    eval_every: int | None = None  # the last step is evaluated and saved in any case
    save_every: int | None = None

    @property
    def total(self) -> int:
        """The number of steps of the run."""
        return sum(phase.steps for phase in self.phases)

    def start(self, i: int) -> int:
        """Returns the step at which phase i begins."""
        return sum(phase.steps for phase in self.phases[:i])

    def end(self, i: int) -> int:
        """Returns the step at which phase i ends."""
        return self.start(i) + self.phases[i].steps

    def restarts(self, i: int) -> bool:
        """Returns whether phase i begins with new optimiser states."""
        return i > 0 and (self.brings_tx[i] or self.phases[i].grow is not None)

    def phase_of(self, step: int) -> int:
        """Returns the phase whose state a checkpoint at `step` holds: at an edge, the one that
        ends there."""
        return max(i for i in range(len(self.phases)) if i == 0 or self.start(i) < step)

    def examples_before(self, i: int) -> int:
        """Returns how many examples, repeats counted, the phases before phase i take."""
        return sum(phase.steps * phase.batch_size for phase in self.phases[:i])

    def stop_after(self, i: int, step: int, limit: int) -> int:
        """Returns the next step, at most `limit` away, at which phase i has something to do."""
        intervals = [every for every in (self.log_every, self.eval_every, self.save_every) if every]
        return min(self.end(i), step + limit, *(step - step % every + every for every in intervals))

    def due(self, step: int, *, stop: bool = False) -> Due:
        """Returns what is to be done after `step`."""
        at_edge = any(step == self.end(i) for i in range(len(self.phases)))

        def at(every: int | None) -> bool:
            return bool(every) and step % every == 0

        evaluate = step == self.total or at(self.eval_every)
        return Due(at(self.log_every) or at_edge, evaluate, at(self.save_every), stop)


def as_phases(model: Model | Sequence[Phase], steps: int | None) -> list[Phase]:
    """Returns the phases of a run: a model for `steps` steps, or phases with steps of their own.

    Raises:
        UserError: for steps that are missing, given twice or no whole number above 0.
    """
    if isinstance(model, Model):
        if steps is None:
            raise UserError("fit needs steps, the length of the run.")
        phases = [Phase(model, steps)]
    else:
        phases = list(model) if isinstance(model, Iterable) else []
        if steps is not None or not phases:
            raise UserError(
                "a run is one model with steps, or a list of at least one Phase with steps of "
                "their own."
            )
    for phase in phases:
        check_kind("each phase", phase, Phase, "train.Phase(model, steps)")
        check_kind("the model of a phase", phase.model, Model, "models.vae(...) makes one")
        check_parts(phase.preprocess, phase.valid)
        check_count("steps", phase.steps)
        if phase.batch_size is not None:
            check_count("batch_size", phase.batch_size)
    if phases[0].grow is not None:
        raise UserError("the first phase has nothing to grow from: leave out its grow.")
    return phases


def check_parts(preprocess: Any, valid: Any) -> None:
    """Raises `UserError` for a preprocessing or validation data, where there are any, of another
    kind."""
    if preprocess is not None and not callable(preprocess):
        raise UserError(
            "preprocess must be a function (rng, examples) -> Batch, such as "
            f"data.preprocess.make_preprocess('binarised') returns, not {preprocess!r}."
        )
    if valid is not None:
        check_source("valid", valid)


def check_patience(
    patience: int | None, total: int, eval_every: int | None, *, start: int = 0
) -> None:
    """Raises `UserError` unless so many evaluations in vain can end a run before its last step.

    Args:
        total: steps of the run.
        eval_every: steps between evaluations.
        start: step at which the phase begins whose evaluations count.
    """
    if patience is None:
        return
    check_count("patience", patience)
    before = 0 if eval_every is None else (total - 1) // eval_every - start // eval_every
    if before <= patience:
        raise UserError(
            f"patience {patience} cannot end this run early: it needs {patience + 1} evaluations "
            f"before its last step, {total}, and has {before}. Evaluate more often, or lower it."
        )


def make_plan(
    phases: Sequence[Phase],
    tx: Optimisers,
    *,
    preprocess: Preprocess,
    batch_size: int,
    valid: Source | None = None,
    ema_decay: float | None = None,
    log_every: int,
    eval_every: int | None = None,
    save_every: int | None = None,
) -> Plan:
    """Returns the plan in which every phase has what it does not bring from the phase before it,
    the first one from the arguments.

    Raises:
        UserError: for an interval that is no whole number above 0, and for a moving average of the
            parameters that begins on the way.
    """
    check_count("log_every", log_every)
    for name, value in (("eval_every", eval_every), ("save_every", save_every)):
        if value is not None:
            check_count(name, value)
    stretches = []
    for phase in phases:
        tx = tx if phase.tx is None else phase.tx
        preprocess = preprocess if phase.preprocess is None else phase.preprocess
        batch_size = batch_size if phase.batch_size is None else phase.batch_size
        valid = valid if phase.valid is None else phase.valid
        ema_decay = ema_decay if phase.ema_decay is None else phase.ema_decay
        filled = (tx, preprocess, batch_size, valid)
        stretches.append(Stretch(phase.model, phase.steps, *filled, phase.grow, ema_decay))
    if stretches[0].ema_decay is None and stretches[-1].ema_decay is not None:
        raise UserError(
            "a moving average of the parameters is kept from the first step on: give the first phase "
            "an ema_decay, too."
        )
    brings_tx = tuple(phase.tx is not None for phase in phases)
    return Plan(tuple(stretches), brings_tx, log_every, eval_every, save_every)


def carry_over(old: Trees, new: Trees) -> Trees:
    """Returns the trees `new` of a grown model in which whatever has the name and the shape of something
    in `old` is that: a `Phase.grow` for nets whose old layers keep their names."""

    def merged(have: Any, want: Any) -> Any:
        if isinstance(want, dict):
            have = have if isinstance(have, dict) else {}
            return {name: merged(have.get(name), tree) for name, tree in want.items()}
        return have if getattr(have, "shape", None) == want.shape else want

    params, state = (merged(a, b) for a, b in zip(old, new, strict=True))
    return params, state
