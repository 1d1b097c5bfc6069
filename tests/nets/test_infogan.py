"""The InfoGAN-style nets: parameters to the unit, heads, where spectral norm is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abstract import assert_sigmoid_of_logits, sizes
from jaxvae import nets
from jaxvae.errors import UserError

RNG = jax.random.key(0)


def test_spectral_norm_is_on_the_encoder_alone_and_can_be_left_out():
    for spectral, layers in ((True, 4), (False, 0), ("released", 4)):
        encoder, decoder = nets.infogan((8, 8, 1), latent_dim=3, spectral_norm=spectral, shrink=32)
        state = encoder.init(RNG, jnp.zeros((2, 8, 8, 1)))[1]
        assert len(state.get("spectral_norm", {})) == layers
        assert "spectral_norm" not in decoder.init(RNG, jnp.zeros((2, 3)))[1]


def test_unknown_kinds_of_spectral_norm():
    with pytest.raises(UserError, match="unknown spectral_norm 'relased'. Did you mean 'released'"):
        nets.infogan((8, 8, 1), spectral_norm="relased")


def test_ar1_heads():
    """With (D, 1, 1) only the last output is a scale."""
    encoder, _ = nets.infogan((8, 8, 1), latent_dim=3, heads=(3, 1, 1), shrink=32)
    params, state = encoder.init(RNG, jnp.zeros((2, 8, 8, 1)))
    y, _ = encoder.apply(params, state, jax.random.uniform(RNG, (2, 8, 8, 1)), train=False)
    assert y.shape == (2, 5)
    np.testing.assert_allclose(y[:, -1], 2 * np.log(1e-6 + np.log(2.0)), rtol=0.2)


# the numbers count the decoder's log gamma, which here is a group of its own: one less
@pytest.mark.parametrize(
    ("shape", "encoder", "decoder"),
    [
        ((28, 28, 1), 6_689_344, 6_642_242),
        ((32, 32, 3), 8_657_472, 8_616_132),
        ((64, 64, 3), 33_823_296, 33_855_684),
    ],
    ids=["infogan28", "infogan32", "infogan64"],
)
def test_parameters(shape, encoder, decoder):
    assert sizes(nets.infogan(shape), shape, 64) == (encoder, decoder - 1, (2, 128), (2, *shape))


def test_outputs_of_the_decoder():
    assert_sigmoid_of_logits(lambda **o: nets.infogan((8, 8, 1), latent_dim=3, shrink=32, **o))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nets.infogan((30, 30, 1)), "sides 4 divides, not 30x30: resize"),
        (
            lambda: nets.infogan((28, 28)),
            r"images \(height, width, channels\), not shape \(28, 28\)",
        ),
        (lambda: nets.infogan((28, 28, 1), output="tanh"), "output must be 'sigmoid'"),
    ],
)
def test_what_does_not_fit(make, message):
    with pytest.raises(UserError, match=message):
        make()
