"""The training step against updates worked out by hand: order, groups, turns, accumulation,
clipping, averages."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import nets, noise
from jaxvae.errors import UserError
from jaxvae.models import vae
from jaxvae.train.step import init_state, make_eval_step, make_train_step
from jaxvae.types import Aux, Batch, Model, Objective, Terms
from small import EXAMPLE, normed, precisions, small

X = jnp.asarray([[1.0, 2.0], [3.0, -2.0], [0.5, 1.0], [1.5, 3.0]])  # means 1.5 and 1
BATCH = Batch(X)
SGD = optax.sgd(0.1)


def model_of(*objectives: Objective, state=None) -> Model:
    """Returns a model with the groups "a" = (1, 1) and "b" = (2, 2)."""

    def init(rng, batch):
        return {
            "a": {"w": jnp.ones(2)},
            "b": {"w": jnp.full(2, 2.0)},
        }, {} if state is None else state

    return Model(init, objectives)


def linear(group: str, name: str = "loss", **options) -> Objective:
    """Returns an objective whose gradient is the mean of x: (1.5, 1)."""

    def loss(params, state, rng, batch, step, carry):
        return jnp.sum(batch.x * params[group]["w"], axis=-1), Aux(state)

    return Objective((group,), loss, name=name, **options)


def start(model, tx=SGD, batch=BATCH, **options):
    return init_state(model, tx, jax.random.key(0), batch, **options)


def weights(train_state) -> dict[str, np.ndarray]:
    return {group: np.asarray(tree["w"]) for group, tree in train_state.params.items()}


def take(model, tx=SGD, *, steps=1, batch=BATCH, ema=False, **options):
    """Returns the states after 0, 1, ... steps and the metrics of each step."""
    states, metrics = [start(model, tx, batch, ema=ema)], []
    step = jax.jit(make_train_step(model, tx, **options))
    for _ in range(steps):
        train_state, values = step(states[-1], batch)
        states.append(train_state)
        metrics.append({name: float(value) for name, value in values.items()})
    return states, metrics


# ---- order, groups, keys -----------------------------------------------------------------------


def test_one_step_of_gradient_descent():
    (_, end), (metrics,) = take(model_of(linear("a")))
    np.testing.assert_allclose(weights(end)["a"], [1.0 - 0.15, 1.0 - 0.1], rtol=1e-6)
    np.testing.assert_array_equal(weights(end)["b"], [2.0, 2.0])
    assert metrics == {"loss": 2.5}
    assert int(end.step) == 1


def test_the_next_objective_sees_the_moved_parameters_the_state_and_the_carry():
    def first(params, state, rng, batch, step, carry):
        assert carry is None
        value = jnp.sum(batch.x * params["a"]["w"], axis=-1)
        return value, Aux({"seen": state["seen"] + 1.0}, carry=(value, params["a"]["w"]))

    def second(params, state, rng, batch, step, carry):
        value, before = carry
        return value * params["b"]["w"][0], Aux(
            {"seen": 10.0 * state["seen"]}, {"before": before[0], "after": params["a"]["w"][0]}
        )

    model = model_of(
        Objective(("a",), first, name="first"),
        Objective(("b",), second, name="second"),
        state={"seen": jnp.zeros(())},
    )
    (_, end), (metrics,) = take(model)
    np.testing.assert_allclose([metrics["before"], metrics["after"]], [1.0, 0.85], rtol=1e-6)
    np.testing.assert_allclose(
        [metrics["first"], metrics["second"]], [2.5, 5.0], rtol=1e-6
    )  # the carried value
    np.testing.assert_allclose(weights(end)["b"], [2.0 - 0.1 * 2.5, 2.0], rtol=1e-6)
    assert float(end.state["seen"]) == 10.0


def test_an_objective_moves_only_its_groups_though_its_loss_uses_others():
    def loss(params, state, rng, batch, step, carry):
        return jnp.sum(batch.x * params["a"]["w"] * params["b"]["w"], axis=-1), Aux(state)

    for wrt, want in [
        (("a",), ([0.7, 0.8], [2.0, 2.0])),
        (("b",), ([1.0, 1.0], [1.85, 1.9])),
        (("a", "b"), ([0.7, 0.8], [1.85, 1.9])),
    ]:
        (_, end), _ = take(model_of(Objective(wrt, loss)))
        np.testing.assert_allclose(weights(end)["a"], want[0], rtol=1e-6)
        np.testing.assert_allclose(weights(end)["b"], want[1], rtol=1e-6)
        assert set(end.opt_state) == set(wrt)


def test_two_objectives_share_the_optimiser_of_a_group():
    momentum = optax.sgd(0.1, momentum=0.5)
    (_, end), _ = take(model_of(linear("a", "first"), linear("a", "second")), momentum)
    np.testing.assert_allclose(
        weights(end)["a"], 1.0 - 0.1 * np.array([1.5, 1.0]) * (1.0 + 1.5), rtol=1e-6
    )


def test_the_key_of_step_t_and_objective_i():
    def draws(name):
        def loss(params, state, rng, batch, step, carry):
            return jnp.sum(params["a"]["w"]) * jnp.ones(4), Aux(
                state, {f"draw_{name}": noise.normal(rng, (4,))}
            )

        return Objective(("a",), loss, name=name)

    states, metrics = take(model_of(draws("first"), draws("second")), steps=3)
    for t, i in np.ndindex(3, 2):
        key = jax.random.fold_in(jax.random.fold_in(states[0].rng, t), i)
        want = jnp.mean(jax.random.normal(key, (4,)))
        np.testing.assert_allclose(metrics[t][f"draw_{('first', 'second')[i]}"], want, rtol=1e-5)


def test_the_step_is_pure():
    model = model_of(linear("a"), linear("b", "other"))
    begin = start(model)
    before = jax.tree.map(np.array, (begin.params, begin.state, begin.opt_state))
    make_train_step(model, SGD)(begin, BATCH)
    jax.tree.map(
        np.testing.assert_array_equal, (begin.params, begin.state, begin.opt_state), before
    )


def test_steps_in_a_scan_are_the_steps_of_a_loop():
    model, tx = model_of(linear("a"), linear("b", "other", every=2)), optax.adam(1e-2)
    states, metrics = take(model, tx, steps=4)
    step = make_train_step(model, tx)
    end, values = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, BATCH), s, length=4))(
        states[0]
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), weights(end), weights(states[-1])
    )
    np.testing.assert_allclose(
        values["loss"].total / values["loss"].count, [m["loss"] for m in metrics], rtol=1e-6
    )


def test_one_trace():
    model, traces = model_of(linear("a"), linear("b", "other", every=2)), []
    step = make_train_step(model, optax.adam(1e-2))

    @jax.jit
    def counted(train_state, batch):
        traces.append(None)
        return step(train_state, batch)

    train_state = start(model, optax.adam(1e-2))
    for _ in range(5):
        train_state, _ = counted(train_state, BATCH)
    assert len(traces) == 1
    assert int(train_state.step) == 5


# ---- turns -------------------------------------------------------------------------------------


def test_an_objective_waits_for_its_turn():
    def loss(params, state, rng, batch, step, carry):
        return jnp.sum(batch.x * params["a"]["w"], axis=-1), Aux({"seen": state["seen"] + 1.0})

    model = model_of(
        Objective(("a",), loss, every=3, phase=1),
        linear("b", "always"),
        state={"seen": jnp.zeros(())},
    )
    states, metrics = take(model, optax.adam(0.1), steps=6)
    for t in range(6):
        moved = not np.array_equal(weights(states[t])["a"], weights(states[t + 1])["a"])
        assert moved == (t in (1, 4))
        assert np.isnan(metrics[t]["loss"]) == (not moved)  # a mean over no example
        assert not np.array_equal(weights(states[t])["b"], weights(states[t + 1])["b"])
    assert float(states[-1].state["seen"]) == 2.0
    assert int(optax.tree.get(states[-1].opt_state["a"], "count")) == 2
    assert int(optax.tree.get(states[-1].opt_state["b"], "count")) == 6


def test_what_waits_can_take_a_carry_and_hand_on_none():
    def gives(params, state, rng, batch, step, carry):
        return jnp.sum(batch.x * params["a"]["w"], axis=-1), Aux(state, carry=batch.x)

    def takes(params, state, rng, batch, step, carry):
        return jnp.sum(carry * params["b"]["w"], axis=-1), Aux(state)

    model = model_of(
        Objective(("a",), gives, name="gives"), Objective(("b",), takes, name="takes", every=2)
    )
    states, _ = take(model, steps=2)
    np.testing.assert_allclose(weights(states[2])["b"], [1.85, 1.9], rtol=1e-6)  # once
    model = model_of(Objective(("a",), gives, name="gives", every=2))
    with pytest.raises(
        UserError, match="'gives' runs only every 2 steps, so it can hand on no carry"
    ):
        take(model)


# ---- coupled losses and accumulation ---------------------------------------------------------


def coupled(group: str = "a") -> Objective:
    def loss(params, state, rng, batch, step, carry):
        return jnp.square(jnp.sum(jnp.mean(batch.x, axis=0) * params[group]["w"])), Aux(state)

    return Objective((group,), loss, coupled=True)


def test_a_coupled_loss_is_one_number():
    (_, end), (metrics,) = take(model_of(coupled()))
    assert metrics == {"loss": 6.25}  # (1.5 + 1)^2
    np.testing.assert_allclose(
        weights(end)["a"], 1.0 - 0.1 * 2 * 2.5 * np.array([1.5, 1.0]), rtol=1e-6
    )


def test_a_coupled_loss_refuses_accumulation():
    with pytest.raises(UserError, match="'loss' is coupled over the whole batch: use accumulate=1"):
        make_train_step(model_of(coupled()), SGD, accumulate=2)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    def first(params, state, rng, batch, step, carry):
        value = jnp.sum(jnp.square(batch.x - params["a"]["w"]), axis=-1)
        return value, Aux(
            {"seen": state["seen"] + 1.0}, {"half": value / 2, "one": jnp.ones(())}, carry=value
        )

    def second(params, state, rng, batch, step, carry):
        return carry * jnp.sum(batch.x * batch.cond * params["b"]["w"], axis=-1), Aux(state)

    model = model_of(
        Objective(("a",), first, name="first"),
        Objective(("b",), second, name="second"),
        state={"seen": jnp.zeros(())},
    )
    batch = Batch(
        jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32),
        jnp.arange(8.0)[:, None],
    )
    (_, at_once), (want,) = take(model, batch=batch)
    (_, parts), (have,) = take(model, batch=batch, accumulate=4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), weights(parts), weights(at_once)
    )
    assert have == pytest.approx(want, rel=1e-5)
    assert float(parts.state["seen"]) == 4.0  # the state walks through the parts


def test_parts_of_a_batch_draw_different_noise():
    def loss(params, state, rng, batch, step, carry):
        draw = noise.normal(rng, (2,))
        return jnp.sum(params["a"]["w"]) * jnp.ones(2), Aux(state, {"draw": draw})

    (begin, _), (metrics,) = take(model_of(Objective(("a",), loss)), accumulate=2)
    key = jax.random.fold_in(
        jax.random.fold_in(begin.rng, 0), 0
    )  # of the first objective at the first step
    draws = [jax.random.normal(jax.random.fold_in(key, part), (2,)) for part in range(2)]
    assert not np.allclose(*draws)
    np.testing.assert_allclose(metrics["draw"], np.mean(draws), rtol=1e-5)


def test_a_batch_must_have_as_many_equal_parts():
    with pytest.raises(
        UserError, match=r"a batch of 4 \(per device\) cannot be cut into 3 equal parts"
    ):
        take(model_of(linear("a")), accumulate=3)


# ---- clipping and averages -------------------------------------------------------------------


def both(scale: float) -> Model:
    def loss(params, state, rng, batch, step, carry):
        return scale * (3.0 * params["a"]["w"][0] + 4.0 * params["b"]["w"][0]) * jnp.ones(4), Aux(
            state
        )

    return model_of(Objective(("a", "b"), loss))


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 0.4), (0.1, 1.0), (0.0, 1.0)])
def test_the_gradient_norm_is_taken_over_all_groups_and_clipped(scale, factor):
    (_, end), (metrics,) = take(both(scale), max_grad_norm=2.0)
    np.testing.assert_allclose(metrics["grad_norm_loss"], 5.0 * scale, rtol=1e-6)
    np.testing.assert_allclose(
        weights(end)["a"], [1.0 - 0.1 * 3.0 * scale * factor, 1.0], rtol=1e-6
    )
    np.testing.assert_allclose(
        weights(end)["b"], [2.0 - 0.1 * 4.0 * scale * factor, 2.0], rtol=1e-6
    )


def test_the_moving_average_of_parameters():
    states, _ = take(model_of(linear("a")), steps=3, ema=True, ema_decay=0.75)
    want = {group: w.copy() for group, w in weights(states[0]).items()}
    for after in states:
        want = {group: 0.75 * w + 0.25 * weights(after)[group] for group, w in want.items()}
        for group, w in want.items():
            np.testing.assert_allclose(after.ema[group]["w"], w, rtol=1e-6)
    assert not np.array_equal(states[-1].ema["a"]["w"], weights(states[-1])["a"])


def test_a_moving_average_must_be_asked_for_twice():
    assert start(model_of(linear("a"))).ema is None
    with pytest.raises(
        UserError, match=r"ema_decay needs a state made with init_state\(..., ema=True\)"
    ):
        take(model_of(linear("a")), ema_decay=0.9)


# ---- optimisers --------------------------------------------------------------------------------


def test_an_optimiser_for_each_group():
    model = model_of(linear("a", "first"), linear("b", "second"))
    (_, end), _ = take(model, {"a": optax.sgd(1.0), "b": optax.sgd(0.1)})
    np.testing.assert_allclose(weights(end)["a"], [-0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(weights(end)["b"], [1.85, 1.9], rtol=1e-6)


@pytest.mark.parametrize("names", ["a", "ac", ""])
def test_optimisers_must_name_every_group(names):
    model, tx = model_of(linear("a", "first"), linear("b", "second")), dict.fromkeys(names, SGD)
    message = f"optimisers are given for {sorted(names)}, but "
    with pytest.raises(UserError, match=re.escape(message + "the objectives move ['a', 'b'].")):
        make_train_step(model, tx)
    with pytest.raises(UserError, match=re.escape(message)):
        start(model, tx)


def test_optimisers_of_groups_that_rest_in_this_phase_are_left_out():
    (_, end), _ = take(model_of(linear("a")), {"a": SGD, "b": SGD})
    assert set(end.opt_state) == {"a"}
    with pytest.raises(
        UserError,
        match=re.escape("for ['a', 'c'], but the model's parameter groups are ['a', 'b']."),
    ):
        start(model_of(linear("a")), {"a": SGD, "c": SGD})


@pytest.mark.long
def test_hyper_parameters_may_be_traced_so_that_a_model_is_built_inside_vmap():
    batch = Batch(jax.random.uniform(jax.random.key(1), (4, 3)))

    def train(beta, rate, limit):
        model = vae(nets.mlp((4,), 4), nets.mlp((4,), 3), latent_dim=2, beta=beta)
        tx = optax.adam(rate)
        step = make_train_step(model, tx, max_grad_norm=limit, ema_decay=rate)
        train_state = init_state(model, tx, jax.random.key(0), batch, ema=True)
        for _ in range(2):
            train_state, metrics = step(train_state, batch)
        return train_state.params, train_state.ema, metrics["loss"].total

    hyper = np.array(
        [[1.0, 1e-2, 1e-3], [4.0, 1e-3, 9.0]], np.float32
    )  # the first gradient is clipped
    have = jax.jit(jax.vmap(train))(*hyper.T)
    for i, numbers in enumerate(hyper):
        want = jax.jit(lambda: train(*map(float, numbers)))()  # noqa: B023
        one = jax.tree.map(lambda a, i=i: a[i], have)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, want)
    assert have[2][0] != have[2][1]


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objectives", "options", "message"),
    [
        ((), {}, "this model has no objectives to train"),
        (
            (linear("a"), linear("b")),
            {},
            r"objectives need different names; these are called \['loss', 'loss'\]",
        ),
        ((linear("a"),), {"accumulate": 0}, "accumulate must be at least 1, not 0"),
        ((linear("a"),), {"accumulate": 1.5}, "accumulate must be a whole number"),
        ((linear("a"),), {"ema_decay": 0.0}, "ema_decay must be greater than 0"),
        ((linear("a"),), {"ema_decay": 1.5}, "ema_decay must be below 1"),
        ((linear("a"),), {"max_grad_norm": 0.0}, "max_grad_norm must be greater than 0"),
        ((linear("a", every=0),), {}, "every of objective 'loss' must be at least 1, not 0"),
        (
            (linear("a", every=3, phase=3),),
            {},
            "objective 'loss' would never run: its phase 3 must be below every=3",
        ),
        ((linear("a", phase=-1),), {}, "phase of objective 'loss' must be at least 0, not -1"),
    ],
)
def test_options_out_of_range(objectives, options, message):
    with pytest.raises(UserError, match=message):
        make_train_step(model_of(*objectives), SGD, **options)


def returning(found) -> Objective:
    return Objective(("a",), lambda params, state, rng, batch, step, carry: found(batch.x, state))


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (returning(lambda x, state: jnp.sum(x, -1)), "each objective must be an Objective"),
        ([linear("a")], "objectives must be a tuple, not list"),
        ((returning(lambda x, state: jnp.sum(x, -1)),), "'loss' must return a pair, .loss, Aux"),
        (
            (returning(lambda x, state: (jnp.sum(x, -1), {})),),
            "'loss' must return a pair, .loss, Aux",
        ),
        ((returning(lambda x, state: (jnp.sum(x, -1), Aux({}))),), "a state of another form than"),
    ],
)
def test_what_is_no_loss(objectives, message):
    model = model_of(linear("a"), state={"a": {"mean": jnp.ones(2)}})
    wrong, train_state = model._replace(objectives=objectives), start(model)
    with pytest.raises(UserError, match=message):
        make_train_step(wrong, SGD)(train_state, BATCH)


def test_training_leaves_what_it_starts_from_as_it_is():
    params = {"a": {"w": jnp.ones(2)}}
    model = model_of(linear("a"))._replace(init=lambda rng, batch: (params, {}))
    train_state = start(model, ema=True)
    jax.jit(make_train_step(model, SGD, ema_decay=0.5), donate_argnums=0)(train_state, BATCH)
    assert train_state.params["a"]["w"].is_deleted()
    np.testing.assert_array_equal(params["a"]["w"], [1.0, 1.0])


@pytest.mark.parametrize("batch", [X, (X, None), None])
def test_a_step_takes_a_batch(batch):
    model = model_of(linear("a"))
    with pytest.raises(UserError, match=r"batch must be a Batch, not .*: Batch\(x\), or Batch"):
        make_train_step(model, SGD)(start(model), batch)
    with pytest.raises(UserError, match="model must be a Model, not"):
        make_train_step(SGD, model)


def test_a_loss_must_have_its_shape():
    def mean(params, state, rng, batch, step, carry):
        return jnp.mean(batch.x * params["a"]["w"]), Aux(state)

    with pytest.raises(
        UserError, match=r"'loss' returns shape \(\); its loss must be per example, shape \(4,\)"
    ):
        take(model_of(Objective(("a",), mean)))
    with pytest.raises(
        UserError, match=r"'loss' returns shape \(4,\); its loss must be a scalar, as it is coupled"
    ):
        take(model_of(linear("a", coupled=True)))


def test_two_objectives_must_not_report_one_metric():
    def loss(params, state, rng, batch, step, carry):
        return jnp.sum(batch.x * params["a"]["w"], axis=-1), Aux(state, {"rec": jnp.zeros(4)})

    with pytest.raises(
        UserError, match=r"two objectives report the same metrics \['rec'\]: rename them"
    ):
        take(
            model_of(Objective(("a",), loss, name="first"), Objective(("a",), loss, name="second"))
        )


def test_init_state_checks_key_and_groups():
    with pytest.raises(UserError, match=r"rng must be a typed key: jax.random.key\(seed\)"):
        init_state(model_of(linear("a")), SGD, jax.random.PRNGKey(0), BATCH)
    with pytest.raises(
        UserError, match=r"objectives move \['c'\], but init returns only \['a', 'b'\]"
    ):
        start(model_of(linear("c")))


def test_an_array_that_is_held_twice_can_be_donated():
    """Two groups that start as one array, and an optimiser that keeps the parameters it began with."""
    shared = jnp.full(2, 2.0)
    model = model_of(linear("a"), linear("b", "other"))
    model = model._replace(init=lambda rng, batch: ({"a": {"w": shared}, "b": {"w": shared}}, {}))
    keeps = optax.GradientTransformation(lambda params: params, lambda g, s, p=None: (g, s))
    begun = start(model, optax.chain(keeps, SGD), ema=True)
    step = jax.jit(make_train_step(model, optax.chain(keeps, SGD), ema_decay=0.5), donate_argnums=0)
    end, _ = step(begun, BATCH)
    for group in ("a", "b"):
        np.testing.assert_allclose(weights(end)[group], [2.0 - 0.15, 2.0 - 0.1], rtol=1e-6)


# ---- evaluation --------------------------------------------------------------------------------


def evaluated(model, mask, x=X):
    values = jax.jit(make_eval_step(model))({}, {}, jax.random.key(0), Batch(x), jnp.asarray(mask))
    return {name: float(value) for name, value in values.items()}


def test_masked_examples_count_for_nothing():
    def terms(params, state, rng, batch, *, stats):
        return Terms(
            batch.x[:, 0],
            batch.x[:, 1],
            {"double": 2 * batch.x[:, 0], "constant": jnp.asarray(7.0)},
        )

    model = Model(init=None, terms=terms)
    assert evaluated(model, [1, 1, 1, 1]) == {
        "rec": 1.5,
        "kl": 1.0,
        "elbo": -2.5,
        "double": 3.0,
        "constant": 7.0,
    }
    assert evaluated(model, [1, 1, 0, 0]) == {
        "rec": 2.0,
        "kl": 0.0,
        "elbo": -2.0,
        "double": 4.0,
        "constant": 7.0,
    }
    broken = X.at[2:].set(jnp.nan)  # padding may hold anything
    for mask in ([True, True, False, False], [1.0, 1.0, 0.0, 0.0]):
        assert evaluated(model, mask, broken)["rec"] == 2.0


def test_a_model_with_an_exact_density_is_evaluated_by_it():
    seen = []

    def log_prob(params, state, x, cond=None, *, stats="running"):
        seen.append(stats)
        return x[:, 0]

    model = Model(init=None, log_prob=log_prob)
    assert evaluated(model, [1, 0, 1, 0]) == {"log_prob": 0.75}
    make_eval_step(model, stats="batch")({}, {}, jax.random.key(0), BATCH, jnp.ones(4))
    assert seen == ["running", "batch"]


@pytest.mark.parametrize("setting", ["default", "bfloat16"])
def test_an_evaluation_has_the_highest_precision_whatever_the_environment_says(setting):
    model = normed()
    batch = Batch(jnp.zeros((4, 4, 4, 1)))
    params, state = model.init(jax.random.key(0), batch)
    density = Model(init=None, log_prob=lambda params, state, x, cond, stats: (x @ x.T).sum(-1))
    with jax.default_matmul_precision(setting):
        for each, examples in ((model, batch), (density, BATCH)):
            args = (params, state, jax.random.key(1), examples, jnp.ones(4))
            assert precisions(make_eval_step(each), *args) == {"HIGHEST"}


def test_there_must_be_something_to_evaluate():
    with pytest.raises(UserError, match="neither terms nor log_prob"):
        make_eval_step(Model(init=None))


def test_evaluation_ignores_what_padding_computes():
    model = small()._replace(
        terms=lambda params, state, rng, batch, stats="running": Terms(batch.x[:, 0], batch.x[:, 0])
    )
    x = jnp.array([[1.0], [jnp.nan]])
    found = make_eval_step(model)({}, {}, jax.random.key(0), Batch(x), jnp.array([1.0, 0.0]))
    assert float(found["rec"]) == 1.0


def test_an_initial_state_is_one_program_behind_its_models(caplog):
    model, rng = small(), jax.random.key(0)
    init_state(model, optax.adam(1e-3), rng, EXAMPLE, ema=True)  # compiles the model's own
    caplog.clear()
    with jax.log_compiles():
        init_state(model, optax.adam(1e-3), rng, EXAMPLE, ema=True)
    said = [line.getMessage() for line in caplog.records]
    [program] = [text for text in said if text.startswith("Compiling ")]
    assert "begin" in program
