"""The nets of Soft-IntroVAE and IntroVAE: parameters to the unit, every value and derivative
against NumPy in float64, running averages, labels, what does not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from intro_numpy import Numpy, doubles

from jaxvae import models, nets
from jaxvae.errors import UserError
from jaxvae.nets.intro import CHANNELS, INTRO_VAE_CHANNELS, NORMS
from jaxvae.types import Batch

RNG = jax.random.key(0)
SHAPE, TINY = (8, 4, 2), {"latent_dim": 3, "channels": (3, 4)}
STYLES = [
    ("batch", "soft_intro_vae"),
    ("batch", "intro_vae"),
    ("group", "soft_intro_vae"),
    ("none", "intro_vae"),
]


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def abstract(pair, shape, d, classes=None):
    """Returns parameters and state of both nets, and the shapes of their outputs, without computing
    anything."""
    encoder, decoder = pair

    def run(rng):
        x, z = jnp.zeros((2, *shape)), jnp.zeros((2, d))
        cond = None if classes is None else jnp.zeros((2, classes))
        e, g = encoder.init(rng, x, cond), decoder.init(rng, z, cond)
        q, _ = encoder.apply(*e, x, cond=cond, train=True)
        y, _ = decoder.apply(*g, z, cond=cond, train=True)
        return e, g, q, y

    e, g, q, y = jax.eval_shape(run, RNG)
    assert q.dtype == y.dtype == jnp.float32
    return e, g, q.shape, y.shape


@pytest.mark.parametrize(
    ("shape", "d", "variant", "encoder", "decoder"),
    [
        ((32, 32, 3), 128, "soft_intro_vae", 3_382_848, 2_382_531),
        ((28, 28, 1), 32, "soft_intro_vae", 928_512, 697_025),
        ((128, 128, 3), 128, "soft_intro_vae", 16_364_096, 13_073_091),
        ((256, 256, 3), 256, "soft_intro_vae", 23_182_144, 18_842_307),
        ((256, 256, 3), 512, "intro_vae", 22_711_456, 16_190_819),
    ],
)
def test_parameters(shape, d, variant, encoder, decoder):
    pair = nets.intro(shape, latent_dim=d, variant=variant)
    (e, _), (g, _), q, y = abstract(pair, shape, d)
    assert (count(e), count(g), q, y) == (encoder, decoder, (2, 2 * d), (2, *shape))


@pytest.mark.parametrize("side", CHANNELS)
def test_every_published_size_and_narrow_nets(side):
    last = 7 if side == 28 else 4
    for table, variant in ((CHANNELS, "soft_intro_vae"), (INTRO_VAE_CHANNELS, "intro_vae")):
        assert side == last * 2 ** len(table[side])
        pair = nets.intro((side, side, 3), variant=variant, shrink=16)
        (e, _), _, q, y = abstract(pair, (side, side, 3), 128)
        assert (q, y) == ((2, 256), (2, side, side, 3))
        assert e["Conv_0"]["kernel"].shape == (5, 5, 3, table[side][0] // 16)


def test_heads_labels_and_norms_change_the_parameters_that_they_should():
    cifar = (32, 32, 3)
    (e, _), (g, _), q, _ = abstract(
        nets.intro(cifar, heads=(128, 1, 1), num_classes=10), cifar, 128, classes=10
    )
    assert q == (2, 130)
    assert count(e) == 3_382_848 - 4097 * 126 + 10 * 130
    assert count(g) == 2_382_531 + 10 * 4096
    (e, state), _, _, _ = abstract(nets.intro(cifar, norm="group"), cifar, 128)
    assert (count(e), state) == (3_382_848, {})
    (e, state), _, _, _ = abstract(nets.intro(cifar, norm="none"), cifar, 128)
    biases = 64 + (128 * 2 + 128) + (256 * 2 + 256) + 256 * 2  # and of the shortcuts
    scales_and_shifts = 2 * (64 + 2 * 128 + 2 * 256 + 2 * 256)
    assert (count(e), state) == (3_382_848 + biases - scales_and_shifts, {})


# ---- the same in NumPy ---------------------------------------------------------------------------


def started(net, x, cond, seed=0):
    """Returns parameters and state of a net with nothing left at 0 or 1, float32."""
    params, state = jax.jit(net.init)(RNG, x, cond)
    rng = np.random.default_rng(seed)
    moved = lambda v: v + jnp.asarray(rng.uniform(0.1, 0.4, v.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(moved, params), jax.tree.map(moved, state)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(("norm", "variant"), STYLES)
def test_values_averages_and_derivatives_are_numpys(norm, variant, part):
    """All by a transcription of the paper's description; derivatives by central differences in
    float64, along a random direction of each parameter and of the input."""
    rng = np.random.default_rng(1)
    shape = SHAPE if part == "encoder" else (3,)
    x, cond = rng.uniform(size=(3, *shape)), np.eye(3, 5)
    pair = nets.intro(SHAPE, norm=norm, variant=variant, num_classes=5, **TINY)
    net = pair[0 if part == "encoder" else 1]
    args = jnp.asarray(x, jnp.float32), jnp.asarray(cond, jnp.float32)
    params, state = started(net, *args)
    x, exact, exact_state = np.asarray(args[0], np.float64), doubles(params), doubles(state)

    def numpys(params, x, train):
        other = Numpy(params, exact_state, norm, variant, train)
        y = (other.encode if part == "encoder" else other.decode)(x, cond)
        return y, other

    apply = lambda p, x, train: net.apply(p, state, x, cond=args[1], train=train)  # noqa: E731

    def loss(p, x):
        y, new = apply(p, x, True)
        return jnp.sum(jnp.asarray(weight, jnp.float32) * y), (y, new)

    want, other = numpys(exact, x, True)
    weight = rng.normal(size=want.shape)
    with jax.default_matmul_precision("highest"):
        gradient, (y, new) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, args[0])
        in_evaluation, kept = jax.jit(apply, static_argnums=2)(params, args[0], False)
    np.testing.assert_allclose(y, want, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(in_evaluation, numpys(exact, x, False)[0], rtol=2e-4, atol=2e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, new, {"batch_stats": other.state} if norm == "batch" else {})
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    leaves, tree = jax.tree.flatten((exact, x))
    for i, g in enumerate(jax.tree.leaves(gradient)):
        direction = rng.normal(size=g.shape)
        direction /= np.linalg.norm(direction)
        sides = []
        for step in (1e-6, -1e-6):
            moved = [*leaves[:i], leaves[i] + step * direction, *leaves[i + 1 :]]
            sides.append((weight * numpys(*tree.unflatten(moved), True)[0]).sum())
        want = (sides[0] - sides[1]) / 2e-6
        have = (np.asarray(g, np.float64) * direction).sum()
        assert have == pytest.approx(want, rel=2e-3, abs=2e-4 * (1 + float(np.linalg.norm(g))))


# ---- as users see it -----------------------------------------------------------------------------


@pytest.mark.long
def test_a_model_of_them_has_a_loss_that_moves_every_parameter():
    pair = nets.intro((28, 28, 1), latent_dim=4, shrink=32)
    model = models.soft_intro_vae(*pair, latent_dim=4)
    batch = Batch(jax.random.uniform(RNG, (4, 28, 28, 1)))
    params, state = model.init(RNG, batch)
    objective = model.objectives[0]
    loss = lambda p: objective.loss(p, state, RNG, batch, 0, None)[0].mean()  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(params)["encoder"]
    for name, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, name


def plain_vae_of(remat, shape=SHAPE, **options):
    """Returns a VAE of both nets, its loss's gradient, and a batch."""
    pair = nets.intro(shape, latent_dim=3, channels=(3, 4), remat=remat, **options)
    model = models.plain_vae(*pair, latent_dim=3)
    batch = Batch(jax.random.uniform(RNG, (4, *shape)))

    def loss(params, state):
        value, aux = model.objectives[0].loss(params, state, RNG, batch, 0, None)
        return value.mean(), aux.state

    return model, jax.value_and_grad(loss, has_aux=True), batch


@pytest.mark.parametrize(("norm", "variant"), [STYLES[0], ("group", "intro_vae")])
def test_features_computed_again_are_the_same(norm, variant):
    """Rematerialisation changes what is kept, not what is drawn or computed: the loss, gradients,
    running averages and the moments of a pass are the same."""
    found = []
    for remat in (False, True):
        model, gradient, batch = plain_vae_of(remat, norm=norm, variant=variant)
        start = model.init(RNG, batch)
        (loss, state), grads = jax.jit(gradient)(*start)
        assert (jax.tree.leaves(state) != []) == (norm == "batch")
        found.append((start, loss, state, grads))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found[0][0], found[1][0])
    jax.tree.map(close, *found)
    if norm == "batch":
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), found[1][0][1], found[1][2])
        assert all(jax.tree.leaves(moved))
    encoders = [nets.intro(SHAPE, norm=norm, remat=remat, **TINY)[0] for remat in (False, True)]
    start = encoders[0].init(RNG, batch.x)
    jax.tree.map(close, *(jax.jit(encoder.moments)(*start, batch.x) for encoder in encoders))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_each_block_is_computed_again_and_its_features_are_not_kept(norm):
    """The encoder has its first convolution and two blocks, the decoder three. (XLA on CPU takes the
    barriers out again, so that its programs are of one size.)"""
    barriers, kept = [], []
    for remat in (False, True):
        model, gradient, batch = plain_vae_of(remat, (32, 32, 2), norm=norm)
        start = jax.eval_shape(model.init, RNG, batch)
        barriers.append(jax.jit(gradient).lower(*start).as_text().count("optimization_barrier"))
        params, state = start
        state = jax.tree.map(lambda x: jnp.zeros(x.shape), state)

        def pull(params, model=model, state=state, batch=batch):
            loss = lambda p: model.objectives[0].loss(p, state, RNG, batch, 0, None)[0]  # noqa: E731
            return jax.vjp(loss, params)[1]

        kept.append(count(jax.eval_shape(pull, params)) - count(params))
    assert barriers == [0, 6]
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize("norm", NORMS)
def test_bfloat16_computes_and_returns_float32(norm):
    pair = nets.intro((8, 8, 1), norm=norm, dtype=jnp.bfloat16, **TINY)
    (e, state), (g, _), _, _ = abstract(pair, (8, 8, 1), 3)  # which looks at the outputs' types
    assert {v.dtype for v in jax.tree.leaves((e, state, g))} == {jnp.dtype("float32")}


def test_outputs():
    z = jnp.ones((2, 3))
    linear, sigmoid = (nets.intro(SHAPE, output=o, **TINY)[1] for o in ("linear", "sigmoid"))
    start = linear.init(RNG, z)
    y = linear.apply(*start, z, train=False)[0]
    np.testing.assert_allclose(
        sigmoid.apply(*start, z, train=False)[0], 1 / (1 + np.exp(-np.asarray(y))), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (
            (30, 30, 3),
            {},
            "square images of 28, 32, 64, 128, 256, 512, 1024 pixels a side, not 30x30",
        ),
        ((32, 64, 3), {}, "not 32x64: resize"),
        ((30, 28, 3), {"channels": (8, 8)}, "whose sides 4 divides, not 30x28"),
        ((28, 28), {}, "needs images"),
        ((28, 28, 0), {}, "a side of the image"),
        ((28, 28, 1), {"channels": ()}, "at least one entry in channels"),
        ((28, 28, 1), {"channels": (8, 0)}, "an entry of channels must be at least 1"),
        ((28, 28, 1), {"norm": "bacth"}, "unknown norm 'bacth'. Did you mean 'batch'"),
        ((28, 28, 1), {"variant": "vae"}, "unknown variant 'vae'"),
        ((28, 28, 1), {"output": "logit"}, "unknown output 'logit'"),
        ((28, 28, 1), {"shrink": 0}, "shrink must be at least 1"),
        ((28, 28, 1), {"num_classes": 0}, "num_classes must be at least 1"),
        ((28, 28, 1), {"latent_dim": 0}, "latent_dim must be at least 1"),
    ],
)
def test_what_does_not_fit(shape, options, message):
    with pytest.raises(UserError, match=message):
        nets.intro(shape, **options)


def test_labels_and_images_that_do_not_fit():
    plain, conditional = nets.intro(SHAPE, **TINY), nets.intro(SHAPE, num_classes=5, **TINY)
    for i, x in enumerate((jnp.zeros((2, *SHAPE)), jnp.zeros((2, 3)))):
        with pytest.raises(UserError, match=r"got no cond, and takes one-hot labels \[batch, 5\]"):
            conditional[i].init(RNG, x)
        with pytest.raises(UserError, match=r"cond of shape \(2, 4\), and takes one-hot"):
            conditional[i].init(RNG, x, jnp.zeros((2, 4)))
        with pytest.raises(UserError, match="takes none: build it with num_classes"):
            plain[i].init(RNG, x, jnp.zeros((2, 5)))
    with pytest.raises(UserError, match=r"takes images of shape \(8, 4, 2\), not \(8, 8, 2\)"):
        plain[0].init(RNG, jnp.zeros((2, 8, 8, 2)))
