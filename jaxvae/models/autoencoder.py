"""The autoencoder, plain or denoising: a code for each example, and no distribution over codes.

    loss(x) = -log p(x | z),   z = encoder(x'),   x' = x (plain) or a corrupted x

| corruption | x'                                                                |
| ---------- | ----------------------------------------------------------------- |
| none       | x                                                                 |
| gaussian   | x + amount N, with noise for each number                          |
| mask       | x, of which each number is 0 with probability `amount`            |

There is no KL, so no bound of log p(x), and nothing to sample from before a prior is fitted to the
codes: `with_mixture`, or a flow by `with_prior` (Ghosh et al. 2020, section 4).

Sources: Rumelhart et al. 1986; Vincent et al. 2010 (JMLR 11), sections 3.1 and 3.3; Ghosh et al. 2020
(arXiv 1903.12436).
"""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from jaxvae import distributions, noise
from jaxvae.errors import UserError, check_number, unknown
from jaxvae.models import likelihoods
from jaxvae.models.kin import kin_of
from jaxvae.types import Array, Aux, Batch, Likelihood, Model, Net, Objective, Posterior

CORRUPTIONS = ("none", "gaussian", "mask")


class Point(NamedTuple):
    """All mass at one z, which has no density and no KL."""

    mean: Array  # [B, D]

    def sample(self, rng: Array) -> Array:
        """Returns the mean, the same at every draw."""
        return self.mean

    def log_prob(self, x: Array) -> Array:
        """Raises `UserError`."""
        raise UserError("a code is a point and has no density: use a VAE for likelihoods.")


def autoencoder(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    corruption: Literal["none", "gaussian", "mask"] = "none",
    amount: float = 0.3,
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
    gamma: float | Literal["learned"] = 1.0,
    gamma_floor: float = 1e-8,
) -> Model:
    """Returns an autoencoder: one objective, -log p(x|z), per example, in nats.

    Args:
        encoder: x [B, ...] -> z [B, latent_dim]; takes `cond` if batches have one.
        decoder: as in `vae`.
        latent_dim: D.
        corruption: what the encoder sees in training, of the module's table; evaluation is of x
            itself.
        amount: of corruption: a standard deviation, >= 0, or a probability, in [0, 1]; it may be
            traced.
        likelihood, gamma, gamma_floor: as in `vae`.

    Returns:
        A `Model` that encodes (`Point`) and decodes; no terms, no sample and no density. Metrics:
        `loss`, `code_norm` (|z|), and those of the likelihood. Statistics are re-estimated over the
        data alone.

    Raises:
        UserError: for an unknown corruption, an amount out of range, and as `vae`.
    """
    if corruption not in CORRUPTIONS:
        raise unknown("corruption", corruption, CORRUPTIONS)
    check_number("amount", amount, least=0.0, at_most=1.0 if corruption == "mask" else None)
    kin = kin_of(
        encoder,
        decoder,
        latent_dim=latent_dim,
        posterior=Posterior(lambda latent_dim: latent_dim, _point),
        likelihood=likelihood,
        gamma=gamma,
        gamma_floor=gamma_floor,
    )

    def corrupted(rng: Array, x: Array) -> Array:
        if corruption == "none":
            return x
        if corruption == "gaussian":
            return x + amount * noise.normal(rng, x.shape, x.dtype)
        return x * (noise.uniform(rng, x.shape, x.dtype) >= amount).astype(x.dtype)

    def loss(params, state, rng, batch: Batch, step, carry):
        net = kin.passes(params, state, rng, batch)
        z = net.draw(net.E(corrupted(net.key(), batch.x)))
        value = -distributions.log_prob(kin.p_of(net, z), batch.x)
        metrics = {"code_norm": jnp.sqrt(jnp.sum(jnp.square(z), axis=-1))}
        return value, Aux(net.state, metrics | likelihoods.report(kin.likelihood, params))

    of_base = kin.base.moments
    assert of_base is not None

    def moments(params, state, rng, batch: Batch, *, over="data"):
        if over == "samples":
            raise UserError(
                "codes have no prior to draw samples from: use statistics over the data."
            )
        return of_base(params, state, rng, batch, over=over)

    objectives = (Objective(kin.groups, loss),)
    return kin.base._replace(objectives=objectives, terms=None, sample=None, moments=moments)


def _point(output: Array) -> Any:
    return Point(output)
