"""Image translation: one training step with LORD's nets against the losses written out in NumPy, in
float64; what the two latents are; translations of a model whose truth is known; what is refused."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from intro_numpy import doubles

import systems
import translation_numpy as reference
from gradients import RATE, check_gradients, given, keeping
from jaxvae import distributions, models, nets
from jaxvae.abilities import HasKLPerDim, HasMean, HasMetrics, HasParts, HasVariance
from jaxvae.errors import UserError
from jaxvae.models.translation import parts, side_by_side
from jaxvae.testing import check_model
from jaxvae.train.step import TrainState, make_train_step
from jaxvae.types import Batch, Net

B, CONTENT, CLASS, SHAPE = 4, 3, 2, (8, 4, 2)
D, DIMS = CONTENT + CLASS, {"content_dim": CONTENT, "class_dim": CLASS}
H = {"beta_rec": 0.6, "s": 0.02, "alpha": 1.5, "gamma": 0.8, "gamma_r": 0.7}
KL = {"beta_kl_content": 0.3, "beta_kl_class": 0.9}
NEG = {"beta_neg_content": 40.0, "beta_neg_class": 15.0}
FEATURES = np.random.default_rng(5).normal(size=(64, 3)) / 8.0


def feature_error(x, y):
    """Returns a stand-in for a perceptual error [B]: distances of pixels and of features."""
    d = (x - y).reshape(len(x), -1)
    return (d**2).sum(1) + 0.5 * ((d @ FEATURES.astype(d.dtype)) ** 2).sum(1)


# ---- a step in NumPy -------------------------------------------------------------------------


class Case(NamedTuple):
    """What a step sees, in float64."""

    x: np.ndarray
    eps: np.ndarray  # n, z, z_rec, z_fake of the encoder's turn; z_rec, z_fake of the decoder's


def E(phi, x):
    """Returns means and log-variances, the content's first."""
    halves = [np.split(reference.encode(phi[name], x), 2, axis=1) for name in ("content", "class")]
    return tuple(np.hstack([half[i] for half in halves]) for i in (0, 1))


def D_of(theta, z):
    return reference.decode(theta, z, CONTENT, (4, 2))


def draw(q, eps):
    return q[0] + np.exp(q[1] / 2) * eps


def kl(q, of_content, of_class):
    each = -0.5 * (1 + q[1] - q[0] ** 2 - np.exp(q[1]))
    return of_content * each[:, :CONTENT].sum(1) + of_class * each[:, CONTENT:].sum(1)


def encoder_turn(case, convention, phi, theta, old):
    """Algorithm 2, lines 8 to 19, with two KLs; `old` is what the encoder was before the step."""
    n, eps_z, eps_r, eps_f = case.eps[:4]
    fake, q = D_of(theta, n), E(phi, case.x)
    z = draw(q, eps_z)
    rec = D_of(theta, z)
    held = D_of(theta, draw(E(old, case.x), eps_z))
    total = H["s"] * (H["beta_rec"] * feature_error(case.x, rec) + kl(q, *KL.values()))
    for y, seen, eps in (
        (rec, held if convention == "released" else rec, eps_r),
        (fake, fake, eps_f),
    ):
        q_y = E(phi, seen)
        elbo = -H["beta_rec"] * feature_error(y, D_of(theta, draw(q_y, eps)))
        elbo -= kl(q_y, *NEG.values())
        total = total + np.exp(H["alpha"] * H["s"] * elbo) / H["alpha"] / 2
    return total, z


def decoder_turn(case, convention, phi, theta, old, z):
    """Algorithm 2, lines 20 to 29, with the sign of Eq. 7; phi has moved, z has not."""
    total = H["beta_rec"] * feature_error(case.x, D_of(theta, z))
    for latent, eps in ((z, case.eps[4]), (case.eps[0], case.eps[5])):
        y, y_old = D_of(theta, latent), D_of(old, latent)
        again = draw(E(phi, y_old), eps)
        if convention == "paper":  # the second decode is held
            e = feature_error(y, D_of(old, again))
        else:  # the target and the latent are held
            e = feature_error(y_old, D_of(theta, again))
        q = E(phi, y)
        total = total + H["gamma"] / 2 * (kl(q, *KL.values()) + H["gamma_r"] * H["beta_rec"] * e)
    return H["s"] * total


def trio(**options):
    return nets.translation(SHAPE, channels=(3, 4), shrink=64, **DIMS, **options)


def started(model, rng):
    """Returns a training state in which nothing is left at 0, and its batch."""
    batch = Batch(jnp.asarray(rng.uniform(size=(B, *SHAPE)), jnp.float32))
    params, state = jax.jit(model.init)(jax.random.key(0), batch)
    params = jax.tree.map(
        lambda v: v + jnp.asarray(rng.uniform(-0.2, 0.2, v.shape), jnp.float32), params
    )
    tx = keeping()
    opt_state = {name: tx.init(params[name]) for name in params}
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, state, opt_state, None, jax.random.key(1)), batch


@pytest.mark.long
@pytest.mark.parametrize("convention", ["released", "paper"])
def test_one_step_is_that_of_numpy(monkeypatch, convention):
    rng = np.random.default_rng(7)
    model = models.translation(
        *trio(), **DIMS, error=feature_error, convention=convention, **H, **KL, **NEG
    )
    start, batch = started(model, rng)
    eps = rng.normal(size=(6, B, D)).astype(np.float32)
    given(monkeypatch, eps)
    with jax.default_matmul_precision("highest"):
        end, metrics = jax.jit(make_train_step(model, keeping()))(start, batch)
    for name in ("exp_elbo_rec", "exp_elbo_fake"):  # the fakes count
        assert 0.2 < float(metrics[name]) < 0.9

    case = Case(np.asarray(batch.x, np.float64), eps.astype(np.float64))
    old = doubles(start.params)
    turn = functools.partial(encoder_turn, case, convention, old=old["encoder"])
    loss, z = turn(old["encoder"], old["decoder"])
    assert float(metrics["encoder_loss"]) == pytest.approx(loss.mean(), rel=1e-5)
    gradient = end.opt_state["encoder"]
    check_gradients(gradient, lambda phi: turn(phi, old["decoder"])[0], old["encoder"], rng)
    q = E(old["encoder"], case.x)
    for name, weights in (("kl_content", (1, 0)), ("kl_class", (0, 1)), ("kl", (1, 1))):
        assert float(metrics[name]) == pytest.approx(kl(q, *weights).mean(), rel=1e-5)
    rec = D_of(old["decoder"], z)
    assert float(metrics["error"]) == pytest.approx(feature_error(case.x, rec).mean(), rel=1e-5)
    squared = ((case.x - rec) ** 2).sum((1, 2, 3)).mean()
    assert float(metrics["squared_error"]) == pytest.approx(squared, rel=1e-5)

    phi = jax.tree.map(lambda w, g: w - RATE * np.asarray(g, np.float64), old["encoder"], gradient)
    turn = functools.partial(decoder_turn, case, convention, phi, old=old["decoder"], z=z)
    assert float(metrics["decoder_loss"]) == pytest.approx(turn(old["decoder"]).mean(), rel=1e-5)
    check_gradients(end.opt_state["decoder"], turn, old["decoder"], rng)


def test_the_plain_vae_pays_both_kls_by_their_weights(monkeypatch):
    rng = np.random.default_rng(8)
    model = models.plain_translation(*trio(), **DIMS, beta_rec=0.6, error=feature_error, **KL)
    start, batch = started(model, rng)
    eps = rng.normal(size=(1, B, D)).astype(np.float32)
    given(monkeypatch, eps)
    with jax.default_matmul_precision("highest"):
        end, metrics = jax.jit(make_train_step(model, keeping()))(start, batch)
    old, x = doubles(start.params), np.asarray(batch.x, np.float64)

    def loss(params):
        q = E(params["encoder"], x)
        x_hat = D_of(params["decoder"], draw(q, eps[0].astype(np.float64)))
        return 0.6 * feature_error(x, x_hat) + kl(q, *KL.values())

    assert float(metrics["loss"]) == pytest.approx(loss(old).mean(), rel=1e-5)
    check_gradients(end.opt_state, loss, old, rng)


def test_one_weight_for_each_dimension_is_one_for_all_where_they_are_equal():
    """So that the weights are those of `soft_intro_vae`, dimension by dimension."""
    pair = nets.mlp((), 4), nets.mlp((), 2)
    batch = Batch(jax.random.normal(jax.random.key(0), (8, 2)))
    found = []
    for beta in (0.7, jnp.full(2, 0.7), jnp.asarray([0.7, 0.1])):
        model = models.soft_intro_vae(*pair, latent_dim=2, s=0.4, beta_kl=beta, beta_neg=beta)
        params, state = model.init(jax.random.key(1), batch)
        args = (params, state, jax.random.key(2), batch, jnp.int32(0))
        loss, aux = model.objectives[0].loss(*args, None)
        found.append((loss, model.objectives[1].loss(*args, aux.carry)[0]))
    for one, many, other in zip(*found, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5)
        assert np.abs(other - one).max() > 1e-3


# ---- two latents -----------------------------------------------------------------------------


def test_the_posterior_of_two_latents_is_that_of_both_at_once():
    output = jax.random.normal(jax.random.key(0), (B, 2 * D))
    q = parts(CONTENT).build(output)
    assert parts(CONTENT).size(D) == 2 * D
    for ability in (HasParts, HasMean, HasVariance, HasKLPerDim, HasMetrics):
        assert isinstance(q, ability)
    np.testing.assert_array_equal(q.mean[:, :CONTENT], output[:, :CONTENT])
    np.testing.assert_array_equal(q.mean[:, CONTENT:], output[:, 2 * CONTENT : 2 * CONTENT + CLASS])
    np.testing.assert_array_equal(q.content.logvar, output[:, CONTENT : 2 * CONTENT])
    np.testing.assert_array_equal(q.of_class.logvar, output[:, -CLASS:])
    z, joint = q.sample(jax.random.key(1)), q.joint
    np.testing.assert_array_equal(z, joint.sample(jax.random.key(1)))
    np.testing.assert_allclose(q.log_prob(z), joint.log_prob(z), rtol=1e-6)
    np.testing.assert_allclose(q.kl(), joint.kl(), rtol=1e-6)
    np.testing.assert_allclose(q.kl_per_dim().sum(1), q.kl(), rtol=1e-6)
    np.testing.assert_allclose(q.variance, jnp.exp(joint.logvar), rtol=1e-6)
    found = distributions.metrics(q)
    np.testing.assert_allclose(found["kl_content"] + found["kl_class"], q.kl(), rtol=1e-6)
    np.testing.assert_allclose(found["kl_content"], q.kl_per_dim()[:, :CONTENT].sum(1), rtol=1e-6)


def test_encoders_side_by_side_have_keys_of_their_own_and_keep_their_state():
    net = Net(
        lambda rng, x, cond=None: (jax.random.normal(rng), {"seen": jnp.zeros(())}),
        lambda params, state, x, cond=None, rng=None, train=False: (
            jnp.full((len(x), 4), params) + jax.random.normal(rng),
            {"seen": state["seen"] + 1.0},
        ),
    )
    both = side_by_side(net, net, (2, 2))
    params, state = both.init(jax.random.key(0), jnp.zeros((3, 1)))
    assert params["content"] != params["class"] and set(state) == {"content", "class"}
    y, new = both.apply(params, state, jnp.zeros((3, 1)), rng=jax.random.key(1), train=True)
    assert y.shape == (3, 8) and abs(float(y[0, 0] - params["content"])) > 1e-3
    noises = y[0, 0] - params["content"], y[0, 4] - params["class"]
    assert abs(float(noises[0] - noises[1])) > 1e-3
    assert float(new["content"]["seen"]) == float(new["class"]["seen"]) == 1.0
    assert both.moments is None


@pytest.mark.long
def test_contracts():
    check_model(systems.translation(), Batch(systems.images().x))


# ---- translations ----------------------------------------------------------------------------


def ideal():
    """Returns a model that takes images apart without a net: an image [2] is its content, and its
    class is a number [1], both kept in x [B, 3]; the decoder puts them beside each other."""

    def encoder(first, last):
        def apply(params, state, x, *, cond=None, rng=None, train):
            mean = x[:, first:last]
            return jnp.concatenate([mean, jnp.full_like(mean, -20.0)], axis=-1), state

        return Net(lambda rng, x, cond=None: ({}, {}), apply)

    decoder = Net(
        lambda rng, z, cond=None: ({}, {}),
        lambda params, state, z, cond=None, rng=None, train=False: (z, state),
    )
    return models.translation(
        encoder(0, 2), encoder(2, 3), decoder, content_dim=2, class_dim=1, beta_neg_class=1.0
    )


def test_a_translation_has_the_content_of_one_and_the_class_of_the_other():
    model = ideal()
    contents, classes = (jnp.asarray(np.arange(s, s + 12.0).reshape(4, 3)) for s in (0, 100))
    params, state = model.init(jax.random.key(0), Batch(contents))
    x = models.translate(model, params, state, Batch(contents), Batch(classes))
    np.testing.assert_array_equal(x, np.hstack([contents[:, :2], classes[:, 2:]]))
    rows = models.translations(model, params, state, Batch(contents), Batch(classes[:3]))
    assert rows.shape == (3, 4, 3)
    for i, j in np.ndindex(3, 4):
        np.testing.assert_array_equal(rows[i, j], [*contents[j, :2], classes[i, 2]])
    np.testing.assert_array_equal(
        models.translate(model, params, state, Batch(contents), Batch(contents)),
        models.reconstruct(model, params, state, Batch(contents)),
    )
    with pytest.raises(UserError, match="4 contents and 3 classes are no pairs"):
        models.translate(model, params, state, Batch(contents), Batch(classes[:3]))


def test_a_model_without_content_and_class_is_refused():
    pair = nets.mlp((), 4), nets.mlp((), 2)
    model, batch = models.plain_vae(*pair, latent_dim=2), Batch(jnp.zeros((2, 2)))
    params, state = model.init(jax.random.key(0), batch)
    with pytest.raises(UserError, match="no content and class to be exchanged"):
        models.translations(model, params, state, batch, batch)


# ---- mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_neg_class": -1.0}, "beta_neg_class must be at least 0"),
        ({"beta_kl_content": "1"}, "beta_kl_content must be a number"),
        ({"beta_rec": float("nan")}, "beta_rec must be finite"),
        ({"class_dim": 0}, "class_dim must be at least 1"),
        ({"convention": "relased"}, "unknown convention 'relased'"),
    ],
)
def test_what_it_refuses(options, message):
    with pytest.raises(UserError, match=message):
        models.translation(*trio(), **{**DIMS, **options})


def test_nets_that_do_not_fit_are_refused():
    content, of_class, decoder = trio()
    batch = Batch(jnp.zeros((2, *SHAPE)))
    model = models.translation(of_class, content, decoder, **DIMS)  # the wrong way round
    with pytest.raises(UserError, match="the content encoder returns shape \\(2, 4\\)"):
        jax.eval_shape(model.init, jax.random.key(0), batch)
    pair = nets.mlp((), 4), nets.mlp((), 2)
    for beta, message in (
        (jnp.ones(3), "one for each of the 2 latent dimensions, not of shape \\(3,\\)"),
        (jnp.asarray([1.0, -1.0]), "the least beta_kl must be at least 0"),
    ):
        with pytest.raises(UserError, match=message):
            models.soft_intro_vae(*pair, latent_dim=2, beta_kl=beta)
    with pytest.raises(UserError, match="this posterior's KL is no sum over them"):
        models.plain_vae(*pair, latent_dim=2, posterior="ar1", beta_kl=jnp.ones(2))


def test_weights_may_be_traced():
    model = functools.partial(models.translation, *trio(), **DIMS)
    batch = Batch(jnp.full((2, *SHAPE), 0.5))
    params, state = jax.eval_shape(model().init, jax.random.key(0), batch)

    def loss(params, state, weight):
        built = model(beta_kl_class=weight, beta_neg_content=weight)
        args = (params, state, jax.random.key(0), batch, jnp.int32(0), None)
        return built.objectives[0].loss(*args)[0]

    weights = jax.ShapeDtypeStruct((3,), jnp.float32)
    found = jax.eval_shape(jax.vmap(loss, in_axes=(None, None, 0)), params, state, weights)
    assert found.shape == (3, 2)
