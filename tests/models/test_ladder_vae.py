"""The ladder VAE: merged Gaussians by hand, loss and gradients against NumPy in z instead of noises, a linear
ladder whose posterior is exact, KLs against an integral, and one layer against `vae`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradients import check_gradients, given
from jaxvae import nets
from jaxvae.distributions import Normal
from jaxvae.errors import UserError
from jaxvae.metrics import likelihood
from jaxvae.models import interpolate, ladder_vae, reconstruct, vae
from jaxvae.models.ladder_vae import merged
from jaxvae.types import Batch, Net

STEP = jnp.int32(0)
DIMS = (3, 2, 1)
BATCH = Batch(jax.random.uniform(jax.random.key(9), (5, 4)), jnp.eye(2)[jnp.arange(5) % 2])


def normal(x, mean, variance):
    return -0.5 * ((x - mean) ** 2 / variance + np.log(2 * np.pi * variance))


# ---- the merge ---------------------------------------------------------------------------------


def test_the_merge_by_hand():
    """Precisions 1/2 and 2 add up to 2.5: variance 0.4, mean 0.4 (3/2 + 2) = 1.4."""
    up, prior = Normal(jnp.full((1, 1), 3.0), jnp.log(2.0)), Normal(jnp.ones((1, 1)), jnp.log(0.5))
    q = merged(up, prior)
    z_mean, z_variance = 1.0 + np.sqrt(0.5) * q.mean, 0.5 * q.variance
    np.testing.assert_allclose((z_mean.item(), z_variance.item()), (1.4, 0.4), rtol=1e-6)
    np.testing.assert_allclose((q.mean.item(), q.variance.item()), (0.5656854, 0.8), rtol=1e-6)
    assert merged(up, None) is up


def test_the_merge_is_finite_where_one_knows_all_or_nothing():
    ends = jnp.asarray([-200.0, 0.0, 200.0])
    up_logvar, prior_logvar = (v.reshape(-1, 1) for v in jnp.meshgrid(ends, ends))
    chosen = (prior_logvar > -200) | (up_logvar > -200)  # or both say so, and differ: infinite

    def total(up_logvar, prior_logvar):
        up, prior = Normal(jnp.ones((9, 1)), up_logvar), Normal(jnp.zeros((9, 1)), prior_logvar)
        q = merged(up, prior)
        return jnp.sum(jnp.where(chosen, q.mean + q.logvar, 0.0)), q

    (value, q), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(up_logvar, prior_logvar)
    assert np.isfinite(value)
    assert all(np.isfinite(np.asarray(g)[np.asarray(chosen)]).all() for g in grads)
    np.testing.assert_allclose(q.mean[1], np.exp(-100.0), atol=1e-30)  # knows nothing: the prior


# ---- the loss ----------------------------------------------------------------------------------


def small(beta=1.0, **options):
    encoder, priors, decoder = nets.ladder((4, 3, 3), DIMS, (4,), depth=1, act="tanh")
    return ladder_vae(encoder, priors, decoder, latent_dims=DIMS, beta=beta, **options)


def noises():
    rng = np.random.default_rng(3)
    return [rng.normal(size=(5, dim)).astype(np.float32) for dim in DIMS[::-1]]


def dense(params, name, x):
    return x @ np.float64(params[name]["kernel"]) + np.float64(params[name]["bias"])


def heads(params, x, cond):
    """Returns mean and variance of z_i from z_{i+1}."""
    h = np.tanh(dense(params, "Dense_0", np.hstack([x, cond])))
    return dense(params, "Dense_1", h), np.exp(dense(params, "Dense_2", h))


def transcribed(params, beta):
    """Returns the loss [B], the KL of each layer [B], rec [B] and log p(x, z) - log q(z|x) [B], of the
    paper's own formulas, in z."""
    x, cond = np.float64(BATCH.x), np.float64(BATCH.cond)
    h, up = np.hstack([x, cond]), []
    for i in range(3):
        h = np.tanh(dense(params["encoder"], f"Dense_{3 * i}", h))
        mean, logvar = (dense(params["encoder"], f"Dense_{3 * i + j}", h) for j in (1, 2))
        up.append((mean, np.exp(logvar)))
    kls, ratio, z = {}, 0.0, None
    for i, eps in zip((2, 1, 0), noises(), strict=True):
        (m, s2), top = up[i], z is None
        mu, sigma2 = (0.0, 1.0) if top else heads(params["decoder"][f"z_{i + 1}"], z, cond)
        v = s2 if top else 1 / (1 / s2 + 1 / sigma2)
        mean = m if top else v * (m / s2 + mu / sigma2)
        kl = 0.5 * (np.log(sigma2 / v) + (v + (mean - mu) ** 2) / sigma2 - 1)
        z = mean + np.sqrt(v) * eps
        kls[f"kl_{i + 1}"] = kl.sum(axis=1)
        ratio = ratio + (normal(z, mu, sigma2) - normal(z, mean, v)).sum(axis=1)
    h = np.tanh(dense(params["decoder"]["x"], "Dense_0", np.hstack([z, cond])))
    logits = dense(params["decoder"]["x"], "Dense_1", h)
    rec = np.sum(np.logaddexp(0, logits) - x * logits, axis=1)
    return rec + beta * sum(kls.values()), kls, rec, ratio - rec


def test_loss_gradients_terms_and_weights_are_those_of_the_paper(monkeypatch):
    beta = 0.7
    model, free = small(lambda step: jnp.float32(beta)), small(free_bits=0.05)

    @jax.jit
    def walk():
        params, state = model.init(jax.random.key(1), BATCH)
        params = jax.tree.map(lambda w: 2.0 * w, params)
        rng = jax.random.key(2)

        def mean(params):
            found = model.objectives[0].loss(params, state, rng, BATCH, STEP, None)
            return jnp.mean(found[0]), found

        (_, (loss, aux)), grads = jax.value_and_grad(mean, has_aux=True)(params)
        terms = model.terms(params, state, rng, BATCH)
        weights = likelihood.log_weights(model, params, state, rng[None], BATCH)
        paid = free.objectives[0].loss(params, state, rng, BATCH, STEP, None)[0]
        q = model.encode(params, state, BATCH.x, BATCH.cond)
        return params, grads, loss, aux.metrics, terms, weights, paid, q

    drawn = given(monkeypatch, noises())
    params, grads, loss, metrics, terms, weights, paid, q = walk()
    assert drawn == [(5, dim) for dim in DIMS[::-1]] * (len(drawn) // 3)  # from the top down
    want, kls, rec, weight = transcribed(params, beta)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    for name, kl in kls.items():
        np.testing.assert_allclose(metrics[name], kl, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(terms.extra[name], kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(terms.rec, rec, rtol=1e-5)
    np.testing.assert_allclose(metrics["elbo"], -rec - sum(kls.values()), rtol=1e-5)
    np.testing.assert_allclose(metrics["beta"], beta)
    np.testing.assert_allclose(weights[0], weight, rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(paid) > rec + sum(kls.values()) - 1e-4)
    assert np.any(np.asarray(paid) > rec + sum(kls.values()) + 0.01)  # some cost less than they may
    params = jax.tree.map(np.float64, params)
    check_gradients(grads, lambda p: transcribed(p, beta)[0], params, np.random.default_rng(0))
    assert q.mean.shape == (5, sum(DIMS))
    np.testing.assert_allclose(q.mean[:, -1:], q.up[2].mean)  # the top layer's is that of z itself


# ---- a linear ladder, whose posterior is known --------------------------------------------------

A, B, S2, W, C, GAMMA = (
    0.8,
    0.3,
    0.5,
    1.5,
    -0.2,
    0.4,
)  # z_1 = A z_2 + B + noise, x = W z_1 + C + noise
V1 = W**2 * S2 + GAMMA  # of x given z_2
SLOPE = W * A / (W**2 * A**2 + V1)  # E[z_2|x] = SLOPE (x - W B - C)


def fixed(function):
    def apply(params, state, x, *, cond=None, rng=None, train):
        return function(x) + 0.0 * params["w"], state

    return Net(lambda rng, x, cond=None: ({"w": jnp.zeros(())}, {}), apply)


def linear(m2=lambda x: SLOPE * (x - W * B - C), s2=V1 / (W**2 * A**2 + V1), s1=GAMMA / W**2):
    """Returns a ladder of two layers; by default its posterior is the true one."""

    def up(x):
        fill = jnp.ones_like(x)
        parts = [(x - C) / W, m2(x), np.log(s1) * fill, np.log(s2) * fill]
        return jnp.concatenate(parts, axis=-1)

    def down(z):
        return jnp.concatenate([A * z + B, jnp.full_like(z, np.log(S2))], axis=-1)

    trio = fixed(up), [fixed(down)], fixed(lambda z: W * z + C)
    return ladder_vae(*trio, latent_dims=(1, 1), likelihood="gaussian", gamma=GAMMA)


def test_at_the_true_posterior_every_weight_is_p_of_x_and_verbs_are_those_of_a_vae():
    model, x = linear(), jnp.asarray([[-2.0], [0.1], [3.0]])
    log_p = normal(np.float64(x[:, 0]), W * B + C, W**2 * (A**2 + S2) + GAMMA)

    @jax.jit
    def walk(rng):
        params, state = model.init(rng, Batch(x))
        weights = likelihood.log_weights(model, params, state, jax.random.split(rng, 7), Batch(x))
        draws = model.sample(params, state, rng, 20_000)
        between = interpolate(model, params, state, Batch(x[:1]), Batch(x[2:]), 3)
        return weights, reconstruct(model, params, state, Batch(x)), draws, between

    weights, again, draws, between = walk(jax.random.key(4))
    np.testing.assert_allclose(weights, np.broadcast_to(log_p, (7, 3)), rtol=1e-5, atol=1e-5)
    top = SLOPE * (np.asarray(x) - W * B - C)
    v = 1 / (W**2 / GAMMA + 1 / S2)
    z = v * ((np.asarray(x) - C) * W / GAMMA + (A * top + B) / S2)
    np.testing.assert_allclose(again, W * z + C, rtol=1e-5)
    np.testing.assert_allclose(between[0, [0, 2]], again[jnp.asarray([0, 2])], rtol=1e-5)
    np.testing.assert_allclose(between[0, 1], (again[0] + again[2]) / 2, rtol=1e-4, atol=1e-5)
    sd = W * np.sqrt(A**2 + S2)
    assert np.mean(draws) == pytest.approx(W * B + C, abs=4 * sd / np.sqrt(20_000))
    assert np.var(draws) == pytest.approx(sd**2, rel=4 * np.sqrt(2 / 20_000))


def test_the_mean_kl_of_each_layer_is_an_integral():
    """Within four standard errors of 20,000 draws; the integral is over a grid of z_2 and z_1."""
    m2, s2, s1, x = 0.9, 0.3, 0.2, 0.4
    model = linear(lambda x: jnp.full_like(x, m2), s2, s1)
    many = Batch(jnp.full((20_000, 1), x))
    z2, z1 = np.linspace(-3, 5, 801)[:, None], np.linspace(-5, 6, 1101)
    v = 1 / (1 / s1 + 1 / S2)
    mean = v * ((x - C) / W / s1 + (A * z2 + B) / S2)
    q2, q1 = np.exp(normal(z2, m2, s2)) * 0.01, np.exp(normal(z1, mean, v)) * 0.01
    want = {
        "kl_1": np.sum(q2 * q1 * (normal(z1, mean, v) - normal(z1, A * z2 + B, S2))),
        "kl_2": np.sum(q2 * (normal(z2, m2, s2) - normal(z2, 0.0, 1.0))),
    }

    @jax.jit
    def terms(rng):
        params, state = model.init(rng, many)
        return model.terms(params, state, rng, many)

    found = terms(jax.random.key(1))
    for name, kl in want.items():
        values = np.asarray(found.extra[name], np.float64)
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - kl) < 4 * error + 1e-5, name
        assert kl > 0.1
    assert np.std(found.extra["kl_1"]) > 0.01  # it depends on the draw of z_2
    np.testing.assert_allclose(found.kl, found.extra["kl_1"] + found.extra["kl_2"], rtol=1e-5)


def test_one_layer_is_a_vae(monkeypatch):
    encoder, priors, decoder = nets.ladder((4,), (2,), (4,), depth=1)
    options = {"likelihood": "gaussian", "gamma": "learned", "beta": 0.5}
    one = ladder_vae(encoder, priors, decoder, latent_dims=(2,), **options)
    plain, rng = vae(encoder, decoder, latent_dim=2, **options), jax.random.key(0)

    @jax.jit
    def walk():
        params, state = plain.init(rng, BATCH)
        moved = [{**tree, "decoder": {"x": tree["decoder"]}} for tree in (params, state)]
        found = []
        for model, (p, s) in ((plain, (params, state)), (one, moved)):
            loss, aux = model.objectives[0].loss(p, s, rng, BATCH, STEP, None)
            q = model.encode(p, s, BATCH.x, BATCH.cond)
            log_q = q.log_prob(jnp.ones((5, 2)))
            terms = model.terms(p, s, rng, BATCH)[:2]
            x = model.sample(p, s, rng, 5, BATCH.cond)
            found.append((loss, {**aux.metrics, "kl_1": aux.metrics["kl"]}, log_q, terms, x))
        return found, aux.metrics["kl_1"]

    given(monkeypatch, noises()[1:2])
    (want, have), kl = walk()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), have, want)
    np.testing.assert_array_equal(kl, want[1]["kl"])


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dims": (3, 2)}, "2 layers of latents need 1 nets"),
        ({"latent_dims": ()}, "0 layers of latents need 0 nets"),
        ({"latent_dims": (3, 0, 1)}, "a layer's latent_dim must be at least 1"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"free_bits": -1.0}, "free_bits must be at least 0"),
    ],
)
def test_what_is_refused(options, message):
    trio = nets.ladder((4, 3, 3), DIMS, (4,))
    with pytest.raises(UserError, match=message):
        ladder_vae(*trio, **{"latent_dims": DIMS, **options})


def test_nets_that_do_not_fit_are_named():
    encoder, (first, second), decoder = nets.ladder((4, 3, 3), DIMS, (4,))
    for trio, message in (
        ((encoder, [second, first], decoder), r"p\(z_2\|z_3\) returns shape .* 2 dimensions need"),
        ((nets.mlp((), 4), [first, second], decoder), "build the encoder with out=12"),
    ):
        model = ladder_vae(*trio, latent_dims=DIMS)
        with pytest.raises(UserError, match=message):
            jax.eval_shape(model.init, jax.random.key(0), Batch(BATCH.x))


def test_bytes_are_refused_before_they_are_encoded():
    model = ladder_vae(*nets.ladder((4, 3, 3), DIMS, (4,)), latent_dims=DIMS)
    params, state = jax.eval_shape(model.init, jax.random.key(0), Batch(BATCH.x))
    x = jnp.zeros(BATCH.x.shape, jnp.uint8)
    with pytest.raises(UserError, match="x must be floating point, not uint8"):
        jax.eval_shape(model.encode, params, state, x)
