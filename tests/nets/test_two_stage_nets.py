"""The nets of the two-stage VAE: parameters to the unit, spectral norm, the conventions of the
ResNet, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import nets
from jaxvae.errors import UserError
from jaxvae.nets.layers import Conv, Dense, log_variance

RNG = jax.random.key(0)


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(pair, shape, d):
    """Returns (encoder parameters, decoder parameters, encoder output, decoder output) without
    computing anything."""
    encoder, decoder = pair

    def run(rng):
        x, z = jnp.zeros((2, *shape)), jnp.zeros((2, d))
        e, g = encoder.init(rng, x), decoder.init(rng, z)
        return e[0], g[0], encoder.apply(*e, x, train=True)[0], decoder.apply(*g, z, train=True)[0]

    e, g, q, x = jax.eval_shape(run, RNG)
    return count(e), count(g), q.shape, x.shape


# The numbers count the decoder's log gamma, which here is a group of its own: one less for each
# decoder.
@pytest.mark.parametrize(
    ("pair", "shape", "d", "encoder", "decoder"),
    [
        (nets.infogan((28, 28, 1)), (28, 28, 1), 64, 6_689_344, 6_642_242),
        (nets.infogan((32, 32, 3)), (32, 32, 3), 64, 8_657_472, 8_616_132),
        (nets.infogan((64, 64, 3)), (64, 64, 3), 64, 33_823_296, 33_855_684),
        (nets.wae(), (64, 64, 3), 64, 25_607_296, 21_475_332),
        (
            nets.resnet((64, 64, 3), latent_dim=128, base=32),
            (64, 64, 3),
            128,
            3_399_008,
            16_250_468,
        ),
        (nets.resnet((32, 32, 3)), (32, 32, 3), 64, 1_147_056, 1_048_116),
    ],
    ids=["infogan28", "infogan32", "infogan64", "wae", "resnet64", "resnet32"],
)
def test_parameters(pair, shape, d, encoder, decoder):
    assert shapes(pair, shape, d) == (encoder, decoder - 1, (2, 2 * d), (2, *shape))


@pytest.mark.parametrize(
    ("width", "encoder", "decoder"), [(1024, 2_305_152, 2_235_457), (2048, 8_796_288, 8_661_057)]
)
def test_parameters_of_the_second_stage(width, encoder, decoder):
    assert shapes(nets.second_stage(64, width=width), (64,), 64) == (
        encoder,
        decoder - 1,
        (2, 128),
        (2, 64),
    )


def test_the_papers_resnet():
    """Figure 11: flattened, 4096 values before 2x2x1024 for 64x64, 2048 before 2x2x512 for
    32x32."""
    for side, values in ((64, 4096), (32, 2048)):
        encoder, decoder = nets.resnet((side, side, 3), convention="paper")
        params = jax.eval_shape(lambda r, d=decoder: d.init(r, jnp.zeros((2, 64)))[0], RNG)
        assert params["Dense_0"]["kernel"].shape == (64, values)
        params = jax.eval_shape(
            lambda r, e=encoder, s=side: e.init(r, jnp.zeros((2, s, s, 3)))[0], RNG
        )
        assert params["Dense_0"]["kernel"].shape == (8 * 8 * 32 * 2 ** (side // 32 + 1), 512)
        assert params["Conv_0"]["kernel"].shape == (3, 3, 3, 32)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Dense(7, "normal0.02", spectral_norm=True), (2, 5)),
        (Conv(6, 4, 2, init_name="cut0.02", spectral_norm=True), (2, 8, 8, 3)),
    ],
    ids=["dense", "conv"],
)
def test_spectral_norm(layer, shape):
    """Power iterations reach NumPy's largest singular value; an evaluation uses the stored vectors
    and keeps them."""
    net = nets.from_linen(layer_of(layer))
    x = jax.random.normal(RNG, shape)
    params, state = net.init(RNG, x)
    kernel = np.asarray(params["layer"]["kernel"])
    params["layer"]["bias"] = params["layer"]["bias"] + 0.5
    sigma = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]
    for _ in range(200):
        y, state = net.apply(params, state, x, train=True)
    plain = layer.clone(spectral_norm=False)
    want = (
        np.asarray(plain.apply({"params": params["layer"]}, x)) - 0.5
    ) / sigma + 0.5  # the bias is not divided
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=1e-6)
    again, kept = net.apply(params, state, x, train=False)
    np.testing.assert_allclose(again, y, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    vectors = state["spectral_norm"]["layer"]
    assert np.linalg.norm(vectors["u"]) == pytest.approx(1.0, abs=1e-5)


def test_one_power_iteration_by_hand():
    layer = Dense(3, "normal0.02", spectral_norm=True)
    net, x = nets.from_linen(layer_of(layer)), jax.random.normal(RNG, (2, 4))
    params, state = net.init(RNG, x)
    w, u = (
        np.asarray(params["layer"]["kernel"], np.float64),
        np.asarray(state["spectral_norm"]["layer"]["u"], np.float64),
    )
    y, new = net.apply(params, state, x, train=True)
    v = w.T @ u / np.linalg.norm(w.T @ u)
    u = w @ v / np.linalg.norm(w @ v)
    np.testing.assert_allclose(y, np.asarray(x) @ w / (u @ w @ v), rtol=1e-5)
    np.testing.assert_allclose(new["spectral_norm"]["layer"]["u"], u, rtol=1e-5)

    def through(kernel):  # no gradient through u and v: d sigma / dW = u v'
        return jnp.sum(
            net.apply({"layer": {**params["layer"], "kernel": kernel}}, state, x, train=True)[0]
        )

    sigma, ones = u @ w @ v, np.asarray(x, np.float64).sum(0)[:, None] * np.ones((1, 3))
    want = ones / sigma - np.sum(ones * w) / sigma**2 * np.outer(u, v)
    np.testing.assert_allclose(jax.grad(through)(params["layer"]["kernel"]), want, rtol=1e-4)


def test_released_code_iterates_in_evaluation_too():
    """One iteration more than is kept, by hand; the state stays."""
    x = jax.random.normal(RNG, (2, 4))
    net = nets.from_linen(layer_of(Dense(3, "normal0.02", spectral_norm="released")))
    params, state = net.init(RNG, x)
    w, u = (
        np.asarray(params["layer"]["kernel"], np.float64),
        np.asarray(state["spectral_norm"]["layer"]["u"], np.float64),
    )
    v = w.T @ u / np.linalg.norm(w.T @ u)
    sigma = np.linalg.norm(w @ v)  # u' W v with the new u
    y, kept = net.apply(params, state, x, train=False)
    np.testing.assert_allclose(y, np.asarray(x) @ w / sigma, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    stored = nets.from_linen(layer_of(Dense(3, "normal0.02", spectral_norm=True)))
    assert np.max(np.abs(stored.apply(params, state, x, train=False)[0] - y)) > 1e-4
    train = [of.apply(params, state, x, train=True) for of in (net, stored)]
    jax.tree.map(np.testing.assert_array_equal, *train)


def layer_of(layer):
    import flax.linen as nn

    class Alone(nn.Module):
        @nn.compact
        def __call__(self, x, *, cond=None, train=False):
            return layer.clone(name="layer", parent=self)(x, train=train)

    return Alone()


def test_spectral_norm_is_on_the_encoder_alone_and_can_be_left_out():
    for spectral, layers in ((True, 4), (False, 0), ("released", 4)):
        encoder, decoder = nets.infogan((8, 8, 1), latent_dim=3, spectral_norm=spectral, shrink=32)
        state = encoder.init(RNG, jnp.zeros((2, 8, 8, 1)))[1]
        assert len(state.get("spectral_norm", {})) == layers
        assert "spectral_norm" not in decoder.init(RNG, jnp.zeros((2, 3)))[1]


def test_unknown_kinds_of_spectral_norm():
    with pytest.raises(UserError, match="unknown spectral_norm 'relased'. Did you mean 'released'"):
        nets.infogan((8, 8, 1), spectral_norm="relased")


def test_scales():
    y = jnp.asarray([[0.5, -1.0, 2.0]])
    np.testing.assert_array_equal(log_variance(y, 1, "logvar"), y)
    np.testing.assert_allclose(log_variance(y, 2, "log_sd"), [[0.5, -2.0, 4.0]])
    sd = 1e-6 + np.log1p(np.exp([-1.0, 2.0]))
    np.testing.assert_allclose(
        log_variance(y, 2, "softplus"), [[0.5, *2.0 * np.log(sd)]], rtol=1e-6
    )
    assert np.isfinite(log_variance(jnp.asarray([[-200.0]]), 1, "softplus")).all()


def test_cut_weights_stay_within_two_deviations():
    params = Conv(64, 4, init_name="cut0.02").init(RNG, jnp.zeros((1, 8, 8, 16)))["params"]
    kernel = np.asarray(params["kernel"])
    assert 0.039 < np.abs(kernel).max() <= 0.04
    assert kernel.std() == pytest.approx(0.02 * 0.8796, rel=0.02)  # of a normal cut at 2
    assert not np.asarray(params["bias"]).any()


def test_ar1_heads():
    """With (D, 1, 1) only the last output is a scale."""
    encoder, _ = nets.infogan((8, 8, 1), latent_dim=3, heads=(3, 1, 1), shrink=32)
    params, state = encoder.init(RNG, jnp.zeros((2, 8, 8, 1)))
    y, _ = encoder.apply(params, state, jax.random.uniform(RNG, (2, 8, 8, 1)), train=False)
    assert y.shape == (2, 5)
    np.testing.assert_allclose(y[:, -1], 2 * np.log(1e-6 + np.log(2.0)), rtol=0.2)


def test_outputs_of_the_decoders():
    for make in (
        lambda **o: nets.infogan((8, 8, 1), latent_dim=3, shrink=32, **o),
        lambda **o: nets.wae((8, 8, 1), latent_dim=3, shrink=64, **o),
        lambda **o: nets.resnet((8, 8, 1), latent_dim=3, base=2, dense=4, scales=2, **o),
    ):
        x = []
        for output in ("sigmoid", "logits"):
            decoder = make(output=output)[1]
            params, state = decoder.init(RNG, jnp.zeros((4, 3)))
            x.append(decoder.apply(params, state, jax.random.normal(RNG, (4, 3)), train=False)[0])
        np.testing.assert_allclose(x[0], jax.nn.sigmoid(x[1]), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nets.infogan((30, 30, 1)), "sides 4 divides, not 30x30: resize"),
        (
            lambda: nets.infogan((28, 28)),
            r"images \(height, width, channels\), not shape \(28, 28\)",
        ),
        (lambda: nets.infogan((28, 28, 1), output="tanh"), "output must be 'sigmoid'"),
        (lambda: nets.wae((28, 28, 1)), "sides 8 divides"),
        (lambda: nets.resnet((28, 28, 1)), "power of two, not 28x28: pad or resize"),
        (lambda: nets.resnet((32, 32, 1), convention="code"), "unknown convention 'code'"),
        (lambda: nets.resnet((8, 8, 1), scales=6), "no 6 scales: use at most 4"),
        (lambda: nets.mlp((4,), 4, scale="sd"), "unknown scale 'sd'"),
        (lambda: nets.second_stage(0), "latent_dim must be at least 1"),
    ],
)
def test_what_does_not_fit(make, message):
    with pytest.raises(UserError, match=message):
        make()
