"""The composed model of two stages, latents redrawn at every visit, the floor of gamma."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import Batch, data, distributions, models, nets
from jaxvae.distributions import Normal
from jaxvae.errors import UserError
from jaxvae.metrics import likelihood
from jaxvae.models import two_stage
from jaxvae.models.two_stage import Latents
from jaxvae.testing import check_model
from jaxvae.train import fit
from jaxvae.types import Array, Model
from small import one_device
from two_stages import RNG, SHAPE, D, first, images, linear, second, source


@pytest.mark.slow  # a learned-gamma VAE with small nets: test_systems.py
@pytest.mark.large
def test_the_first_stage_passes_the_conformance_suite():
    """With spectral norm, transposed convolutions and TensorFlow's BatchNorm; the second is an
    MLP."""
    check_model(first(), images())


def test_the_composed_model_passes_the_conformance_suite():
    check_model(two_stage(first(), second(), latent_dim=D), images())


# ---- latents ---------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["normal", "ar1"])
def test_latents_are_the_posteriors_and_are_redrawn(posterior):
    model = first(posterior=posterior)
    params, state = model.init(RNG, images())
    images_ = source()
    found = models.latents(model, params, state, images_, batch_size=16)  # 40 is no multiple
    x = jnp.asarray(images_.arrays["x"], jnp.float32) / 255
    q = model.encode(params, state, x)
    np.testing.assert_allclose(found.source.arrays["x"], q.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.source.arrays["logvar"], q.logvar, rtol=1e-5, atol=1e-6)
    assert found.source.size == 40
    assert found.source.shape == (D,)
    examples = found.source.read(np.arange(40))
    one, two = (found.preprocess(jax.random.key(i), examples).x for i in (1, 2))
    assert float(jnp.abs(one - two).min()) > 0.0
    want = distributions.sample(jax.random.key(1), q)
    np.testing.assert_allclose(one, want, rtol=1e-4, atol=1e-5)


def test_latents_of_a_posterior_with_one_variance_for_all():
    """Of any shape that broadcasts to the mean's."""
    model, x = linear(2.0, 0.1, 0.2), np.arange(6, dtype=np.float32).reshape(3, 2)
    for logvar in (jnp.zeros(()), jnp.zeros(2), jnp.zeros((1, 2)), jnp.zeros((3, 1))):
        one = model._replace(
            encode=lambda params, state, x, cond=None, logvar=logvar: Normal(
                2.0 * x, logvar[: len(x)] if logvar.ndim == 2 else logvar
            )
        )
        found = models.latents(
            one,
            {},
            {},
            data.from_arrays(x),
            preprocess=lambda rng, examples: Batch(examples["x"]),
            batch_size=3,
        )
        z = found.preprocess(RNG, found.source.read(np.arange(3))).x
        np.testing.assert_allclose(
            z, distributions.sample(RNG, Normal(2.0 * jnp.asarray(x), jnp.zeros((3, 2)))), rtol=1e-6
        )


class Scaled(NamedTuple):
    """N(mean, diag(scale^2)), where `scale` has one number for each example, [B]."""

    mean: Array
    scale: Array

    def sample(self, rng):
        rows = self.scale.reshape(len(self.mean), -1)
        return self.mean + rows * jax.random.normal(rng, self.mean.shape)


def latents_of(posterior, x, *, batch_size: int) -> Latents:
    """Returns the latents of a model whose q(z|x) is `posterior(x)`."""
    return models.latents(
        Model(lambda rng, batch: ({}, {}), encode=lambda p, s, x, cond=None: posterior(x)),
        {},
        {},
        data.from_arrays(x),
        preprocess=lambda rng, examples: Batch(examples["x"]),
        batch_size=batch_size,
    )


@pytest.mark.parametrize("columns", [(), (1,), (2,)], ids=["[B]", "[B, 1]", "[B, D]"])
@pytest.mark.parametrize("batch_size", [3, 4, 7])
def test_latents_of_a_posterior_with_a_number_for_each_example(columns, batch_size):
    """They stay with their example, and keep their shape."""
    x = np.arange(14, dtype=np.float32).reshape(7, 2) + 1.0
    found = latents_of(
        lambda x: Scaled(x, x[:, 0].reshape(-1, *(1,) * len(columns)) * jnp.ones(columns)),
        x,
        batch_size=batch_size,
    )
    np.testing.assert_array_equal(
        found.source.arrays["scale"],
        np.broadcast_to(x[:, 0].reshape(7, *(1,) * len(columns)), (7, *columns)),
    )
    z = found.preprocess(RNG, found.source.read(np.arange(7))).x
    want = x + x[:, :1] * jax.random.normal(RNG, (7, 2))
    np.testing.assert_allclose(z, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (lambda x: x[:, 0], r"one number for each example, or for each dimension\? Use another"),
        (lambda x: jnp.ones(3), r"scale has shape \(3,\), and its mean \(2, 2\): it needs 2 rows"),
        (lambda x: jnp.ones((3, 2)), "it needs 2 rows, or a shape that broadcasts"),
    ],
)
def test_latents_of_a_posterior_whose_arrays_have_another_shape(scale, message):
    with pytest.raises(UserError, match=message):
        latents_of(lambda x: Scaled(x, scale(x)), np.ones((4, 2), np.float32), batch_size=2)


def test_latents_of_a_posterior_that_cannot_be_drawn_from():
    """A Normal's variances broadcast to its mean; [B] does not."""
    with pytest.raises(UserError, match=r"Normal with mean \(3, 2\), logvar \(3,\), does not draw"):
        latents_of(lambda x: Normal(x, x[:, 0]), np.ones((4, 2), np.float32), batch_size=3)


def test_parameters_are_no_constants_of_the_program_that_encodes():
    seen, model = [], first()
    params, state = model.init(RNG, images())

    def encode(params, state, *args):
        seen.extend(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, state)))
        return model.encode(params, state, *args)

    models.latents(model._replace(encode=encode), params, state, source())
    assert seen and all(seen)


def test_latents_that_are_not_finite():
    model = first()
    params, state = model.init(RNG, images())
    params["encoder"] = jax.tree.map(lambda p: p * jnp.nan, params["encoder"])
    with pytest.raises(UserError, match="not finite: it has diverged"):
        models.latents(model, params, state, source())


def test_a_model_that_does_not_encode_has_no_latents():
    with pytest.raises(UserError, match="does not encode"):
        models.latents(first()._replace(encode=None), {}, {}, source())


# ---- the composed model ------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [True, False])
def test_samples_have_the_variance_of_the_chain(noise):
    """u ~ N(0, 1); z = u / 0.5 + sqrt(0.3) eps, or without eps; x = z / 2."""
    model = two_stage(linear(2.0, 0.1, 0.2), linear(0.5, 0.1, 0.3), latent_dim=1, noise_on_z=noise)
    params, state = model.init(RNG, Batch(jnp.zeros((2, 1))))
    x = np.asarray(model.sample(params, state, RNG, 40_000))
    assert x.var() == pytest.approx((4.0 + (0.3 if noise else 0.0)) / 4.0, rel=0.03)


def test_terms_bound_the_likelihood_of_the_chain():
    """log p(x) of the linear chain is known: z ~ N(0, 4 + 0.3), x ~ N(z / 2, 0.2). The bound is
    below it, on the average."""
    model = two_stage(linear(2.0, 0.1, 0.2), linear(0.5, 0.1, 0.3), latent_dim=1)
    params, state = model.init(RNG, Batch(jnp.zeros((2, 1))))
    x = jnp.full((20_000, 1), 0.7)
    terms = model.terms(params, state, RNG, Batch(x))
    bound = -float(jnp.mean(terms.rec + terms.kl))
    variance = 4.3 / 4 + 0.2
    exact = -0.5 * (0.7**2 / variance + np.log(2 * np.pi * variance))
    # by hand: E of log N(x; z/2, .2) + log N(z; 2u, .3) - log q(z|x) - KL(q(u|z)), q(z|x) = N(1.4,
    # .1), q(u|z) = N(z/2, .1)
    rec = 0.5 * (0.1 / 4 / 0.2 + np.log(2 * np.pi * 0.2))
    log_p_z = -0.5 * (4 * 0.1 / 0.3 + np.log(2 * np.pi * 0.3))
    entropy = 0.5 * np.log(2 * np.pi * np.e * 0.1)
    kl_u = 0.5 * ((1.4**2 + 0.1) / 4 + 0.1 - 1 - np.log(0.1))
    assert bound == pytest.approx(-rec + log_p_z + entropy - kl_u, abs=0.05)
    assert bound < exact


def test_importance_weighted_bounds_are_of_the_chain():
    """p(x|u) is not decode(u): with N(0, I) and decode the bound would miss the noise on z. log
    p(x) is known."""
    model = two_stage(
        linear(1.0, 0.4, 0.2), linear(1.0, 0.8, 1.0), latent_dim=1
    )  # z = u + noise, x = z + less
    params, state = model.init(RNG, Batch(jnp.zeros((2, 1))))
    x = np.array([[-2.0], [0.1], [1.3]], np.float32)
    variance = 1.0 + 1.0 + 0.2
    exact = -0.5 * (x[:, 0].astype(np.float64) ** 2 / variance + np.log(2 * np.pi * variance))
    images_ = data.from_arrays(x)
    found = likelihood.iw_bound(model, params, state, images_, k=8000)
    np.testing.assert_allclose(found, exact, atol=0.05)
    wrong = likelihood.iw_bound(model._replace(log_weight=None), params, state, images_, k=8000)
    assert np.abs(wrong - exact).max() > 0.2
    many = Batch(jnp.repeat(jnp.asarray(x), 4000, axis=0))
    one, terms = model.log_weight(params, state, RNG, many), model.terms(params, state, RNG, many)
    assert float(jnp.mean(one)) == pytest.approx(
        -float(jnp.mean(terms.rec + terms.kl)), abs=0.05
    )  # one draw: the ELBO
    assert float(jnp.mean(one)) < exact.mean()


def test_decode_and_encode_are_the_stages_one_after_the_other():
    one, two = first(), second()
    model, batch = two_stage(one, two, latent_dim=D), images()
    params, state = model.init(RNG, batch)
    u = jax.random.normal(RNG, (4, D))
    z = two.decode(params["second"], state["second"], u).mean
    want = one.decode(params["first"], state["first"], z).mean
    np.testing.assert_allclose(model.decode(params, state, u).mean, want, rtol=1e-6)
    z = one.encode(params["first"], state["first"], batch.x).mean
    np.testing.assert_allclose(
        model.encode(params, state, batch.x).mean,
        two.encode(params["second"], state["second"], z).mean,
        rtol=1e-6,
    )


def test_any_first_stage_will_do():
    """A conditional VAE with an AR(1) posterior, and a Soft-IntroVAE."""
    cond = jax.nn.one_hot(jnp.arange(16) % 2, 2)
    conditional = models.vae(
        nets.mlp((8,), D + 2), nets.mlp((8,), SHAPE), latent_dim=D, posterior="ar1"
    )
    weights = {"beta_rec": 1.0, "beta_kl": 1.0, "beta_neg": 1.0}
    soft = models.soft_intro_vae(
        nets.mlp((8,), 2 * D), nets.mlp((8,), SHAPE), latent_dim=D, **weights
    )
    for model, batch in ((conditional, Batch(images().x, cond)), (soft, images())):
        both = two_stage(model, second(), latent_dim=D)
        params, state = both.init(RNG, batch)
        assert both.sample(params, state, RNG, 16, batch.cond).shape == (16, *SHAPE)


@pytest.mark.long
def test_two_stages_trained_one_after_the_other():
    """From images to samples, through fit, as the module says."""
    one, two, images_ = first(), second(), source()
    options = {"batch_size": 8, "mesh": one_device(), "steps": 3}
    a = fit(one, optax.adam(1e-3), images_, **options).train_state
    z = models.latents(one, a.params, a.state, images_)
    b = fit(two, optax.adam(1e-3), z.source, preprocess=z.preprocess, valid=z.source, **options)
    assert np.isfinite(b.metrics["valid"]["elbo"])
    both = two_stage(one, two, latent_dim=D)
    x = both.sample(*models.join_stages(a, b.train_state), RNG, 5)
    assert x.shape == (5, *SHAPE)
    assert float(x.min()) >= 0.0
    assert float(x.max()) <= 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: two_stage(first(3), second(4), latent_dim=4),
            r"the second stage does not fit latents of size \(3,\)",
        ),
        (
            lambda: two_stage(first(3), second(3), latent_dim=5),
            r"u has size \(3,\), not latent_dim=5",
        ),
    ],
)
def test_a_second_stage_of_another_size(make, message):
    with pytest.raises(UserError, match=message):
        make().init(RNG, images())


@pytest.mark.parametrize(
    ("two", "latent_dim", "message"),
    [
        (4, 4, r"the first stage: these parameters do not fit a net for inputs of shape \(4,\)"),
        (3, 5, r"the second stage: these parameters do not fit a net for inputs of shape \(5,\)"),
    ],
)
def test_stages_that_were_trained_apart_and_do_not_fit(two, latent_dim, message):
    """As they are joined after training, without `init`."""
    one, other = first(3), second(two)
    a, b = one.init(RNG, images()), other.init(RNG, Batch(jnp.zeros((2, two))))
    params, state = {"first": a[0], "second": b[0]}, {"first": a[1], "second": b[1]}
    with pytest.raises(UserError, match=message):
        two_stage(one, other, latent_dim=latent_dim).sample(params, state, RNG, 4)


def test_stages_must_encode_and_decode():
    with pytest.raises(UserError, match="the second stage must encode and decode"):
        two_stage(first(), second()._replace(encode=None), latent_dim=D)
    with pytest.raises(UserError, match="the first stage must decode"):
        models.with_mixture(first()._replace(decode=None), latent_dim=D)


# ---- gamma -------------------------------------------------------------------------------------


def test_gamma_finds_the_mean_squared_error():
    """With x_hat fixed the optimum is gamma = mean (x - x_hat)^2 (facts of the released code; there
    its square root)."""
    model = first()
    batch = images()
    params, state = model.init(RNG, batch)
    tx = optax.adam(0.05)

    def loss(log_sd):
        moved = {**params, "likelihood": {"log_sd": log_sd}}
        return jnp.mean(model.terms(moved, state, RNG, batch).rec)

    log_sd = jnp.zeros(())
    opt = tx.init(log_sd)
    step = jax.jit(jax.value_and_grad(loss))
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(400):
            value, grad = step(log_sd)
            update, opt = tx.update(grad, opt)
            log_sd = optax.apply_updates(log_sd, update)
    q = model.encode(params, state, batch.x)
    x_hat = model.decode(params, state, distributions.sample(RNG, q)).mean
    mse = float(jnp.mean(jnp.square(batch.x - x_hat)))
    assert float(jnp.exp(2 * log_sd)) == pytest.approx(mse, rel=1e-3)
    assert float(value) == pytest.approx(
        64 * (0.5 + 0.5 * np.log(mse) + 0.5 * np.log(2 * np.pi)), rel=1e-3
    )


def test_gamma_that_runs_to_zero_is_floored_counted_and_said(capsys):
    """One image that the decoder memorises: gamma falls to the floor, is counted, and nothing is
    ever infinite."""
    x = data.from_arrays(np.full((4, *SHAPE), 255, np.uint8))
    pair = nets.mlp((4,), 2), nets.mlp((4,), SHAPE)
    model = models.vae(
        *pair, latent_dim=1, likelihood="gaussian", gamma="learned", gamma_floor=1e-3
    )
    found = fit(
        model, optax.adam(0.05), x, steps=800, batch_size=4, mesh=one_device(), log_every=100
    )
    last = found.metrics["train"]
    assert 1e-3 <= last["gamma"] < 2e-3
    assert last["gamma_floored"] == 1.0
    assert capsys.readouterr().err.count("gamma is at its floor in ") == 1
    assert np.isfinite(last["loss"])


def test_the_floor_keeps_everything_finite():
    """Even a log standard deviation of -1000 gives a finite loss and gradients."""
    model = first()
    batch = images()
    params, state = model.init(RNG, batch)
    params["likelihood"]["log_sd"] = jnp.asarray(-1000.0)

    def scalar(params):
        return jnp.mean(
            model.objectives[0].loss(params, state, RNG, batch, jnp.zeros((), jnp.int32), None)[0]
        )

    value, grads = jax.value_and_grad(scalar)(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    with pytest.raises(UserError, match="gamma_floor must be greater than 0"):
        first(gamma_floor=0.0)
