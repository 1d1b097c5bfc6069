"""Spectral norm against NumPy's singular values, and one power iteration by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import nets
from jaxvae.nets.layers import Conv, Dense

RNG = jax.random.key(0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Dense(7, "normal0.02", spectral_norm=True), (2, 5)),
        (Conv(6, 4, 2, init_name="cut0.02", spectral_norm=True), (2, 8, 8, 3)),
    ],
    ids=["dense", "conv"],
)
def test_spectral_norm(layer, shape):
    """Power iterations reach NumPy's largest singular value; an evaluation uses the stored vectors
    and keeps them."""
    net = nets.from_linen(layer_of(layer))
    x = jax.random.normal(RNG, shape)
    params, state = net.init(RNG, x)
    kernel = np.asarray(params["layer"]["kernel"])
    params["layer"]["bias"] = params["layer"]["bias"] + 0.5
    sigma = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
    for _ in range(200):
        y, state = net.apply(params, state, x, train=True)
    plain = layer.clone(spectral_norm=False)
    want = (
        np.asarray(plain.apply({"params": params["layer"]}, x)) - 0.5
    ) / sigma + 0.5  # the bias is not divided
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=1e-6)
    again, kept = net.apply(params, state, x, train=False)
    np.testing.assert_allclose(again, y, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    vectors = state["spectral_norm"]["layer"]
    assert np.linalg.norm(vectors["u"]) == pytest.approx(1.0, abs=1e-5)


def test_one_power_iteration_by_hand():
    layer = Dense(3, "normal0.02", spectral_norm=True)
    net, x = nets.from_linen(layer_of(layer)), jax.random.normal(RNG, (2, 4))
    params, state = net.init(RNG, x)
    w, u = (
        np.asarray(params["layer"]["kernel"], np.float64),
        np.asarray(state["spectral_norm"]["layer"]["u"], np.float64),
    )
    y, new = net.apply(params, state, x, train=True)
    v = w.T @ u / np.linalg.norm(w.T @ u)
    u = w @ v / np.linalg.norm(w @ v)
    np.testing.assert_allclose(y, np.asarray(x) @ w / (u @ w @ v), rtol=1e-5)
    np.testing.assert_allclose(new["spectral_norm"]["layer"]["u"], u, rtol=1e-5)

    def through(kernel):  # no gradient through u and v: d sigma / dW = u v'
        return jnp.sum(
            net.apply({"layer": {**params["layer"], "kernel": kernel}}, state, x, train=True)[0]
        )

    sigma, ones = u @ w @ v, np.asarray(x, np.float64).sum(0)[:, None] * np.ones((1, 3))
    want = ones / sigma - np.sum(ones * w) / sigma**2 * np.outer(u, v)
    np.testing.assert_allclose(jax.grad(through)(params["layer"]["kernel"]), want, rtol=1e-4)


def test_released_code_iterates_in_evaluation_too():
    """One iteration more than is kept, by hand; the state stays."""
    x = jax.random.normal(RNG, (2, 4))
    net = nets.from_linen(layer_of(Dense(3, "normal0.02", spectral_norm="released")))
    params, state = net.init(RNG, x)
    w, u = (
        np.asarray(params["layer"]["kernel"], np.float64),
        np.asarray(state["spectral_norm"]["layer"]["u"], np.float64),
    )
    v = w.T @ u / np.linalg.norm(w.T @ u)
    sigma = np.linalg.norm(w @ v)  # u' W v with the new u
    y, kept = net.apply(params, state, x, train=False)
    np.testing.assert_allclose(y, np.asarray(x) @ w / sigma, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    stored = nets.from_linen(layer_of(Dense(3, "normal0.02", spectral_norm=True)))
    assert np.max(np.abs(stored.apply(params, state, x, train=False)[0] - y)) > 1e-4
    train = [of.apply(params, state, x, train=True) for of in (net, stored)]
    jax.tree.map(np.testing.assert_array_equal, *train)


def layer_of(layer):
    import flax.linen as nn

    class Alone(nn.Module):
        @nn.compact
        def __call__(self, x, *, cond=None, train=False):
            return layer.clone(name="layer", parent=self)(x, train=train)

    return Alone()
