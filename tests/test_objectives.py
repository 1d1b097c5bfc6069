"""Parts of losses against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import objectives
from jaxvae.distributions import Bernoulli, Normal
from jaxvae.errors import UserError
from jaxvae.types import Terms

REC, KL = jnp.asarray([10.0, 20.0]), jnp.asarray([1.0, 4.0])


def test_elbo():
    np.testing.assert_array_equal(objectives.elbo(Terms(REC, KL)), [-11.0, -24.0])


def test_beta():
    np.testing.assert_array_equal(objectives.beta_elbo_loss(REC, KL, 2.5), [12.5, 30.0])
    np.testing.assert_array_equal(
        objectives.beta_elbo_loss(REC, KL), -objectives.elbo(Terms(REC, KL))
    )


def test_a_traced_beta_under_vmap():
    betas = jnp.asarray([0.0, 1.0, 4.0])
    have = jax.vmap(
        lambda beta: objectives.beta_elbo_loss(REC, KL, objectives.weight_at(beta, jnp.int32(0)))
    )(betas)
    np.testing.assert_array_equal(have, [[10.0, 20.0], [11.0, 24.0], [14.0, 36.0]])


def at(weight, step: int) -> float:
    weight = objectives.weight_at(weight, jnp.asarray(step, jnp.int32))
    assert weight.dtype == jnp.float32
    return float(weight)


def test_weights_at_a_step():
    assert at(3, 7) == 3.0
    warmup = objectives.linear_warmup(4, final=2.0)
    assert [at(warmup, step) for step in (0, 1, 2, 4, 9)] == [0.0, 0.5, 1.0, 2.0, 2.0]


def test_a_cycle_rises_in_its_first_half_again_and_again():
    cycle = objectives.cyclical(8, final=2.0)
    want = [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0]
    assert [at(cycle, step) for step in range(16)] == 2 * want
    assert [at(objectives.cyclical(4, ratio=1.0), step) for step in range(5)] == [
        0,
        0.25,
        0.5,
        0.75,
        0,
    ]
    with pytest.raises(UserError, match="steps of a cycle must be greater than 0"):
        objectives.cyclical(0)
    with pytest.raises(UserError, match="ratio must be at most 1"):
        objectives.cyclical(4, ratio=1.5)


@pytest.mark.parametrize(
    ("schedule", "want"),
    [
        (optax.constant_schedule(0.5), 0.5),
        (optax.linear_schedule(0.0, 1.0, 10), 0.4),
        (optax.cosine_decay_schedule(1.0, 8), 0.5),
        (optax.piecewise_constant_schedule(1.0, {3: 0.25}), 0.25),
        (
            optax.join_schedules(
                [optax.constant_schedule(0.0), optax.linear_schedule(0.0, 1.0, 4)], [2]
            ),
            0.5,
        ),
    ],
    ids=["constant", "linear", "cosine", "piecewise", "joined"],
)
def test_any_optax_schedule_will_do_under_strict_promotion(schedule, want):
    np.testing.assert_allclose(at(schedule, 4), want, rtol=1e-6)


def test_free_bits():
    # divergences per dimension: 1/2 mean^2, as the variance is 1
    q = Normal(jnp.asarray([[2.0, 0.0, 1.0], [0.2, 0.0, 0.0]]), jnp.zeros((2, 3)))
    np.testing.assert_allclose(
        objectives.free_bits_kl(q, 0.3), [2.0 + 0.3 + 0.5, 0.3 + 0.3 + 0.3], rtol=1e-6
    )
    np.testing.assert_allclose(objectives.free_bits_kl(q, 0.0), q.kl(), rtol=1e-6)


def test_free_bits_push_only_dimensions_above_the_floor():
    grads = jax.grad(
        lambda mean: jnp.sum(objectives.free_bits_kl(Normal(mean, jnp.zeros((1, 2))), 0.3))
    )(jnp.asarray([[2.0, 0.5]]))
    np.testing.assert_allclose(grads, [[2.0, 0.0]])


def test_free_bits_need_a_divergence_per_dimension():
    with pytest.raises(UserError, match="which Bernoulli does not have: use free_bits=0"):
        objectives.free_bits_kl(Bernoulli(REC[:, None]), 0.1)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-1.0, "beta must be at least 0, not -1"),
        (float("nan"), "beta must be finite"),
        ("1.0", "beta must be a number, not '1.0'"),
        (lambda step: -0.5 + 0.0 * step, "beta must be at least 0, not -0.5"),
    ],
)
def test_weights_out_of_range(weight, message):
    with pytest.raises(UserError, match=message):
        objectives.check_weight("beta", weight)


def test_a_warm_up_of_no_steps():
    with pytest.raises(UserError, match="warm-up steps must be greater than 0"):
        objectives.linear_warmup(0)


@pytest.mark.parametrize(
    ("kernel", "bandwidth"), [("gaussian", None), ("gaussian", 0.7), ("imq", None), ("imq", 3.0)]
)
def test_mmd_by_hand(kernel, bandwidth):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(4, 2)) + 1.0
    h = bandwidth or {"gaussian": 4.0, "imq": 4.0}[kernel]

    def k(a, b):
        square = ((a - b) ** 2).sum()
        return np.exp(-square / h) if kernel == "gaussian" else h / (h + square)

    mean = [np.mean([[k(a, b) for b in q] for a in p]) for p, q in ((x, x), (y, y), (x, y))]
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    have = objectives.mmd(x, y, kernel=kernel, bandwidth=bandwidth)
    np.testing.assert_allclose(have, mean[0] + mean[1] - 2 * mean[2], rtol=1e-4)
    np.testing.assert_allclose(objectives.mmd(x, x, kernel=kernel), 0.0, atol=1e-6)
