"""The one loop that trains: a plan, an engine that knows how to step, a recorder that keeps what
comes out. `fit` drives one training with it, `train_ensemble` many at once."""

import contextlib
from typing import Protocol

from jaxvae import processes
from jaxvae.train.checkpoint import Restored
from jaxvae.train.loop import Loop, LoopState
from jaxvae.train.plan import Plan
from jaxvae.train.recorder import Recorder
from jaxvae.train.signals import Signals, Stopped
from jaxvae.train.step import TrainState
from jaxvae.types import Tree


class Engine(Protocol):
    """How one training, or many in one program, enters a phase, steps, and reports."""

    def template(self, i: int) -> tuple[TrainState, Tree]:
        """Returns shape and place of what `pack` returns in phase i."""
        ...

    def enter(self, i: int, train_state: TrainState | None) -> LoopState:
        """Returns the state as phase i begins; the state before it is None at step 0."""
        ...

    def resume(self, i: int, restored: Restored, recorder: Recorder) -> LoopState:
        """Returns the state that a checkpoint of phase i holds."""
        ...

    def compile(self, i: int, loop_state: LoopState) -> Loop:
        """Returns the compiled loop of phase i."""
        ...

    def check(self, recorder: Recorder, loop_state: LoopState) -> None:
        """Raises `NonFinite` where the run must end."""
        ...

    def report(self, recorder: Recorder, i: int, step: int, loop_state: LoopState) -> LoopState:
        """Logs the means since the last line; returns the state with empty sums."""
        ...

    def evaluate(
        self, recorder: Recorder, i: int, step: int, loop_state: LoopState
    ) -> dict[str, float] | None:
        """Returns the metrics of the validation split, logged; None without one."""
        ...

    def finished(self, i: int) -> str | None:
        """Returns why the run ends here, before the last step of phase i, or None."""
        ...

    def pack(self, step: int, loop_state: LoopState) -> tuple[TrainState, Tree]:
        """Returns what a checkpoint keeps: a state, and a tree beside it."""
        ...

    def saved(self, step: int, loop_state: LoopState, evaluated: bool) -> None:
        """Is told of each checkpoint, once it has been handed over."""
        ...


def drive(plan: Plan, engine: Engine, recorder: Recorder, signals: Signals) -> TrainState:
    """Returns the state after the last step of `plan`, or of what the engine lets it take, begun
    anew or where a checkpoint ends.

    Raises:
        NonFinite: as `engine.check` and `recorder.save`.
        signals.Stopped: after a signal, once the state is saved.
    """
    restored = recorder.restore(lambda step: engine.template(plan.phase_of(step)))
    step, train_state, loop_state, ended = 0, None, None, None
    if restored is not None:
        step = restored.meta["step"]
        loop_state = engine.resume(plan.phase_of(step), restored, recorder)
        train_state = loop_state.train
        if step >= plan.end(plan.phase_of(step)):  # the next phase begins with sums of its own
            loop_state = None
    recorder.begin(step)
    with contextlib.ExitStack() as end:
        end.callback(lambda: recorder.close(step))  # of the step that it has come to
        end.enter_context(processes.together())  # what goes wrong is said before that
        for i in range(len(plan.phases)):
            if step >= plan.end(i):
                continue
            if loop_state is None:
                loop_state = engine.enter(i, train_state)
            if ended := engine.finished(i):  # before it was started again
                break
            with contextlib.closing(engine.compile(i, loop_state)) as loop:
                recorder.start_clock(step)
                while step < plan.end(i) and ended is None:
                    target = plan.stop_after(i, step, loop.max_steps)
                    loop_state = loop.advance(loop_state, step, target - step)
                    step = target
                    recorder.show(step, loop_state.bad)
                    due = plan.due(step, stop=signals.stop_at(step))
                    if due.log or due.checkpoint:
                        engine.check(recorder, loop_state)
                    if due.log:
                        loop_state = engine.report(recorder, i, step, loop_state)
                    recorder.open(loop_state.bad)
                    if due.checkpoint:
                        with recorder.paused():
                            metrics = None
                            if due.evaluate:
                                metrics = engine.evaluate(recorder, i, step, loop_state)
                            recorder.save(step, *engine.pack(step, loop_state), metrics)
                            engine.saved(step, loop_state, due.evaluate)
                    if due.stop:
                        recorder.wait()
                        raise Stopped(signals.code)
                    ended = engine.finished(i)
            train_state, loop_state = loop_state.train, None
            if ended:
                break
        recorder.warn("its end", step, ended)
        recorder.wait()
    assert train_state is not None  # a plan has a phase, and this one was entered or restored
    return train_state
