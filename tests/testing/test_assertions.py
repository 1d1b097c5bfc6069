"""Trees are compared leaf by leaf, and a message names the leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.testing import assertions
from jaxvae.types import Mean

TREE = {"w": np.array([1.0, 2.0], np.float32), "rng": jax.random.key(0)}


def test_the_same_tree_is_the_same_close_and_of_one_form():
    for check in (assertions.assert_same, assertions.assert_close, assertions.assert_form):
        check("tree", TREE, {**TREE, "w": jnp.asarray(TREE["w"])})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"w": TREE["w"] * 1.5}, r"tree: at \['w'\]"),
        ({"rng": jax.random.key(1)}, r"tree: at \['rng'\]"),
        ({"b": np.zeros(1)}, r"tree: \[\"\['b'\]\"\] in one of them alone"),
    ],
)
def test_another_tree_is_neither_the_same_nor_close(change, message):
    for check in (assertions.assert_same, assertions.assert_close):
        with pytest.raises(AssertionError, match=message):
            check("tree", {**TREE, **change}, TREE)


def test_rounding_is_close_and_not_the_same():
    rounded = {**TREE, "w": TREE["w"] * np.float32(1.00001)}
    assertions.assert_close("tree", rounded, TREE)
    with pytest.raises(AssertionError, match="tree: at"):
        assertions.assert_same("tree", rounded, TREE)


def test_a_mean_is_compared_by_its_value():
    assertions.assert_close("mean", Mean(jnp.float32(6), jnp.float32(3)), Mean(2.0, 1.0))


def test_values_that_are_not_finite_are_counted():
    with pytest.raises(AssertionError, match=r"loss\['w'\] has 1 of 2 values that are not finite"):
        assertions.assert_finite("loss", {"w": np.array([1.0, np.nan])})


def test_shapes_and_forms_say_what_they_should_be():
    with pytest.raises(AssertionError, match=r"loss has shape \(2,\), must be \(3,\) or \(\)"):
        assertions.assert_shape("loss", TREE["w"], (3,), ())
    with pytest.raises(AssertionError, match=r"state\['w'\] is absent, but init returned"):
        assertions.assert_form("state", {}, {"w": TREE["w"]})
    with pytest.raises(AssertionError, match="shapes: ValueError: no"), assertions.naming("shapes"):
        raise ValueError("no")
