"""Initialisers, convolutions, BatchNorm and Dropout against formulas and naive loops in NumPy."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.nets import layers
from jaxvae.nets.layers import BatchNorm, Conv, Dense, Dropout, from_linen, log_variance

RNG = np.random.default_rng(0)


def single(x) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


# ---- initialisers ----------------------------------------------------------------------------


def assert_uniform(values, bound: float) -> None:
    values = np.asarray(values).ravel()
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > (1.0 - 10.0 / values.size) * bound
    np.testing.assert_allclose(
        values.std(), bound / math.sqrt(3.0), rtol=3.0 / math.sqrt(values.size)
    )


LAYERS = {  # layer, channels in, fan in, fan out
    "dense": (lambda name: Dense(96, name), 64, 64, 96),
    "conv": (lambda name: Conv(24, 4, init_name=name), 16, 16 * 16, 24 * 16),
    "transposed conv": (
        lambda name: Conv(24, 4, transposed=True, init_name=name),
        16,
        16 * 16,
        24 * 16,
    ),
}


def init(layer: str, name: str):
    build, channels, fan_in, fan_out = LAYERS[layer]
    shape = (1, channels) if layer == "dense" else (1, 4, 4, channels)
    return build(name).init(jax.random.key(0), jnp.zeros(shape))["params"], fan_in, fan_out


@pytest.mark.parametrize("layer", LAYERS)
def test_torch_initialiser(layer):
    params, fan_in, fan_out = init(layer, "torch")
    # torch keeps a transposed kernel as (in, out, k, k) and counts fan_in from its second axis
    bound = 1.0 / math.sqrt(fan_out if layer == "transposed conv" else fan_in)
    assert_uniform(params["kernel"], bound)
    bias = np.abs(params["bias"])
    assert bound * 0.7 < bias.max() <= bound


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["glorot", "xavier"])
def test_glorot_initialiser(layer, name):
    params, fan_in, fan_out = init(layer, name)
    assert_uniform(params["kernel"], math.sqrt(6.0 / (fan_in + fan_out)))
    np.testing.assert_array_equal(params["bias"], np.zeros(params["bias"].shape))


@pytest.mark.parametrize("layer", LAYERS)
def test_normal_initialiser(layer):
    params, _, _ = init(layer, "normal0.02")
    kernel = np.asarray(params["kernel"]).ravel()
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=3.0 / math.sqrt(kernel.size))
    assert np.abs(kernel).max() > 0.06  # not uniform
    np.testing.assert_array_equal(params["bias"], np.zeros(params["bias"].shape))


def test_kernel_and_bias_are_drawn_apart():
    params, _, _ = init("dense", "torch")
    assert not np.isin(np.asarray(params["bias"]), np.asarray(params["kernel"])).any()


def test_names_are_checked():
    with pytest.raises(
        UserError, match="unknown initialiser 'xavier_uniform'. Did you mean 'xavier'"
    ):
        layers.check_init("xavier_uniform")
    with pytest.raises(UserError, match="unknown activation 'rellu'. Did you mean 'relu'"):
        layers.activation("rellu")


def test_leaky_relu_has_slope_one_fifth():
    np.testing.assert_allclose(layers.activation("leaky_relu")(single([-1.0, 2.0])), [-0.2, 2.0])


# ---- dense and convolutions ------------------------------------------------------------------


def test_dense_is_a_product():
    x, kernel, bias = RNG.normal(size=(5, 3)), RNG.normal(size=(3, 2)), RNG.normal(size=2)
    have = Dense(2).apply({"params": {"kernel": single(kernel), "bias": single(bias)}}, single(x))
    np.testing.assert_allclose(have, x @ kernel + bias, rtol=1e-5, atol=1e-6)


def correlate(x, kernel, stride: int, low: int, high: int):
    """A convolution as machine learning means it, by loops: x [H, W, C], kernel [k, k, C, O]."""
    k = kernel.shape[0]
    x = np.pad(x, ((low, high), (low, high), (0, 0)))
    out = np.zeros(
        ((x.shape[0] - k) // stride + 1, (x.shape[1] - k) // stride + 1, kernel.shape[-1])
    )
    for i, j in itertools.product(range(out.shape[0]), range(out.shape[1])):
        patch = x[i * stride : i * stride + k, j * stride : j * stride + k]
        out[i, j] = np.einsum("abc,abco->o", patch, kernel)
    return out


def scatter(x, kernel, stride: int, padding: int):
    """A transposed convolution as torch defines it, by loops: each input adds a scaled copy of the
    kernel."""
    k = kernel.shape[0]
    out = np.zeros(((x.shape[0] - 1) * stride + k, (x.shape[1] - 1) * stride + k, kernel.shape[-1]))
    for i, j in itertools.product(range(x.shape[0]), range(x.shape[1])):
        out[i * stride : i * stride + k, j * stride : j * stride + k] += np.einsum(
            "c,abco->abo", x[i, j], kernel
        )
    return out[padding : out.shape[0] - padding, padding : out.shape[1] - padding]


def conv(layer: Conv, x, kernel):
    bias = RNG.normal(size=layer.features)
    y = layer.apply({"params": {"kernel": single(kernel), "bias": single(bias)}}, single(x)[None])[
        0
    ]
    return np.asarray(y) - bias


@pytest.mark.parametrize(
    ("k", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (5, 2, 2), (4, 1, 0), (1, 1, 0)]
)
@pytest.mark.parametrize("sides", [(6, 6), (7, 5)])
def test_padding_numbers_of_convolutions(k, stride, padding, sides):
    x, kernel = RNG.normal(size=(*sides, 2)), RNG.normal(size=(k, k, 2, 3))
    have = conv(Conv(3, k, stride, padding), x, kernel)
    np.testing.assert_allclose(
        have, correlate(x, kernel, stride, padding, padding), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("k", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (5, 2, 2), (4, 1, 0), (2, 2, 0)]
)
def test_padding_numbers_of_transposed_convolutions(k, stride, padding):
    x, kernel = RNG.normal(size=(5, 3, 2)), RNG.normal(size=(k, k, 2, 3))
    have = conv(
        Conv(3, k, stride, padding, transposed=True), x, kernel[::-1, ::-1]
    )  # stored the other way round
    want = scatter(x, kernel, stride, padding)
    assert want.shape == ((5 - 1) * stride - 2 * padding + k, (3 - 1) * stride - 2 * padding + k, 3)
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "low", "high"), [(8, 1, 1), (28, 1, 1), (7, 1, 2), (1, 1, 2)])
def test_same_padding_with_kernel_4_and_stride_2(side, low, high):
    x, kernel = RNG.normal(size=(side, side, 1)), RNG.normal(size=(4, 4, 1, 2))
    have = conv(Conv(2, 4, 2), x, kernel)
    assert have.shape == (math.ceil(side / 2), math.ceil(side / 2), 2)
    np.testing.assert_allclose(have, correlate(x, kernel, 2, low, high), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("k", "stride"), [(4, 2), (5, 2), (3, 2), (3, 1), (4, 4)])
def test_same_transposed_convolution_is_the_adjoint_of_the_same_convolution(k, stride):
    small, big = (3, 5), (3 * stride, 5 * stride)
    x, y, kernel = (
        RNG.normal(size=(*big, 2)),
        RNG.normal(size=(*small, 3)),
        RNG.normal(size=(k, k, 2, 3)),
    )
    down = correlate(
        x, kernel, stride, max(k - stride, 0) // 2, k - stride - max(k - stride, 0) // 2
    )
    up = conv(Conv(2, k, stride, transposed=True), y, kernel[::-1, ::-1].swapaxes(2, 3))
    assert up.shape == x.shape
    np.testing.assert_allclose(np.sum(down * y), np.sum(x * up), rtol=1e-4)


def test_bfloat16_computes_in_it_and_keeps_parameters_in_float32():
    half = {"dtype": jnp.bfloat16}
    for layer, x in [
        (Dense(2, **half), jnp.ones((1, 3))),
        (Conv(2, **half), jnp.ones((1, 4, 4, 1))),
    ]:
        variables = layer.init(jax.random.key(0), x)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        assert layer.apply(variables, x).dtype == jnp.bfloat16


# ---- BatchNorm -------------------------------------------------------------------------------


def run_batch_norm(layer: BatchNorm, batches):
    """Returns the outputs in training, one for each batch, and the variables after the last."""
    variables = layer.init(jax.random.key(0), single(batches[0]), train=True)
    params = {"scale": single([2.0, 0.5]), "bias": single([-1.0, 3.0])}
    outputs, stats = [], variables["batch_stats"]
    for x in batches:
        y, new = layer.apply(
            {"params": params, "batch_stats": stats}, single(x), train=True, mutable=["batch_stats"]
        )
        outputs.append(np.asarray(y))
        stats = new["batch_stats"]
    return outputs, {"params": params, "batch_stats": stats}


def normalised(x, mean, var):
    return (x - mean) / np.sqrt(var + 1e-5) * np.array([2.0, 0.5]) + np.array([-1.0, 3.0])


BATCHES = {
    "vectors": [RNG.normal(loc=i, scale=1 + i, size=(6, 2)) for i in range(4)],
    "images": [RNG.normal(loc=i, scale=1 + i, size=(2, 3, 3, 2)) for i in range(4)],
}


@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("convention", ["torch", "tensorflow"])
def test_batch_norm_in_training_uses_the_biased_moments_of_the_batch(batches, convention):
    outputs, _ = run_batch_norm(BatchNorm(convention=convention), batches)
    axes = tuple(range(batches[0].ndim - 1))
    for x, y in zip(batches, outputs, strict=True):
        np.testing.assert_allclose(
            y, normalised(x, x.mean(axes), x.var(axes)), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("momentum", [0.1, 0.3])
def test_torch_running_averages(batches, momentum):
    layer = BatchNorm(momentum=momentum)
    _, variables = run_batch_norm(layer, batches)
    mean, var, axes = np.zeros(2), np.ones(2), tuple(range(batches[0].ndim - 1))
    for x in batches:
        mean = (1 - momentum) * mean + momentum * x.mean(axes)
        var = (1 - momentum) * var + momentum * x.var(axes, ddof=1)  # unbiased
    np.testing.assert_allclose(variables["batch_stats"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["var"], var, rtol=1e-5)
    x = batches[1]
    y = layer.apply(variables, single(x), train=False)
    np.testing.assert_allclose(y, normalised(x, mean, var), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("momentum", [0.001, 0.3])
def test_tensorflow_running_averages_are_zero_debiased(batches, momentum):
    layer = BatchNorm(momentum=momentum, convention="tensorflow")
    _, variables = run_batch_norm(layer, batches)
    axes, t = tuple(range(batches[0].ndim - 1)), len(batches)
    weights = momentum * (1 - momentum) ** np.arange(t - 1, -1, -1)
    weights /= weights.sum()  # = division by 1 - (1 - momentum)^t
    mean = sum(w * x.mean(axes) for w, x in zip(weights, batches, strict=True))
    var = sum(w * x.var(axes) for w, x in zip(weights, batches, strict=True))  # biased
    x = batches[1]
    y = layer.apply(variables, single(x), train=False)
    np.testing.assert_allclose(y, normalised(x, mean, var), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("convention", ["torch", "tensorflow"])
def test_batch_norm_before_any_step_evaluates_as_the_identity(convention):
    layer, x = BatchNorm(convention=convention), single(BATCHES["vectors"][2])
    variables = layer.init(jax.random.key(0), x, train=True)  # initialising is not a step
    np.testing.assert_allclose(
        layer.apply(variables, x, train=False), x / np.sqrt(1 + 1e-5), rtol=1e-6
    )


def test_batch_norm_refuses_one_value_and_unknown_conventions():
    with pytest.raises(UserError, match="more than one value per channel: use a larger batch"):
        BatchNorm().init(jax.random.key(0), jnp.zeros((1, 2)), train=True)
    with pytest.raises(
        UserError, match="unknown BatchNorm convention 'pytorch'. Did you mean 'torch'"
    ):
        BatchNorm(convention="pytorch").init(jax.random.key(0), jnp.zeros((4, 2)), train=True)


# ---- Dropout ---------------------------------------------------------------------------------


def test_dropout_zeroes_and_scales():
    y = np.asarray(
        Dropout(0.3).apply(
            {}, jnp.ones((200, 100)), train=True, rngs={"dropout": jax.random.key(0)}
        )
    )
    np.testing.assert_allclose(np.unique(y), [0.0, 1.0 / 0.7], rtol=1e-6)
    assert abs((y == 0).mean() - 0.3) < 4.0 * math.sqrt(0.3 * 0.7 / y.size)


def test_dropout_does_nothing_in_evaluation_or_at_rate_zero():
    x = single(RNG.normal(size=(4, 3)))
    np.testing.assert_array_equal(Dropout(0.9).apply({}, x, train=False), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, train=True), x)


# ---- from_linen ------------------------------------------------------------------------------


class Both(nn.Module):
    """Condition, BatchNorm and Dropout in one."""

    @nn.compact
    def __call__(self, x, *, cond=None, train):
        h = BatchNorm()(Dense(8)(layers.join(x, cond)), train=train)
        return Dropout(0.5)(h, train=train)


def test_from_linen_gives_pure_functions():
    net, x, cond = (
        from_linen(Both()),
        single(RNG.normal(size=(6, 3))),
        jax.nn.one_hot(jnp.arange(6) % 2, 2),
    )
    params, state = net.init(jax.random.key(0), x, cond)
    assert params["Dense_0"]["kernel"].shape == (3 + 2, 8)
    assert set(state) == {"batch_stats"}

    y, same = net.apply(params, state, x, cond=cond, train=False)
    assert same is state
    again, _ = net.apply(params, state, x, cond=1.0 - cond, train=False)
    assert not np.allclose(y, again)  # the condition is read

    first, new = net.apply(params, state, x, cond=cond, rng=jax.random.key(1), train=True)
    second, _ = net.apply(params, state, x, cond=cond, rng=jax.random.key(2), train=True)
    assert ((np.asarray(first) == 0) != (np.asarray(second) == 0)).any()
    assert jax.tree.structure(new) == jax.tree.structure(state)
    np.testing.assert_array_equal(
        state["batch_stats"]["BatchNorm_0"]["mean"], np.zeros(8)
    )  # not changed in place
    assert np.all(new["batch_stats"]["BatchNorm_0"]["mean"] != 0)


def test_parameters_of_another_size():
    net, x = from_linen(Both()), jnp.ones((6, 3))
    params, state = net.init(jax.random.key(0), x)
    for wrong, train in (
        ((params, state, jnp.ones((6, 4))), False),
        ((params, state, jnp.ones((6, 4))), True),
        (({"Dense_1": params["Dense_0"]}, state, x), False),
        (({}, state, x), False),
    ):
        with pytest.raises(
            UserError,
            match=r"for inputs of shape \([34],\) without a condition: they are of another",
        ):
            net.apply(*wrong, rng=jax.random.key(1), train=train)


@pytest.mark.parametrize(
    ("k", "stride", "padding"),
    [
        (4, 2, "SAME"),
        (3, 2, "SAME"),
        (5, 2, "SAME"),
        (5, 1, "SAME"),
        (2, 3, "SAME"),
        (4, 2, "VALID"),
        (2, 3, "VALID"),
        (4, 2, ((2, 2), (2, 2))),
        (4, 1, ((3, 3), (3, 3))),
        (3, 1, ((1, 1), (1, 1))),
        (4, 2, ((1, 2), (1, 2))),
    ],
)
def test_gradients_of_the_transposed_convolution(k, stride, padding):
    """They are those that JAX derives from lax.conv_transpose."""
    x, kernel = single(RNG.normal(size=(2, 5, 6, 3))), single(RNG.normal(size=(k, k, 3, 4)))

    def plain(x, kernel):
        return jax.lax.conv_transpose(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    y, back = jax.vjp(plain, x, kernel)
    ours, ours_back = jax.vjp(lambda x, w: layers.conv_transpose(x, w, stride, padding), x, kernel)
    g = single(RNG.normal(size=y.shape))
    np.testing.assert_array_equal(ours, y)
    for have, want in zip(ours_back(g), back(g), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4)


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
    params = Conv(64, 4, init_name="cut0.02").init(jax.random.key(0), jnp.zeros((1, 8, 8, 16)))[
        "params"
    ]
    kernel = np.asarray(params["kernel"])
    assert 0.039 < np.abs(kernel).max() <= 0.04
    assert kernel.std() == pytest.approx(0.02 * 0.8796, rel=0.02)  # of a normal cut at 2
    assert not np.asarray(params["bias"]).any()
