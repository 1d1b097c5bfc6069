"""Linen modules of others: what they must take is said in a sentence."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxvae.errors import UserError
from jaxvae.nets import from_linen

X = jnp.ones((2, 3))


class Encoder(nn.Module):
    """A module as users of Flax write it."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x)


class Dropping(nn.Module):
    """A net with Linen's own dropout."""

    @nn.compact
    def __call__(self, x, *, cond=None, train):
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


class Anything(nn.Module):
    """A net that takes more than it must."""

    @nn.compact
    def __call__(self, x, train=False, **options):
        return nn.Dense(2)(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            Encoder,
            r"an instance of a flax.linen Module, such as Encoder\(\), not the class Encoder",
        ),
        (jnp.tanh, "an instance of a flax.linen Module"),
        (
            Encoder(),
            r"Encoder cannot be called as a net \(.*\): define __call__\(self, x, \*, cond=None, train\)",
        ),
    ],
)
def test_what_is_no_net(module, message):
    with pytest.raises(UserError, match=message):
        from_linen(module)


def test_a_module_may_take_more():
    net = from_linen(Anything())
    params, state = net.init(jax.random.key(0), X)
    assert net.apply(params, state, X, train=True)[0].shape == (2, 2)


def test_dropout_of_linen_needs_a_key_that_evaluation_does_not_have():
    net = from_linen(Dropping())
    params, state = net.init(jax.random.key(0), X)
    assert net.apply(params, state, X, rng=jax.random.key(1), train=True)[0].shape == (2, 2)
    with pytest.raises(UserError, match="use nets.layers.Dropout instead of Linen's"):
        net.apply(params, state, X, train=True)


@pytest.mark.parametrize(("cond", "word"), [(None, "without"), (jnp.ones((2, 1)), "with")])
def test_parameters_of_another_net_are_told_with_their_condition(cond, word):
    net = from_linen(Anything())
    params, state = net.init(jax.random.key(0), X)
    with pytest.raises(UserError, match=rf"for inputs of shape \(4,\) {word} a condition"):
        net.apply(params, state, jnp.ones((2, 4)), cond=cond, train=False)
