"""Both stages of the two-stage VAE trained at once: the control that the paper says does not help.

    loss(x) = -log p(x|z) + log q(z|x) - log p(z|u) + KL(q(u|z) || N(0, I)),   z ~ q(z|x),  u ~ q(u|z)

The model, its parameters and its evaluation are those of `two_stage`; only the training differs:
here the first stage's objective reaches the second stage's parameters, and theirs the encoder.

Source: Dai & Wipf 2019 (arXiv 1903.05789), section 4 ("concatenating the two stages and jointly
training") and section 6.
"""

from typing import Literal

import jax

from jaxvae import distributions, objectives
from jaxvae.models import likelihoods
from jaxvae.models.introspective import Passes
from jaxvae.models.two_stage import two_stage
from jaxvae.models.vae import vae
from jaxvae.types import Aux, Batch, Likelihood, Model, Net, Objective, Posterior, Terms


def joint_two_stage(
    first: tuple[Net, Net],
    second: tuple[Net, Net],
    *,
    latent_dim: int,
    posterior: str | Posterior = "normal",
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "gaussian",
    gamma: float | Literal["learned"] = "learned",
) -> Model:
    """Returns the two-stage model with one objective that moves both stages at once.

    Args:
        first: encoder and decoder of x, as `vae` takes them; they get the condition, if there is
            one.
        second: encoder and decoder of z [B, D], whose likelihood is Gaussian with a learned gamma
            (`nets.second_stage`).
        latent_dim: D, of z and of u.
        posterior: q(z|x), as in `vae`; q(u|z) is "normal".
        likelihood, gamma: p(x|z), as in `vae`.

    Returns:
        A `Model` with the groups "first" and "second" and the evaluation functions of `two_stage`;
        metrics `loss`, `rec`, `kl` (all but rec; an estimate, which can be negative), `kl_u`,
        `elbo`, in nats, and where it is learned `gamma`, and `gamma_u` of the second stage.

    Raises:
        UserError: as `vae` and `two_stage`.
    """
    gaussian = {"latent_dim": latent_dim, "likelihood": "gaussian", "gamma": "learned"}
    x_stage = vae(
        *first, latent_dim=latent_dim, posterior=posterior, likelihood=likelihood, gamma=gamma
    )
    both = two_stage(x_stage, vae(*second, **gaussian), latent_dim=latent_dim)
    q_of, q_of_u = distributions.posterior(posterior), distributions.posterior("normal")
    p_of = likelihoods.likelihood(likelihood, gamma=gamma)
    p_of_z = likelihoods.learned_gaussian()

    def loss(params, state, rng, batch: Batch, step, carry):
        rng_x, rng_z = jax.random.split(rng)
        ours, theirs = params["first"], params["second"]
        x = Passes(*first, q_of, ours, state["first"], rng_x, batch.cond)
        q = x.E(batch.x)
        z = x.draw(q)
        p = p_of.build(ours.get("likelihood"), x.D(z))
        u = Passes(*second, q_of_u, theirs, state["second"], rng_z, None)
        q_u = u.E(z)
        p_z = p_of_z.build(theirs["likelihood"], u.D(u.draw(q_u)))

        rec, kl_u = -distributions.log_prob(p, batch.x), distributions.kl(q_u)
        kl = distributions.log_prob(q, z) - distributions.log_prob(p_z, z) + kl_u
        metrics = {"rec": rec, "kl": kl, "kl_u": kl_u, "elbo": objectives.elbo(Terms(rec, kl))}
        metrics |= distributions.metrics(q)
        metrics |= likelihoods.report(p_of, ours)
        metrics["gamma_u"] = likelihoods.report(p_of_z, theirs)["gamma"]
        return rec + kl, Aux({"first": x.state, "second": u.state}, metrics)

    return both._replace(objectives=(Objective(("first", "second"), loss),))
