"""The discriminator of patches: sizes, how much of an image a logit sees, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from abstract import abstract, count
from jaxvae import nets
from jaxvae.errors import UserError


def test_sizes_are_those_of_pix2pix():
    """Pairs of colour images, 70x70 patches: the 2.769 M that its code prints."""
    params, state, y = abstract(nets.patches((256, 256, 6)), (2, 256, 256, 6))
    kernels = 16 * (6 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    norms = 2 * (128 + 256 + 512)
    assert count(params) == kernels + 64 + 1 + norms == 2_768_705
    assert (y, count(state)) == ((2, 30, 30), norms)


@pytest.mark.parametrize(("side", "patches"), [(8, 2), (16, 2), (28, 1), (32, 2), (65, 6)])
def test_small_images_are_halved_less_often(side, patches):
    assert abstract(nets.patches((side, side, 1)), (2, side, side, 1))[2] == (2, patches, patches)


def test_a_logit_sees_its_patch_alone():
    net = nets.patches((32, 32, 1), channels=(2,), batch_norm=False)
    params, state = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    # 1 + 3 + 3 pixels of the second map, each of 4 and 2 apart: 16
    seen = jax.jit(jax.grad(lambda x: net.apply(params, state, x, train=False)[0][0, 7, 7]))
    rows = np.flatnonzero(np.any(np.asarray(seen(jnp.ones((1, 32, 32, 1))))[0, :, :, 0], axis=1))
    assert rows[-1] - rows[0] + 1 == 16


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8,), {}, "needs images"),
        ((4, 4, 1), {}, "leave no patch"),
        ((16, 16, 1), {"channels": (4, 4, 4)}, "halved 3 times, leave no patch"),
        ((16, 16, 1), {"channels": ()}, "at least one entry"),
        ((16, 16, 1), {"channels": (0,)}, "a layer's width must be at least 1"),
    ],
)
def test_what_is_refused(shape, options, message):
    with pytest.raises(UserError, match=message):
        nets.patches(shape, **options)
