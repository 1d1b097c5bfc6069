"""What happens after which step, as arithmetic."""

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvae.data import batch_indices
from jaxvae.data.preprocess import make_preprocess
from jaxvae.errors import UserError
from jaxvae.train.plan import Due, Phase, as_phases, carry_over, check_patience, make_plan
from small import small

TX = optax.sgd(1.0)


def plan(phases, **intervals):
    options = {"preprocess": make_preprocess(), "batch_size": 16, "log_every": 5, **intervals}
    return make_plan(phases, TX, **options)


@pytest.mark.parametrize(
    ("patience", "total", "every", "start", "before"),
    [(3, 40, 10, 0, 3), (2, 30, None, 0, 0), (1, 30, 10, 10, 1), (9, 100, 10, 0, 9)],
)
def test_a_patience_that_ends_nothing_is_refused(patience, total, every, start, before):
    with pytest.raises(UserError, match=f"before its last step, {total}, and has {before}"):
        check_patience(patience, total, every, start=start)
    if before > 1:
        check_patience(before - 1, total, every, start=start)


def test_what_a_phase_does_not_bring_it_takes_from_the_one_before():
    other, binarise = optax.sgd(2.0), make_preprocess("binarised")
    found = plan(
        [
            Phase(small(), 3),
            Phase(small(), 4, other, binarise, 8),
            Phase(small(), 5),
            Phase(small(), 6, batch_size=32),
        ]
    )
    assert [phase.tx for phase in found.phases] == [TX, other, other, other]
    assert [phase.preprocess for phase in found.phases][1:] == [binarise] * 3
    assert [phase.batch_size for phase in found.phases] == [16, 8, 8, 32]
    assert [found.restarts(i) for i in range(4)] == [False, True, False, False]
    assert [found.examples_before(i) for i in range(4)] == [0, 48, 80, 120]
    assert found.total == 18


def test_a_moving_average_is_kept_from_the_first_phase_on():
    phases = [Phase(small(), 3), Phase(small(), 4, ema_decay=0.5), Phase(small(), 5)]
    assert [p.ema_decay for p in plan(phases, ema_decay=0.9).phases] == [0.9, 0.5, 0.5]
    with pytest.raises(UserError, match="give the first phase an ema_decay, too"):
        plan(phases)


def test_what_is_carried_over_has_its_name_and_its_shape():
    old = (
        {"net": {"a": np.zeros(2), "b": {"c": np.zeros(3)}, "gone": np.zeros(1)}},
        {"s": np.zeros(1)},
    )
    new = {"net": {"a": np.ones(2), "b": {"c": np.ones(4), "d": np.ones(1)}}}, {"s": np.ones(1)}
    params, state = carry_over(old, new)
    assert params["net"]["a"] is old[0]["net"]["a"] and state["s"] is old[1]["s"]
    assert params["net"]["b"] == new[0]["net"]["b"]
    assert set(params["net"]) == {"a", "b"}


def test_at_an_edge_a_checkpoint_is_of_the_phase_that_ends():
    found = plan([Phase(small(), 3), Phase(small(), 4)])
    assert [found.phase_of(step) for step in (0, 1, 3, 4, 7, 9)] == [0, 0, 0, 1, 1, 1]


def test_what_is_due():
    found = plan([Phase(small(), 7), Phase(small(), 13)], eval_every=10, save_every=4)
    assert found.due(3) == Due(log=False, evaluate=False, save=False, stop=False)
    assert found.due(5) == Due(log=True, evaluate=False, save=False, stop=False)
    assert found.due(7) == Due(log=True, evaluate=False, save=False, stop=False)  # an edge
    assert found.due(8).checkpoint and not found.due(8).log
    assert found.due(20) == Due(log=True, evaluate=True, save=True, stop=False)
    assert found.due(3, stop=True).checkpoint


@settings(derandomize=True, deadline=None, database=None, max_examples=200)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    st.integers(1, 12),
    st.none() | st.integers(1, 12),
    st.none() | st.integers(1, 12),
    st.integers(1, 9),
)
def test_no_step_at_which_something_is_due_is_passed_over(lengths, log, evaluate, save, limit):
    intervals = {"log_every": log, "eval_every": evaluate, "save_every": save}
    found = plan([Phase(small(), n) for n in lengths], **intervals)
    seen, step = [], 0
    for i in range(len(lengths)):
        while step < found.end(i):
            target = found.stop_after(i, step, limit)
            assert step < target <= min(step + limit, found.end(i))
            step = target
            seen.append(step)
    nothing = Due(log=False, evaluate=False, save=False, stop=False)
    assert step == found.total
    assert {s for s in range(1, found.total + 1) if found.due(s) != nothing} <= set(seen)


@pytest.mark.parametrize("sizes", [(4, 4), (4, 6), (5, 3)])
def test_phases_of_other_batch_sizes_take_the_examples_one_after_the_other(sizes):
    phases = [Phase(small(), 7, batch_size=size) for size in sizes]
    found, taken = plan(phases), []
    for i, size in enumerate(sizes):
        for step in range(7):
            taken += list(batch_indices(10, 3, step, size, first=found.examples_before(i)))
    sequence = batch_indices(10, 3, 0, len(taken))
    np.testing.assert_array_equal(taken, sequence)
    assert sorted(taken[:10]) == list(range(10))


@pytest.mark.parametrize(
    ("model", "steps", "message"),
    [
        (small(), None, "fit needs steps"),
        ([], None, "at least one Phase"),
        ([Phase(small(), 3)], 3, "one model with steps, or a list"),
        ([Phase(small(), 0)], None, "steps must be at least 1"),
        ([Phase(small(), 3, batch_size=0)], None, "batch_size must be at least 1"),
        ([Phase(small(), 3, grow=lambda a, b: b)], None, "first phase has nothing to grow from"),
    ],
)
def test_phases_that_make_no_run(model, steps, message):
    with pytest.raises(UserError, match=message):
        as_phases(model, steps)
