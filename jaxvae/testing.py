"""The conformance suite of the contracts (`types`), for users' own models too: `check_model`.

A model that passes it can be trained by `fit`, on any number of devices, and resumed from a
checkpoint.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from jaxvae import distributions, parallel
from jaxvae.assertions import (
    assert_close,
    assert_finite,
    assert_form,
    assert_repeats,
    assert_same,
    assert_shape,
    naming,
    require,
)
from jaxvae.errors import UserError
from jaxvae.train.statistics import OVER
from jaxvae.train.step import (
    Optimisers,
    TrainState,
    groups,
    init_state,
    make_train_step,
    optimisers,
)
from jaxvae.types import Array, Aux, Batch, Mean, Model, Params, State, Terms

STEPS = 10  # on one trace
COMPARED_STEPS = 3  # on one device and on all: later steps amplify rounding


def check_model(
    model: Model, batch: Batch, tx: Optimisers | None = None, *, rng: Array | None = None
) -> None:
    """Raises AssertionError unless `model` keeps the contracts; it names the broken property.

    | property       | what must hold                                                                         |
    | -------------- | -------------------------------------------------------------------------------------- |
    | shapes         | losses [B], or [] where coupled; state keeps its form; `encode`, `decode`, `terms`,    |
    |                | `sample` and `log_prob`, where there are any, give what `Model` says, for both         |
    |                | `stats`; `moments` keep the state's form                                               |
    | gradients      | finite losses and gradients; no group of `wrt` whose gradient is zero everywhere       |
    | wrt            | an objective moves no group outside its `wrt`                                          |
    | determinism    | the same key gives the same result, bitwise (on a GPU: to rounding), traced anew       |
    | jit            | compiled = not compiled                                                                |
    | traces         | ten steps, one trace, finite metrics                                                   |
    | devices        | one device = all devices, by `jit_step` and by `pmap_step` (where there are several)   |
    | checkpoint     | save and restore give the same training state, bitwise, and the same next step         |
    | lowering       | the step and the evaluation can be lowered for TPU (none is needed)                    |

    A model without objectives is checked for its evaluation functions alone.

    Args:
        model: any `Model`.
        batch: an example of what its losses see; its size must be a multiple of the number of
            devices.
        tx: as `make_train_step` takes it. Default: clipped gradient descent, whose steps do not
            amplify rounding. (Adam turns a gradient of 1e-9, as of a bias before BatchNorm, into a
            full step of either sign: one device and eight then differ though nothing is wrong.)
        rng: a typed key; default `jax.random.key(0)`.

    Raises:
        AssertionError: "<property>: what is wrong".
    """
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2)) if tx is None else tx
    rng = jax.random.key(0) if rng is None else rng
    subject = None
    with jax.default_matmul_precision("highest"):
        with naming("shapes"):
            params, state = model.init(rng, batch)
            _check_losses(model, params, state, rng, batch)
            _check_evaluation(model, params, state, rng, batch)
            _check_moments(model, params, state, rng, batch)
        if model.objectives:
            with naming("gradients"):
                _check_gradients(model, params, state, rng, batch)
            with naming("wrt"):
                subject = _subject(model, batch, tx, rng)
                _check_wrt(subject)
        with naming("determinism"):
            _check_init_again(model, rng, batch)
            _check_evaluation_again(model, params, state, rng, batch)
            if subject is not None:
                _check_step_again(subject)
        if subject is not None:
            for name, check in TRAINING.items():
                with naming(name):
                    check(subject)
        with naming("lowering"):
            _lower(_evaluation(model), params, state, rng, batch)
            if subject is not None:
                _lower(subject.step, subject.start, batch)


# ---- shapes --------------------------------------------------------------------------------


def _walk(
    model: Model, params: Params, state: State, rng: Array, batch: Batch
) -> list[tuple[Array, Aux]]:
    """Returns (loss, aux) of each objective, in order, at one and the same parameters."""
    results, carry = [], None
    for i, objective in enumerate(model.objectives):
        step = jnp.asarray(objective.phase, jnp.int32)
        loss, aux = objective.loss(params, state, jax.random.fold_in(rng, i), batch, step, carry)
        require(
            isinstance(aux, Aux),
            f"objective {objective.name!r} must return (loss, Aux), not (loss, "
            f"{type(aux).__name__}).",
        )
        state, carry = aux.state, aux.carry if objective.every == 1 else None
        results.append((loss, aux))
    return results


def _check_losses(model: Model, params: Params, state: State, rng: Array, batch: Batch) -> None:
    size = batch.x.shape[0]
    require(
        isinstance(params, dict) and isinstance(state, dict),
        "init must return two dicts, (params, state).",
    )
    missing = sorted(set(groups(model)) - set(params))
    require(
        not missing, f"objectives move the groups {missing}, but init returns {sorted(params)}."
    )
    results = jax.eval_shape(lambda *a: _walk(model, *a), params, state, rng, batch)
    for objective, (loss, aux) in zip(model.objectives, results, strict=True):
        name = f"objective {objective.name!r}"
        assert_shape(f"{name}: loss", loss, () if objective.coupled else (size,))
        require(
            jnp.issubdtype(loss.dtype, jnp.floating),
            f"{name}: loss must be floating point, not {loss.dtype}.",
        )
        for key, value in aux.metrics.items():
            assert_shape(f"{name}: metric {key!r}", value, (size,), ())
        assert_form(f"{name}: state", aux.state, state)


def _evaluation(model: Model, stats: str = "running") -> Callable[..., dict[str, Any]]:
    """Returns (params, state, rng, batch) -> what each evaluation function of `model` gives."""

    def evaluate(params: Params, state: State, rng: Array, batch: Batch):
        x, cond = batch
        n = min(3, x.shape[0])
        results, z = {}, None
        if model.encode is not None:
            q = model.encode(params, state, x, cond, stats=stats)
            z = distributions.sample(rng, q)
            results |= {"z ~ encode(x)": z, "kl(encode(x))": distributions.kl(q)}
        if model.decode is not None and z is not None:
            p = model.decode(params, state, z, cond, stats=stats)
            results["x ~ decode(z)"] = distributions.sample(rng, p)
            results["log_prob(decode(z), x)"] = distributions.log_prob(p, x)
        if model.decode is not None and model.prior is not None:
            z = model.prior(rng, x.shape[0])
            results["decode(prior)"] = model.decode(params, state, z, cond, stats=stats).mean
        if model.terms is not None:
            results["terms"] = model.terms(params, state, rng, batch, stats=stats)
        if model.sample is not None:
            first = None if cond is None else cond[:n]
            results["sample"] = model.sample(params, state, rng, n, first, stats=stats)
        if model.log_prob is not None:
            results["log_prob"] = model.log_prob(params, state, x, cond, stats=stats)
        if model.log_weight is not None:
            results["log_weight"] = model.log_weight(params, state, rng, batch, stats=stats)
        return results

    return evaluate


def _check_evaluation(model: Model, params: Params, state: State, rng: Array, batch: Batch) -> None:
    size, event = batch.x.shape[0], batch.x.shape[1:]
    want = {
        "kl(encode(x))": (size,),
        "x ~ decode(z)": (size, *event),
        "log_prob(decode(z), x)": (size,),
        "decode(prior)": (size, *event),
        "sample": (min(3, size), *event),
        "log_prob": (size,),
        "log_weight": (size,),
    }
    for stats in ("running", "batch"):
        results = jax.eval_shape(_evaluation(model, stats), params, state, rng, batch)
        for name in results.keys() & want.keys():
            assert_shape(name, results[name], want[name])
        if (z := results.get("z ~ encode(x)")) is not None:
            assert_shape("z ~ encode(x)", z, (size, *z.shape[1:]))
        if "terms" in results:
            terms = results["terms"]
            require(
                isinstance(terms, Terms), f"terms must return Terms, not {type(terms).__name__}."
            )
            assert_shape("terms: rec", terms.rec, (size,))
            assert_shape("terms: kl", terms.kl, (size,))
            for key, value in terms.extra.items():
                assert_shape(f"terms: extra {key!r}", value, (size,), ())


def _check_moments(model: Model, params: Params, state: State, rng: Array, batch: Batch) -> None:
    if (moments := model.moments) is None:
        return
    for over in ("data", "samples"):
        try:
            seen = jax.eval_shape(functools.partial(moments, over=over), params, state, rng, batch)
        except UserError:
            if model.stats in OVER:
                raise
            return  # a BatchNorm that does not tell its moments, where nobody asks for them
        assert_form(f"moments: state over {over}", seen, state)


# ---- gradients, and what they move -------------------------------------------------------


def _check_gradients(model: Model, params: Params, state: State, rng: Array, batch: Batch) -> None:
    for i, objective in enumerate(model.objectives):

        def scalar(moved, fixed, state, rng, batch, i=i):
            loss = _walk(model, {**fixed, **moved}, state, rng, batch)[i][0]
            return jnp.mean(loss), loss

        moved = {name: params[name] for name in objective.wrt}
        fixed = {name: tree for name, tree in params.items() if name not in objective.wrt}
        grads, loss = jax.jit(jax.grad(scalar, has_aux=True))(moved, fixed, state, rng, batch)
        name = f"objective {objective.name!r}"
        assert_finite(f"{name}: loss", loss)
        assert_finite(f"{name}: gradient", grads)
        for group in objective.wrt:
            leaves = jax.tree.leaves(grads[group])
            require(
                not leaves or any(np.any(np.asarray(g) != 0) for g in leaves),
                f"{name}: the gradient of group {group!r} is zero everywhere: take it out of wrt, "
                "or let the loss use it.",
            )


# ---- the step ------------------------------------------------------------------------------


class _Subject(NamedTuple):
    """What the checks of the training step share."""

    model: Model
    batch: Batch
    tx: Optimisers
    start: TrainState
    step: Callable  # pure
    compiled: Callable  # the same under jit, ...
    traces: list[None]  # ... with an entry for each time that it was traced


def _subject(model: Model, batch: Batch, tx: Optimisers, rng: Array) -> _Subject:
    step, traces = make_train_step(model, tx), []

    @jax.jit
    def compiled(train_state, batch):
        traces.append(None)
        return step(train_state, batch)

    return _Subject(model, batch, tx, init_state(model, tx, rng, batch), step, compiled, traces)


def _steps(
    step: Callable, train_state: TrainState, batch: Batch, n: int
) -> tuple[TrainState, dict[str, Mean]]:
    """Returns state and metrics after `n` calls of `step` on the same batch."""
    metrics = {}
    for _ in range(n):
        train_state, metrics = step(train_state, batch)
    return train_state, metrics


def _check_wrt(subject: _Subject) -> None:
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


def _check_init_again(model: Model, rng: Array, batch: Batch) -> None:
    assert_same(
        "init: a second call with the same key differs",
        model.init(rng, batch),
        model.init(rng, batch),
    )


def _check_evaluation_again(
    model: Model, params: Params, state: State, rng: Array, batch: Batch
) -> None:
    # two functions, two traces
    results = [jax.jit(_evaluation(model))(params, state, rng, batch) for _ in range(2)]
    assert_finite("evaluation", results[0])
    assert_repeats("evaluation: a second call with the same key differs", *results)


def _check_step_again(subject: _Subject) -> None:
    first, second = (subject.compiled(subject.start, subject.batch) for _ in range(2))
    assert_repeats("a second call of the compiled step with the same key differs", first, second)
    anew = jax.jit(make_train_step(subject.model, subject.tx))(subject.start, subject.batch)
    assert_repeats(
        "the step traced a second time differs: a loss depends on what is not in its arguments",
        anew,
        first,
    )


def _check_jit(subject: _Subject) -> None:
    compiled, plain = (
        step(subject.start, subject.batch) for step in (subject.compiled, subject.step)
    )
    assert_close("the compiled step differs from the one not compiled", compiled, plain)


def _check_traces(subject: _Subject) -> None:
    _, metrics = _steps(subject.compiled, subject.start, subject.batch, STEPS)
    times = len(subject.traces)
    require(
        times == 1,
        f"{STEPS} steps were traced {times} times: init and the losses must return the same types "
        "of arrays (jnp.zeros(()), not 0).",
    )
    assert_finite(f"metrics after {STEPS} steps", metrics)


def _check_devices(subject: _Subject) -> None:
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


def _check_checkpoint(subject: _Subject) -> None:
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


def _lower(function: Callable, *args: Any) -> None:
    jax.jit(function).trace(*args).lower(lowering_platforms=("tpu",))


TRAINING = {
    "jit": _check_jit,
    "traces": _check_traces,
    "devices": _check_devices,
    "checkpoint": _check_checkpoint,
}
