"""Which pixels are given, and the batches that a completion learns from."""

import jax
import numpy as np
import pytest

from jaxvae.data.completion import given_pixels, make_completion
from jaxvae.errors import UserError

GREY = np.random.default_rng(0).integers(0, 256, (200, 4, 6, 1), dtype=np.uint8)


def test_parts():
    centre = given_pixels((28, 28, 1))
    assert centre[:, 13].all() and centre.sum() == 28  # columns 0 to 12 | 13 | 14 to 27
    assert given_pixels((4, 6, 1), column=5).nonzero()[1].tolist() == [5] * 4
    for part, rows, columns in (
        ("left", slice(None), slice(0, 3)),
        ("right", slice(None), slice(3, 6)),
        ("top", slice(0, 2), slice(None)),
        ("bottom", slice(2, 4), slice(None)),
    ):
        mask = given_pixels((4, 6, 3), part)
        assert mask[rows, columns].all() and mask.sum() == 12
    assert given_pixels((3, 5, 1), "right").sum() == 6 and given_pixels((3, 5, 1), "top").sum() == 5


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 6, 1), {"column": 6}, "no column 6: images of width 6 have the columns 0 to 5"),
        ((4, 6, 1), {"column": -1}, "column must be at least 0"),
        ((4, 6, 1), {"part": "left", "column": 2}, "goes with part='column'"),
        ((4, 6, 1), {"part": "middle"}, "unknown part 'middle'"),
        ((24,), {}, "only images"),
        ((4, 1, 1), {}, "nothing left beside"),
        ((1, 4, 1), {"part": "top"}, "nothing left beside"),
    ],
)
def test_parts_that_do_not_exist(shape, options, message):
    with pytest.raises(UserError, match=message):
        given_pixels(shape, **options)


def batch(pixels="grey", given="binarised", rng=0):
    preprocess = make_completion(given_pixels((4, 6, 1), column=2), pixels, given)
    x, cond = jax.jit(preprocess)(jax.random.key(rng), {"x": GREY})
    return np.asarray(x), np.asarray(cond)


def test_the_condition_is_the_given_part_and_the_image_shows_it():
    missing = [0, 1, 3, 4, 5]
    for given in ("binarised", "grey"):
        x, cond = batch(given=given)
        assert not cond[:, :, missing].any()
        np.testing.assert_array_equal(x[:, :, 2], cond[:, :, 2])
        np.testing.assert_allclose(x[:, :, missing], GREY[:, :, missing] / 255.0, rtol=1e-6)
    np.testing.assert_allclose(cond[:, :, 2], GREY[:, :, 2] / 255.0, rtol=1e-6)


def test_given_pixels_are_drawn_with_their_intensity_and_anew_at_every_visit():
    _, first = batch()
    _, second = batch(rng=1)
    assert set(np.unique(first)) == {0.0, 1.0} and (first != second).any()
    draws = np.mean([batch(rng=i)[1][:, :, 2] for i in range(40)], axis=0)
    grey = GREY[:, :, 2] / 255.0
    assert np.abs(draws - grey).mean() < 0.08  # 0.06 is the mean error of 40 coins
    assert not draws[grey == 0].any()


def test_binarised_images_give_their_own_pixels():
    x, cond = batch(pixels="binarised")
    assert set(np.unique(x)) == {0.0, 1.0}
    np.testing.assert_array_equal(x[:, :, 2], cond[:, :, 2])


def test_what_cannot_be_completed():
    mask = given_pixels((4, 6, 1))
    with pytest.raises(UserError, match="unknown given pixels 'gray'"):
        make_completion(mask, given="gray")
    for wrong in (mask.T, mask.astype(int)):
        with pytest.raises(UserError, match=r"must be bool \[H, W\]"):
            make_completion(wrong)(jax.random.key(0), {"x": GREY})
    with pytest.raises(UserError, match="some be missing"):
        make_completion(np.ones((4, 6), bool))(jax.random.key(0), {"x": GREY})
