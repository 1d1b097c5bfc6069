"""The net of the Wasserstein auto-encoder's CelebA runs: parameters to the unit, what does not
fit."""

import pytest

from abstract import assert_sigmoid_of_logits, sizes
from jaxvae import nets
from jaxvae.errors import UserError


def test_parameters():
    """The published number counts the decoder's log gamma, which here is a group of its own."""
    want = (25_607_296, 21_475_332 - 1, (2, 128), (2, 64, 64, 3))
    assert sizes(nets.wae(), (64, 64, 3), 64) == want


def test_outputs_of_the_decoder():
    assert_sigmoid_of_logits(lambda **o: nets.wae((8, 8, 1), latent_dim=3, shrink=64, **o))


def test_images_whose_sides_8_does_not_divide():
    with pytest.raises(UserError, match="sides 8 divides"):
        nets.wae((28, 28, 1))
