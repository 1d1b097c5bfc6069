"""The VQ-VAE's nets: sizes, and a net of codes that sees only what comes before."""

import jax
import numpy as np
import pytest

from abstract import abstract, count
from jaxvae import nets
from jaxvae.errors import UserError


@pytest.mark.parametrize(
    ("shape", "positions"), [((28, 28, 1), (7, 7)), ((9, 6, 3), (3, 2)), ((8, 8, 2), (2, 2))]
)
def test_shapes(shape, positions):
    encoder, decoder, found = nets.vq_nets(shape, 6, channels=8)
    assert found == positions
    assert abstract(encoder, (2, *shape))[2] == (2, *positions, 6)
    assert abstract(decoder, (2, *positions, 6))[2] == (2, *shape)


def test_parameters_are_those_of_the_layers():
    encoder, decoder, _ = nets.vq_nets((28, 28, 1), 64, channels=128)
    block = 9 * 128 * 32 + 32 + 32 * 128 + 128
    first, second = 16 * 1 * 64 + 64, 16 * 64 * 128 + 128
    want = first + second + (9 * 128 * 128 + 128) + 2 * block + (128 * 64 + 64)
    assert count(abstract(encoder, (2, 28, 28, 1))[0]) == want
    want = (9 * 64 * 128 + 128) + 2 * block + (16 * 128 * 64 + 64) + (16 * 64 * 1 + 1)
    assert count(abstract(decoder, (2, 7, 7, 64))[0]) == want


def test_the_causal_net_sees_what_comes_before_alone():
    """d logits_i / d code_j is 0 for j >= i in the order of reading, and not for the one before."""
    net = nets.masked_conv(3, channels=5, blocks=2)
    x = jax.random.normal(jax.random.key(1), (1, 3, 3, 3))
    params, state = net.init(jax.random.key(0), x)
    jacobian = jax.jit(jax.jacrev(lambda x: net.apply(params, state, x, train=True)[0].sum(-1)))(x)
    effect = np.abs(np.asarray(jacobian)[0, :, :, 0].reshape(9, 9, 3)).sum(axis=-1)
    assert np.all(effect[np.triu_indices(9)] == 0.0)
    assert np.all(effect[np.arange(1, 9), np.arange(8)] > 0.0)


def test_what_is_refused():
    with pytest.raises(UserError, match="halvings must be at least 1"):
        nets.vq_nets((8, 8, 1), halvings=0)
    with pytest.raises(UserError, match="the vq net needs images"):
        nets.vq_nets((8, 8))
    with pytest.raises(UserError, match="codes must be at least 2"):
        nets.masked_conv(1)
