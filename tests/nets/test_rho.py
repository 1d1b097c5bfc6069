"""The four nets of the rho-VAE paper: parameters to the unit, the feature maps, what does not
fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import nets
from jaxvae.errors import UserError


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(name, correlated, data_shape, d=10, **options):
    """Returns (parameters, encoder output, decoder output) without computing anything."""
    encoder, decoder = nets.rho_nets(name, latent_dim=d, correlated=correlated, **options)

    def run(rng):
        x, z = jnp.zeros((2, *data_shape)), jnp.zeros((2, d))
        e, d_ = encoder.init(rng, x), decoder.init(rng, z)
        return (
            (e[0], d_[0]),
            encoder.apply(*e, x, train=True)[0],
            decoder.apply(*d_, z, train=True)[0],
        )

    params, q, x = jax.eval_shape(run, jax.random.key(0))
    return count(params), q.shape, x.shape


@pytest.mark.parametrize(
    ("name", "normal", "ar1"),
    [
        ("vanilla", 640_804, 637_596),
        ("cnn", 212_247_957, 315_001_229),
        ("beta", 763_285, 761_229),
        ("info", 13_403_157, 13_394_957),
    ],
)
def test_parameters_of_all_eight(name, normal, ar1):
    shape = (64, 64, 1) if name == "beta" else (28, 28, 1)
    assert shapes(name, False, shape) == (normal, (2, 20), (2, *shape))
    assert shapes(name, True, shape) == (ar1, (2, 12), (2, *shape))


@pytest.mark.parametrize("name", ["cnn", "info"])
def test_other_images(name):
    assert shapes(name, True, (32, 16, 3), d=4, shape=(32, 16, 3), shrink=16)[1:] == (
        (2, 6),
        (2, 32, 16, 3),
    )


def test_the_first_convolutions_of_the_cnn_keep_28():
    encoder, _ = nets.rho_nets("cnn")
    params = jax.eval_shape(
        lambda r: encoder.init(r, jnp.zeros((1, 28, 28, 1)))[0], jax.random.key(0)
    )
    assert params["Dense_0"]["kernel"].shape == (128 * 28 * 28, 1024)


def test_the_clamp_of_the_ar1_cnn_is_before_its_last_head():
    """log s = linear(log max(t, 0.02)): with a trunk of zeros it is the bias + log(0.02) times the
    sum of the weights."""
    options = {"correlated": True, "shape": (4, 4, 1), "shrink": 64}
    encoder, _ = nets.rho_nets("cnn", **options)
    x = jnp.asarray(np.random.default_rng(0).random((2, 4, 4, 1)), jnp.float32)
    params, state = encoder.init(jax.random.key(0), x)
    trunk, head = params["Dense_4"], params["Dense_5"]
    params["Dense_4"] = jax.tree.map(jnp.zeros_like, trunk)
    y = encoder.apply(params, state, x, train=False)[0]
    want = np.log(0.02) * np.sum(np.asarray(head["kernel"])) + float(head["bias"][0])
    np.testing.assert_allclose(y[:, -1], want, rtol=1e-5)
    rho = y[:, -2]  # a head without a clamp
    assert not np.allclose(rho[0], rho[1])


def test_the_scales_of_batchnorm_as_old_pytorch_drew_them():
    nets_of = {
        uniform: nets.rho_nets("info", shrink=16, uniform_scale=uniform)
        for uniform in (False, True)
    }
    for uniform, (encoder, decoder) in nets_of.items():
        for net, x in ((encoder, jnp.zeros((2, 28, 28, 1))), (decoder, jnp.zeros((2, 10)))):
            params, _ = net.init(jax.random.key(0), x)
            scales = np.concatenate(
                [v["scale"] for k, v in params.items() if k.startswith("BatchNorm")]
            )
            assert (
                (scales.min() > 0 and scales.max() < 1 and scales.std() > 0.2)
                if uniform
                else (scales == 1).all()
            )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vanila", {}, "unknown net 'vanila'. Did you mean 'vanilla'?"),
        ("beta", {"shape": (28, 28, 1)}, "images of 64x64, not 28x28"),
        ("beta", {"shape": (30, 30, 1)}, "images of 64x64, not 30x30"),
        ("cnn", {"uniform_scale": True}, "the cnn net has no BatchNorm"),
        ("beta", {"shape": (64, 64)}, "the beta net needs images"),
        ("info", {"shape": (30, 28, 1)}, "sides 4 divides"),
        ("cnn", {"shape": (0, 4, 1)}, "a side of the image must be at least 1"),
        ("cnn", {"latent_dim": 0}, "latent_dim must be at least 1"),
    ],
)
def test_what_does_not_fit(name, options, message):
    with pytest.raises(UserError, match=message):
        nets.rho_nets(name, **options)


def test_heads_of_other_widths():
    net = nets.mlp((), 12, heads=(10, 1, 1), init="xavier")
    params, _ = net.init(jax.random.key(0), jnp.zeros((2, 7)))
    assert [layer["kernel"].shape for layer in params.values()] == [(7, 10), (7, 1), (7, 1)]
    for heads, message in (
        ((10, 1), "add up to 11, not to the 12"),
        ((12, 0), "a head's width must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            nets.mlp((), 12, heads=heads)
