"""Scores of codes whose answer is known: the factors themselves, mixed ones, noise; and of a model."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import distributions
from jaxvae.data.preprocess import make_preprocess
from jaxvae.data.shapes import World
from jaxvae.errors import UserError
from jaxvae.metrics import disentangle
from jaxvae.types import Model

WORLD = World(("a", "b", "c"), (3, 6, 4), lambda factors: factors.astype(jnp.float32))
SMALL = {"votes": 200, "group": 16}, {"points": 200, "group": 16}


def perfect(factors):
    return np.asarray(factors, np.float64) * (2.0, -1.0, 0.1) + 5.0


def mixed(factors):
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    return (perfect(factors) - 5.0) / (2.0, 2.0, 0.2) @ turn


def noise(factors):
    return np.random.default_rng(1).normal(size=(len(factors), 3))


def scores(codes):
    votes, points = SMALL
    return (
        disentangle.mig(codes, WORLD, n=5000).value,
        disentangle.factor_vae_score(codes, WORLD, **votes).value,
        disentangle.beta_vae_score(codes, WORLD, **points).value,
    )


def test_the_factors_themselves_are_perfect():
    assert scores(perfect) == pytest.approx((1.0, 1.0, 1.0), abs=0.01)  # chance tells a little
    with_a_dead_one = lambda f: np.pad(perfect(f), ((0, 0), (1, 0)))  # noqa: E731
    assert scores(with_a_dead_one) == pytest.approx((1.0, 1.0, 1.0), abs=0.01)


def test_noise_knows_nothing():
    gap, vote, linear = scores(noise)
    assert gap < 0.01
    assert abs(vote - 1 / 3) < 0.15 and abs(linear - 1 / 3) < 0.15


def test_mixed_factors_are_in_between():
    assert 0.1 < disentangle.mig(mixed, WORLD, n=5000).value < 0.6


def test_two_dimensions_with_the_same_factor_have_no_gap():
    """The gap sees completeness: a second dimension that says as much undoes the first."""
    found = disentangle.mig(lambda f: np.repeat(perfect(f), 2, axis=1), WORLD, n=500)
    assert found.value == pytest.approx(0.0, abs=1e-9)
    assert found.n == 500 and found.protocol.startswith("posterior means in 20 equal bins, 500")


def test_information_is_that_of_the_counts():
    """z = 0 0 0 1, v = 0 0 1 1: MI = sum p log(p / p p), by hand."""
    z, v = np.asarray([[0.0, 7.0, 3.0, 1.0]] * 2).T * 0, np.asarray([[0], [0], [1], [1]])
    z[:, 0] = [0.0, 0.0, 0.0, 1.0]
    information, entropy = disentangle.mutual_information(z, v, bins=2)
    want = 0.5 * np.log(0.5 / (0.75 * 0.5)) + 0.25 * np.log(0.25 / (0.75 * 0.5))
    want += 0.25 * np.log(0.25 / (0.25 * 0.5))
    np.testing.assert_allclose(information, [[want], [0.0]], atol=1e-12)
    np.testing.assert_allclose(entropy, np.log(2.0))
    np.testing.assert_allclose(disentangle.gaps(z, v, 2), want / np.log(2.0))


def test_equal_bins_of_a_uniform_code_are_a_closed_form():
    """Of 40 values in 20 bins, two to a bin: log 20 of log 40 nats."""
    v = np.tile(np.arange(40), 50)[:, None]
    z = np.concatenate([v + 0.0, 0.0 * v], axis=1)
    np.testing.assert_allclose(disentangle.gaps(z, v), np.log(20) / np.log(40), rtol=1e-9)


def test_codes_are_of_what_training_gave_the_encoder():
    """Bytes with noise: the same for the same factors, another one for others."""
    grey = WORLD._replace(render=lambda factors: factors[:, :2].astype(jnp.float32) / 5.0)

    def encode(params, state, x, cond=None, *, stats="running"):
        return distributions.Normal(x, x)

    model = Model(lambda *_: ({}, {}), (), encode=encode)
    factors = np.asarray([[0, 5, 1], [2, 3, 0], [1, 1, 1]] * 4, np.int32)
    options = {"preprocess": make_preprocess("dequantised"), "batch_size": 4}
    codes = disentangle.codes_of(model, {}, {}, grey, **options)
    found, byte = codes(factors), np.rint(255 * factors[:, :2] / 5)
    noise = 256 * found - byte
    assert ((noise >= -1e-3) & (noise < 1 + 1e-3)).all() and noise.std() > 0.1
    np.testing.assert_array_equal(found, codes(factors))
    assert (found[0] != found[3]).all()
    other = disentangle.codes_of(model, {}, {}, grey, **options, seed=1)(factors)
    assert (other != found).all()
    plain = disentangle.codes_of(model, {}, {}, grey)(factors)
    np.testing.assert_allclose(plain, factors[:, :2] / 5, rtol=1e-6)


def test_codes_of_a_model_are_its_means_whatever_the_batches():
    class Point:
        def __init__(self, mean):
            self.mean = mean

    def encode(params, state, x, cond=None, *, stats="running"):
        return Point(x * params)

    model = Model(init=lambda rng, batch: ({}, {}), encode=encode)
    factors = disentangle.draw(np.random.default_rng(0), WORLD, 7)
    for size in (3, 100):
        found = disentangle.codes_of(model, jnp.asarray(2.0), {}, WORLD, batch_size=size)(factors)
        np.testing.assert_array_equal(found, 2.0 * factors)
    with pytest.raises(UserError, match="does not encode"):
        disentangle.codes_of(model._replace(encode=None), {}, {}, WORLD)


@pytest.mark.parametrize("name", ["mig", "factor_vae_score", "beta_vae_score"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_means_that_are_not_finite_are_no_code(name, value):
    """Not even in one dimension of one example, which would else be taken for a dead dimension."""

    def broken(factors):
        means = np.array(perfect(factors))
        means[0, 0] = value
        return means

    with pytest.raises(UserError, match="means are not finite"):
        getattr(disentangle, name)(broken, WORLD)


def test_what_is_refused():
    with pytest.raises(UserError, match="larger latent_dim"):
        disentangle.mig(lambda f: perfect(f)[:, :1], WORLD, n=50)
    with pytest.raises(UserError, match="has one value only"):
        disentangle.gaps(np.zeros((4, 2)), np.zeros((4, 1), int))
    with pytest.raises(UserError, match="the posterior has collapsed"):
        disentangle.factor_vae_score(lambda f: np.zeros((len(f), 2)), WORLD)
