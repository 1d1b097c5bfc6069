"""Small models of two stages, and scalar ones without nets whose likelihood is known."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import Batch, data, models, nets
from jaxvae.distributions import Normal
from jaxvae.types import Model

RNG, D = jax.random.key(0), 3
SHAPE = (8, 8, 1)


def first(latent_dim: int = D, posterior: str = "normal", **options) -> Model:
    heads = (latent_dim, latent_dim) if posterior == "normal" else (latent_dim, 1, 1)
    pair = nets.infogan(SHAPE, latent_dim=latent_dim, heads=heads, shrink=64)
    options = {"likelihood": "gaussian", "gamma": "learned", **options}
    return models.vae(*pair, latent_dim=latent_dim, posterior=posterior, **options)


def second(latent_dim: int = D, **options) -> Model:
    options = {"likelihood": "gaussian", "gamma": "learned", **options}
    return models.vae(*nets.second_stage(latent_dim, width=8), latent_dim=latent_dim, **options)


def images(n: int = 16) -> Batch:
    return Batch(jax.random.uniform(jax.random.key(1), (n, *SHAPE)))


def source(n: int = 40) -> data.Source:
    return data.from_arrays(np.random.default_rng(0).integers(0, 256, (n, *SHAPE), dtype=np.uint8))


def linear(weight: float, variance: float, gamma: float) -> Model:
    """Returns a scalar VAE whose q(z|x) = N(weight x, variance) and p(x|z) = N(z / weight, gamma),
    without nets."""

    def init(rng, batch):
        return {"encoder": {}, "decoder": {}}, {}

    def encode(params, state, x, cond=None, *, stats="running"):
        return Normal(weight * x, jnp.full_like(x, np.log(variance)))

    def decode(params, state, z, cond=None, *, stats="running"):
        return Normal(z / weight, jnp.full_like(z, np.log(gamma)))

    return Model(init, (), encode, decode)
