"""What auroc compares, and what it refuses to."""

import numpy as np
import pytest

from jaxvae import data
from jaxvae.errors import UserError
from jaxvae.presets import detect
from jaxvae.presets.config import System
from small import small

SYSTEM = System(small())


def source(name, n=20, shape=(4, 4, 1), split="test"):
    return data.from_arrays(np.zeros((n, *shape), np.uint8), name=name, split=split)


def test_training_examples_are_as_many_as_there_are_inside():
    train = source("ours", 50, split="train")
    found = detect.sets(SYSTEM, source("ours"), source("theirs"), train, convert=False)
    assert (found.train.size, found.inside.size, found.outside.size) == (20, 20, 20)
    few = source("ours", 5, split="train")
    assert detect.sets(SYSTEM, source("ours"), source("theirs"), few, convert=False).train.size == 5


def test_other_images_are_converted_where_that_is_asked_for():
    theirs = source("theirs", shape=(8, 6, 3))
    found = detect.sets(SYSTEM, source("ours"), theirs, source("ours"), convert=True)
    assert found.outside.shape == (4, 4, 1)
    assert found.outside.read(np.arange(2))["x"].shape == (2, 4, 4, 1)


@pytest.mark.parametrize(
    ("system", "outside", "convert", "message"),
    [
        (
            System(small()._replace(encode=None)),
            source("theirs"),
            False,
            "lower bound, .* does not encode: use",
        ),
        (System(small(), classes=10), source("theirs"), False, "models without labels"),
        (SYSTEM, source("ours"), False, "choose another data set"),
        (SYSTEM, source("theirs"), True, "has the shape 4x4x1 already: leave out --convert"),
        (SYSTEM, source("theirs", shape=(8, 6, 3)), False, "--convert they become 4x4x1"),
    ],
)
def test_what_cannot_be_compared(system, outside, convert, message):
    with pytest.raises(UserError, match=message):
        detect.sets(system, source("ours"), outside, source("ours"), convert=convert)
