"""The 2-D distributions against the facts of their formulas: supports, moments, symmetry."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import models, nets, parallel
from jaxvae.data import toy2d
from jaxvae.errors import UserError
from jaxvae.train import fit
from small import one_device

N = 20_000


def points(name, n=N, seed=0):
    return np.asarray(
        jax.jit(lambda key: toy2d.draw(name, key, n))(jax.random.key(seed)), np.float64
    )


@pytest.mark.parametrize("name", list(toy2d.TOYS))
def test_shape_range_and_keys(name):
    x = points(name)
    assert x.shape == (N, 2)
    assert np.abs(x).max() <= toy2d.toy(name).half_range
    np.testing.assert_array_equal(x, points(name))
    assert not np.array_equal(x, points(name, seed=1))
    assert toy2d.draw(name, jax.random.key(0), 7).shape == (7, 2)  # odd numbers too
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.06)


def test_eight_gaussians():
    x = points("8gaussians")
    centres = 2 / 1.414 * np.array([[np.cos(a), np.sin(a)] for a in np.arange(8) * np.pi / 4])
    distance = np.linalg.norm(x[:, None] - centres, axis=-1)
    nearest = distance.argmin(axis=1)
    np.testing.assert_allclose(np.bincount(nearest) / N, 1 / 8, atol=0.01)
    np.testing.assert_allclose(
        (x - centres[nearest]).std(axis=0), 0.02 / 1.414, rtol=0.03
    )  # 0.01414


def test_spiral_has_two_arms_of_540_degrees():
    x = points("spiral")
    np.testing.assert_allclose(np.linalg.norm(x, axis=1).max(), 3.4, atol=0.3)
    t = 3 * np.pi * np.sqrt(np.linspace(0, 1, 400))
    arm = np.stack([-t * np.cos(t) + 0.25, t * np.sin(t) + 0.25], axis=1) / 3
    both = np.concatenate([arm, -arm])
    gap = np.linalg.norm(x[:2_000, None] - both, axis=-1).min(axis=1)
    assert np.quantile(gap, 0.99) < 0.4
    radius = np.linalg.norm(x, axis=1)
    assert np.mean(radius > 3.14 / np.sqrt(2)) == pytest.approx(0.5, abs=0.02)  # t^2 is uniform


def test_checkerboard():
    x = points("checkerboard")
    cell = np.floor(x / 2).astype(int)
    assert set(np.unique((cell.sum(axis=1)) % 2)) == {0}
    _, counts = np.unique(cell, axis=0, return_counts=True)
    assert len(counts) == 8
    np.testing.assert_allclose(counts / N, 1 / 8, atol=0.01)


def test_rings():
    x = points("rings")
    radius = np.linalg.norm(x, axis=1)
    centres = np.array([3, 2.25, 1.5, 0.75])
    nearest = np.abs(radius[:, None] - centres).argmin(axis=1)
    np.testing.assert_allclose(np.bincount(nearest) / N, 0.25, atol=0.012)
    for i, r in enumerate(centres):
        np.testing.assert_allclose(radius[nearest == i].mean(), r, atol=0.01)
        np.testing.assert_allclose(radius[nearest == i].std(), 0.08, atol=0.006)


def test_fit_on_drawn_batches():
    """A new batch at every step, a pure function of the seed and the step."""
    seen = []
    model = models.plain_vae(nets.mlp((4,), 4), nets.mlp((4,), 2), latent_dim=2)
    (objective,) = model.objectives

    def loss(params, state, rng, batch, step, carry):
        jax.debug.callback(lambda x, step: seen.append((int(step), np.asarray(x))), batch.x, step)
        return objective.loss(params, state, rng, batch, step, carry)

    spied = model._replace(objectives=(objective._replace(loss=loss),))
    for _ in range(2):
        source, preprocess = toy2d.generated("rings")
        fit(
            spied,
            optax.sgd(1e-3),
            source,
            preprocess=preprocess,
            steps=3,
            batch_size=16,
            mesh=one_device(),
        )
    jax.effects_barrier()
    batches = {}
    for step, x in seen:
        assert x.shape == (16, 2)
        batches.setdefault(step, []).append(x)
    assert sorted(batches) == [0, 1, 2]
    for pair in batches.values():
        np.testing.assert_array_equal(*pair)
    assert not np.array_equal(batches[0][0], batches[1][0])


@pytest.mark.parametrize("name", list(toy2d.TOYS))
def test_eight_mapped_devices_draw_the_batch_of_one(name):
    _, preprocess = toy2d.generated(name)

    def x(rng, rows):
        return preprocess(rng, {"x": rows}).x

    rng, rows = jax.random.key(3), np.zeros((24, 2), np.float32)
    mapped = jax.pmap(x, axis_name=parallel.AXIS, in_axes=(None, 0))(rng, parallel.shard(rows, 8))
    np.testing.assert_allclose(mapped.reshape(24, 2), jax.jit(x)(rng, rows), atol=1e-6)


def test_unknown_names_and_sizes():
    with pytest.raises(UserError, match="unknown 2-D data set 'ring'. Did you mean 'rings'"):
        toy2d.draw("ring", jax.random.key(0), 5)
    with pytest.raises(UserError, match="n must be at least 1"):
        toy2d.draw("rings", jax.random.key(0), 0)
    with pytest.raises(UserError, match="unknown 2-D data set"):
        toy2d.generated("swiss_roll")
    assert jnp.asarray(toy2d.toy("rings").half_range) == 4.0
