"""`check_model`: whether a model keeps the contracts (`types`); it says which property is broken."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvae import distributions
from jaxvae.abilities import HasKL
from jaxvae.errors import UserError
from jaxvae.testing.assertions import (
    assert_finite,
    assert_form,
    assert_repeats,
    assert_same,
    assert_shape,
    naming,
    require,
)
from jaxvae.testing.step import CHECKS, check_repeats, check_wrt, subject_of
from jaxvae.train.optimisers import Optimisers
from jaxvae.train.statistics import OVER
from jaxvae.train.step import groups
from jaxvae.types import Array, Aux, Batch, Model, Params, State, Terms


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
                subject = subject_of(model, batch, tx, rng)
                check_wrt(subject)
        with naming("determinism"):
            _check_init_again(model, rng, batch)
            _check_evaluation_again(model, params, state, rng, batch)
            if subject is not None:
                check_repeats(subject)
        if subject is not None:
            for name, check in CHECKS.items():
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
            results["z ~ encode(x)"] = z
            if isinstance(q, HasKL):  # codes and layers of latents have none in closed form
                results["kl(encode(x))"] = distributions.kl(q)
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


# ---- what repeats, and where it runs -------------------------------------------------------


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


def _lower(function: Callable, *args: Any) -> None:
    jax.jit(function).trace(*args).lower(lowering_platforms=("tpu",))
