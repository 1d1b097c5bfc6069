"""A prior fitted after training: a Gaussian, or a mixture of them, of a trained model's latents.

    p(z) = sum_k w_k N(z; m_k, L_k L_k'),   x = E p(x|z),  z ~ p(z)

The simplest remedies for latents that are not N(0, I), to compare the two-stage VAE with (Ghosh et
al. 2020, arXiv 1903.12436, section 4).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import distributions, noise
from jaxvae.errors import UserError, check_count
from jaxvae.models.prior import with_prior
from jaxvae.models.two_stage import Latents
from jaxvae.types import Array, Batch, Model, Params


class Mixture(NamedTuple):
    """A mixture of K Gaussians with full covariances."""

    weight: Array  # [K], adds up to 1
    mean: Array  # [K, D]
    factor: Array  # [K, D, D] lower triangular, covariance = factor factor'


def fit_mixture(latents: Latents, components: int = 1, *, seed: int = 0) -> Mixture:
    """Returns the mixture fitted to one draw z ~ q(z|x) of each example.

    One component has the draws' moments; more are fitted by EM (scikit-learn).

    Args:
        latents: from `latents`.
        components: K; 1 is the Gaussian with the latents' mean and covariance, 10 is usual for
            images of ten classes.
        seed: of the draws and of EM's start.

    Raises:
        UserError: for fewer examples than K (D + 1).
    """
    check_count("components", components)
    (size, dim), source = (latents.source.size, *latents.source.shape), latents.source
    if size < components * (dim + 1):
        raise UserError(
            f"{components} covariance(s) of {dim} dimensions need {components * (dim + 1)} "
            f"examples, not {size}."
        )
    examples = source.read(np.arange(size))
    z = np.asarray(latents.preprocess(jax.random.key(seed), examples).x, np.float64)
    if components == 1:
        weights, means, covariances = np.ones(1), z.mean(0)[None], np.atleast_2d(np.cov(z.T))[None]
    else:
        weights, means, covariances = _by_em(z, components, seed)
    factors = np.linalg.cholesky(covariances + 1e-9 * np.eye(dim))
    return Mixture(*(jnp.asarray(value, jnp.float32) for value in (weights, means, factors)))


def log_prob(prior: Mixture, z: Array) -> Array:
    """Returns log p(z) [B] of z [B, D], in nats."""
    standard = distributions.Normal(jnp.zeros_like(z), jnp.zeros_like(z))

    def whiten(mean: Array, factor: Array) -> Array:
        return jax.scipy.linalg.solve_triangular(factor, (z - mean).T, lower=True).T

    white = jax.vmap(whiten)(prior.mean, prior.factor)  # [K, B, D]
    log_det = jnp.sum(jnp.log(jnp.diagonal(prior.factor, axis1=-2, axis2=-1)), axis=-1)  # [K]
    by_component = jax.vmap(standard.log_prob)(white)  # [K, B]
    return jax.nn.logsumexp(by_component + (jnp.log(prior.weight) - log_det)[:, None], axis=0)


def _by_em(z: np.ndarray, components: int, seed: int) -> tuple[Any, Any, Any]:
    """Returns weights [K], means [K, D] and covariances [K, D, D] of scikit-learn's fit."""
    from sklearn.mixture import GaussianMixture

    found = GaussianMixture(components, covariance_type="full", random_state=seed).fit(z)
    return found.weights_, found.means_, found.covariances_


def with_mixture(first: Model, *, latent_dim: int, components: int = 1) -> Model:
    """Returns `first` with a fitted prior (`with_prior`): params are {"first": ..., "prior":
    Mixture}, state {"first": ...}.

    Args:
        first: any model that decodes.
        latent_dim: D.
        components: K of the mixture.

    Raises:
        UserError: as `with_prior`, and for a mixture of another size when it is used.
    """
    check_count("components", components)
    return with_prior(first, mixture(latent_dim, components), latent_dim=latent_dim)


def mixture(latent_dim: int, components: int = 1) -> Model:
    """Returns the mixture as a model of z [B, D], with `sample` and `log_prob`.

    Its params are a `Mixture`, or the same as a dict; `init` gives N(0, I).

    Raises:
        UserError: for sizes below 1, and, when used, for a `Mixture` of another size.
    """
    check_count("latent_dim", latent_dim)
    check_count("components", components)

    def init(rng: Array, batch: Batch):
        standard = Mixture(
            jnp.full((components,), 1.0 / components),
            jnp.zeros((components, latent_dim)),
            jnp.broadcast_to(jnp.eye(latent_dim), (components, latent_dim, latent_dim)),
        )
        return standard._asdict(), {}

    def checked(params: Mixture | Params) -> Mixture:
        found = params if isinstance(params, Mixture) else Mixture(**params)
        if found.mean.shape != (components, latent_dim):
            raise UserError(
                f"the prior's means have shape {found.mean.shape}, not "
                f"{(components, latent_dim)}: fit it again."
            )
        return found

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        weight, mean, factor = checked(params)
        rng_component, rng_z = jax.random.split(rng)
        which = jnp.searchsorted(jnp.cumsum(weight), noise.uniform(rng_component, (n,)))
        which = jnp.minimum(which, components - 1)  # the weights' sum can round to below 1
        eps = noise.normal(rng_z, (n, latent_dim))
        return mean[which] + jnp.einsum("nij,nj->ni", factor[which], eps)

    def density(params, state, x, cond=None, *, stats="running"):
        return log_prob(checked(params), x)

    return Model(init, (), sample=sample, log_prob=density)
