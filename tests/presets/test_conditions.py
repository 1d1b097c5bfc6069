"""What samples are conditioned on: classes in turn, or what examples show."""

import jax.numpy as jnp
import numpy as np

from jaxvae.data.preprocess import make_preprocess
from jaxvae.presets import conditions
from jaxvae.presets.config import System
from jaxvae.types import Batch
from small import small


def test_conditions_go_round():
    cond = jnp.arange(12.0).reshape(12, 1)
    np.testing.assert_array_equal(
        conditions.of_examples(Batch(cond, cond), 10)[:, 0], [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    )
    assert conditions.of_examples(Batch(cond), 10) is None
    assert np.argmax(conditions.of_classes(3, 5), -1).tolist() == [0, 1, 2, 0, 1]
    assert np.argmax(conditions.of_classes(3, 2, 1), -1).tolist() == [1, 1]


def test_samples_are_of_every_class_of_what_examples_show_or_of_nothing():
    batch = Batch(jnp.zeros((4, 2)), jnp.arange(4.0).reshape(4, 1))
    plain = System(small())
    assert conditions.of_samples(plain, batch, 3) is None
    of_classes = conditions.of_samples(plain._replace(classes=2), batch, 3)
    np.testing.assert_array_equal(of_classes, [[1, 0], [0, 1], [1, 0]])
    shown = conditions.of_samples(plain._replace(on_examples="a column"), batch, 6)
    np.testing.assert_array_equal(shown[:, 0], [0, 1, 2, 3, 0, 1])


def test_a_batch_like_a_runs_holds_no_arrays():
    labelled = make_preprocess(num_classes=3)
    batch = conditions.example_like(labelled, (4, 4, 1), 3)
    assert (batch.x.shape, batch.x.dtype, batch.cond.shape) == ((2, 4, 4, 1), "float32", (2, 3))
    assert conditions.example_like(make_preprocess(), (4, 4, 1), None).cond is None
