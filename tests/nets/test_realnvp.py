"""The net of a coupling: its size, its start, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.nets import coupling


def test_it_starts_at_zero_with_the_reports_number_of_parameters():
    net = coupling((28, 28, 1))
    x = jnp.ones((2, 28, 28, 1))
    params, state = jax.eval_shape(net.init, jax.random.key(0), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 3_460_640
    assert state == {}
    small = coupling((4, 6, 1), hidden=(8,))
    params, state = small.init(jax.random.key(0), x[:, :4, :6])
    y, _ = small.apply(params, state, x[:, :4, :6], train=True)
    np.testing.assert_array_equal(y, np.zeros((2, 2, 4, 6, 1)))
    assert np.any(params["Dense_0"]["bias"] != 0)


def test_the_first_half_of_its_outputs_is_the_scale():
    net, x = coupling(3, hidden=()), jnp.asarray([[1.0, 2.0, 4.0]])
    params, state = net.init(jax.random.key(0), x)
    params["out"]["bias"] = jnp.arange(6.0)
    y, _ = net.apply(params, state, x, train=False)
    np.testing.assert_array_equal(y, [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (4, 0, 1)}, "a side of the data must be at least 1"),
        ({"shape": 4, "hidden": (0,)}, "a layer's width must be at least 1"),
        ({"shape": 4, "dtype": jnp.bfloat16}, "need float32 or float64, not bfloat16"),
    ],
)
def test_what_it_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        coupling(**options)
