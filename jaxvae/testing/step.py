"""What `check_model` tries of a model's training step: what it moves, that it repeats, compiled or
not, on one device and on many, and before and after a checkpoint."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxvae import parallel
from jaxvae.testing.assertions import (
    assert_close,
    assert_finite,
    assert_repeats,
    assert_same,
    require,
)
from jaxvae.train.optimisers import Optimisers, optimisers
from jaxvae.train.step import TrainState, groups, init_state, make_train_step
from jaxvae.types import Array, Batch, Mean, Model

STEPS = 10  # on one trace
COMPARED_STEPS = 3  # on one device and on all: later steps amplify rounding


class Subject(NamedTuple):
    """What the checks of the training step share."""

    model: Model
    batch: Batch
    tx: Optimisers
    start: TrainState
    step: Callable  # pure
    compiled: Callable  # the same under jit, ...
    traces: list[None]  # ... with an entry for each time that it was traced


def subject_of(model: Model, batch: Batch, tx: Optimisers, rng: Array) -> Subject:
    """Returns the step of a model that has objectives, its first state, and what counts its traces."""
    step, traces = make_train_step(model, tx), []

    @jax.jit
    def compiled(train_state, batch):
        traces.append(None)
        return step(train_state, batch)

    return Subject(model, batch, tx, init_state(model, tx, rng, batch), step, compiled, traces)


def _steps(
    step: Callable, train_state: TrainState, batch: Batch, n: int
) -> tuple[TrainState, dict[str, Mean]]:
    """Returns state and metrics after `n` calls of `step` on the same batch."""
    metrics = {}
    for _ in range(n):
        train_state, metrics = step(train_state, batch)
    return train_state, metrics


def check_wrt(subject: Subject) -> None:
    """Raises AssertionError where an objective moves a group outside its `wrt`."""
    tx, objectives = optimisers(subject.tx, groups(subject.model)), subject.model.objectives
    for i, objective in enumerate(objectives):
        # the others still run, for their state and carry, but move nothing
        alone = tuple(o if j == i else o._replace(wrt=()) for j, o in enumerate(objectives))
        step = subject.compiled
        if len(objectives) > 1:
            step = jax.jit(make_train_step(subject.model._replace(objectives=alone), tx))
        start = subject.start._replace(
            step=jnp.asarray(objective.phase, jnp.int32),
            opt_state={name: subject.start.opt_state[name] for name in objective.wrt},
        )
        end, _ = step(start, subject.batch)
        for group in sorted(set(start.params) - set(objective.wrt)):
            assert_same(
                f"objective {objective.name!r} moved group {group!r}, outside its wrt "
                f"{objective.wrt}",
                end.params[group],
                start.params[group],
            )


def check_repeats(subject: Subject) -> None:
    """Raises AssertionError unless the same key gives the same step, called or traced again."""
    first, second = (subject.compiled(subject.start, subject.batch) for _ in range(2))
    assert_repeats("a second call of the compiled step with the same key differs", first, second)
    anew = jax.jit(make_train_step(subject.model, subject.tx))(subject.start, subject.batch)
    assert_repeats(
        "the step traced a second time differs: a loss depends on what is not in its arguments",
        anew,
        first,
    )


def _check_jit(subject: Subject) -> None:
    compiled, plain = (
        step(subject.start, subject.batch) for step in (subject.compiled, subject.step)
    )
    assert_close("the compiled step differs from the one not compiled", compiled, plain)


def _check_traces(subject: Subject) -> None:
    _, metrics = _steps(subject.compiled, subject.start, subject.batch, STEPS)
    times = len(subject.traces)
    require(
        times == 1,
        f"{STEPS} steps were traced {times} times: init and the losses must return the same types "
        "of arrays (jnp.zeros(()), not 0).",
    )
    assert_finite(f"metrics after {STEPS} steps", metrics)


def _check_devices(subject: Subject) -> None:
    devices, size = jax.device_count(), subject.batch.x.shape[0]
    if devices == 1:
        return
    require(
        size % devices == 0,
        f"a batch of {size} cannot be cut over the {devices} devices here: pass one of a "
        f"multiple of {devices}.",
    )
    one = _steps(subject.compiled, subject.start, subject.batch, COMPARED_STEPS)
    mesh = parallel.make_mesh()
    start = parallel.put(subject.start, parallel.replicated(mesh))
    forms = {
        "jit_step": (
            parallel.jit_step(subject.step, mesh, donate=False),
            parallel.put(subject.batch, parallel.batch_sharded(mesh)),
        ),
        "pmap_step": (parallel.pmap_step(subject.step), parallel.shard(subject.batch, devices)),
    }
    for name, (step, batch) in forms.items():
        assert_close(
            f"{name} over {devices} devices differs from one device (draw noise with "
            "jaxvae.noise, take moments of the batch with parallel.mean)",
            _steps(step, start, batch, COMPARED_STEPS),
            one,
        )


def _check_checkpoint(subject: Subject) -> None:
    saved, _ = subject.compiled(subject.start, subject.batch)
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder) / "state", saved)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(
            Path(folder) / "state", jax.tree.map(ocp.utils.to_shape_dtype_struct, saved)
        )
    assert_same("the restored state differs from the saved one", restored, saved)
    ends = (subject.compiled(train_state, subject.batch) for train_state in (restored, saved))
    assert_repeats("the step after a restore differs", *ends)


CHECKS = {  # property -> what raises AssertionError unless it holds
    "jit": _check_jit,
    "traces": _check_traces,
    "devices": _check_devices,
    "checkpoint": _check_checkpoint,
}
