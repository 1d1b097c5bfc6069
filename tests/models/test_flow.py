"""The flow's map against its inverse, its Jacobian and its density written out in NumPy, and what
it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import nets
from jaxvae.data.preprocess import make_preprocess
from jaxvae.errors import UserError
from jaxvae.metrics.likelihood import bits_per_dim
from jaxvae.models import flow
from jaxvae.models.flow import Flow, checkerboard
from jaxvae.nets import coupling
from jaxvae.testing import check_model
from jaxvae.train.step import init_state, make_eval_step, make_train_step
from jaxvae.types import Batch, Net
from small import precisions

IMAGE = (4, 6, 2)
KEY = jax.random.key(3)


def images(size=16, dtype=jnp.float32):
    """Dequantised bytes, those of both ends among them."""
    grey = jax.random.randint(jax.random.key(1), (size, *IMAGE), -200, 456).clip(0, 255)
    u = jax.random.uniform(jax.random.key(2), grey.shape, dtype)
    return (grey.astype(dtype) + u) / 256


def shaken(params, scale=0.05):
    """Parameters whose couplings are far from the identity, and latents of the size of the data's
    logits."""
    leaves, form = jax.tree.flatten(params)
    rngs = jax.random.split(KEY, len(leaves))
    moved = (
        w + scale * jax.random.normal(r, w.shape, w.dtype)
        for w, r in zip(leaves, rngs, strict=True)
    )
    return jax.tree.unflatten(form, moved)


def a_flow(shape=IMAGE, couplings=8, alpha=1e-5, dtype=jnp.float32):
    """The map, the model, and parameters far from the start."""
    net = coupling(shape, hidden=(16, 16), dtype=dtype)
    model = flow(net, shape, couplings=couplings, alpha=alpha)
    params, _ = model.init(jax.random.key(0), Batch(jnp.full((2, *shape), 0.5, jnp.float32)))
    params = jax.tree.map(lambda w: w.astype(dtype), shaken(params))
    return Flow(net, shape, couplings, alpha), model, params


# ---- the map -----------------------------------------------------------------------------------


@pytest.mark.parametrize("couplings", [2, 8, 32])
def test_the_inverse_gives_the_pixels_back(couplings):
    of, _, params = a_flow(couplings=couplings)
    x = images()
    z, _ = jax.jit(of.to_latent)(params, x)
    assert np.abs(z - jnp.log(x / (1 - x))).max() > 0.5  # it is not the identity
    np.testing.assert_allclose(jax.jit(of.to_data)(params, z), x, atol=1e-5)


@pytest.mark.parametrize("couplings", [2, 8, 32])
def test_the_inverse_in_float64(couplings):
    with jax.enable_x64(True):
        of, _, params = a_flow(couplings=couplings, dtype=jnp.float64)
        x = images(dtype=jnp.float64)
        z, log_det = of.to_latent(params, x)
        assert z.dtype == log_det.dtype == jnp.float64
        np.testing.assert_allclose(of.to_data(params, z), x, atol=1e-10)


@pytest.mark.parametrize("alpha", [None, 1e-5, 0.1])
def test_the_log_determinant_is_that_of_the_jacobian(alpha):
    with jax.enable_x64(True):
        of, _, params = a_flow(alpha=alpha, dtype=jnp.float64)
        x = images(3, jnp.float64)
        n = x[0].size

        def flat(row):
            return of.to_latent(params, row.reshape(1, *IMAGE))[0].reshape(-1)

        jacobian = jax.vmap(jax.jacfwd(flat))(x.reshape(3, n))
        _, want = np.linalg.slogdet(jacobian)
        np.testing.assert_allclose(of.to_latent(params, x)[1], want, rtol=1e-9)


def test_the_map_written_out():
    """Two couplings of the first and the second half of a checkerboard, in NumPy."""
    of, _, params = a_flow(couplings=2, alpha=0.1)
    x = images(5)
    v = 0.9 * np.asarray(x, np.float64) + 0.05
    h = np.log(v / (1.0 - v))
    log_det = (np.log(0.9) - np.log(v) - np.log(1.0 - v)).sum(axis=(1, 2, 3))
    rows, columns, _ = np.indices(IMAGE)
    for number, of_coupling in enumerate(params["flow"]):
        mask = ((rows + columns) % 2 == number).astype(np.float64)
        a = (mask * h).reshape(5, -1)
        for layer in ("Dense_0", "Dense_1"):
            weights = {name: np.asarray(w, np.float64) for name, w in of_coupling[layer].items()}
            a = np.maximum(a @ weights["kernel"] + weights["bias"], 0.0)
        a = a @ np.asarray(of_coupling["out"]["kernel"]) + np.asarray(of_coupling["out"]["bias"])
        s, t = np.split(a, 2, axis=1)
        s, t = np.tanh(s).reshape(h.shape), t.reshape(h.shape)
        h = mask * h + (1.0 - mask) * (h * np.exp(s) + t)
        log_det += ((1.0 - mask) * s).sum(axis=(1, 2, 3))
    z, found = of.to_latent(params, x)
    np.testing.assert_allclose(z, h, atol=1e-4)
    np.testing.assert_allclose(found, log_det, rtol=1e-4)
    density = log_det - 0.5 * (h**2 + np.log(2.0 * np.pi)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(of.log_prob(params, x), density, rtol=1e-4)


def test_at_the_start_it_is_the_identity_behind_the_logit():
    model = flow(coupling(IMAGE, hidden=(8,)), IMAGE)
    x = images()
    params, state = model.init(jax.random.key(0), Batch(x))
    v = (1.0 - 1e-5) * np.asarray(x, np.float64) + 0.5e-5
    y = np.log(v / (1.0 - v))
    want = -0.5 * (y**2 + np.log(2.0 * np.pi)) + np.log(1.0 - 1e-5) - np.log(v * (1.0 - v))
    np.testing.assert_allclose(
        model.log_prob(params, state, x), want.sum(axis=(1, 2, 3)), rtol=1e-5
    )
    z, log_det = Flow(coupling(IMAGE, hidden=(8,)), IMAGE, 8, None).to_latent(params, x)
    np.testing.assert_array_equal(z, x)
    np.testing.assert_array_equal(log_det, 0.0)


def test_masks_are_a_checkerboard():
    np.testing.assert_array_equal(checkerboard((2, 4, 1))[..., 0], [[1, 0, 1, 0], [0, 1, 0, 1]])
    np.testing.assert_array_equal(checkerboard((2, 2, 3))[0, 1], [0, 0, 0])  # all of a pixel
    np.testing.assert_array_equal(checkerboard((5,)), [1, 0, 1, 0, 1])


def test_the_reports_flow_has_its_number_of_parameters():
    model = flow(coupling((28, 28, 1)), (28, 28, 1))
    x = Batch(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32))
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    assert len(params["flow"]) == 8
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 8 * 3_460_640 == 27_685_120


# ---- the density -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A flow of points near a circle."""
    turn, radius = jax.random.split(jax.random.key(1))
    angle = jax.random.uniform(turn, (256,), maxval=6.28)
    x = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    batch = Batch(x * (1.0 + 0.1 * jax.random.normal(radius, (256, 1))))
    model, tx = flow(coupling(2, hidden=(16, 16)), 2, couplings=4, alpha=None), optax.adam(1e-2)
    step, start = make_train_step(model, tx), init_state(model, tx, jax.random.key(0), batch)
    end, metrics = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s, batch), s, length=300))(
        start
    )
    return model, end, batch, np.asarray(metrics["loss"].total / metrics["loss"].count)


def test_it_learns_and_is_evaluated_by_its_density(trained):
    model, end, batch, losses = trained
    assert losses[-1] < losses[0] - 0.3
    metrics = make_eval_step(model)(end.params, {}, KEY, batch, jnp.ones(256))
    assert set(metrics) == {"log_prob"}
    np.testing.assert_allclose(float(metrics["log_prob"]), -losses[-1], atol=0.1)


def test_the_density_of_points_integrates_to_one(trained):
    model, end, _, _ = trained
    side, step = np.linspace(-6.0, 6.0, 1201, retstep=True)
    grid = jnp.asarray(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2), jnp.float32)
    density = np.exp(np.asarray(jax.jit(model.log_prob)(end.params, {}, grid), np.float64))
    np.testing.assert_allclose(density.sum() * step**2, 1.0, rtol=2e-3)


def test_the_density_of_pixels_integrates_to_one():
    """Two pixels, of which alpha leaves a hundredth of a pixel beyond each end."""
    of, _, params = a_flow((2,), couplings=4, alpha=0.01)
    beyond = 0.005 / 0.99
    side = np.linspace(-beyond, 1.0 + beyond, 1202)
    middle, step = (side[1:] + side[:-1]) / 2, side[1] - side[0]
    grid = jnp.asarray(np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2), jnp.float32)
    density = np.exp(np.asarray(jax.jit(of.log_prob)(params, grid), np.float64))
    np.testing.assert_allclose(density.sum() * step**2, 1.0, rtol=5e-3)


def test_the_inverse_of_what_is_trained(trained):
    _, end, batch, _ = trained
    of = Flow(coupling(2, hidden=(16, 16)), (2,), 4, None)
    z, _ = of.to_latent(end.params, batch.x)
    np.testing.assert_allclose(of.to_data(end.params, z), batch.x, atol=1e-5)


def test_samples_are_of_the_density(trained):
    model, end, batch, losses = trained
    x = model.sample(end.params, {}, KEY, 4000)
    found = -model.log_prob(end.params, {}, x).mean()  # the entropy, near the loss of the data
    np.testing.assert_allclose(found, losses[-1], atol=0.3)
    np.testing.assert_allclose(np.cov(x.T), np.cov(batch.x.T), atol=0.2)


def test_samples_of_pixels_are_pixels():
    _, model, params = a_flow(alpha=0.2)
    x = model.sample(params, {}, KEY, 50)
    assert x.shape == (50, *IMAGE)
    assert x.min() == 0.0 and x.max() == 1.0  # alpha / 2 beyond either end, before it is clipped


def test_bits_per_dimension_of_bytes_under_a_uniform_density():
    """A flow whose x is uniform on [0, 1]: 8 bits a byte."""
    nll = 0.0
    assert bits_per_dim(nll, IMAGE, pixels="dequantised", likelihood="exact")[0] == 8.0
    grey = np.arange(256, dtype=np.uint8).repeat(24).reshape(-1, *IMAGE)
    batch = make_preprocess("dequantised")(KEY, {"x": jnp.asarray(grey)})
    _, model, params = a_flow()
    found = model.log_prob(params, {}, batch.x)  # 255 + u is in reach of the logit
    assert np.isfinite(found).all()


def test_the_density_and_the_samples_are_at_the_highest_precision():
    _, model, params = a_flow()
    with jax.default_matmul_precision("default"):
        assert precisions(model.log_prob, params, {}, images()) == {"HIGHEST"}
        drawn = lambda params, rng: model.sample(params, {}, rng, 2)  # noqa: E731
        assert precisions(drawn, params, KEY) == {"HIGHEST"}


# ---- contracts, mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [IMAGE, (3,)])
def test_it_keeps_the_contracts(shape):
    net = coupling(shape, hidden=(8,))
    check_model(flow(net, shape, couplings=3), Batch(jax.random.uniform(KEY, (16, *shape))))


def test_a_condition_moves_the_density():
    model = flow(coupling(3, hidden=(8,)), 3, couplings=2, alpha=None)
    batch = Batch(jax.random.normal(KEY, (16, 3)), jax.nn.one_hot(jnp.arange(16) % 2, 2))
    check_model(model, batch)
    params = shaken(model.init(KEY, batch)[0], 0.3)
    a, b = (model.log_prob(params, {}, batch.x, c) for c in (batch.cond, 1.0 - batch.cond))
    assert not np.allclose(a, b)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((5, 4, 1), {}, "sides must be even, not 5x4: resize or pad"),
        ((4, 7, 3), {}, "sides must be even"),
        ((4, 4), {}, "a flow is of images"),
        (1, {}, "at least two numbers"),
        (4, {"couplings": 1}, "couplings must be at least 2"),
        (4, {"alpha": 0.0}, "alpha must be greater than 0"),
        (4, {"alpha": 1.0}, "alpha must be below 1"),
    ],
)
def test_settings_that_no_flow_has_are_refused(shape, options, message):
    with pytest.raises(UserError, match=message):
        flow(coupling(4), shape, **options)


def counting():
    """A net with state."""
    return Net(
        lambda rng, x, cond=None: ({}, {"count": jnp.zeros(())}),
        lambda params, state, x, *, cond=None, rng=None, train: (jnp.stack([x, x], 1), state),
    )


def test_data_and_nets_that_do_not_fit_are_refused():
    model, x = flow(coupling(4, hidden=(8,)), 4), jnp.full((3, 4), 0.5)
    params, state = model.init(KEY, Batch(x))
    for bad, message in (
        (x + 1.0, r"the logit needs pixels in \[0, 1\]; these run from 1.5 to 1.5"),
        (-x, "run from -0.5"),
        (x * jnp.nan, "run from nan"),
        (jnp.ones((3, 4), jnp.uint8), "must be floating point"),
    ):
        with pytest.raises(UserError, match=message):
            model.init(KEY, Batch(bad))
        with pytest.raises(UserError, match=message):
            model.log_prob(params, state, bad)
    with pytest.raises(UserError, match=r"this flow is of shape \(4,\)"):
        model.init(KEY, Batch(jnp.full((3, 5), 0.5)))
    with pytest.raises(UserError, match=r"must return shape \(2, 4\) per example, not \(8,\)"):
        flow(nets.mlp((4,), 8), 4).init(KEY, Batch(x))
    with pytest.raises(UserError, match="without BatchNorm"):
        flow(counting(), 4).init(KEY, Batch(x))
    with pytest.raises(UserError, match="unknown stats"):
        model.log_prob(params, state, x, stats="own")
    flow(coupling(4, hidden=(8,)), 4, alpha=None).init(KEY, Batch(10.0 * x))  # without a logit
