"""Sizes of nets by jax.eval_shape: nothing is computed."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.types import Batch, Model, Net


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def abstract(net: Net, *shapes: tuple[int, ...]):
    """Returns params and state of `net`, as shapes, and the shape of its output in training."""
    x, cond = (jnp.zeros(shapes[0]), jnp.zeros(shapes[1]) if len(shapes) > 1 else None)

    def run(rng):
        params, state = net.init(rng, x, cond)
        return params, state, net.apply(params, state, x, cond=cond, rng=rng, train=True)[0]

    params, state, y = jax.eval_shape(run, jax.random.key(0))
    assert y.dtype == jnp.float32
    return params, state, y.shape


def sizes(pair, shape, d):
    """Returns (encoder parameters, decoder parameters, encoder output, decoder output) without
    computing anything."""
    encoder, decoder = pair

    def run(rng):
        x, z = jnp.zeros((2, *shape)), jnp.zeros((2, d))
        e, g = encoder.init(rng, x), decoder.init(rng, z)
        return e[0], g[0], encoder.apply(*e, x, train=True)[0], decoder.apply(*g, z, train=True)[0]

    e, g, q, x = jax.eval_shape(run, jax.random.key(0))
    return count(e), count(g), q.shape, x.shape


def assert_sigmoid_of_logits(make):
    """Asserts that the decoder of `make(output="sigmoid")` is the sigmoid of that of "logits"."""
    x, rng = [], jax.random.key(0)
    for output in ("sigmoid", "logits"):
        decoder = make(output=output)[1]
        params, state = decoder.init(rng, jnp.zeros((4, 3)))
        x.append(decoder.apply(params, state, jax.random.normal(rng, (4, 3)), train=False)[0])
    np.testing.assert_allclose(x[0], jax.nn.sigmoid(x[1]), rtol=1e-5)


def parameters_of(model: Model, shape: tuple[int, ...] = (28, 28, 1)) -> int:
    """Returns how many parameters a model has for images of `shape`."""
    return count(jax.eval_shape(model.init, jax.random.key(0), Batch(jnp.zeros((2, *shape))))[0])
