"""How many layers a net may have: counted as they are traced."""

import jax
import jax.numpy as jnp
import pytest

from jaxvae import nets


def start(hidden):
    net = nets.mlp(hidden, 2)
    return jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 3)))[0]


def test_a_net_of_too_many_layers_is_not_traced_to_its_end():
    with nets.at_most(20):
        assert len(start((4,) * 5)) == 6
        with pytest.raises(nets.TooManyLayers, match="more than 20 layers"):
            start((4,) * 100_000)
    assert len(start((4,) * 30)) == 31  # outside


def test_all_nets_of_a_block_are_counted_together():
    with nets.at_most(20), pytest.raises(nets.TooManyLayers):
        [start((4,) * 5) for _ in range(20)]
