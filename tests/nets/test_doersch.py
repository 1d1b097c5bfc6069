"""The tutorial's nets: their sizes, how they start, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.nets import completion_nets, completion_regressor, tutorial_vae

KEY = jax.random.key(0)


def count(net, *inputs):
    inputs = [None if n is None else jax.ShapeDtypeStruct((2, n), jnp.float32) for n in inputs]
    params, state = jax.eval_shape(net.init, KEY, *inputs)
    assert state == {}
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_sizes_are_those_of_the_released_nets():
    encoder, decoder = tutorial_vae((28, 28, 1))
    assert (count(encoder, 784), count(decoder, 30)) == (1_425_810, 1_419_034)
    encoder, decoder, condition = completion_nets(756)
    of_condition = 28 * 1000 + 1000 + 1000 * 500 + 500 + 500 * 250 + 250 + 250 * 250 + 250
    assert count(condition, 28) == of_condition
    assert count(encoder, 756, 750) == 1_425_810 - 28 * 1000
    assert count(decoder, 30, 750) == 1_419_034 - 28 * 1001
    behind = 250 * 500 + 500 + 500 * 1000 + 1000 + 1000 * 756 + 756
    assert count(completion_regressor(756), 28) == of_condition + behind


def test_weights_start_sparse_as_caffe_draws_them():
    encoder, _ = tutorial_vae(40, widths=(300, 100, 10), latent_dim=20)
    params, _ = jax.jit(encoder.init)(KEY, jnp.zeros((2, 40)))
    for name, outputs in (("hidden1", 300), ("hidden2", 100)):
        kernel = np.asarray(params[name]["kernel"])
        share = np.mean(kernel != 0)
        assert share == pytest.approx(15 / outputs, rel=0.1)
        assert kernel[kernel != 0].std() == pytest.approx(0.1, rel=0.1)
    for name in ("hidden3", "mean", "log_sd"):  # 10 outputs are fewer than 15; the heads are dense
        kernel = np.asarray(params[name]["kernel"])
        assert (kernel != 0).all() and kernel.std() == pytest.approx(0.1, rel=0.2)
    assert not any(np.any(layer["bias"]) for layer in params.values())


def test_sizes_that_no_net_has():
    with pytest.raises(UserError, match="three hidden widths, not 2"):
        completion_nets(756, widths=(10, 10))
    with pytest.raises(UserError, match="a layer's width must be at least 1"):
        completion_regressor(756, widths=(10, 10, 0))
    with pytest.raises(UserError, match="a side of the data must be at least 1"):
        completion_regressor(0)
    with pytest.raises(UserError, match="latent_dim must be at least 1"):
        tutorial_vae(4, latent_dim=0)
