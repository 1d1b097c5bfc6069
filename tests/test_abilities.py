"""What a distribution can do shows in its form, of ours and of a user's."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import abilities, distributions, types
from jaxvae.distributions import AR1Normal, Bernoulli, Normal, ReleasedAR1

pytestmark = pytest.mark.smoke


class Standalone(NamedTuple):
    """A distribution of a user's: nothing derives from the contracts."""

    mean: jax.Array

    def sample(self, rng):
        return self.mean

    def log_prob(self, x):
        return jnp.zeros(len(x))

    def kl(self):
        return jnp.sum(jnp.square(self.mean), axis=-1)


class OwnPenalty(NamedTuple):
    mean: jax.Array
    variance: jax.Array

    def kl(self):
        return jnp.zeros(len(self.mean))

    def penalty(self, z, batch_size=None):
        return jnp.ones(len(z))

    def metrics(self):
        return {"own": jnp.ones(len(self.mean))}


def abilities_of(dist) -> set[str]:
    return {
        kind.__name__
        for kind in (
            abilities.Distribution,
            abilities.HasKL,
            abilities.HasKLPerDim,
            abilities.HasMean,
            abilities.HasVariance,
            abilities.HasPenalty,
            abilities.HasMetrics,
            abilities.HasFields,
        )
        if isinstance(dist, kind)
    }


def test_what_a_distribution_can_do_shows_in_its_form():
    every = {"Distribution", "HasMean", "HasFields"}
    row, column = jnp.zeros((2, 3)), jnp.zeros((2, 1))
    assert abilities_of(Normal(row, row)) == every | {"HasKL", "HasKLPerDim", "HasVariance"}
    assert abilities_of(Bernoulli(row)) == every
    assert abilities_of(AR1Normal(row, column, column)) == every | {
        "HasKL",
        "HasVariance",
        "HasMetrics",
    }
    assert abilities_of(ReleasedAR1(row, column, column)) == every | {
        "HasKL",
        "HasVariance",
        "HasMetrics",
        "HasPenalty",
    }
    assert abilities_of(Standalone(row)) == every | {"HasKL"}
    assert abilities_of(jax.eval_shape(lambda: Standalone(row))) == every | {"HasKL"}


def test_the_contracts_have_them_under_the_same_names():
    classes = [value for value in vars(abilities).values() if isinstance(value, type)]
    kinds = [kind for kind in classes if kind.__module__ == abilities.__name__]
    assert len(kinds) == 10
    assert all(getattr(types, kind.__name__) is kind for kind in kinds)


def test_abilities_of_a_distribution_of_ones_own_are_found():
    q, z = OwnPenalty(jnp.zeros((2, 3)), jnp.ones((2, 3))), jnp.zeros((2, 3))
    np.testing.assert_array_equal(distributions.penalty(q, z), [1.0, 1.0])
    np.testing.assert_array_equal(distributions.metrics(q)["own"], [1.0, 1.0])
    plain = Standalone(jnp.ones((2, 3)))
    np.testing.assert_array_equal(distributions.penalty(plain, z), [3.0, 3.0])
    assert distributions.metrics(plain) == {}
