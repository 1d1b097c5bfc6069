"""Another prior for a trained model: any model with a density and a sampler, of its latents.

    z ~ p(z),   x = E p(x|z);   log p(x) >= E_q [log p(x|z) + log p(z) - log q(z|x)]

`mixture` fits Gaussians; a flow is trained on latents as on any other data:

    z = latents(model, first.params, first.state, source)
    prior = flow(coupling(64), 64, alpha=None)
    trained = fit(prior, tx, z.source, preprocess=z.preprocess, steps=...).train_state
    both = with_prior(model, prior, latent_dim=64)
    both.sample({"first": first.params, "prior": trained.params}, {"first": first.state}, rng, n)

Sources: Dai & Wipf 2019 (arXiv 1903.05789), section 4, whose second VAE is such a prior with a
bound for its density (`two_stage`); Ghosh et al. 2020 (arXiv 1903.12436), section 4.
"""

import jax
import jax.numpy as jnp

from jaxvae import distributions
from jaxvae.errors import UserError, check_count
from jaxvae.types import Array, Batch, Model, Params, State, Terms


def with_prior(first: Model, prior: Model, *, latent_dim: int) -> Model:
    """Returns `first` with the prior p(z) of another model instead of N(0, I).

        sample      z ~ p(z);  x = E p(x|z)
        terms       rec = -log p(x|z),  kl = log q(z|x) - log p(z),  z ~ q(z|x)
        log_weight  log p(x|z) + log p(z) - log q(z|x), of importance-weighted bounds

    `encode` and `decode` are the first's. One draw's `kl` can be negative; its mean over draws is
    KL(q(z|x) || p(z)).

    Args:
        first: any model that decodes; without an encoder it has `sample` alone.
        prior: a model of z [B, D] with `sample`, and with `log_prob` where `first` encodes.
        latent_dim: D.

    Returns:
        A `Model` without objectives: params are {"first": ..., "prior": ...}, and so is state; a
        prior without state may be left out of it. A condition is the first's.

    Raises:
        UserError: for a first model that does not decode, and a prior without sampler or density;
            when initialised or used, for a prior of latents of another size.
    """
    check_count("latent_dim", latent_dim)
    decode_z, encode_x = first.decode, first.encode
    sample_z, log_prob_z = prior.sample, prior.log_prob
    if decode_z is None:
        raise UserError("the first stage must decode; this model does not.")
    if sample_z is None or (log_prob_z is None and encode_x is not None):
        raise UserError(
            "a prior must have sample and log_prob, as a flow and a mixture have: for a VAE of the "
            "latents use two_stage."
        )

    def init(rng: Array, batch: Batch) -> tuple[Params, State]:
        rng_first, rng_prior = jax.random.split(rng)
        params, state = first.init(rng_first, batch)
        z = jnp.zeros((batch.x.shape[0], latent_dim))
        params_z, state_z = prior.init(rng_prior, Batch(z))
        return {"first": params, "prior": params_z}, {"first": state, "prior": state_z}

    def decode(params, state, z, cond=None, *, stats="running"):
        return decode_z(params["first"], state["first"], z, cond, stats=stats)

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        z = sample_z(params["prior"], state.get("prior", {}), rng, n, stats=stats)
        if z.shape != (n, latent_dim):
            raise UserError(
                f"the prior is of latents of shape {z.shape[1:]}, not {(latent_dim,)}: fit it again."
            )
        return decode(params, state, z, cond, stats=stats).mean

    if encode_x is None or log_prob_z is None:
        return Model(init, (), None, decode, None, sample)

    def encode(params, state, x, cond=None, *, stats="running"):
        return encode_x(params["first"], state["first"], x, cond, stats=stats)

    def terms(params, state, rng, batch: Batch, *, stats="running"):
        q = encode(params, state, batch.x, batch.cond, stats=stats)
        z = distributions.sample(rng, q)
        p = decode(params, state, z, batch.cond, stats=stats)
        log_p_z = log_prob_z(params["prior"], state.get("prior", {}), z, stats=stats)
        kl = distributions.log_prob(q, z) - log_p_z
        return Terms(-distributions.log_prob(p, batch.x), kl, distributions.metrics(q))

    def log_weight(params, state, rng, batch: Batch, *, stats="running"):
        found = terms(params, state, rng, batch, stats=stats)
        return -found.rec - found.kl

    return Model(init, (), encode, decode, terms, sample, log_weight=log_weight)
