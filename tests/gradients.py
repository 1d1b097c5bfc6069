"""What compares a training step with its transcription in NumPy: an optimiser that keeps the gradient,
noise that is given, and differences along a random direction of each parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import noise

RATE = 0.05  # of the descent that `keeping` takes


def check_gradients(have, loss, params, rng):
    """Compares a gradient with differences of mean `loss(params)`, leaf by leaf."""
    leaves, tree = jax.tree.flatten(params)
    for i, (path, g) in enumerate(jax.tree_util.tree_leaves_with_path(have)):
        direction = rng.normal(size=g.shape)
        direction /= np.linalg.norm(direction)
        sides = []
        for step in (1e-6, -1e-6):
            moved = [*leaves[:i], leaves[i] + step * direction, *leaves[i + 1 :]]
            sides.append(loss(tree.unflatten(moved)).mean())
        want = (sides[0] - sides[1]) / 2e-6
        found = (np.asarray(g, np.float64) * direction).sum()
        name, size = jax.tree_util.keystr(path), float(np.linalg.norm(g))
        assert size > 1e-7, name
        assert found == pytest.approx(want, rel=2e-3, abs=1e-6 + 5e-4 * size), name


def keeping() -> optax.GradientTransformation:
    """Returns plain descent that keeps the gradient as its state."""

    def update(updates, state, params=None):
        return jax.tree.map(lambda g: -RATE * g, updates), updates

    return optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), update)


def given(monkeypatch, eps):
    """Makes `noise.normal` hand out the draws of one step, again and again."""
    drawn = []

    def normal(rng, shape, dtype=jnp.float32, *, batch_axis=0):
        drawn.append(shape)
        return jnp.asarray(eps[(len(drawn) - 1) % len(eps)], dtype)

    monkeypatch.setattr(noise, "normal", normal)
    return drawn
