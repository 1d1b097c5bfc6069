"""The one training step and the one evaluation step, made from any `Model`. Both are pure: apply
`jit`, `vmap`, `scan`, sharding or `pmap` (`parallel`) from outside."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxvae import objectives, parallel
from jaxvae.errors import UserError, check_count, check_kind, check_number
from jaxvae.train.optimisers import (
    Optimisers,
    check_optimisers,
    init_optimisers,
    optimisers,
    update,
)
from jaxvae.types import (
    Array,
    Aux,
    Batch,
    EvaluateTerms,
    LogProb,
    Mean,
    Model,
    Objective,
    Params,
    State,
    Tree,
)

Metrics = dict[str, Mean]


class TrainState(NamedTuple):
    """Everything that training changes. A checkpoint is all of it."""

    step: Array  # [] int32, steps taken
    params: Params
    state: State
    opt_state: dict[str, Tree]  # by parameter group
    ema: Params | None  # exponential moving average of params, where one is kept
    rng: Array  # [] typed key; the key of step t is fold_in(rng, t)


def groups(model: Model) -> tuple[str, ...]:
    """Returns the parameter groups that the objectives of `model` move, each once, in order."""
    return tuple(dict.fromkeys(g for objective in model.objectives for g in objective.wrt))


def init_state(
    model: Model, tx: Optimisers, rng: Array, batch: Batch, *, ema: bool = False
) -> TrainState:
    """Returns the `TrainState` at step 0.

    Args:
        model: any `Model` with objectives.
        tx: an optax transformation, used for each parameter group on its own, or one for each group
            by name.
        rng: a typed key (`jax.random.key(seed)`).
        batch: an example of what the losses will see; shapes and, where they are known, ranges are
            checked.
        ema: whether to keep a moving average of the parameters.

    Raises:
        UserError: where data, nets and model do not fit together, or optimisers and groups do not.
    """
    check_kind("model", model, Model, "models.vae(...) makes one")
    check_kind("batch", batch, Batch, "Batch(x), or Batch(x, cond)")
    check_optimisers(tx)
    if not jnp.issubdtype(getattr(rng, "dtype", jnp.float32), jax.dtypes.prng_key):
        raise UserError(
            "rng must be a typed key: jax.random.key(seed), not jax.random.PRNGKey(seed)."
        )
    rng_init, rng_train = jax.random.split(rng)
    params, state = model.init(rng_init, batch)
    if any(not isinstance(objective.wrt, tuple) for objective in model.objectives):
        raise UserError(
            "an objective's wrt must be a tuple of parameter groups, e.g. ('encoder',)."
        )
    names = groups(model)
    missing = [name for name in names if name not in params]
    if missing:
        raise UserError(f"objectives move {missing}, but init returns only {sorted(params)}.")
    if isinstance(tx, Mapping) and not set(tx) <= set(params):
        raise UserError(
            f"optimisers are given for {sorted(tx)}, but the model's parameter groups are "
            f"{sorted(params)}."
        )
    each = optimisers(tx, names)

    @jax.jit  # one program, not one for each shape
    def begin(params: Params, state: State, rng: Array) -> TrainState:
        opt_state, average = init_optimisers(each, params), params if ema else None
        begun = TrainState(jnp.zeros((), jnp.int32), params, state, opt_state, average, rng)
        # copied, so that each is an array of its own whatever jit hands on: donated, a buffer cannot
        # become two, nor be what somebody else holds, as a trained model whose parameters `init` returns
        return jax.tree.map(jnp.copy, begun)

    return begin(params, state, rng_train)


def make_train_step(
    model: Model,
    tx: Optimisers,
    *,
    ema_decay: float | None = None,
    accumulate: int = 1,
    max_grad_norm: float | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Returns the pure function `step(train_state, batch) -> (train_state, metrics)`.

    The objectives are walked in order. Each is differentiated with respect to its groups, the
    optimisers of those groups are applied, and the next objective sees the updated parameters, the
    state, and the carry. Objective i of step t draws from `fold_in(fold_in(rng, t), i)`. Metrics
    are `Mean`s over the batch: `float(metrics["loss"])`.

    Args:
        model: any `Model` with objectives.
        tx: as given to `init_state`.
        ema_decay: decay per step of the parameters' moving average, in (0, 1); needs
            `init_state(..., ema=True)`.
        accumulate: cut the batch into so many equal parts and add up their gradients, to save
            memory.
        max_grad_norm: clip each objective's gradient to this norm over all the groups it moves, and
            report the norm before clipping as `grad_norm_<objective>`. (A clipping transformation
            in `tx` sees one group at a time.)

    Raises:
        UserError: for a model without objectives, a coupled objective with `accumulate > 1`, or
            options out of range.
    """
    check_kind("model", model, Model, "models.vae(...) makes one")
    check_count("accumulate", accumulate)
    _check_objectives(model.objectives, accumulate)
    if ema_decay is not None:
        check_number("ema_decay", ema_decay, above=0.0, below=1.0)
    if max_grad_norm is not None:
        check_number("max_grad_norm", max_grad_norm, above=0.0)
    run = _make_run(optimisers(tx, groups(model)), accumulate, max_grad_norm)

    def step(train_state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        check_kind("batch", batch, Batch, "Batch(x), or Batch(x, cond)")
        at = train_state.step
        rng = jax.random.fold_in(train_state.rng, at)
        metrics: Metrics = {}
        carry = None
        for i, objective in enumerate(model.objectives):
            args = (objective, jax.random.fold_in(rng, i), batch)
            if objective.every == 1:
                train_state, sums, carry = run(*args, train_state, carry)
            else:
                train_state, sums, carry = _sometimes(run, args, train_state, carry)
            repeated = set(sums) & set(metrics)
            if repeated:
                raise UserError(
                    f"two objectives report the same metrics {sorted(repeated)}: rename them."
                )
            metrics.update(sums)
        if ema_decay is not None:
            if train_state.ema is None:
                raise UserError("ema_decay needs a state made with init_state(..., ema=True).")
            average = _average(train_state.ema, train_state.params, ema_decay)
            train_state = train_state._replace(ema=average)
        return train_state._replace(step=at + 1), metrics

    return step


def _check_objectives(walked: tuple[Objective, ...], accumulate: int) -> None:
    """Raises `UserError` for objectives that no step can walk."""
    check_kind("objectives", walked, tuple, "(Objective(wrt, loss),), also of a single one")
    for objective in walked:
        check_kind("each objective", objective, Objective, "Objective(wrt, loss)")
    if not walked:
        raise UserError("this model has no objectives to train: it is composed from trained parts.")
    names = [objective.name for objective in walked]
    if len(set(names)) != len(names):
        raise UserError(f"objectives need different names; these are called {names}.")
    for objective in walked:
        check_count(f"every of objective {objective.name!r}", objective.every)
        check_count(f"phase of objective {objective.name!r}", objective.phase, least=0)
        if objective.phase >= objective.every:
            raise UserError(
                f"objective {objective.name!r} would never run: its phase {objective.phase} must "
                f"be below every={objective.every}."
            )
        if objective.coupled and accumulate > 1:
            raise UserError(
                f"objective {objective.name!r} is coupled over the whole batch: use accumulate=1."
            )


def _make_run(
    tx: dict[str, optax.GradientTransformation], accumulate: int, max_grad_norm: float | None
) -> Callable:
    """Returns `run(objective, rng, batch, train_state, carry) -> (train_state, metrics, carry)`."""

    def run(objective: Objective, rng: Array, batch: Batch, train_state: TrainState, carry: Any):
        """Differentiates one objective and applies its optimisers."""
        step, params, state, opt_state, *_ = train_state
        fixed = {name: tree for name, tree in params.items() if name not in objective.wrt}

        def scalar(moved, state, rng, batch, carry):
            found = objective.loss({**fixed, **moved}, state, rng, batch, step, carry)
            loss, aux = _checked(objective, found, state, batch)
            value = loss if objective.coupled else jnp.mean(loss)  # the one mean over the batch
            return value, (aux.state, _sums({objective.name: loss, **aux.metrics}), aux.carry)

        gradient = jax.grad(scalar, has_aux=True)
        moved = {name: params[name] for name in objective.wrt}
        if accumulate == 1:
            grads, (state, sums, carry) = gradient(moved, state, rng, batch, carry)
        else:
            grads, (state, sums, carry) = _accumulate(
                gradient, accumulate, moved, state, rng, batch, carry
            )
        grads, sums = parallel.mean(grads), parallel.total(sums)
        if max_grad_norm is not None:
            norm = optax.tree.norm(grads)
            sums[f"grad_norm_{objective.name}"] = Mean(norm, jnp.ones(()))
            factor = jnp.minimum(1.0, max_grad_norm / norm)
            grads = jax.tree.map(lambda g: g * factor, grads)
        params, opt_state = dict(params), dict(opt_state)
        for name in objective.wrt:
            params[name], opt_state[name] = update(
                name, tx[name], grads[name], opt_state.get(name), params[name]
            )
        return train_state._replace(params=params, state=state, opt_state=opt_state), sums, carry

    return run


def _average(average: Params, params: Params, decay: float) -> Params:
    """Returns the moving average of parameters after one more step."""
    return jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, average, params)


def _checked(objective: Objective, found: Any, state: State, batch: Batch) -> tuple[Array, Aux]:
    """Returns what a loss returned; raises `UserError` where it is not what `Loss` says."""
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Aux)):
        raise UserError(
            f"objective {objective.name!r} must return a pair, (loss, Aux(state, metrics))."
        )
    loss, aux = found
    if jax.tree.structure(aux.state) != jax.tree.structure(state):
        raise UserError(
            f"objective {objective.name!r} hands on a state of another form than it was given: "
            "give Aux the state that the nets returned."
        )
    want = () if objective.coupled else batch.x.shape[:1]
    if loss.shape != want:
        kind = "a scalar, as it is coupled" if objective.coupled else f"per example, shape {want}"
        raise UserError(
            f"objective {objective.name!r} returns shape {loss.shape}; its loss must be {kind}."
        )
    return loss, aux


def _sums(metrics: dict[str, Array]) -> Metrics:
    """Returns metrics [B] or [] as sums over this device's examples."""
    values = jax.lax.stop_gradient({name: jnp.asarray(v) for name, v in metrics.items()})
    return {
        name: Mean(jnp.sum(value.astype(jnp.float32)), jnp.full((), value.size, jnp.float32))
        for name, value in values.items()
    }


def _accumulate(gradient, parts: int, moved, state, rng, batch, carry):
    """Runs `gradient` over `parts` interleaved slices of the batch in turn, and averages."""
    size = batch.x.shape[0]
    if size % parts:
        raise UserError(
            f"a batch of {size} (per device) cannot be cut into {parts} equal parts, as accumulate says."
        )

    # [B, ...] -> [parts, B / parts, ...], each part spread over all devices of a mesh
    def interleaved(x):
        return jnp.moveaxis(x.reshape(size // parts, parts, *x.shape[1:]), 1, 0)

    def body(state, xs):
        i, part, part_carry = xs
        grads, (state, sums, handed_on) = gradient(
            moved, state, jax.random.fold_in(rng, i), part, part_carry
        )
        return state, (grads, sums, handed_on)

    xs = (jnp.arange(parts), jax.tree.map(interleaved, batch), carry)
    state, (grads, sums, carry) = jax.lax.scan(body, state, xs)
    grads = jax.tree.map(lambda g: jnp.mean(g, axis=0), grads)
    return grads, (state, jax.tree.map(lambda s: jnp.sum(s, axis=0), sums), carry)


def _sometimes(run, args, train_state: TrainState, carry):
    """Runs an objective where its turn has come; otherwise changes nothing and counts nothing."""
    objective = args[0]
    _, sums, handed_on = jax.eval_shape(lambda t, c: run(*args, t, c), train_state, carry)
    if jax.tree.leaves(handed_on):
        raise UserError(
            f"objective {objective.name!r} runs only every {objective.every} steps, so it can "
            "hand on no carry."
        )

    def wait(train_state):
        return train_state, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums)

    turn = train_state.step % objective.every == objective.phase
    train_state, sums = jax.lax.cond(turn, lambda t: run(*args, t, carry)[:2], wait, train_state)
    return train_state, sums, carry  # what the objective before it handed on goes past it


def is_measurable(model: Model) -> bool:
    """Returns whether a model has numbers of single examples: a bound or a density, unlike a GAN."""
    return model.terms is not None or model.log_prob is not None


def make_eval_step(model: Model, *, stats: str = "running") -> Callable:
    """Returns the pure function `(params, state, rng, batch, mask [B]) -> metrics`.

    Metrics are `Mean`s over the examples whose mask is 1, so that padded batches add up to the
    exact mean of a split: `rec`, `kl`, `elbo` and what `terms` adds (nats per example), or
    `log_prob` of a model with an exact density. The matmul precision is the highest, whatever the
    environment says.

    Args:
        model: with `terms` or `log_prob`.
        stats: "running", or "batch": BatchNorm then sees masked rows too, so give it whole batches.

    Raises:
        UserError: for a model that has neither `terms` nor `log_prob`.
    """
    if model.terms is not None:
        values_of = functools.partial(_term_values, model.terms, stats)
    elif model.log_prob is not None:
        values_of = functools.partial(_density_values, model.log_prob, stats)
    else:
        raise UserError(
            "this model has neither terms nor log_prob: there is nothing to evaluate per example."
        )

    def eval_step(params: Params, state: State, rng: Array, batch: Batch, mask: Array) -> Metrics:
        with jax.default_matmul_precision("highest"):
            values = values_of(params, state, rng, batch)
        mask = mask.astype(jnp.float32)

        def total(value):
            if value.ndim == 0:
                return Mean(value, jnp.ones(()))
            return Mean(jnp.sum(jnp.where(mask > 0, value, 0.0)), jnp.sum(mask))

        return parallel.total({name: total(value) for name, value in values.items()})

    return eval_step


def _term_values(
    evaluate: EvaluateTerms, stats: str, params: Params, state: State, rng: Array, batch: Batch
) -> dict[str, Array]:
    terms = evaluate(params, state, rng, batch, stats=stats)
    return {"rec": terms.rec, "kl": terms.kl, "elbo": objectives.elbo(terms), **terms.extra}


def _density_values(
    log_prob: LogProb, stats: str, params: Params, state: State, rng: Array, batch: Batch
) -> dict[str, Array]:
    return {"log_prob": log_prob(params, state, batch.x, batch.cond, stats=stats)}
