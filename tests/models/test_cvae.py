"""The completing VAE and the regressor against NumPy, and what they do to images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import nets
from jaxvae.data.completion import given_pixels, make_completion
from jaxvae.errors import UserError
from jaxvae.metrics.likelihood import log_weights
from jaxvae.models import completion, cvae, regressor, vae, verbs
from jaxvae.testing import check_model
from jaxvae.types import Batch

SHAPE, DIM, WIDTHS = (4, 5, 1), 3, (6, 5, 4)
MASK = given_pixels(SHAPE)  # column 2 of 5: 4 numbers given, 16 missing
KEY, STEP = jax.random.key(3), jnp.int32(0)


@functools.cache
def batch(size=8):
    x = np.random.default_rng(0).integers(0, 256, (size, *SHAPE), dtype=np.uint8)
    return make_completion(MASK)(jax.random.key(1), {"x": x})


def tutorial():
    trio = nets.completion_nets(16, latent_dim=DIM, widths=WIDTHS)
    return cvae(*trio, given=MASK, latent_dim=DIM)


def regression():
    return completion(regressor(nets.completion_regressor(16, widths=WIDTHS)), MASK)


def started(model, like=None):
    return jax.jit(model.init)(jax.random.key(0), batch() if like is None else like)


@pytest.fixture(scope="module")
def trained():
    """The model, with parameters of which every layer says something."""
    model = tutorial()
    params, state = started(model)

    def moved(p):
        return p + 0.3 * np.cos(1.7 * np.arange(p.size, dtype=np.float32)).reshape(p.shape)

    return model, jax.tree.map(moved, params), state


# ---- by hand ---------------------------------------------------------------------------------


def relu(x):
    return np.maximum(x, 0.0)


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def of_condition(params, given):
    a2 = dense(params["a2"], relu(dense(params["a1"], given)))
    return a2, dense(params["a4"], relu(dense(params["a3"], relu(a2))))


def parts(x):
    """The given column and the rest, row by row, as the tutorial's code has them."""
    x = np.asarray(x, np.float64)[..., 0]
    return x[:, :, 2], np.concatenate([x[:, :, :2], x[:, :, 3:]], axis=2).reshape(len(x), -1)


def cross_entropy(x, logits):
    p = 1.0 / (1.0 + np.exp(-logits))
    return -np.sum(x * np.log(p) + (1.0 - x) * np.log(1.0 - p), axis=1)


def test_the_loss_is_that_of_the_tutorials_code(trained):
    model, params, state = trained
    given, x = parts(batch().x)
    a2, a4 = of_condition(params["condition"], given)
    e, d = params["encoder"], params["decoder"]
    h = dense(e["hidden3"], relu(dense(e["hidden2"], relu(dense(e["hidden1"], x))) + a2))
    mean, log_sd = dense(e["mean"], relu(h)), dense(e["log_sd"], h)  # the latter before the ReLU
    noise = np.asarray(jax.random.normal(jax.random.split(KEY, 3)[0], mean.shape), np.float64)
    z = mean + np.exp(log_sd) * noise
    y = relu(dense(d["hidden1"], z) + a4)
    for name in ("hidden2", "hidden3"):
        y = relu(dense(d[name], y))
    rec = cross_entropy(x, dense(d["out"], y))
    kl = np.sum(0.5 * mean**2 + 0.5 * np.exp(2 * log_sd) - log_sd - 0.5, axis=1)
    (objective,) = model.objectives
    assert objective.wrt == ("encoder", "decoder", "condition")
    with jax.default_matmul_precision("highest"):
        loss, aux = jax.jit(objective.loss)(params, state, KEY, batch(), STEP, None)
    np.testing.assert_allclose(aux.metrics["rec"], rec, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(loss, rec + kl, rtol=1e-4)


def test_the_regressor_is_a_density_of_what_is_missing():
    model = regression()
    params, state = started(model)
    p = params["regressor"]
    given, x = parts(batch().x)
    h = relu(of_condition(p["condition"], given)[1])
    logits = dense(p["out"], relu(dense(p["hidden2"], relu(dense(p["hidden1"], h)))))
    (objective,) = model.objectives
    with jax.default_matmul_precision("highest"):
        loss, aux = jax.jit(objective.loss)(params, state, KEY, batch(), STEP, None)
        exact = model.log_prob(params, state, *batch())
        shown = model.sample(params, state, KEY, 8, batch().cond)
    np.testing.assert_allclose(loss, cross_entropy(x, logits), rtol=1e-5)
    np.testing.assert_allclose(exact, -loss, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["log_prob"], -loss, rtol=1e-6)
    np.testing.assert_allclose(parts(shown)[1], 1.0 / (1.0 + np.exp(-logits)), rtol=1e-5)
    np.testing.assert_array_equal(parts(shown)[0], given)


# ---- images ------------------------------------------------------------------------------------


def test_what_is_given_is_shown_and_does_not_count(trained):
    model, params, state = trained
    x, cond = batch()
    q = model.encode(params, state, x, cond)
    p = model.decode(params, state, q.mean, cond)
    drawn = np.asarray(p.sample(KEY))
    sample = np.asarray(model.sample(params, state, KEY, 8, cond))
    path = np.asarray(verbs.interpolate(model, params, state, Batch(x, cond), batch(), 3))
    for image in (np.asarray(p.mean), drawn, sample, path[:, 1]):
        np.testing.assert_array_equal(image[:, :, 2], np.asarray(x)[:, :, 2])
    assert set(np.unique(drawn)) <= {0.0, 1.0}
    other = x.at[:, :, 2].set(0.7)  # the given part of x is not read, that of cond is
    np.testing.assert_array_equal(p.log_prob(other), p.log_prob(x))
    np.testing.assert_array_equal(model.encode(params, state, other, cond).mean, q.mean)
    changed = model.encode(params, state, x, cond.at[:, :, 2].set(1.0 - cond[:, :, 2]))
    assert np.abs(np.asarray(changed.mean - q.mean)).max() > 1e-3


def test_a_traversal_and_importance_weights_take_an_image_as_condition(trained):
    model, params, state = trained
    one = jax.tree.map(lambda v: v[:1], batch())
    x, chosen = verbs.traverse(model, params, state, one, 2, 4)
    assert x.shape == (2, 4, *SHAPE) and len(chosen) == 2
    weights = log_weights(model, params, state, jax.random.split(KEY, 3), batch())
    q = model.encode(params, state, *batch())
    z = q.sample(jax.random.split(KEY, 3)[0])
    p = model.decode(params, state, z, batch().cond)
    normal = -0.5 * np.sum(np.square(z) + np.log(2 * np.pi), axis=-1)
    want = np.asarray(p.log_prob(batch().x)) + normal - np.asarray(q.log_prob(z))
    np.testing.assert_allclose(weights[0], want, rtol=1e-4)


def test_colours_are_given_and_missing_together():
    mask = given_pixels((2, 4, 3), "left")
    model = completion(regressor(nets.mlp((), 12)), mask)
    x = jnp.linspace(0.1, 0.9, 2 * 24).reshape(2, 2, 4, 3)
    params, state = started(model, Batch(x, x))
    shown = np.asarray(model.sample(params, state, KEY, 2, x))
    np.testing.assert_array_equal(shown[:, :, :2], x[:, :, :2])
    assert (shown[:, :, 2:] != x[:, :, 2:]).all()


@pytest.mark.long
@pytest.mark.parametrize("make", [tutorial, regression])
def test_contract(make):
    check_model(make(), batch())


def test_what_is_refused(trained):
    model, params, state = trained
    x, cond = batch()
    with pytest.raises(UserError, match="completes what it is given: batches and samples need"):
        jax.eval_shape(model.init, KEY, Batch(x))
    with pytest.raises(UserError, match="completes what it is given"):
        model.sample(params, state, KEY, 3)
    with pytest.raises(UserError, match="must be an image like x"):
        model.encode(params, state, x, cond[:, :, :3])
    with pytest.raises(UserError, match="bool"):
        jax.eval_shape(model.init, KEY, Batch(x[:, :3], cond[:, :3]))
    pair = nets.mlp((), 2 * DIM), nets.mlp((), 16)
    for mask in (np.zeros((4, 5), bool), np.ones((4, 5), bool)):
        with pytest.raises(UserError, match="some pixels must be given and some be missing"):
            completion(vae(*pair, latent_dim=DIM), mask)
    with pytest.raises(UserError, match="the decoder returns shape"):
        started(cvae(pair[0], nets.mlp((), 15), given=MASK, latent_dim=DIM))
    with pytest.raises(UserError, match="the regressor returns shape"):
        started(completion(regressor(nets.mlp((), 15)), MASK))
