"""Moments of passes and their pool against NumPy over all values at once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.nets import from_linen, has_averages, pool
from jaxvae.nets.layers import BatchNorm, Conv

X = np.random.default_rng(0).normal(2.0, 3.0, (24, 4, 4, 2)).astype(np.float32)


class _Two(nn.Module):
    """BatchNorm, a spectrally normed convolution, BatchNorm inside a module of its own."""

    convention: str

    @nn.compact
    def __call__(self, x, *, cond=None, train):
        h = BatchNorm(convention=self.convention)(x, train=train)
        h = Conv(3, spectral_norm=True)(h, train=train)
        return _Inner(self.convention)(h, train)


class _Inner(nn.Module):
    convention: str

    @nn.compact
    def __call__(self, x, train, cond=None):
        return BatchNorm(convention=self.convention)(x, train=train)


@pytest.mark.parametrize("convention", ["torch", "tensorflow"])
def test_pooled_moments_are_those_of_all_values(convention):
    net = from_linen(_Two(convention))
    params, state = net.init(jax.random.key(0), X)
    assert net.moments is not None and has_averages(state)
    batches = X.reshape(3, 8, 4, 4, 2)
    passes = [net.moments(params, state, batch) for batch in batches]
    pooled = pool([jax.device_get(new) for _, new in passes])
    assert jax.tree.structure(pooled) == jax.tree.structure(state)
    first = pooled["batch_stats"]["BatchNorm_0"]
    values = X.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(first["mean"], values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(first["var"], values.var(axis=0), rtol=1e-6)
    assert (first["var"] > np.mean([b.var(axis=(0, 1, 2)) for b in batches], axis=0)).all()

    # what is no average stays
    for old, new in zip(
        jax.tree.leaves(state["spectral_norm"]),
        jax.tree.leaves(pooled["spectral_norm"]),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("convention", ["torch", "tensorflow"])
def test_evaluation_with_a_pass_of_its_own_is_that_pass(convention):
    net = from_linen(_Inner(convention))
    params, state = net.init(jax.random.key(0), X)
    y, seen = net.moments(params, state, X)
    np.testing.assert_allclose(y, net.apply(params, state, X, train=True)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net.apply(params, seen, X, train=False)[0], y, rtol=1e-5, atol=1e-5)
    assert np.abs(net.apply(params, state, X, train=False)[0] - y).max() > 0.5
    later = net.apply(params, seen, X, train=True)[1]  # training goes on from there
    assert jax.tree.structure(later) == jax.tree.structure(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(later))


class _Plain(nn.Module):
    @nn.compact
    def __call__(self, x, *, cond=None, train):
        return Conv(2)(x)


class _Foreign(nn.Module):
    @nn.compact
    def __call__(self, x, *, cond=None, train):
        return nn.BatchNorm(use_running_average=not train)(x)


def test_a_norm_that_tells_no_moments_is_refused_and_a_net_without_one_keeps_its_state():
    net = from_linen(_Foreign())
    params, state = net.init(jax.random.key(0), X)
    assert net.moments is not None
    with pytest.raises(UserError, match="does not tell its moments: use jaxvae"):
        net.moments(params, state, jnp.asarray(X))
    empty = from_linen(_Plain())
    params, state = empty.init(jax.random.key(0), X)
    assert empty.moments is not None and not has_averages(state)
    y, same = empty.moments(params, state, X)
    assert same == state == {} and y.shape == X.shape
    assert pool([{"encoder": {}}]) == {"encoder": {}}
