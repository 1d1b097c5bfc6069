"""What a training looks at before it begins: one program, no program for shapes, every label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.data.preprocess import make_preprocess
from jaxvae.errors import UserError
from jaxvae.train import example
from jaxvae.types import Batch
from small import source


def programs(caplog, function):
    """Returns how many programs a call compiles."""
    caplog.clear()
    with jax.log_compiles():
        function()
    return sum(line.getMessage().startswith("Compiling ") for line in caplog.records)


def labelled(label):
    known = source()._replace(num_classes=None)  # the source itself looks at none
    known.arrays["label"] = np.resize(label, known.size).astype(np.int32)
    return known


def test_a_first_batch_is_that_of_its_preprocessing():
    data, preprocess = labelled([3, 9, 0]), make_preprocess("dequantised", num_classes=10)
    found = example.first_batch(data, preprocess, 4)
    examples = data.read(example.first_indices(data, 4))
    want = preprocess(jax.random.key(0), examples)
    assert jax.tree.map(lambda x: (type(x), x.dtype), found) == jax.tree.map(
        lambda x: (type(x), x.dtype), want
    )
    jax.tree.map(np.testing.assert_array_equal, found, want)
    shape = example.batch_shape(data, preprocess, 4)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), found) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shape
    )


def test_a_batch_is_one_program_and_its_shape_and_its_labels_are_none(caplog):
    data, preprocess = labelled([1, 2]), make_preprocess(num_classes=10)
    assert programs(caplog, lambda: example.first_batch(data, preprocess, 6)) == 1
    assert programs(caplog, lambda: example.batch_shape(data, preprocess, 6)) == 0
    assert programs(caplog, lambda: example.check_labels(data, preprocess, 6)) == 0


@pytest.mark.parametrize(("worst", "said"), [(10, "a label 10"), (-1, "a label -1")])
def test_one_label_out_of_range_is_enough(worst, said):
    label = np.arange(64) % 10
    label[40] = worst
    data = labelled(label)
    with pytest.raises(UserError, match=said):
        example.check_labels(data, make_preprocess(num_classes=10), 4)
    example.check_labels(data, make_preprocess(), 4)  # nobody asks for labels
    label[0] = worst  # one of the first batch
    with pytest.raises(UserError, match=said):
        example.first_batch(labelled(label), make_preprocess(num_classes=10), 4)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("hello", r"batch must be a Batch, not str: Batch\(x\), or Batch\(x, cond\)"),
        (Batch("hello"), r"x must be an array \[batch, \.\.\.\], not str"),
        (None, "batch must be a Batch, not NoneType"),
    ],
)
def test_what_is_no_batch_is_said(returned, said):
    def preprocess(rng, examples):
        return returned

    for function in (example.first_batch, example.batch_shape):
        with pytest.raises(UserError, match=f"^{said}"):
            function(labelled([0]), preprocess, 4)


def test_floats_show_their_range():
    x = np.full((9, 2, 2, 1), 0.5, np.float32)
    x[5, 0, 0, 0], x[7, 1, 1, 0] = -3.0, 4.0
    data = source()._replace(arrays={"x": x}, size=9, shape=(2, 2, 1), read=lambda i: {"x": x[i]})
    found = example.first_batch(data, make_preprocess(), 4).x
    assert (float(jnp.min(found)), float(jnp.max(found))) == (-3.0, 4.0)
