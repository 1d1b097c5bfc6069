"""What one does with a model: the square between four examples, and whose moments BatchNorm has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import models
from jaxvae.errors import UserError
from jaxvae.models import verbs
from jaxvae.types import Batch
from small import SHAPE, normed

MODEL = normed(likelihood="gaussian")
X = jnp.asarray(np.random.default_rng(0).random((8, *SHAPE), dtype=np.float32))
PARAMS, STATE = MODEL.init(jax.random.key(0), Batch(X))


def test_a_square_is_the_papers_mixture_of_its_corners():
    """z_m = z_a (1 - i/7)(1 - j/7) + z_b j/7 (1 - i/7) + z_c (1 - j/7) i/7 + z_d i/7 j/7."""
    rows = models.interpolate_square(MODEL, PARAMS, STATE, Batch(X[:4]))
    assert rows.shape == (8, 8, *SHAPE)
    za, zb, zc, zd = np.asarray(MODEL.encode(PARAMS, STATE, X[:4]).mean, np.float64)
    for i, j in ((0, 0), (0, 7), (7, 0), (7, 7), (2, 5), (6, 1)):
        z = za * (1 - i / 7) * (1 - j / 7) + zb * j / 7 * (1 - i / 7)
        z += zc * (1 - j / 7) * i / 7 + zd * i / 7 * j / 7
        x = MODEL.decode(PARAMS, STATE, jnp.asarray(z, jnp.float32)[None]).mean
        np.testing.assert_allclose(rows[i, j], x[0], atol=1e-5)
    corners = models.reconstruct(MODEL, PARAMS, STATE, Batch(X[:4]))
    np.testing.assert_allclose(rows[[0, 0, 7, 7], [0, 7, 0, 7]], corners, atol=1e-5)
    assert models.interpolate_square(MODEL, PARAMS, STATE, Batch(X[:4]), 3).shape[:2] == (3, 3)
    for batch, points, message in (
        (Batch(X[:3]), 8, "a square has four corners, not 3 examples"),
        (Batch(X[:4]), 1, "points must be"),
    ):
        with pytest.raises(UserError, match=message):
            models.interpolate_square(MODEL, PARAMS, STATE, batch, points)


@pytest.mark.parametrize(
    "verb",
    [
        lambda **stats: verbs.reconstruct(MODEL, PARAMS, STATE, Batch(X), **stats),
        lambda **stats: verbs.interpolate(MODEL, PARAMS, STATE, Batch(X), Batch(X), 2, **stats),
        lambda **stats: verbs.interpolate_square(MODEL, PARAMS, STATE, Batch(X[:4]), 2, **stats),
    ],
    ids=["reconstruct", "interpolate", "interpolate_square"],
)
def test_every_verb_has_the_statistics_that_it_is_told(verb):
    usual, running = verb(), verb(stats="running")
    np.testing.assert_array_equal(usual, running)
    assert np.abs(verb(stats="batch") - running).max() > 1e-3
    with pytest.raises(UserError, match="are a state, not a mode"):
        verb(stats="reestimated")


def test_a_traversal_of_one_example_has_no_moments_of_its_own():
    with pytest.raises(UserError, match="more than one value per channel"):
        verbs.traverse(MODEL, PARAMS, STATE, Batch(X[:1]), 2, 3, stats="batch")


def test_reconstructions_in_batch_mode_are_those_of_the_batchs_own_moments():
    z = MODEL.encode(PARAMS, STATE, X, stats="batch").mean
    want = MODEL.decode(PARAMS, STATE, z, stats="batch").mean
    np.testing.assert_array_equal(
        verbs.reconstruct(MODEL, PARAMS, STATE, Batch(X), stats="batch"), want
    )


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (lambda *of: verbs.reconstruct(*of, X), "batch must be a Batch, not .*: Batch"),
        (lambda *of: verbs.interpolate(*of, Batch(X), X), "end must be a Batch"),
        (lambda *of: verbs.interpolate(*of, Batch(X), Batch(X[:3])), "8 starts and 3 ends are no"),
        (lambda *of: verbs.interpolate_square(*of, X[:4]), "corners must be a Batch"),
        (lambda *of: verbs.traverse(*of, X, 2), "example must be a Batch"),
    ],
)
def test_arrays_and_batches_that_are_no_pairs(verb, message):
    with pytest.raises(UserError, match=message):
        verb(MODEL, PARAMS, STATE)
