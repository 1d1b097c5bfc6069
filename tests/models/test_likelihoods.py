"""The likelihoods of a decoder's output, by name and of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import models, nets
from jaxvae.distributions import Bernoulli, Normal
from jaxvae.errors import UserError
from jaxvae.models import likelihoods
from jaxvae.types import Batch, Likelihood

OUTPUT = jnp.asarray([[-1.0, 0.5], [0.0, 2.0]])
ZERO = jnp.asarray(0, jnp.int32)


def test_names():
    of = likelihoods.likelihood
    assert isinstance(of("bernoulli").build(None, OUTPUT), Bernoulli)
    np.testing.assert_allclose(
        of("gaussian", gamma=0.3).build(None, OUTPUT).logvar, np.log(0.3), rtol=1e-6
    )
    given = likelihoods.gaussian(0.2)
    assert of(given) is given


def test_a_learned_gamma_has_a_parameter_a_floor_and_metrics():
    learned = likelihoods.likelihood("gaussian", gamma="learned", gamma_floor=0.1)
    assert learned.init() == {"log_sd": 0.0}
    for log_sd, floored in ((0.0, 0.0), (-5.0, 1.0)):
        params, gamma = {"log_sd": jnp.asarray(log_sd)}, 0.1 + np.exp(2 * log_sd)
        np.testing.assert_allclose(learned.build(params, OUTPUT).logvar, np.log(gamma), rtol=1e-5)
        found = learned.metrics(params)
        np.testing.assert_allclose(found["gamma"], gamma, rtol=1e-6)
        assert found["gamma_floored"] == floored


def test_a_likelihood_of_ones_own_in_a_vae():
    """With a variance for each pixel as its parameter: they are in a group of their own, learn, and
    are logged."""
    given = Likelihood(
        build=lambda params, x_hat: Normal(x_hat, params),
        init=lambda: jnp.full((3,), 0.5),
        metrics=lambda params: {"logvar": jnp.mean(params)},
    )
    model = models.vae(nets.mlp((), 4), nets.mlp((), 3), latent_dim=2, likelihood=given)
    batch = Batch(jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32))
    params, state = model.init(jax.random.key(0), batch)
    (objective,) = model.objectives
    assert objective.wrt == ("encoder", "decoder", "likelihood")
    np.testing.assert_array_equal(model.decode(params, state, jnp.zeros((4, 2))).logvar, [0.5] * 3)

    def loss(params):
        value, aux = objective.loss(params, state, jax.random.key(1), batch, ZERO, None)
        return jnp.mean(value), aux

    grads, aux = jax.grad(loss, has_aux=True)(params)
    assert aux.metrics["logvar"] == 0.5
    assert (np.abs(grads["likelihood"]) > 0.0).all()


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        ("gausian", {}, "unknown likelihood 'gausian'. Did you mean 'gaussian'"),
        ("gaussian", {"gamma": "learnt"}, "unknown gamma 'learnt'. Did you mean 'learned'"),
        ("bernoulli", {"gamma": "learned"}, "gamma is the variance of a Gaussian decoder"),
        (likelihoods.gaussian(), {"gamma": 0.5}, "gamma is the variance of a Gaussian decoder"),
        (Normal, {}, r"likelihood must be a name or a Likelihood\(build, init\)"),
        ("gaussian", {"gamma": 0.0}, "gamma must be greater than 0"),
        ("gaussian", {"gamma_floor": -1.0}, "gamma_floor must be greater than 0"),
    ],
)
def test_what_is_refused(value, options, message):
    with pytest.raises(UserError, match=message):
        likelihoods.likelihood(value, **options)
