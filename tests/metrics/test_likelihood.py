import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import data, models, nets, objectives
from jaxvae.data.preprocess import make_preprocess
from jaxvae.distributions import Bernoulli, Normal
from jaxvae.errors import UserError
from jaxvae.metrics import likelihood
from jaxvae.types import Batch, Net
from small import go, normed, one_device, precisions, small
from small import source as bytes_source

D, PIXELS, GAMMA = 2, 5, 0.3
PARAMS = {"encoder": {}, "decoder": {}}


def linear_gaussian(spread=0.3, shift=0.1):
    """A VAE with p(x|z) = N(W z + b, gamma I), W's columns orthogonal, and an encoder that misses
    the exact posterior by `spread` (of the log-variance) and `shift`; and log p(x) = log N(x; b, W
    W' + gamma I), in float64."""
    rng = np.random.default_rng(0)
    w = np.linalg.qr(rng.standard_normal((PIXELS, D)))[0] * [1.5, 0.7]
    b = rng.standard_normal(PIXELS)
    variance = 1 / (1 + (w**2).sum(0) / GAMMA)
    to_mean = variance[:, None] * w.T / GAMMA

    def encode(params, state, x, *, cond=None, rng=None, train):
        mean = (x - jnp.asarray(b, jnp.float32)) @ jnp.asarray(to_mean.T, jnp.float32) + shift
        logvar = jnp.broadcast_to(jnp.asarray(np.log(variance) + spread, jnp.float32), mean.shape)
        return jnp.concatenate([mean, logvar], -1), state

    def decode(params, state, z, *, cond=None, rng=None, train):
        return z @ jnp.asarray(w.T, jnp.float32) + jnp.asarray(b, jnp.float32), state

    def init(rng, x, cond=None):
        return {}, {}

    model = models.vae(
        Net(init, encode), Net(init, decode), latent_dim=D, likelihood="gaussian", gamma=GAMMA
    )
    covariance = w @ w.T + GAMMA * np.eye(PIXELS)

    def log_prob(x):
        white = np.linalg.solve(np.linalg.cholesky(covariance), (x - b).T)
        return -0.5 * (
            (white**2).sum(0) + np.linalg.slogdet(covariance)[1] + PIXELS * math.log(2 * math.pi)
        )

    x = (
        rng.standard_normal((40, D)) @ w.T
        + b
        + math.sqrt(GAMMA) * rng.standard_normal((40, PIXELS))
    ).astype(np.float32)
    return (
        model,
        {"encoder": {}, "decoder": {}},
        {"encoder": {}, "decoder": {}},
        x,
        log_prob(x.astype(np.float64)),
    )


def test_bounds_rise_to_the_exact_log_likelihood():
    model, params, state, x, exact = linear_gaussian()
    source = data.from_arrays(x)
    terms = likelihood.per_example(
        likelihood.make_terms(model), params, state, source, batch_size=16
    )
    means = [terms["elbo"].mean()]
    for k in (10, 100, 5000):
        values = likelihood.iw_bound(model, params, state, source, k=k, chunk=64, batch_size=16)
        means.append(values.mean(dtype=np.float64))
    assert means[0] + 0.2 < means[1] < exact.mean()  # the rest is bias below 0.01 and noise
    assert abs(means[2] - exact.mean()) < 0.02
    assert means[-1] <= exact.mean() + 3e-3
    np.testing.assert_allclose(values, exact, atol=0.05)
    assert abs(means[-1] - exact.mean()) < 0.01  # what a bound at K = 5,000 must reach


def test_bounds_hold_for_an_ar1_posterior_too():
    model, params, state, x, exact = linear_gaussian()

    def init(rng, x, cond=None):
        return {}, {}

    def decode(params, state, z, **_):
        return model.decode(PARAMS, PARAMS, z).mean, state

    def encode(params, state, x, **_):
        q = model.encode(PARAMS, PARAMS, x)
        logvar = jnp.mean(q.logvar, -1, keepdims=True)
        return jnp.concatenate([q.mean, jnp.full_like(logvar, 0.3), logvar], -1), state

    ar1 = models.vae(
        Net(init, encode),
        Net(init, decode),
        latent_dim=D,
        posterior="ar1",
        likelihood="gaussian",
        gamma=GAMMA,
    )
    source = data.from_arrays(x)
    elbo = likelihood.per_example(likelihood.make_terms(ar1), params, state, source, batch_size=16)[
        "elbo"
    ].mean()
    bound = likelihood.iw_bound(ar1, params, state, source, k=5000, chunk=64, batch_size=16).mean(
        dtype=np.float64
    )
    assert elbo + 0.2 < bound <= exact.mean() + 5e-3
    assert abs(bound - exact.mean()) < 0.02


def test_one_draw_of_the_exact_posterior_is_the_exact_log_likelihood():
    model, params, state, x, exact = linear_gaussian(spread=0.0, shift=0.0)
    values = likelihood.iw_bound(model, params, state, data.from_arrays(x), k=1)
    np.testing.assert_allclose(values, exact, rtol=1e-5)


def test_chunks_and_devices_change_nothing_but_rounding():
    model, params, state, x, _ = linear_gaussian()
    source = data.from_arrays(x)
    options = {"k": 50, "batch_size": 16}
    want = likelihood.iw_bound(model, params, state, source, chunk=50, **options)
    for chunk, mesh in ((1, None), (7, None), (50, one_device()), (1000, None)):
        found = likelihood.iw_bound(model, params, state, source, chunk=chunk, mesh=mesh, **options)
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    assert len(want) == 40  # the padding of the last batch is dropped
    other = likelihood.iw_bound(model, params, state, source, chunk=50, seed=1, **options)
    assert not np.allclose(other, want, atol=1e-4)


@pytest.mark.parametrize("pixels", ["grey", "binarised"])
def test_values_are_those_of_one_device_for_batches_that_do_not_divide(pixels):
    """Ten examples at a time on eight devices: each has the noise that it has on one."""
    model, source = small(), bytes_source()
    preprocess = make_preprocess(pixels)
    where = model.init(jax.random.key(0), preprocess(jax.random.key(0), source.read([0, 1])))
    options = {"batch_size": 10, "preprocess": preprocess}
    for measure in (
        lambda **o: likelihood.iw_bound(model, *where, source, k=5, **options, **o),
        lambda **o: likelihood.per_example(
            likelihood.make_terms(model), *where, source, **options, **o
        )["elbo"],
    ):
        found, want = measure(), measure(mesh=one_device())
        assert found.shape == (100,)
        np.testing.assert_allclose(found, want, rtol=1e-4)


def with_batch_statistics():
    model, source = normed(), bytes_source(size=70)
    params, state = model.init(jax.random.key(0), Batch(jnp.zeros((2, 4, 4, 1))))
    batch = make_preprocess()(jax.random.key(0), source.read(np.arange(70)))
    return model, params, state, source, batch


@pytest.mark.parametrize("mesh", [one_device(), None])
def test_batch_statistics_never_see_padding(mesh):
    """KL depends on no noise: that of 70 examples is theirs alone, on 1 device and on 8."""
    model, params, state, source, batch = with_batch_statistics()
    for size, parts in ((70, [70]), (128, [70]), (64, [64, 6]), (35, [35, 35])):
        ends = np.cumsum(parts)
        want = [
            model.encode(params, state, batch.x[end - n : end], stats="batch").kl()
            for n, end in zip(parts, ends, strict=True)
        ]
        options = {"batch_size": size, "mesh": mesh}
        terms = likelihood.make_terms(model, stats="batch")
        found = likelihood.per_example(terms, params, state, source, **options)["kl"]
        np.testing.assert_allclose(found, np.concatenate(want), rtol=1e-5)
        found = likelihood.per_example(
            lambda *args, terms=terms: terms(*args), params, state, source, stats="batch", **options
        )["kl"]
        np.testing.assert_allclose(found, np.concatenate(want), rtol=1e-5)


def test_a_bound_with_batch_statistics_depends_on_no_chunk():
    """Every draw is decoded as a batch of its own; three of them are written out."""
    model, params, state, source, batch = with_batch_statistics()
    rng = jax.random.key(1)
    q = model.encode(params, state, batch.x, stats="batch")
    weights = []
    for k in range(3):
        z = q.sample(jax.random.fold_in(rng, k))
        log_p = model.decode(params, state, z, stats="batch").log_prob(batch.x)
        weights.append(log_p + likelihood.log_prior(z) - q.log_prob(z))
    want = jax.nn.logsumexp(jnp.stack(weights), axis=0) - math.log(3)
    for chunk in (1, 2, 3):
        bound = likelihood.make_iw_bound(model, 3, chunk=chunk, stats="batch")
        np.testing.assert_allclose(bound(params, state, rng, batch), want, rtol=1e-5)
    options = {"k": 4, "chunk": 3, "stats": "batch"}
    found = [
        likelihood.iw_bound(model, params, state, source, batch_size=size, mesh=mesh, **options)
        for size in (70, 128)
        for mesh in (one_device(), None)
    ]
    np.testing.assert_allclose(found, [found[0]] * 4, rtol=1e-5)


def test_likelihoods_have_the_highest_precision_whatever_the_environment_says():
    model, params, state, _, batch = with_batch_statistics()
    rngs = jax.random.split(jax.random.key(0), 2)
    functions = (
        likelihood.make_terms(model),
        likelihood.make_iw_bound(model, 2, chunk=1),
        lambda params, state, rng, batch: likelihood.log_weights(model, params, state, rngs, batch),
    )
    for setting in ("default", "bfloat16"):
        with jax.default_matmul_precision(setting):
            for function in functions:
                assert precisions(function, params, state, rngs[0], batch) == {"HIGHEST"}


def test_few_draws_at_a_time_for_points_in_the_plane(monkeypatch):
    """An example of two numbers has hidden layers of hundreds: the draws in memory do not grow
    without bound."""
    model, params, state, x, _ = linear_gaussian()
    chunks, make = [], likelihood.make_iw_bound
    monkeypatch.setattr(
        likelihood,
        "make_iw_bound",
        lambda *a, chunk, **o: chunks.append(chunk) or make(*a, chunk=chunk, **o),
    )
    likelihood.iw_bound(model, params, state, data.from_arrays(x), k=5000)
    assert chunks[0] * len(x) * likelihood.LEAST_ROW * 4 <= likelihood.ROW_BYTES["cpu"]


def test_iw_bound_of_a_bernoulli_against_numpy():
    """Three draws, whose weights are written out in float64."""
    model = small()
    x = jnp.asarray(np.random.default_rng(0).random((4, 4, 4, 1)) < 0.5, jnp.float32)
    params, state = model.init(jax.random.key(0), Batch(x))
    rng = jax.random.key(1)
    found = likelihood.make_iw_bound(model, 3, chunk=2)(params, state, rng, Batch(x))
    q = jax.tree.map(lambda v: np.asarray(v, np.float64), model.encode(params, state, x))
    weights = []
    for k in range(3):
        z = np.asarray(model.encode(params, state, x).sample(jax.random.fold_in(rng, k)))
        logits = np.asarray(model.decode(params, state, jnp.asarray(z)).logits, np.float64)
        log_p = -np.logaddexp(0, np.where(x > 0, -logits, logits)).sum((1, 2, 3))
        log_prior = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
        log_q = -0.5 * (
            (z - q.mean) ** 2 / np.exp(q.logvar) + q.logvar + math.log(2 * math.pi)
        ).sum(1)
        weights.append(log_p + log_prior - log_q)
    want = np.logaddexp.reduce(weights, axis=0) - math.log(3)
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_flat_layout_is_the_same_density():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.random((3, 4, 2, 1)), jnp.float32)
    logits = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
    for p in (
        Bernoulli(logits),
        Normal(logits, jnp.float32(0.3)),
        Normal(logits, jnp.full((1, 1, 1, 1), -1.0)),
    ):
        flat, values = likelihood._flat(p, x)
        assert values.shape == (3, 8)
        np.testing.assert_allclose(flat.log_prob(values), p.log_prob(x), rtol=1e-6)
    distribution = SimpleNamespace()
    assert likelihood._flat(distribution, x) == (distribution, x)


def test_streamed_and_conditional_data_give_the_same_values():
    source = bytes_source()
    model = models.vae(nets.mlp((8,), 4), nets.mlp((8,), (4, 4, 1)), latent_dim=2)
    preprocess = make_preprocess("grey", 3)
    params, state = model.init(
        jax.random.key(0), preprocess(jax.random.key(0), source.read([0, 1]))
    )
    calls = []
    found = [
        likelihood.iw_bound(
            model,
            params,
            state,
            s,
            k=5,
            batch_size=24,
            preprocess=preprocess,
            progress=lambda done, total: calls.append((done, total)),
        )
        for s in (source, source._replace(arrays=None))
    ]
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (100,) and calls[-1] == (100, 100) and all(a <= b for a, b in calls)


def test_active_units_are_those_whose_mean_varies():
    rng = np.random.default_rng(0)
    count, variance = likelihood.active_units(rng.standard_normal((500, 3)) * [1.0, 0.05, 0.2])
    assert count == 2
    np.testing.assert_allclose(variance, [1, 0.0025, 0.04], rtol=0.2)


def test_kl_per_dimension_adds_up_to_the_kl():
    model, params, state, x, _ = linear_gaussian()
    found = likelihood.per_example(likelihood.make_terms(model), params, state, data.from_arrays(x))
    np.testing.assert_allclose(found["kl_per_dim"].sum(1), found["kl"], rtol=1e-5)
    np.testing.assert_allclose(found["elbo"], -found["rec"] - found["kl"], rtol=1e-6)


def test_bits_per_dimension_state_their_dequantisation():
    """A density of 1 over [0, 1) is log2 256 = 8 bits a byte; a fair coin is one bit a pixel."""
    bits, what = likelihood.bits_per_dim(
        0.0, (4, 4, 1), pixels="dequantised", likelihood="gaussian"
    )
    assert bits == 8.0 and "dequantisation" in what
    bits, what = likelihood.bits_per_dim(
        16 * math.log(2), (4, 4, 1), pixels="binarised", likelihood="bernoulli"
    )
    assert bits == pytest.approx(1.0) and "binarised" in what
    for pixels, family in (
        ("grey", "gaussian"),
        ("grey", "bernoulli"),
        ("dequantised", "bernoulli"),
    ):
        with pytest.raises(UserError, match="have no bits per dimension: train with"):
            likelihood.bits_per_dim(1.0, (4, 4, 1), pixels=pixels, likelihood=family)


def test_estimate_has_its_standard_error():
    found = likelihood.estimate(np.array([1.0, 2.0, 3.0, 6.0]), "p")
    assert (
        found.value == 3.0 and found.n == 4 and found.error == pytest.approx(math.sqrt(14 / 3) / 2)
    )


def test_a_collapsed_posterior_is_said_once_in_training(capsys):
    go(20, valid=bytes_source(1), eval_every=5, model=small(beta=1000.0), tx=None)
    error = capsys.readouterr().err
    assert error.count("posterior collapse") <= 1
    assert objectives.collapse(0.05).startswith(
        "posterior collapse: KL(q(z|x) || p(z)) is 0.05 nats"
    )
    assert objectives.collapse(0.5) is None and objectives.collapse(float("nan")) is None


def test_collapse_warning_reaches_the_terminal(tmp_path, capsys):
    encoder = nets.mlp((8,), 4)
    still = encoder._replace(
        apply=lambda *a, **k: (0.0 * encoder.apply(*a, **k)[0], encoder.apply(*a, **k)[1])
    )
    model = models.vae(still, nets.mlp((8,), (4, 4, 1)), latent_dim=2)
    go(10, model=model, valid=bytes_source(1), eval_every=5)
    assert capsys.readouterr().err.count("jaxvae: step 5: posterior collapse") == 1
    go(10, model=model, valid=bytes_source(1), eval_every=5, workdir=tmp_path / "run")
    assert f"jaxvae: {tmp_path / 'run'}, step 5: posterior collapse" in capsys.readouterr().err


def test_binarised_once_is_a_function_of_seed_and_place():
    source = bytes_source()
    once, again, other = data.binarised(source), data.binarised(source), data.binarised(source, 1)
    assert set(np.unique(once.arrays["x"])) == {0, 255}
    np.testing.assert_array_equal(once.read([3, 5])["x"], again.read([3, 5])["x"])
    assert (once.arrays["x"] != other.arrays["x"]).any()
    grey = np.repeat(np.array([0, 51, 128, 255], np.uint8)[:, None], 4000, axis=1)
    bits = data.binarised(data.from_arrays(grey)).arrays["x"] == 255
    np.testing.assert_allclose(bits.mean(1), [0, 0.2, 128 / 255, 1], atol=0.03)
    assert bits[0].sum() == 0 and bits[3].all()
    assert (
        np.packbits(data.binarised(data.from_arrays(grey)).arrays["x"][2, :16] == 255).tolist()
        == np.packbits(bits[2, :16]).tolist()
    )
    with pytest.raises(UserError, match="only bytes in memory"):
        data.binarised(source._replace(arrays=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"chunk": 0}, "chunk must be"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_settings_that_cannot_work(options, message):
    model, params, state, x, _ = linear_gaussian()
    with pytest.raises(UserError, match=message):
        likelihood.iw_bound(model, params, state, data.from_arrays(x), **{"k": 2, **options})
    with pytest.raises(UserError, match="source must be a Source, not ndarray"):
        likelihood.iw_bound(model, params, state, np.asarray(x), k=2)
    with pytest.raises(UserError, match="needs a model that encodes and decodes"):
        likelihood.iw_bound(model._replace(encode=None), params, state, data.from_arrays(x), k=2)
    with pytest.raises(UserError, match="no evidence lower bound"):
        likelihood.make_terms(model._replace(terms=None))
