"""LORD's nets: parameters to the unit, every value against NumPy in float64, the class in the
moments of the feature maps, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from intro_numpy import doubles

import translation_numpy as reference
from abstract import abstract, count
from jaxvae import nets
from jaxvae.errors import UserError
from jaxvae.nets.translation import CHANNELS, CONVENTIONS, normalised

SHAPE, DIMS = (8, 4, 2), {"content_dim": 3, "class_dim": 2}
TINY = {**DIMS, "channels": (3, 4), "shrink": 64}
X = jax.random.uniform(jax.random.key(3), (4, *SHAPE))
Z = jax.random.normal(jax.random.key(4), (4, 5))


def split_of(decoder):
    """Returns the parameters of the modulation and of all the rest."""
    modulation = count({name: tree for name, tree in decoder.items() if name.startswith("AdaIN")})
    return count(decoder) - modulation, modulation


def test_parameters_of_the_published_nets():
    """Of LORD's, whose encoders give a code; and of the variational ones, whose last layers have
    twice the outputs."""
    shape, z = (64, 64, 3), (2, 384)
    content, of_class, decoder = nets.translation(shape, variational=False)
    sizes = [abstract(net, (2, *shape)) for net in (content, of_class)]
    assert [count(params) for params, _, _ in sizes] == [3_910_400, 3_943_296]
    assert [y for _, _, y in sizes] == [(2, 128), (2, 256)]
    params, state, y = abstract(decoder, z)
    assert split_of(params) == (7_569_155, 526_336)
    assert y == (2, *shape) and not jax.tree.leaves(state)
    sizes = [abstract(net, (2, *shape)) for net in nets.translation(shape)[:2]]
    assert [count(params) for params, _, _ in sizes] == [3_910_400 + 32_896, 3_943_296 + 65_792]
    assert [y for _, _, y in sizes] == [(2, 256), (2, 512)]


@pytest.mark.parametrize(
    ("shape", "halvings"), [((28, 28, 1), 2), ((32, 32, 3), 3), ((128, 128, 3), 4), ((8, 10, 1), 1)]
)
def test_other_sizes_have_as_many_convolutions_as_leave_four_pixels(shape, halvings):
    content, _, decoder = nets.translation(shape, shrink=64, **DIMS)
    params, _, y = abstract(content, (2, *shape))
    assert y == (2, 6)
    assert sum(name.startswith("Conv") for name in params) == halvings + 1
    params, _, y = abstract(decoder, (2, 5))
    assert y == (2, *shape)
    assert sum(name.startswith("AdaIN") for name in params) == halvings


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_values_against_numpy(convention):
    trio = nets.translation(SHAPE, convention=convention, **TINY)
    linear = nets.translation(SHAPE, convention=convention, output="linear", **TINY)[2]

    @jax.jit
    def run(rng):
        inputs = (X, X, Z)
        started = [net.init(rng, x)[0] for net, x in zip(trio, inputs, strict=True)]
        found = [
            net.apply(params, {}, x, train=True)[0]
            for net, params, x in zip(trio, started, inputs, strict=True)
        ]
        logits = linear.apply(started[2], {}, Z, train=True)[0]
        return started, [*found, jax.nn.sigmoid(logits)]

    with jax.default_matmul_precision("highest"):
        params, outputs = run(jax.random.key(0))
    content, of_class, decoder = (doubles(tree) for tree in params)
    x, z = np.asarray(X, np.float64), np.asarray(Z, np.float64)
    want = [
        reference.encode(content, x, convention),
        reference.encode(of_class, x, convention),
        *2 * [reference.decode(decoder, z, 3, (4, 2), convention)],
    ]
    for have, wanted in zip(outputs, want, strict=True):
        np.testing.assert_allclose(have, wanted, rtol=2e-4, atol=2e-6)
    assert outputs[0].shape == (4, 6) and outputs[1].shape == (4, 4)
    glorot = np.abs(decoder["Dense_0"]["bias"]).max() == 0.0
    assert glorot == (convention == "tensorflow")


def test_a_constant_map_has_a_finite_gradient():
    for convention in CONVENTIONS.values():
        value, slope = jax.value_and_grad(lambda x, c=convention: normalised(x, c).sum())(
            jnp.ones((1, 2, 2, 1))
        )
        assert value == 0.0 and np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (8, 7, 1)}, "even sides of 8 pixels or more, not 8x7"),
        ({"shape": (6, 6, 1)}, "even sides of 8 pixels or more, not 6x6"),
        ({"shape": (8, 4)}, "needs images"),
        ({"shape": (8, 6, 1), "channels": (2, 2, 2)}, "whose sides 4 divides, not 8x6"),
        ({"channels": (2,)}, "at least two channels"),
        ({"channels": (2, 0)}, "an entry of channels must be at least 1"),
        ({"content_dim": 0}, "content_dim must be at least 1"),
        ({"shrink": 1.5}, "shrink must be a whole number"),
        ({"output": "logits"}, "unknown output 'logits'"),
        ({"convention": "pytorch"}, "unknown convention 'pytorch'"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(UserError, match=message):
        nets.translation(**{"shape": (8, 8, 1), **options})


def test_shapes_that_do_not_fit_are_refused():
    content, _, decoder = nets.translation(SHAPE, **TINY)
    with pytest.raises(UserError, match="images of shape \\(8, 4, 2\\), not \\(8, 8, 2\\)"):
        content.init(jax.random.key(0), jnp.zeros((2, 8, 8, 2)))
    with pytest.raises(UserError, match="3 numbers of the content and 2 of the class"):
        decoder.init(jax.random.key(0), jnp.zeros((2, 6)))
    assert CHANNELS == (64, 128, 256, 256, 256)
