"""The one loop: what it asks an engine and a recorder for, in which order, and where it goes on."""

import types

import pytest

from jaxvae.train.checkpoint import Restored
from jaxvae.train.driver import drive
from jaxvae.train.loop import Loop, LoopState
from jaxvae.train.plan import Phase, make_plan
from jaxvae.train.signals import Signals, Stopped
from small import small


def plan_of(*lengths, **intervals):
    phases = [Phase(small(), steps) for steps in lengths]
    return make_plan(phases, None, preprocess=None, batch_size=4, **intervals)


class Engine:
    """Counts steps, and notes what is asked of it. A state is (phase it began in, steps done)."""

    def __init__(self, max_steps=4):
        self.max_steps, self.seen = max_steps, []

    def template(self, i):
        return ("template", i), None

    def enter(self, i, train_state):
        self.seen.append(f"enter {i} with {train_state}")
        return LoopState(0 if train_state is None else train_state, {}, {})

    def resume(self, i, restored, recorder):
        self.seen.append(f"resume {i} at {restored.train_state}")
        return LoopState(restored.train_state, {}, {})

    def compile(self, i, loop_state):
        def advance(loop_state, first, count):
            assert loop_state.train == first and count <= self.max_steps
            self.seen.append(f"{first}+{count}")
            return loop_state._replace(train=first + count)

        return Loop(advance, self.max_steps, lambda: self.seen.append(f"close {i}"))

    def check(self, recorder, loop_state):
        self.seen.append("check")

    def report(self, recorder, i, step, loop_state):
        self.seen.append(f"report {step}")
        return loop_state

    def evaluate(self, recorder, i, step, loop_state):
        self.seen.append(f"evaluate {step}")
        return {"elbo": float(step)}

    def finished(self, i):
        return None

    def pack(self, step, loop_state):
        return loop_state.train, None

    def saved(self, step, loop_state, evaluated):
        self.seen.append(f"saved {step}{' evaluated' if evaluated else ''}")


class Recorder:
    """Keeps the saved states in memory."""

    def __init__(self, restored=None):
        self.restored, self.states, self.templates, self.closed = restored, {}, [], None

    def restore(self, template):
        if self.restored is not None:
            self.templates.append(template(self.restored.meta["step"]))
        return self.restored

    def save(self, step, train_state, sums, metrics=None):
        self.states[step] = (train_state, metrics)

    def close(self, step):
        self.closed = step

    paused = staticmethod(lambda: pytest.MonkeyPatch.context())  # any context will do
    begin = start_clock = show = open = wait = warn = staticmethod(lambda *args: None)


def run(plan, engine, recorder=None, stop_at=()):
    recorder = Recorder() if recorder is None else recorder
    signals = types.SimpleNamespace(stop_at=lambda step: step in stop_at, code=75)
    return drive(plan, engine, recorder, signals), recorder


def test_calls_end_where_something_is_due_and_phases_follow_each_other():
    engine = Engine()
    end, recorder = run(plan_of(5, 2, log_every=3, eval_every=4), engine)
    assert end == 7 and recorder.closed == 7
    assert engine.seen == [
        *("enter 0 with None", "0+3", "check", "report 3"),
        *("3+1", "check", "evaluate 4", "saved 4 evaluated"),
        *("4+1", "check", "report 5", "close 0"),  # a line at the edge
        *("enter 1 with 5", "5+1", "check", "report 6"),
        *("6+1", "check", "report 7", "evaluate 7", "saved 7 evaluated", "close 1"),
    ]
    assert recorder.states == {4: (4, {"elbo": 4.0}), 7: (7, {"elbo": 7.0})}


def test_a_stop_saves_without_an_evaluation_and_closes_what_reads_ahead():
    engine, recorder = Engine(max_steps=1), Recorder()
    with pytest.raises(Stopped) as stopped:
        run(plan_of(5, log_every=10), engine, recorder, stop_at=(2,))
    assert stopped.value.code == 75
    assert recorder.states == {2: (2, None)} and recorder.closed == 2
    assert engine.seen[-3:] == ["check", "saved 2", "close 0"]


@pytest.mark.parametrize(
    ("step", "phase", "first"),
    [
        (3, 0, ["resume 0 at 3", "3+2"]),
        (5, 0, ["resume 0 at 5", "enter 1 with 5", "5+1"]),  # the edge: the next one begins anew
        (6, 1, ["resume 1 at 6", "6+1"]),
        (7, 1, ["resume 1 at 7"]),  # whole
    ],
)
def test_a_run_goes_on_where_its_checkpoint_ends(step, phase, first):
    engine, recorder = Engine(), Recorder(Restored(step, None, {"step": step}))
    end, _ = run(plan_of(5, 2, log_every=6), engine, recorder)
    assert end == 7 and recorder.templates == [(("template", phase), None)]
    assert engine.seen[: len(first)] == first and (step < 7 or engine.seen == first)


@pytest.mark.parametrize("restored", [None, Restored(4, None, {"step": 4})])
def test_a_run_may_end_early_and_stays_so(restored):
    engine, said = Engine(), []
    engine.finished = lambda i: "enough" if "saved 4 evaluated" in engine.seen or restored else None
    recorder = Recorder(restored)
    recorder.warn = lambda about, step, warning: said.append((step, warning))
    end, _ = run(plan_of(9, 2, log_every=9, eval_every=4), engine, recorder)
    assert end == 4 and recorder.closed == 4 and said == [(4, "enough")]
    assert engine.seen[-1] == ("close 0" if restored is None else "resume 0 at 4")


def test_a_loop_that_fails_is_closed_and_so_is_the_recorder():
    engine, recorder = Engine(), Recorder()

    def check(recorder, loop_state):
        raise ArithmeticError("not finite")

    engine.check = check
    with pytest.raises(ArithmeticError):
        drive(plan_of(5, log_every=2), engine, recorder, Signals())
    assert engine.seen[-1] == "close 0" and recorder.closed == 2 and recorder.states == {}
