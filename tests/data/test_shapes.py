"""Shapes: areas and places that geometry gives, factors that are told apart, draws without end."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.data import shapes
from jaxvae.errors import UserError

SIDE = 64
AREAS = {0: 1.6**2, 1: math.pi / 2}  # square, ellipse, in units of r^2


@pytest.fixture(scope="module")
def drawn():
    """Every rotation of the largest square and ellipse in the middle, and every scale of all shapes
    at the corners."""
    middle = [(kind, 5, turn, 15, 15) for kind in range(3) for turn in range(40)]
    corners = [
        (kind, scale, turn, x, y)
        for kind in range(3)
        for scale in (0, 5)
        for turn in (0, 5)
        for x in (0, 31)
        for y in (0, 31)
    ]
    factors = np.asarray(middle + corners, np.int32)
    return factors, np.asarray(jax.jit(functools.partial(shapes.render, side=SIDE))(factors))


def test_areas_are_those_of_the_shapes_whatever_the_rotation(drawn):
    factors, x = drawn
    assert x.shape == (len(factors), SIDE, SIDE, 1) and set(np.unique(x)) == {0.0, 1.0}
    pixel = (2 / SIDE) ** 2
    for kind, unit in AREAS.items():
        for scale, near in ((0, 0.15), (5, 0.06)):  # small ones are a few dozen pixels
            rows = (factors[:, 0] == kind) & (factors[:, 1] == scale)
            want = unit * (shapes.RADIUS * (0.5 + 0.1 * scale)) ** 2
            np.testing.assert_allclose(x[rows].sum(axis=(1, 2, 3)) * pixel, want, rtol=near)
        turns = (factors[:, 0] == kind) & (
            factors[:, 3] == 15
        )  # of every rotation, near the middle
        found = x[turns].sum(axis=(1, 2, 3)).mean() * pixel
        assert found == pytest.approx(unit * shapes.RADIUS**2, rel=0.02)


def test_shapes_are_where_x_and_y_say_and_never_cut_off(drawn):
    factors, x = drawn
    edge = np.concatenate([x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]], axis=1)
    assert edge.max() == 0.0
    at = (2 * np.arange(SIDE) + 1) / SIDE - 1
    even = factors[:, 0] < 2  # whose centre is that of mass
    mass = x[even, ..., 0]
    total = mass.sum(axis=(1, 2))
    for j, axis in ((3, 1), (4, 2)):
        found = mass.sum(axis=axis) @ at / total
        want = shapes.REACH * (2 * factors[even, j] / 31 - 1)
        np.testing.assert_allclose(found, want, atol=0.02)


def test_the_heart_stands_and_turns(drawn):
    _, x = drawn
    upright, upside_down = x[80, ..., 0], x[100, ..., 0]  # half a turn on
    columns = np.flatnonzero(upright.sum(axis=0))
    body = upright[:, columns[0] : columns[-1] + 1]
    assert np.abs(body[:, ::-1] - body).sum() < 0.15 * body.sum()  # alike but for half a pixel
    rows = np.flatnonzero(upright.sum(axis=1))
    assert upright[rows[-1]].sum() < upright[rows[len(rows) // 3]].sum() / 3  # the tip is below
    assert np.argmax(upside_down.sum(axis=1)) > np.argmax(upright.sum(axis=1))


def test_factors_are_uniform_and_each_changes_the_image():
    factors = np.asarray(shapes.draw_factors(jax.random.key(0), 40_000))
    for j, size in enumerate(shapes.SIZES):
        counts = np.bincount(factors[:, j], minlength=size)
        assert len(counts) == size
        assert np.abs(counts - 40_000 / size).max() < 5 * math.sqrt(40_000 / size)
    base = np.asarray([[1, 3, 10, 16, 16]])
    moved = np.concatenate([base, base + np.eye(5, dtype=int)]).astype(np.int32)
    x = np.asarray(shapes.render(jnp.asarray(moved)))
    assert all(np.abs(x[0] - x[i]).sum() > 4 for i in range(1, 6))


def test_batches_are_drawn_in_the_step():
    source, preprocess = shapes.generated(16)
    assert source.shape == (16, 16, 1) and source.world.sizes == shapes.SIZES
    examples = {"x": jnp.zeros((6, 16, 16, 1))}
    draw = jax.jit(lambda rng: preprocess(rng, examples).x)
    a, b = np.asarray(draw(jax.random.key(0))), np.asarray(draw(jax.random.key(1)))
    assert a.shape == (6, 16, 16, 1) and not np.array_equal(a, b)
    np.testing.assert_array_equal(a, draw(jax.random.key(0)))


def test_what_is_refused():
    with pytest.raises(UserError, match="side must be at least 8"):
        shapes.generated(4)
    with pytest.raises(UserError, match="shapes have 5 factors"):
        shapes.render(jnp.zeros((2, 4), jnp.int32))


def test_the_set_in_memory_is_the_same_at_every_call(monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 1024, "test": 512})
    shapes.read.cache_clear()
    x, label = shapes.read("test")
    assert x.shape == (512, 64, 64, 1) and x.dtype == np.uint8 and set(np.unique(x)) == {0, 255}
    assert set(np.unique(label)) == {0, 1, 2}
    shapes.read.cache_clear()
    np.testing.assert_array_equal(x, shapes.read("test")[0])
    assert not np.array_equal(x, shapes.read("train")[0][:512])
    shapes.read.cache_clear()
