"""The perceptrons of a ladder VAE: sizes, one rung, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abstract import abstract, count
from jaxvae import nets
from jaxvae.errors import UserError

pytestmark = pytest.mark.smoke


def test_sizes_of_three_layers():
    encoder, priors, decoder = nets.ladder((6, 5, 4), (3, 2, 1), (4, 4, 1))
    params, _, y = abstract(encoder, (7, 4, 4, 1))
    rungs = [(16, 6, 3), (6, 5, 2), (5, 4, 1)]
    want = [(n + 1) * h + (h + 1) * h + 2 * (h + 1) * d for n, h, d in rungs]
    assert (count(params), y) == (sum(want), (7, 12))
    assert [abstract(net, (7, d))[2] for net, d in zip(priors, (2, 1), strict=True)] == [
        (7, 6),
        (7, 4),
    ]
    params, _, x = abstract(decoder, (7, 3))
    assert (count(params), x) == (4 * 6 + 7 * 6 + 7 * 16, (7, 4, 4, 1))


def test_one_rung_is_a_perceptron_with_two_heads():
    encoder, priors, _ = nets.ladder((5,), (2,), (3,), depth=1)
    same, x = nets.mlp((5,), 4, heads=2), jnp.ones((2, 3))
    params, state = same.init(jax.random.key(0), x)
    have, want = (net.apply(params, state, x, train=False)[0] for net in (encoder, same))
    np.testing.assert_array_equal(have, want)
    assert priors == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden": (4,)}, "2 layers of latents need as many widths"),
        ({"latent_dims": (0, 1)}, "a layer's latent_dim must be at least 1"),
        ({"hidden": (0, 1)}, "a layer's width must be at least 1"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"act": "swish"}, "unknown activation"),
        ({"init": "he"}, "unknown initialiser"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        nets.ladder(**{"hidden": (4, 4), "latent_dims": (2, 1), "shape": (3,), **given})
