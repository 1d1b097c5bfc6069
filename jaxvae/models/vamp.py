"""The VampPrior: a VAE whose prior is a mixture of its own posteriors, at pseudo-inputs that it learns.

    p(z) = 1/K sum_k q(z|u_k)
    loss(x) = -log p(x|z) + beta (log q(z|x) - log p(z)),   z ~ q(z|x)

The prior that maximises the ELBO is the aggregated posterior, the mean of q(z|x) over the data; K
pseudo-inputs u_k stand for the data. The KL to a mixture has no closed form: one draw of z estimates
it, and can be below 0.

Source: Tomczak & Welling 2018 (arXiv 1705.07120), Eqs. 8 to 11, and its released code: 500
pseudo-inputs of one layer's sigmoid, or of none for data that are any real numbers.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxvae import distributions, noise, objectives
from jaxvae.errors import UserError, check_count, unknown
from jaxvae.models.kin import by_row, kin_of
from jaxvae.objectives import Weight
from jaxvae.types import (
    Array,
    Aux,
    Batch,
    Likelihood,
    Model,
    ModelInit,
    Net,
    Objective,
    Params,
    Posterior,
    State,
    Terms,
)

GROUP = "pseudo_inputs"
DOMAINS = ("unit", "real")
SPREAD = 0.1  # standard deviation that parts pseudo-inputs that start at the same example


def vamp(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    components: int = 500,
    domain: Literal["unit", "real"] = "unit",
    posterior: str | Posterior = "normal",
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
    gamma: float | Literal["learned"] = 1.0,
    gamma_floor: float = 1e-8,
    beta: Weight = 1.0,
) -> Model:
    """Returns a VAE with a VampPrior: one objective, which also moves the group "pseudo_inputs".

    The pseudo-inputs are sigmoid(v) ("unit") or v ("real"), with free v. They start at the examples
    of the batch that the model is initialised with, repeated as often as needed, plus noise: the
    released code starts them at nearly one and the same grey, which has to part first.

    They pass the encoder as in evaluation, by its running averages and without dropout, so that p(z)
    is the same for every batch and on any number of devices. A step costs one more pass of K
    examples through the encoder, and K B densities of z.

    Args:
        encoder, decoder, latent_dim, posterior, likelihood, gamma, gamma_floor: as in `vae`; the
            posterior is a NamedTuple of arrays with a row for each example, or a `Normal`.
        components: K; the released code has 500.
        domain: of the data: "unit", [0, 1], or "real".
        beta: weight of the KL, >= 0: a number (it may be traced) or a schedule step -> number.

    Returns:
        A `Model` whose `terms` have the estimated KL to the mixture, whose `sample` (and `moments` over
        samples) draws z from it, and whose `log_weight` has its density; metrics `loss`, `rec`, `kl`,
        `elbo` in nats, `beta` where it is a schedule, and those of posterior and likelihood.

    Raises:
        UserError: for a K below 1, an unknown domain, a posterior with a `penalty`, and as `vae`;
            when initialised, for data with a condition, of which pseudo-inputs have none.
    """
    check_count("components", components)
    if domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS)
    objectives.check_weight("beta", beta)
    kin = kin_of(
        encoder,
        decoder,
        latent_dim=latent_dim,
        posterior=posterior,
        likelihood=likelihood,
        gamma=gamma,
        gamma_floor=gamma_floor,
        pay_kl="VAEs with a VampPrior",
    )
    encode, decode, of_base = kin.base.encode, kin.base.decode, kin.base.moments
    assert encode is not None and decode is not None and of_base is not None

    def components_of(params: Params, state: State) -> Any:
        """Returns q(z|u_k), a row for each k."""
        u = jax.nn.sigmoid(params[GROUP]) if domain == "unit" else params[GROUP]
        return by_row(encode(params, state, u))

    def loss(params, state, rng, batch: Batch, step, carry):
        net, q, z, rec = kin.coded(params, state, rng, Batch(batch.x))
        kl = q.log_prob(z) - log_prior(components_of(params, state), z)
        weight = objectives.weight_at(beta, step)
        metrics = kin.report(params, q, rec, kl)
        if callable(beta):
            metrics["beta"] = weight
        return objectives.beta_elbo_loss(rec, kl, weight), Aux(net.state, metrics)

    def terms(params, state, rng, batch: Batch, *, stats="running"):
        q = encode(params, state, batch.x, stats=stats)
        z = distributions.sample(rng, q)
        rec = -distributions.log_prob(decode(params, state, z, stats=stats), batch.x)
        kl = q.log_prob(z) - log_prior(components_of(params, state), z)
        return Terms(rec, kl, distributions.metrics(q))

    def log_weight(params, state, rng, batch: Batch, *, stats="running"):
        return objectives.elbo(terms(params, state, rng, batch, stats=stats))

    def draw(params, state, rng, n: int) -> Array:
        """Returns z ~ p(z) [n, D]."""
        rng_component, rng_z = jax.random.split(rng)
        u = noise.uniform(rng_component, (n,)) * components
        which = jnp.minimum(u.astype(jnp.int32), components - 1)
        chosen = jax.tree.map(lambda leaf: leaf[which], components_of(params, state))
        return distributions.sample(rng_z, chosen)

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        return decode(params, state, draw(params, state, rng, n), stats=stats).mean

    def moments(params, state, rng, batch: Batch, *, over="data"):
        found = of_base(params, state, rng, Batch(batch.x), over=over)
        if over == "data" or decoder.moments is None:
            return found
        z = draw(params, found, rng, len(batch.x))  # the base has passed N(0, I)
        return {**found, "decoder": decoder.moments(params["decoder"], state["decoder"], z)[1]}

    return kin.base._replace(
        init=_started(kin.base, components, domain),
        objectives=(Objective((*kin.groups, GROUP), loss),),
        terms=terms,
        sample=sample,
        log_weight=log_weight,
        moments=moments,
    )


def _started(base: Model, components: int, domain: str) -> ModelInit:
    """Returns the `init` of `base` that also starts the pseudo-inputs."""

    def init(rng: Array, batch: Batch) -> tuple[Params, State]:
        if batch.cond is not None:
            raise UserError(
                "a VampPrior's pseudo-inputs have no condition: leave the condition out."
            )
        rng_base, rng_pseudo = jax.random.split(rng)
        params, state = base.init(rng_base, batch)
        x = batch.x[jnp.arange(components) % len(batch.x)]
        if domain == "unit":  # not so near the ends that a sigmoid hardly moves
            x = jax.scipy.special.logit(jnp.clip(x, 0.05, 0.95))
        start = x + SPREAD * jax.random.normal(rng_pseudo, x.shape)
        return {**params, GROUP: start}, state

    return init


def log_prior(mixture: Any, z: Array) -> Array:
    """Returns log 1/K sum_k q_k(z) [B], in nats.

    Args:
        mixture: a distribution whose arrays have K rows, [K, ...].
        z: [B, D].
    """

    def density(component: Any) -> Array:
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (len(z), *leaf.shape)), component
        ).log_prob(z)

    by_component = jax.vmap(density)(mixture)  # [K, B]
    return jax.nn.logsumexp(by_component, axis=0) - jnp.log(float(len(by_component)))
