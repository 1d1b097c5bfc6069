"""Many trainings in one program: every way to run them is the same, and one that fails stays as it
was."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import parallel
from jaxvae.train import members
from jaxvae.train.loop import LoopState
from jaxvae.types import Mean

K = 3


class Member(NamedTuple):
    """The state of a member that adds `rate` times what it sees; beyond `limit` it is not finite."""

    params: jax.Array
    opt_state: jax.Array
    step: jax.Array


def step_of(hyper):
    def step(loop_state, data, index):
        train = loop_state.train
        seen = jnp.sum(data["x"][index])
        loss = jnp.where(train.params > hyper["limit"], jnp.nan, seen)
        params = train.params + hyper["rate"] * seen
        bad = jnp.where(
            (loop_state.bad["loss"] < 0) & jnp.isnan(loss), train.step, loop_state.bad["loss"]
        )
        sums = {
            "loss": Mean(loop_state.sums["loss"].total + loss, loop_state.sums["loss"].count + 1)
        }
        return LoopState(Member(params, train.opt_state, train.step + 1), sums, {"loss": bad})

    return step


@pytest.fixture
def args():
    """Hyper-parameters, states, data and indices of three members, the second of which fails."""
    hyper = {"rate": jnp.asarray([1.0, 2.0, 0.5]), "limit": jnp.asarray([99.0, 3.0, 99.0])}
    zeros, none = np.zeros(K, np.float32), np.full(K, -1, np.int32)
    bad = {"loss": none, members.PARAMETERS: none}
    start = LoopState(Member(zeros, zeros, none + 1), {"loss": Mean(zeros, zeros)}, bad)
    start = jax.tree.map(jnp.array, start)  # arrays of their own, as they are donated
    return hyper, start, {"x": jnp.asarray([1.0, 2.0])}, np.zeros((K, 1, 1), np.int32)


@pytest.mark.parametrize("mode", members.MODES)
def test_members_step_side_by_side_and_one_that_fails_is_frozen(mode, args):
    hyper, state, data, _ = args
    call, max_steps = members.compile_members(
        step_of, mode, parallel.make_mesh(jax.devices()[:1]), 4, args
    )
    assert max_steps == (1 if mode == "unroll" else 4)
    order = np.asarray([0, 1, 0, 0, 1], np.int32)  # what is seen: 1 2 1 1 2
    for first in range(0, 5, max_steps):
        count = min(max_steps, 5 - first)
        indices = np.zeros((K, max_steps, 1), np.int32)
        indices[:, :count, 0] = order[first : first + count]
        state = call(hyper, state, data, indices, np.int32(count))
    sums, train = state.sums["loss"], state.train
    np.testing.assert_allclose(train.params[::2], [7.0, 3.5])
    np.testing.assert_array_equal(sums.count[::2], [5, 5])
    # 2, 6: at step 2 it is beyond its limit, and the call in which that was seen is undone
    assert int(state.bad["loss"][1]) == 2
    assert float(train.params[1]) == (6.0 if mode == "unroll" else 0.0)
    assert int(train.step[1]) == (2 if mode == "unroll" else 0)
    assert np.isfinite(sums.total).all()


def test_arrays_that_are_not_finite_where_every_metric_was_are_marked(args):
    hyper, state, data, indices = args
    hyper = {**hyper, "rate": jnp.asarray([1.0, jnp.inf, 1.0])}
    mesh = parallel.make_mesh(jax.devices()[:1])
    call, _ = members.compile_members(step_of, "map", mesh, 1, args)
    state = call(hyper, state, data, indices, np.int32(1))
    np.testing.assert_array_equal(state.bad[members.PARAMETERS], [-1, 0, -1])
    np.testing.assert_array_equal(state.train.params, [1.0, 0.0, 1.0])


def test_a_cpu_takes_one_member_after_the_other(args):
    mesh = parallel.make_mesh(jax.devices()[:1])
    assert members._choose(members._one_member(step_of, branch=True), args) == "map"
    assert members.compile_members(step_of, None, mesh, 4, args)[1] == 4


def test_entries_of_a_tree_can_be_left_out():
    assert members.without({"a": 1, "b": 2, "c": 3}, "a", "c") == {"b": 2}
