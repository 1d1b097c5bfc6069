"""The rho-VAE under its three conventions against NumPy; the quirks of its released nets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import distributions, models, nets, noise
from jaxvae.errors import UserError
from jaxvae.models.rho_vae import net_posterior, released_posterior
from jaxvae.testing import check_model
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch

D, SHAPE, ZERO = 3, (2, 2, 1), jnp.asarray(0, jnp.int32)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(8, *SHAPE)), jnp.float32)


def rho_vae(convention="paper", **options):
    return models.rho_vae(
        nets.mlp((), D + 2), nets.mlp((), SHAPE), latent_dim=D, convention=convention, **options
    )


def loss_of(model, params, state, rng, x=X):
    return model.objectives[0].loss(params, state, rng, Batch(x), ZERO, None)


def by_hand(params, rng, convention, x=X):
    """Returns rec, what is paid, the true KL [B], for linear nets, loops instead of products, in
    float64."""
    encoder, decoder = (
        jax.tree.map(lambda v: np.asarray(v, np.float64), params[g]["Dense_0"])
        for g in ("encoder", "decoder")
    )
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    out = x @ encoder["kernel"] + encoder["bias"]
    mean, rho, logvar = out[:, :D], np.tanh(out[:, D]), out[:, D + 1]
    s = np.exp(logvar)
    eps = np.asarray(noise.normal(jax.random.split(rng, 3)[0], mean.shape), np.float64)
    zeta, var = np.zeros_like(mean), np.zeros_like(mean)
    for j in range(D):
        a = (
            {"paper": rho, "readme": rho, "released": np.ones_like(rho)}[convention]
            if j
            else 0.0 * rho
        )
        fresh = s * (1 - rho**2) if convention == "paper" and j else s
        zeta[:, j] = a * zeta[:, j - 1] + np.sqrt(fresh) * eps[:, j]
        var[:, j] = a**2 * var[:, j - 1] + fresh
    y = (mean + zeta) @ decoder["kernel"] + decoder["bias"]
    rec = (np.logaddexp(0.0, y) - x * y).sum(axis=1)
    of_mean = 0.5 * (mean**2).sum(axis=1)
    rest = 0.5 * (D * (s - 1 - logvar) - (D - 1) * np.log(1 - rho**2))
    log_det = D * logvar + ((D - 1) * np.log(1 - rho**2) if convention == "paper" else 0.0)
    return (
        rec,
        of_mean + rest / (len(x) if convention == "released" else 1),
        of_mean + 0.5 * (var.sum(axis=1) - D - log_det),
    )


@pytest.mark.parametrize("convention", ["paper", "readme", "released"])
def test_the_loss(convention):
    model, rng = rho_vae(convention), jax.random.key(7)
    params, state = model.init(jax.random.key(1), Batch(X))
    loss, aux = loss_of(model, params, state, rng)
    rec, paid, kl = by_hand(params, rng, convention)
    np.testing.assert_allclose(loss, rec + paid, rtol=2e-5)
    np.testing.assert_allclose(aux.metrics["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(
        aux.metrics["elbo"], -(rec + kl), rtol=2e-5
    )  # whatever the loss pays
    terms = model.terms(params, state, rng, Batch(X))
    np.testing.assert_allclose(terms.kl, kl, rtol=1e-4)
    np.testing.assert_array_equal(terms.extra["rho_saturated"], np.zeros(8))


def test_the_conventions_differ():
    params, state = rho_vae().init(jax.random.key(1), Batch(X))
    params["encoder"]["Dense_0"]["bias"] = (
        params["encoder"]["Dense_0"]["bias"].at[D].set(1.0)
    )  # a rho away from 0
    losses = [
        np.asarray(loss_of(rho_vae(c), params, state, jax.random.key(7))[0])
        for c in distributions.CONVENTIONS
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(np.abs(losses[a] - losses[b])) > 0.01


def test_posterior_ar1_is_the_papers_convention():
    params, state = rho_vae().init(jax.random.key(1), Batch(X))
    plain = models.vae(nets.mlp((), D + 2), nets.mlp((), SHAPE), latent_dim=D, posterior="ar1")
    a, b = (loss_of(m, params, state, jax.random.key(7))[0] for m in (rho_vae(), plain))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [{"likelihood": "gaussian", "gamma": "learned"}, {"beta": 4.0}],
    ids=["learned gamma", "beta"],
)
def test_other_options_go_with_it(options):
    model = rho_vae(**options)
    params, state = model.init(jax.random.key(1), Batch(X))
    loss, aux = loss_of(model, params, state, jax.random.key(7))
    np.testing.assert_allclose(
        loss, aux.metrics["rec"] + options.get("beta", 1.0) * aux.metrics["kl"], rtol=1e-5
    )


def test_a_condition_goes_with_it():
    cond = jax.nn.one_hot(jnp.arange(8) % 2, 2)
    model = rho_vae()
    params, state = model.init(jax.random.key(1), Batch(X, cond))
    q = model.encode(params, state, X, cond)
    assert isinstance(q, distributions.AR1Normal)
    assert model.sample(params, state, jax.random.key(0), 8, cond).shape == X.shape


def test_a_saturated_posterior_is_counted_in_training():
    model, tx = rho_vae(), optax.sgd(0.0)
    state = init_state(model, tx, jax.random.key(0), Batch(X))
    bias = state.params["encoder"]["Dense_0"]["bias"].at[D].set(50.0)
    state.params["encoder"]["Dense_0"]["bias"] = bias
    state, metrics = jax.jit(make_train_step(model, tx))(state, Batch(X))
    assert float(metrics["rho_saturated"]) == 1.0
    assert np.isfinite(float(metrics["loss"]))
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: rho_vae(free_bits=0.5),
            "free bits need a KL per dimension, which AR1Normal does not have",
        ),
        (
            lambda: rho_vae(posterior="ar1-readme"),
            "rho_vae's posterior is AR.1.: use convention, one of paper, readme, released",
        ),
        (lambda: rho_vae(["paper"]), r"unknown convention \['paper'\]"),
        (lambda: distributions.posterior(["ar1"]), r"unknown posterior \['ar1'\]"),
        (lambda: net_posterior("cnn", distributions.ar1()), "unknown posterior"),
        (lambda: rho_vae("paperr"), "unknown convention 'paperr'. Did you mean 'paper'?"),
        (
            lambda: models.rho_vae(nets.mlp((), 2), nets.mlp((), SHAPE), latent_dim=0),
            "latent_dim must be at least 1, not 0",
        ),
        (lambda: released_posterior("dcgan", correlated=True), "unknown net 'dcgan'"),
        (
            lambda: models.rho_vae(nets.mlp((), 2 * D), nets.mlp((), SHAPE), latent_dim=D).init(
                jax.random.key(0), Batch(X)
            ),
            r"needs \[batch, 5\]",
        ),
    ],
)
def test_what_is_refused_when_the_model_is_built(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_the_model_keeps_the_contracts():
    check_model(
        rho_vae("released"), Batch(X)
    )  # the divisor must be the global batch; "paper" is checked with InfoVAE


# ---- quirks of the released nets -------------------------------------------------------------

OUTPUT = np.array([[0.5, -1.0, 2.0, 0.3, 0.7], [0.0, 1.0, -0.5, -0.2, 0.001]])


@pytest.mark.parametrize(
    ("net", "posterior", "least"),
    [
        ("cnn", "normal", 0.02),
        ("info", "normal", 0.01),
        ("info", "ar1", 0.02),
        ("info", "ar1-readme", 0.02),
        ("cnn", "ar1", None),
        ("vanilla", "normal", None),
        ("beta", "normal", None),
        ("beta", "ar1", None),
    ],
)
def test_the_heads_of_some_nets_give_a_variance_that_has_a_least_value(net, posterior, least):
    out = jnp.asarray(
        OUTPUT if posterior != "normal" else np.hstack([OUTPUT[:, :3], OUTPUT[:, 2:]]), jnp.float32
    )
    plain = distributions.posterior(posterior).build(out)
    q = net_posterior(net, posterior).build(out)
    want = plain.logvar if least is None else np.log(np.maximum(plain.logvar, least))
    assert type(q) is type(plain)
    np.testing.assert_allclose(q.logvar, want, rtol=1e-6)
    np.testing.assert_array_equal(q.mean, plain.mean)


def test_the_released_info_vae_samples_one_variance_and_pays_for_another():
    out = jnp.asarray(np.hstack([OUTPUT[:, :3], OUTPUT[:, 2:]]), jnp.float32)
    q = released_posterior("info", correlated=False).build(out)
    v = np.log(np.maximum(OUTPUT[:, 2:], 0.01))
    z = np.asarray(q.sample(jax.random.key(0)), np.float64)
    eps = np.asarray(noise.normal(jax.random.key(0), z.shape), np.float64)
    np.testing.assert_allclose(z, OUTPUT[:, :3] + np.exp(v) * eps, rtol=1e-5)
    paid = distributions.penalty(q, jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(paid, 0.5 * (z**2 + np.exp(v) - 1 - v).sum(axis=1), rtol=1e-5)
    true = 0.5 * (OUTPUT[:, :3] ** 2 + np.exp(2 * v) - 1 - 2 * v).sum(axis=1)
    np.testing.assert_allclose(q.kl(), true, rtol=1e-5)


@pytest.mark.parametrize("net", ["beta", "info"])
def test_the_released_ar1_nets_pay_for_the_sample_in_place_of_the_mean(net):
    q = released_posterior(net, correlated=True).build(jnp.asarray(OUTPUT, jnp.float32))
    logvar = np.log(np.maximum(OUTPUT[:, 4:], 0.02)) if net == "info" else OUTPUT[:, 4:]
    z, rho = np.asarray(q.sample(jax.random.key(0)), np.float64), np.tanh(OUTPUT[:, 3])
    rest = 0.5 * (3 * (np.exp(logvar[:, 0]) - 1 - logvar[:, 0]) - 2 * np.log(1 - rho**2))
    paid = distributions.penalty(q, jnp.asarray(z, jnp.float32), 128)
    np.testing.assert_allclose(paid, 0.5 * (z**2).sum(axis=1) + rest / 128, rtol=1e-5)
