"""The VAE's loss against a forward pass written out in NumPy, its options, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import distributions, noise
from jaxvae.errors import UserError
from jaxvae.models import vae
from jaxvae.nets import from_linen, mlp
from jaxvae.nets.layers import BatchNorm, Dense
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch, Net, Posterior

D, SHAPE = 2, (3, 2, 1)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(size=(5, *SHAPE)), jnp.float32)
COND = jax.nn.one_hot(jnp.arange(5) % 2, 2)
ZERO = jnp.asarray(0, jnp.int32)


class PerDim(distributions.Normal):
    """A posterior whose KL is not summed."""

    def kl(self):
        return self.kl_per_dim()


def posterior_of(build) -> Posterior:
    return Posterior(lambda latent_dim: 2 * latent_dim, build)


def build(encoder=None, decoder=None, **options):
    encoder, decoder = (
        encoder or mlp((7,), 2 * D, act="tanh"),
        decoder or mlp((6,), SHAPE, act="tanh"),
    )
    return vae(encoder, decoder, latent_dim=D, **options)


def loss_of(model, params, state, batch, rng, step=ZERO):
    (objective,) = model.objectives
    return objective.loss(params, state, rng, batch, step, None)


# ---- the loss by hand ------------------------------------------------------------------------


def by_hand(params, batch, rng):
    """Returns mean, logvar, z and the decoder's output in float64, for the noise that the loss
    draws."""

    def net(tree, x):
        tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
        x = x if batch.cond is None else np.hstack([x, batch.cond])
        h = np.tanh(x @ tree["Dense_0"]["kernel"] + tree["Dense_0"]["bias"])
        return h @ tree["Dense_1"]["kernel"] + tree["Dense_1"]["bias"]

    x = np.asarray(batch.x, np.float64).reshape(len(batch.x), -1)
    mean, logvar = np.split(net(params["encoder"], x), 2, axis=1)
    eps = np.asarray(noise.normal(jax.random.split(rng, 3)[0], mean.shape), np.float64)
    z = mean + np.exp(0.5 * logvar) * eps
    return x, mean, logvar, net(params["decoder"], z)


def kl_by_hand(mean, logvar):
    return 0.5 * (mean**2 + np.exp(logvar) - 1.0 - logvar)


def rec_by_hand(x, output, gamma=None):
    if gamma is None:
        p = 1.0 / (1.0 + np.exp(-output))
        return -(x * np.log(p) + (1.0 - x) * np.log(1.0 - p)).sum(axis=1)
    return 0.5 * ((x - output) ** 2 / gamma + np.log(gamma) + np.log(2.0 * np.pi)).sum(axis=1)


@pytest.mark.parametrize("cond", [None, COND], ids=["plain", "conditional"])
@pytest.mark.parametrize(
    ("options", "gamma"),
    [
        ({}, None),
        ({"likelihood": "gaussian"}, 1.0),
        ({"likelihood": "gaussian", "gamma": 0.04}, 0.04),
    ],
    ids=["bernoulli", "gaussian", "gamma"],
)
@pytest.mark.parametrize(
    ("beta", "step", "weight"),
    [(1.0, 0, 1.0), (3.5, 0, 3.5), (optax.linear_schedule(0.0, 2.0, 8), 2, 0.5)],
    ids=["elbo", "beta", "schedule"],
)
def test_the_loss(cond, options, gamma, beta, step, weight):
    model, batch, rng = build(beta=beta, **options), Batch(X, cond), jax.random.key(5)
    params, state = model.init(jax.random.key(1), batch)
    loss, aux = loss_of(model, params, state, batch, rng, jnp.asarray(step, jnp.int32))
    x, mean, logvar, output = by_hand(params, batch, rng)
    rec, kl = rec_by_hand(x, output, gamma), kl_by_hand(mean, logvar).sum(axis=1)
    np.testing.assert_allclose(loss, rec + weight * kl, rtol=2e-5)
    np.testing.assert_allclose(aux.metrics["rec"], rec, rtol=2e-5)
    np.testing.assert_allclose(aux.metrics["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["elbo"], -(rec + kl), rtol=2e-5)  # whatever beta is
    assert ("beta" in aux.metrics) == callable(beta)


def test_free_bits_change_the_loss_and_not_the_metrics():
    batch, rng = Batch(X), jax.random.key(5)
    params, state = build().init(jax.random.key(1), batch)
    x, mean, logvar, output = by_hand(params, batch, rng)
    kl = kl_by_hand(mean, logvar)
    floor = float(np.median(kl))  # some dimensions lie below it, some above
    loss, aux = loss_of(build(free_bits=floor), params, state, batch, rng)
    np.testing.assert_allclose(
        loss, rec_by_hand(x, output) + np.maximum(kl, floor).sum(axis=1), rtol=2e-5
    )
    np.testing.assert_allclose(aux.metrics["kl"], kl.sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(
        aux.metrics["elbo"], -(rec_by_hand(x, output) + kl.sum(axis=1)), rtol=2e-5
    )


def test_a_learned_gamma_starts_at_one_and_is_the_variance():
    model, batch, rng = build(likelihood="gaussian", gamma="learned"), Batch(X), jax.random.key(5)
    params, state = model.init(jax.random.key(1), batch)
    assert float(params["likelihood"]["log_sd"]) == 0.0
    assert model.objectives[0].wrt == ("encoder", "decoder", "likelihood")
    params["likelihood"]["log_sd"] = jnp.asarray(np.log(0.3), jnp.float32)
    loss, aux = loss_of(model, params, state, batch, rng)
    x, mean, logvar, output = by_hand(params, batch, rng)
    np.testing.assert_allclose(
        loss, rec_by_hand(x, output, 0.09) + kl_by_hand(mean, logvar).sum(axis=1), rtol=2e-5
    )
    np.testing.assert_allclose(aux.metrics["gamma"], 0.09, rtol=1e-5)


def test_a_learned_gamma_reaches_the_mean_squared_error_per_pixel():
    model, batch = build(likelihood="gaussian", gamma="learned"), Batch(X)
    tx = {"encoder": optax.adam(1e-3), "decoder": optax.adam(1e-3), "likelihood": optax.adam(3e-2)}
    train_state = init_state(model, tx, jax.random.key(0), batch)
    step = make_train_step(model, tx)

    def body(train_state, _):
        return step(train_state, batch)[0], None

    train_state = jax.jit(lambda s: jax.lax.scan(body, s, length=1500)[0])(train_state)
    params, state = train_state.params, train_state.state

    def squared_error(rng):
        q = model.encode(params, state, X)
        return jnp.mean(
            jnp.square(X - model.decode(params, state, distributions.sample(rng, q)).mean)
        )

    error = float(jnp.mean(jax.vmap(squared_error)(jax.random.split(jax.random.key(9), 200))))
    gamma = float(jnp.exp(2.0 * params["likelihood"]["log_sd"]))
    assert gamma < 0.5  # it started at 1
    np.testing.assert_allclose(gamma, error, rtol=0.1)


# ---- evaluation ------------------------------------------------------------------------------


@pytest.mark.parametrize("cond", [None, COND], ids=["plain", "conditional"])
def test_evaluation(cond):
    model, batch, rng = build(), Batch(X, cond), jax.random.key(5)
    params, state = model.init(jax.random.key(1), batch)
    q = model.encode(params, state, X, cond)
    z = distributions.sample(rng, q)
    terms = model.terms(params, state, rng, batch)
    p = model.decode(params, state, z, cond)
    pixels, logits = (np.asarray(values).reshape(5, -1) for values in (X, p.logits))
    np.testing.assert_allclose(terms.rec, rec_by_hand(pixels, logits), rtol=1e-5)
    np.testing.assert_allclose(terms.kl, q.kl(), rtol=1e-6)
    x = model.sample(params, state, rng, 5, cond)
    want = model.decode(params, state, noise.normal(rng, (5, D)), cond).mean
    np.testing.assert_array_equal(x, want)
    assert x.shape == X.shape
    assert np.all((np.asarray(x) > 0) & (np.asarray(x) < 1))


def test_the_condition_is_read_by_both_nets():
    model, batch = build(), Batch(X, COND)
    params, state = model.init(jax.random.key(1), batch)
    z = jnp.zeros((5, D))
    assert not np.allclose(
        model.encode(params, state, X, COND).mean, model.encode(params, state, X, 1.0 - COND).mean
    )
    assert not np.allclose(
        model.decode(params, state, z, COND).mean, model.decode(params, state, z, 1.0 - COND).mean
    )


def batch_norm_net(out):
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, cond=None, train):
            return Dense(out)(
                BatchNorm()(Dense(8)(x.reshape(x.shape[0], -1)), train=train)
            ).reshape(-1, out)

    return from_linen(Net())


def test_stats_choose_running_averages_or_those_of_the_batch():
    model, batch = vae(batch_norm_net(2 * D), mlp((4,), SHAPE), latent_dim=D), Batch(X)
    params, state = model.init(jax.random.key(1), batch)
    _, aux = loss_of(model, params, state, batch, jax.random.key(2))
    still = jax.tree.map(np.array_equal, aux.state["encoder"], state["encoder"])
    assert not any(jax.tree.leaves(still))  # training updates them
    assert aux.state["decoder"] == state["decoder"] == {}
    alone = model.encode(params, state, X[:2]).mean
    np.testing.assert_allclose(
        alone, model.encode(params, state, X).mean[:2], rtol=1e-5
    )  # no example sees another
    assert not np.allclose(
        model.encode(params, state, X, stats="batch").mean, model.encode(params, state, X).mean
    )
    with pytest.raises(UserError, match="unknown stats 'runing'. Did you mean 'running'"):
        model.encode(params, state, X, stats="runing")


def test_a_posterior_of_ones_own():
    unit = Posterior(
        size=lambda latent_dim: latent_dim,
        build=lambda mean: distributions.Normal(mean, jnp.zeros(())),
    )
    model, batch = build(mlp((), D), posterior=unit), Batch(X)
    params, state = model.init(jax.random.key(1), batch)
    mean = (
        np.asarray(X).reshape(5, -1) @ params["encoder"]["Dense_0"]["kernel"]
        + params["encoder"]["Dense_0"]["bias"]
    )
    kl = model.terms(params, state, jax.random.key(2), batch).kl
    np.testing.assert_allclose(kl, 0.5 * (mean**2).sum(axis=1), rtol=1e-4)


# ---- traced hyper-parameters -----------------------------------------------------------------


def test_beta_gamma_and_free_bits_may_be_traced():
    batch, rng = Batch(X), jax.random.key(5)
    params, state = build(likelihood="gaussian").init(jax.random.key(1), batch)

    def loss(beta, gamma, free_bits):
        model = build(likelihood="gaussian", beta=beta, gamma=gamma, free_bits=free_bits)
        return loss_of(model, params, state, batch, rng)[0]

    numbers = [(1.0, 1.0, 0.0), (2.0, 0.1, 0.0), (0.5, 4.0, 0.7)]
    have = jax.jit(jax.vmap(loss))(*jnp.asarray(numbers).T)
    want = jnp.stack([loss(*n) for n in numbers])
    np.testing.assert_allclose(have, want, rtol=1e-5)
    assert len(np.unique(np.asarray(want)[:, 0])) == 3


# ---- what it refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "bernouli"}, "unknown likelihood 'bernouli'. Did you mean 'bernoulli'"),
        ({"posterior": "ar2"}, "unknown posterior 'ar2'"),
        ({"gamma": 0.5}, "gamma is the variance of a Gaussian decoder: use likelihood='gaussian'"),
        (
            {"gamma": "learned"},
            "gamma is the variance of a Gaussian decoder: use likelihood='gaussian'",
        ),
        (
            {"likelihood": "gaussian", "gamma": "learnt"},
            "unknown gamma 'learnt'. Did you mean 'learned'",
        ),
        ({"likelihood": "gaussian", "gamma": 0.0}, "gamma must be greater than 0, not 0"),
        ({"likelihood": "gaussian", "gamma": -1.0}, "gamma must be greater than 0, not -1"),
        ({"likelihood": "gaussian", "gamma": float("inf")}, "gamma must be finite"),
        ({"beta": -0.1}, "beta must be at least 0, not -0.1"),
        ({"beta": "1.0"}, "beta must be a number, not '1.0'"),
        ({"free_bits": -1.0}, "free_bits must be at least 0, not -1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def bare(init=None, apply=None):
    """Returns a net of plain functions, one of them perhaps a wrong one."""

    def begin(rng, x, cond=None):
        return {"w": jnp.zeros((6, 2 * D))}, {}

    def call(params, state, x, *, cond=None, rng=None, train):
        return x.reshape(len(x), -1) @ params["w"], state

    return Net(init or begin, apply or call)


def test_a_net_of_plain_functions():
    build(encoder=bare()).init(jax.random.key(0), Batch(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": tuple(bare())}, "encoder must be a Net, not tuple: nets.from_linen"),
        ({"decoder": Dense(3)}, "decoder must be a Net, not Dense"),
        ({"posterior": distributions.Normal}, "posterior must be a Posterior, not Normal"),
        (
            {"encoder": bare(init=lambda *_: {})},
            r"the encoder's init must return \(params, state\)",
        ),
        (
            {"encoder": bare(apply=lambda params, state, x, **_: x)},
            r"the encoder's apply must return \(output, state\)",
        ),
        (
            {"posterior": posterior_of(lambda out: out)},
            "a .*, which lacks sample, log_prob, kl: let it",
        ),
        (
            {"posterior": posterior_of(lambda out: PerDim(out[:, :D], out[:, D:]))},
            r"kl of PerDim returns shape \(5, 2\), and must return a number for each example",
        ),
    ],
)
def test_parts_of_ones_own_that_do_not_fit(options, message):
    def first_step():
        model = build(**options)
        params, state = model.init(jax.random.key(0), Batch(X))
        loss_of(model, params, state, Batch(X), jax.random.key(1))

    with pytest.raises(UserError, match=message):
        first_step()


def test_evaluation_refuses_bytes_and_no_samples():
    model = build()
    params, state = model.init(jax.random.key(0), Batch(X))
    with pytest.raises(UserError, match="x must be floating point, not uint8"):
        model.encode(params, state, (X * 255).astype(jnp.uint8))
    with pytest.raises(UserError, match="n must be at least 1, not 0"):
        model.sample(params, state, jax.random.key(0), 0)


@pytest.mark.parametrize("latent_dim", [0, -1, 2.0, True])
def test_latent_dim_must_be_a_count(latent_dim):
    with pytest.raises(UserError, match="latent_dim must be"):
        vae(mlp((4,), 4), mlp((4,), SHAPE), latent_dim=latent_dim)


@pytest.mark.parametrize(
    ("nets", "message"),
    [
        ({"encoder": mlp((4,), 2 * D + 1)}, r"needs \[batch, 4\]: build the encoder with out=4"),
        (
            {"encoder": mlp((4,), (2 * D, 1))},
            r"returns shape \(5, 4, 1\), .* build the encoder with out=4",
        ),
        (
            {"decoder": mlp((4,), (3, 3, 1))},
            r"returns shape \(3, 3, 1\) per example, the data has \(3, 2, 1\)",
        ),
        ({"decoder": mlp((4,), 6)}, r"returns shape \(6,\) per example, the data has \(3, 2, 1\)"),
    ],
)
def test_nets_that_do_not_fit(nets, message):
    with pytest.raises(UserError, match=message):
        build(**nets).init(jax.random.key(0), Batch(X))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            (X * 255).astype(jnp.uint8),
            r"must be floating point, not uint8: scale bytes with x.astype\('float32'\) / 255",
        ),
        (
            X * 255,
            r"needs pixels in \[0, 1\]; these run from .* \(bytes: divide by 255\), or use a "
            r"Gaussian likelihood",
        ),
        (X - 0.5, r"needs pixels in \[0, 1\]; these run from -0"),
        (X.at[0, 0].set(jnp.nan), "x holds values that are not finite"),
        (X.tolist(), "x must be an array .*, not list"),
        (X[:0], r"no empty axis, not shape \(0, 3, 2, 1\)"),
        (jnp.ones(4), r"x must be \[batch, ...\] with no empty axis, not shape \(4,\)"),
    ],
)
def test_data_that_does_not_fit(x, message):
    with pytest.raises(UserError, match=message):
        build().init(jax.random.key(0), Batch(x))


def test_a_gaussian_likelihood_takes_any_finite_range():
    model = build(likelihood="gaussian")
    model.init(jax.random.key(0), Batch(X * 10 - 5))
    with pytest.raises(UserError, match="not finite"):
        model.init(jax.random.key(0), Batch(X / 0.0))
