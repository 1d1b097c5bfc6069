"""The beta-TCVAE: a VAE whose KL is taken apart, and whose total correlation is weighed by itself.

    loss(x) = rec + alpha MI + beta TC + marginal sum_j KL_j,   of z ~ q(z|x):
    MI = log q(z|x) - log q(z),   TC = log q(z) - sum_j log q(z_j),   KL_j = log q(z_j) - log p(z_j)

Their means are the mutual information of data and z, the total correlation of z, and the divergence
of each z_j from its prior; the three add up to log q(z|x) - log p(z), whose mean is the KL. The
aggregated posterior q(z) is the mean of q(z|x_n) over the N examples of the data set, of which a step
sees those of its batch, x_i the one that z_i was drawn for (M = B - 1):

    mws   q(z_i) ~ 1/(N B) sum_b q(z_i|x_b)
    mss   q(z_i) ~ 1/N q(z_i|x_i) + (N - M)/(N M) q(z_i|x_i') + 1/M sum_{other b} q(z_i|x_b)

with x_i' one of the others, and likewise for every q(z_ij). mws is biased: it bounds the mean of log
q(z) from below, N only adds constants to it (log N to MI, (D - 1) log N to TC, -D log N to the KL_j),
and no gradient. mss is unbiased as an estimate of q(z), not of its logarithm.

Sources: Chen et al. 2018 (arXiv 1802.04942), Eqs. 2 to 5, appendix C (mws: C.1, mss: C.2), and its
released code.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import distributions, objectives, parallel
from jaxvae.distributions import AR1Normal, Normal
from jaxvae.errors import UserError, check_count, check_number, unknown
from jaxvae.models.kin import by_row, kin_of
from jaxvae.objectives import Weight
from jaxvae.types import Array, Aux, Batch, Likelihood, Model, Net, Objective, Posterior

ESTIMATORS = ("mws", "mss")


def tc_vae(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    data_size: int,
    beta: Weight = 6.0,
    alpha: float = 1.0,
    marginal: float = 1.0,
    estimator: Literal["mws", "mss"] = "mws",
    convention: Literal["paper", "released"] = "paper",
    posterior: str | Posterior = "normal",
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
    gamma: float | Literal["learned"] = 1.0,
    gamma_floor: float = 1e-8,
) -> Model:
    """Returns a beta-TCVAE. Its one objective is `coupled`: q(z) is a mean over the whole batch.

    With alpha = beta = marginal = 1 it is the VAE, with the KL estimated by the draw of z. Time and
    memory of a step grow with B^2 D, which are small beside a conv net's for B in the hundreds.

    Args:
        encoder, decoder, latent_dim, likelihood, gamma, gamma_floor: as in `vae`.
        data_size: N, examples of the training split.
        beta: weight of TC, >= 0: a number (it may be traced) or a schedule step -> number. The paper
            has 6 for dSprites, 15 for faces.
        alpha, marginal: weights of MI and of the KL_j, >= 0; they may be traced. The paper's loss has
            1 and 1.
        estimator: of the table.
        convention: of mss. "paper": the weight 1/N is that of the own example, x_i' is the next one of
            the batch. "released": the code gives 1/N to the batch's first example and (N - M)/(N M) to
            its second one, for every row (the last but one: to both of them).
        posterior: "normal", "ar1", or one whose `build` gives their distributions: the z_j must be
            Gaussian.

    Returns:
        A `Model` whose evaluation is that of `vae`, with the metrics `loss`, `rec`, `kl` (the closed
        form), `elbo`, and the batch's `mutual_information`, `total_correlation` and `marginal_kl`, in
        nats without weights; `beta` where it is a schedule.

    Raises:
        UserError: for weights below zero, unknown names, a convention where mws has none, another
            posterior, and as `vae`; when mss is called, for a batch of one, or larger than the data set.
    """
    check_count("data_size", data_size, least=2)
    objectives.check_weight("beta", beta)
    for name, value in (("alpha", alpha), ("marginal", marginal)):
        check_number(name, value, least=0.0)
    for name, value, known in (
        ("estimator", estimator, ESTIMATORS),
        ("convention", convention, ("paper", "released")),
    ):
        if value not in known:
            raise unknown(name, value, known)
    if estimator == "mws" and convention != "paper":
        raise UserError("convention is of mss: use estimator='mss' with it, or leave it out.")
    kin = kin_of(
        encoder,
        decoder,
        latent_dim=latent_dim,
        posterior=posterior,
        likelihood=likelihood,
        gamma=gamma,
        gamma_floor=gamma_floor,
        pay_kl="beta-TCVAEs",
    )
    outputs = jax.ShapeDtypeStruct((1, kin.posterior.size(latent_dim)), jnp.float32)
    if not isinstance(jax.eval_shape(kin.posterior.build, outputs), Normal | AR1Normal):
        raise UserError("a beta-TCVAE needs Gaussian z_j: use posterior='normal' or 'ar1'.")

    def loss(params, state, rng, batch: Batch, step, carry):
        net, q, z, rec = kin.coded(params, state, rng, batch)
        every = jax.tree.map(parallel.gather, by_row(q))
        log_w = log_weights(len(every.mean), data_size, estimator, convention)
        parts = decomposition(every, parallel.gather(z), log_w)
        weight = objectives.weight_at(beta, step)
        total = jnp.mean(parallel.gather(rec) + parts.paid(alpha, weight, marginal))
        metrics = kin.report(params, q, rec, distributions.kl(q))
        metrics |= {name: jnp.mean(part) for name, part in parts._asdict().items()}
        if callable(beta):
            metrics["beta"] = weight
        return total, Aux(net.state, metrics)

    return kin.base._replace(objectives=(Objective(kin.groups, loss, coupled=True),))


class Parts(NamedTuple):
    """The parts of log q(z|x) - log p(z), at one draw of each example, in nats."""

    mutual_information: Array  # [B]  log q(z|x) - log q(z)
    total_correlation: Array  # [B]  log q(z) - sum_j log q(z_j)
    marginal_kl: Array  # [B]  sum_j log q(z_j) - log p(z_j)

    def paid(self, alpha: Array | float, beta: Array | float, marginal: Array | float) -> Array:
        """Returns what the loss pays for them [B]."""
        weights = (alpha, beta, marginal)
        return sum((w * part for w, part in zip(weights, self, strict=True)), jnp.zeros(()))


def decomposition(q: Normal | AR1Normal, z: Array, log_w: Array) -> Parts:
    """Returns the parts of a batch, with q(z_i) = sum_b exp(log_w_ib) q(z_i|x_b).

    Args:
        q: the posteriors of the whole batch.
        z: a draw of each, [B, D].
        log_w: [B, B], of `log_weights`.
    """
    logvar = jnp.broadcast_to(q.logvar, q.mean.shape)
    square = jnp.square(z[:, None] - q.mean) * jnp.exp(-logvar)
    by_dim = -0.5 * (square + logvar + distributions.LOG_2PI)  # [B, B, D], log q(z_ij|x_b)
    if isinstance(q, Normal):
        joint = jnp.sum(by_dim, axis=-1)
    else:

        def density(component: Any) -> Array:
            rows = jax.tree.map(
                lambda leaf: jnp.broadcast_to(leaf, (len(z), *leaf.shape)), component
            )
            return rows.log_prob(z)

        joint = jax.vmap(density, out_axes=1)(q)
    log_q_z = jax.nn.logsumexp(log_w + joint, axis=1)
    log_q_dims = jnp.sum(jax.nn.logsumexp(log_w[..., None] + by_dim, axis=1), axis=-1)
    log_p = Normal(jnp.zeros_like(z), jnp.zeros(())).log_prob(z)
    return Parts(q.log_prob(z) - log_q_z, log_q_z - log_q_dims, log_q_dims - log_p)


def log_weights(size: int, data_size: int, estimator: str, convention: str = "paper") -> Array:
    """Returns the logarithm of what each q(z_i|x_b) weighs in q(z_i): [B, B].

    Args:
        size: B.
        data_size: N.
        estimator, convention: as in `tc_vae`.

    Raises:
        UserError: for a batch that mss cannot stand for the data set by.
    """
    if estimator == "mws":
        return jnp.full((size, size), -math.log(data_size * size))
    if not 2 <= size <= data_size:
        raise UserError(
            f"mss needs batches of 2 to {data_size} examples, as many as the data set has, not of "
            f"{size}."
        )
    others, rows = size - 1, np.arange(size)
    kept = (data_size - others) / (data_size * others)
    weights = np.full((size, size), 1.0 / others)
    if convention == "paper":
        weights[rows, rows] = 1.0 / data_size
        weights[rows, (rows + 1) % size] = kept
    else:
        weights[:, 0], weights[:, 1] = 1.0 / data_size, kept
        weights[size - 2, 0] = kept
    return jnp.asarray(np.log(weights), jnp.float32)
