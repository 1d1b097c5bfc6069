"""The nets of both GANs: their sizes, scales, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.nets import infogan_autoencoder, infogan_gan, mlp_gan


def start(net, x):
    return net.init(jax.random.key(0), x)


def count(net, x):
    params, _ = jax.eval_shape(lambda: start(net, jnp.zeros(x)))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_the_reports_nets_have_its_numbers_of_parameters():
    generator, discriminator = mlp_gan((28, 28, 1))
    assert count(generator, (2, 100)) == 1_510_032
    assert count(discriminator, (2, 28, 28, 1)) == 533_505


def test_the_studys_nets_have_its_layers():
    """Dense and transposed layers of the decoder and of the encoder of the two-stage VAE's Table 1,
    with a head of one number."""
    generator, discriminator = infogan_gan((28, 28, 1))
    assert count(generator, (2, 64)) == 6_642_242 - 1  # without gamma
    assert count(discriminator, (2, 28, 28, 1)) == 6_689_344 - 1025 * 128 + 1025
    _, plain = infogan_gan((28, 28, 1), batch_norm=False)
    assert count(plain, (2, 28, 28, 1)) == 6_689_344 - 1025 * 128 + 1025 - 2 * (128 + 1024)


def test_the_studys_autoencoder_has_its_layers():
    """conv 64, conv 128, 64, H/4 W/4 128, transposed 64, transposed C, of 28x28x1 and of 32x32x3
    ("1.3M", says its code); BatchNorm behind three of them."""
    for shape, count_of in (((28, 28, 1), 1_073_601), ((32, 32, 3), 1_325_379)):
        assert count(infogan_autoencoder(shape), (2, *shape)) == count_of
    normed = infogan_autoencoder((28, 28, 1), batch_norm=True)
    assert count(normed, (2, 28, 28, 1)) == 1_073_601 + 2 * (64 + 6272 + 64)


def test_the_autoencoder_has_no_activation_behind_its_second_convolution():
    """A code that is the sum of minus one from each place of a channel: leaky ReLU would shrink it
    to a fifth."""
    net = infogan_autoencoder((8, 8, 1), code_dim=1, shrink=64)
    x = jnp.zeros((1, 8, 8, 1))
    params, state = start(net, x)
    params = jax.tree.map(jnp.zeros_like, params)
    params["Conv_1"]["bias"] = -jnp.ones_like(params["Conv_1"]["bias"])
    params["Dense_0"]["kernel"] = -jnp.ones_like(params["Dense_0"]["kernel"])
    found = 2 * 2 * 2  # 2x2 places of two channels
    params["Dense_1"]["kernel"] = jnp.ones_like(params["Dense_1"]["kernel"])
    params["Conv_2"]["kernel"] = jnp.zeros_like(params["Conv_2"]["kernel"]).at[1, 1].set(0.01)
    params["Conv_3"]["kernel"] = jnp.zeros_like(params["Conv_3"]["kernel"]).at[1, 1].set(1.0)
    y, _ = net.apply(params, state, x, train=False)
    h = found * 0.01 * 2  # two channels of the transposed convolution's input
    np.testing.assert_allclose(np.max(y), 1.0 / (1.0 + np.exp(-h)), rtol=1e-5)


def test_the_reports_generator_normalises_behind_its_last_activation():
    """784 numbers of 1024 normalised ones: with the last layer's weights 1/1024, the mean of h."""
    generator, _ = mlp_gan(3, output="linear")
    z = jax.random.normal(jax.random.key(1), (50, 10))
    params, state = start(generator, z)
    params["Dense_4"] = jax.tree.map(jnp.ones_like, params["Dense_4"])
    y, new = generator.apply(params, state, z, train=True)
    np.testing.assert_allclose(y.mean(axis=0), 1.0, atol=1e-3)  # sum of normalised h, and bias 1
    assert len(new["batch_stats"]) == 3


def test_images_go_through_both_nets_in_the_unit_interval():
    """G is (tanh + 1) / 2, and D sees 2 x - 1."""
    pairs = [mlp_gan(4, output=output, shrink=16, dropout=0.0) for output in ("unit", "linear")]
    z, x = (
        jax.random.normal(jax.random.key(1), (6, 3)),
        jax.random.uniform(jax.random.key(2), (6, 4)),
    )
    params, state = start(pairs[0][0], z)
    unit, plain = (g.apply(params, state, z, train=True)[0] for g, _ in pairs)
    np.testing.assert_allclose(2.0 * unit - 1.0, np.tanh(plain), atol=1e-6)
    params, state = start(pairs[0][1], x)
    np.testing.assert_allclose(
        pairs[0][1].apply(params, state, x, train=False)[0],
        pairs[1][1].apply(params, state, 2.0 * x - 1.0, train=False)[0],
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_outputs_are_float32(dtype):
    for pair in (
        mlp_gan((4, 4, 1), shrink=16, dtype=dtype),
        infogan_gan((4, 4, 1), shrink=16, dtype=dtype),
    ):
        for net, x in zip(pair, (jnp.ones((2, 64)), jnp.ones((2, 4, 4, 1))), strict=True):
            y, _ = net.apply(*start(net, x), x, train=True)
            assert y.dtype == jnp.float32
        assert y.shape == (2,)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp_gan((0, 4)), "a side of the data must be at least 1"),
        (lambda: mlp_gan(4, dropout=1.0), "dropout must be below 1"),
        (lambda: mlp_gan(4, output="tanh"), "output must be 'unit'"),
        (lambda: mlp_gan(4, shrink=0), "shrink must be at least 1"),
        (lambda: infogan_gan((6, 8, 1)), "whose sides 4 divides"),
        (lambda: infogan_gan((8, 8, 1), latent_dim=0), "latent_dim must be at least 1"),
    ],
)
def test_what_no_net_has_is_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
