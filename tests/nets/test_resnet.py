"""The residual nets of the two-stage VAE: parameters to the unit, the paper's and the released one."""

import jax
import jax.numpy as jnp
import pytest

from abstract import assert_sigmoid_of_logits, sizes
from jaxvae import nets
from jaxvae.errors import UserError

RNG = jax.random.key(0)


def test_the_papers_resnet():
    """Figure 11: flattened, 4096 values before 2x2x1024 for 64x64, 2048 before 2x2x512 for
    32x32."""
    for side, values in ((64, 4096), (32, 2048)):
        encoder, decoder = nets.resnet((side, side, 3), convention="paper")
        params = jax.eval_shape(
            lambda r, d=decoder: d.init(r, jnp.zeros((2, 64)))[0], jax.random.key(0)
        )
        assert params["Dense_0"]["kernel"].shape == (64, values)
        params = jax.eval_shape(
            lambda r, e=encoder, s=side: e.init(r, jnp.zeros((2, s, s, 3)))[0], RNG
        )
        assert params["Dense_0"]["kernel"].shape == (8 * 8 * 32 * 2 ** (side // 32 + 1), 512)
        assert params["Conv_0"]["kernel"].shape == (3, 3, 3, 32)


# the numbers count the decoder's log gamma, which here is a group of its own: one less
@pytest.mark.parametrize(
    ("side", "d", "base", "encoder", "decoder"),
    [(64, 128, 32, 3_399_008, 16_250_468), (32, 64, None, 1_147_056, 1_048_116)],
    ids=["resnet64", "resnet32"],
)
def test_parameters(side, d, base, encoder, decoder):
    shape = (side, side, 3)
    pair = nets.resnet(shape) if base is None else nets.resnet(shape, latent_dim=d, base=base)
    assert sizes(pair, shape, d) == (encoder, decoder - 1, (2, 2 * d), (2, *shape))


def test_outputs_of_the_decoder():
    assert_sigmoid_of_logits(
        lambda **o: nets.resnet((8, 8, 1), latent_dim=3, base=2, dense=4, scales=2, **o)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nets.resnet((28, 28, 1)), "power of two, not 28x28: pad or resize"),
        (lambda: nets.resnet((32, 32, 1), convention="code"), "unknown convention 'code'"),
        (lambda: nets.resnet((8, 8, 1), scales=6), "no 6 scales: use at most 4"),
    ],
)
def test_what_does_not_fit(make, message):
    with pytest.raises(UserError, match=message):
        make()
