"""Every property of `check_model` catches a model that breaks it, and names the property."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import noise, parallel
from jaxvae.distributions import Normal
from jaxvae.testing import check_model
from jaxvae.types import Model, Objective, Terms
from toys import BATCH, SIZE, fails, toy


def test_a_sound_model_passes():
    check_model(toy(metrics=lambda each: {"loss_again": each, "mean": jnp.mean(each)}), BATCH)


def test_a_coupled_model_passes():
    check_model(
        toy(
            lambda each, params, rng, batch: jnp.square(jnp.mean(parallel.gather(each))),
            coupled=True,
        ),
        BATCH,
    )


def test_a_model_whose_turn_comes_every_third_step_passes():
    check_model(toy(every=3, phase=2), BATCH)


def test_optimisers_by_group_and_a_key_can_be_given():
    check_model(toy(), BATCH, {"mean": optax.sgd(0.1)}, rng=jax.random.key(7))


def test_a_composed_model_without_objectives_passes_and_is_checked():
    def sample(params, state, rng, n, cond=None, *, stats="running"):
        return noise.normal(rng, (n, 2))

    composed = toy(sample=sample)._replace(objectives=())
    check_model(composed, BATCH)
    fails(
        composed._replace(sample=lambda *a, stats: sample(*a)[:, :1]),
        r"^shapes: sample has shape \(3, 1\)",
    )


# ---- shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            toy(lambda each, *_: jnp.mean(each)),
            r"^shapes: objective 'loss': loss has shape \(\), must be \(16,\)",
        ),
        (toy(lambda each, *_: each[:, None]), r"^shapes: .*loss has shape \(16, 1\)"),
        (toy(coupled=True), r"^shapes: .*loss has shape \(16,\), must be \(\)"),
        (toy(lambda each, *_: each.astype(jnp.int32)), r"^shapes: .*loss must be floating point"),
        (
            toy(metrics=lambda each: {"half": each[:8]}),
            r"^shapes: .*metric 'half' has shape \(8,\)",
        ),
        (toy(wrt=("mean", "covariance")), r"^shapes: objectives move the groups \['covariance'\]"),
        (
            toy(next_state=lambda state: {"seen": jnp.zeros(())}),
            r"^shapes: .*state\['seen'\] is .* init returned none",
        ),
        (
            toy(
                state={"seen": jnp.zeros(())},
                next_state=lambda state: {"seen": state["seen"].astype(jnp.int32)},
            ),
            r"^shapes: .*state\['seen'\] is \(\(\), 'int32'\), but init returned \(\(\), "
            r"'float32'\)",
        ),
        (toy(init=lambda rng, batch: (jnp.zeros(2), {})), r"^shapes: init must return two dicts"),
        (toy(init=lambda rng, batch: {}["nothing"]), r"^shapes: KeyError"),
        (
            toy()._replace(objectives=(Objective(("mean",), lambda *a: (jnp.zeros(SIZE), {})),)),
            r"^shapes: .*not \(loss, dict\)",
        ),
    ],
    ids=lambda value: "" if isinstance(value, Model) else value[9:40],
)
def test_shapes_of_losses_and_state(model, message):
    fails(model, message)


def normal(params, state, x, cond=None, *, stats="running"):
    return Normal(x, jnp.zeros(()))


def terms(rec, kl, **extra):
    return lambda params, state, rng, batch, *, stats="running": Terms(
        rec(batch.x), kl(batch.x), extra
    )


def each(x):
    return jnp.sum(x, axis=-1)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (
            {"encode": lambda p, s, x, c, *, stats: Normal(x[:8], jnp.zeros(()))},
            r"kl\(encode\(x\)\) has shape \(8,\)",
        ),
        (
            {
                "encode": normal,
                "decode": lambda p, s, z, c, *, stats: Normal(z[:, :1], jnp.zeros(())),
            },
            "UserError: Normal.log_prob: x has shape",
        ),
        ({"encode": lambda p, s, x, c: Normal(x, jnp.zeros(()))}, "TypeError: .*stats"),
        ({"terms": terms(each, lambda x: x)}, r"terms: kl has shape \(16, 2\)"),
        ({"terms": terms(jnp.mean, each)}, r"terms: rec has shape \(\)"),
        ({"terms": terms(each, each, part=jnp.zeros(5))}, r"terms: extra 'part' has shape \(5,\)"),
        (
            {"terms": lambda *a, stats: (jnp.zeros(SIZE), jnp.zeros(SIZE))},
            "terms must return Terms, not tuple",
        ),
        (
            {"sample": lambda p, s, rng, n, c, *, stats: noise.normal(rng, (SIZE, 2))},
            r"sample has shape \(16, 2\), must be \(3, 2\)",
        ),
        ({"log_prob": lambda p, s, x, c, *, stats: jnp.mean(x)}, r"log_prob has shape \(\)"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:20],
)
def test_shapes_of_evaluation(functions, message):
    fails(toy(**functions), "^shapes: " + message)


def test_stats_of_the_batch_are_tried_too():
    def sample(params, state, rng, n, cond=None, *, stats="running"):
        return noise.normal(rng, (n, 2 if stats == "running" else 3))

    fails(toy(sample=sample), r"^shapes: sample has shape \(3, 3\)")


# ---- gradients, and what they move -------------------------------------------------------


def test_a_loss_that_is_not_finite():
    fails(
        toy(lambda each, *_: each / 0.0), "^gradients: objective 'loss': loss has 16 of 16 values"
    )


def test_a_gradient_that_is_not_finite_though_the_loss_is():
    def root(each, params, rng, batch):  # d sqrt(w^2) / dw at w = 0
        return each + jnp.sqrt(jnp.sum(jnp.square(params["mean"]["w"])))

    fails(toy(root), r"^gradients: .*gradient\['mean'\]\['w'\] has 2 of 2 values")


def test_a_group_without_gradient():
    fails(toy(wrt=("mean", "spare")), "^gradients: .*group 'spare' is zero everywhere")


def test_a_group_without_parameters_needs_no_gradient():
    def init(rng, batch):
        return {"mean": {"w": jnp.zeros(2)}, "identity": {}}, {}

    check_model(toy(init=init, wrt=("mean", "identity")), BATCH)


# ---- what repeats, and where it runs -------------------------------------------------------


def test_parameters_drawn_from_numpy():
    def init(rng, batch):
        return {"mean": {"w": jnp.asarray(np.random.normal(size=2), jnp.float32)}}, {}

    fails(toy(init=init), "^determinism: init: a second call")


def test_samples_drawn_from_numpy():
    def sample(params, state, rng, n, cond=None, *, stats="running"):
        return jnp.asarray(np.random.normal(size=(n, 2)), jnp.float32)

    fails(toy(sample=sample), r"^determinism: evaluation: .*\['sample'\]")


def test_evaluation_that_is_not_finite():
    fails(toy(terms=terms(each, lambda x: each(x) / 0.0)), "^determinism: evaluation.*not finite")


def test_an_operation_that_a_tpu_lacks():
    def value(each, params, rng, batch):
        eigenvalues, _ = jnp.linalg.eig(jnp.eye(2) + jnp.mean(batch.x))
        return each + jax.lax.stop_gradient(jnp.sum(jnp.real(eigenvalues)))

    fails(toy(value), "^lowering: .*eig")
