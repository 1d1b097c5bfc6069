"""A prior over codes: its density adds up to 1, it samples what it says, and a VQ-VAE takes it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import data, nets
from jaxvae.errors import UserError
from jaxvae.models import code_prior, codebook, indices, latents, vq_vae, with_code_prior
from jaxvae.train import init_state, make_train_step
from jaxvae.types import Batch

CODES, SHAPE = 3, (2, 2)


@pytest.fixture(scope="module")
def prior():
    """A prior with logits of some size, and its parameters."""
    model = code_prior(nets.masked_conv(CODES, channels=4, blocks=1), shape=SHAPE, codes=CODES)
    params, _ = model.init(jax.random.key(0), Batch(jnp.zeros((2, 4))))
    return model, jax.tree.map(lambda w: 5.0 * w, params)


def test_the_density_adds_up_to_one_and_samples_are_of_it(prior):
    model, params = prior
    every = np.asarray(list(itertools.product(range(CODES), repeat=4)), np.float32)
    log_p, x = jax.jit(
        lambda rng: (model.log_prob(params, {}, every), model.sample(params, {}, rng, 20_000))
    )(jax.random.key(1))
    p, x = np.exp(np.float64(log_p)), np.asarray(x)
    assert p.sum() == pytest.approx(1.0, abs=1e-5) and p.max() > 3 / 81
    number = (x @ (27, 9, 3, 1)).astype(int)
    share = np.bincount(number, minlength=81) / len(x)
    assert np.abs(share - p).max() < 5 * np.sqrt(p.max() / len(x))
    loss, _ = model.objectives[0].loss(params, {}, None, Batch(jnp.asarray(every)), 0, None)
    np.testing.assert_allclose(loss, -log_p, rtol=1e-5)


def test_a_vq_vae_is_sampled_by_the_prior_of_its_codes():
    """By the same door as two stages: the latents of the first are the data of the second."""
    quantiser = codebook(CODES, 2)
    first = vq_vae(nets.mlp((), (*SHAPE, 2)), nets.mlp((), 5), quantiser, shape=SHAPE)
    x = np.random.default_rng(0).random((64, 5), np.float32)
    params, state = first.init(jax.random.key(3), Batch(jnp.asarray(x)))
    params["codebook"]["entries"] = 0.5 * jax.random.normal(jax.random.key(4), (CODES, 2))
    z = latents(first, params, state, data.from_arrays(x))
    codes = indices(jax.random.key(0), z.source.read(np.arange(64)))
    np.testing.assert_array_equal(codes.x, first.encode(params, state, jnp.asarray(x)).index)
    assert len(np.unique(codes.x)) > 1

    second = code_prior(nets.masked_conv(CODES, channels=4, blocks=0), shape=SHAPE, codes=CODES)
    tx = optax.adam(0.05)

    @jax.jit
    def train():
        step, start = make_train_step(second, tx), init_state(second, tx, jax.random.key(0), codes)
        return jax.lax.scan(lambda s, _: (step(s, codes)[0], None), start, None, 150)[0].params

    learned = train()
    both = with_code_prior(first, second, quantiser)
    joined = {"first": params, "prior": learned}
    found = both.terms(joined, {"first": state}, jax.random.key(0), Batch(jnp.asarray(x)))
    uniform = first.terms(params, state, jax.random.key(0), Batch(jnp.asarray(x)))
    np.testing.assert_allclose(found.rec, uniform.rec, rtol=1e-6)
    np.testing.assert_allclose(found.kl, -second.log_prob(learned, {}, codes.x), rtol=1e-5)
    assert np.mean(found.kl) < np.mean(uniform.kl) - 1.0  # it has learned which codes there are
    drawn = np.asarray(both.sample(joined, {"first": state}, jax.random.key(0), 300))
    again = np.asarray(first.decode(params, state, z.source.arrays["x"]).mean)
    spread = again.std(axis=0) / np.sqrt(300) + again.std(axis=0) / 8
    assert np.all(np.abs(drawn.mean(axis=0) - again.mean(axis=0)) < 4 * spread)


def test_what_is_refused():
    net = nets.masked_conv(CODES, channels=2, blocks=0)
    with pytest.raises(UserError, match="codes must be at least 2"):
        code_prior(net, shape=SHAPE, codes=1)
    model = code_prior(net, shape=SHAPE, codes=CODES)
    with pytest.raises(UserError, match="this prior is of 4 codes"):
        jax.eval_shape(model.init, jax.random.key(0), Batch(jnp.zeros((2, 5))))
    model = code_prior(nets.masked_conv(4, blocks=0), shape=SHAPE, codes=CODES)
    with pytest.raises(UserError, match="the prior's net must return"):
        jax.eval_shape(model.init, jax.random.key(0), Batch(jnp.zeros((2, 4))))
    with pytest.raises(UserError, match="needs a VQ-VAE"):
        with_code_prior(model._replace(sample=None), model, codebook(CODES, 2))
