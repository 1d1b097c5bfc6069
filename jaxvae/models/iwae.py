"""IWAE: the importance-weighted auto-encoder, with three estimators of its encoder's gradient.

    loss(x) = -log 1/K sum_k w_k,   w_k = p(x|z_k) p(z_k) / q(z_k|x),   z_k ~ q(z|x)

-loss is a lower bound of log p(x) in expectation, the ELBO for K = 1, and it rises to log p(x) with K.
With v_k = w_k / sum_j w_j, what the decoder learns from is sum_k v_k d log w_k, and the encoder, where
d/dz acts through the draws z_k = z(eps_k, x) alone,

    | gradient | the encoder's                          | unbiased  | at q(z|x) = p(z|x)          |
    | -------- | -------------------------------------- | --------- | --------------------------- |
    | standard | sum_k v_k d log w_k                    | yes       | noise; vanishes in it as K grows |
    | stl      | sum_k v_k   (d log w_k / dz_k) dz_k    | for K = 1 | 0                           |
    | dreg     | sum_k v_k^2 (d log w_k / dz_k) dz_k    | yes       | 0                           |

The standard one also moves q in log q(z|x) itself, whose expectation is 0 for K = 1: nothing but
noise. Its signal falls behind that noise as K grows (Rainforth et al. 2018), that of dreg does not.

Sources: Burda et al. 2016 (arXiv 1509.00519), Eqs. 8 and 14; Roeder et al. 2017 (arXiv 1703.09194),
Eq. 6 (stl); Tucker et al. 2019 (arXiv 1810.04152), Eq. 8 (dreg) and section 3 (the bias of stl);
Rainforth et al. 2018 (arXiv 1802.04537), Theorem 1.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from jaxvae import distributions
from jaxvae.errors import check_count, unknown
from jaxvae.models.introspective import Passes
from jaxvae.models.kin import kin_of
from jaxvae.types import Array, Aux, Batch, Likelihood, Model, Net, Objective, Posterior

GRADIENTS = ("standard", "stl", "dreg")


def iwae(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    k: int = 50,
    gradient: Literal["standard", "stl", "dreg"] = "standard",
    posterior: str | Posterior = "normal",
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
    gamma: float | Literal["learned"] = 1.0,
    gamma_floor: float = 1e-8,
) -> Model:
    """Returns an IWAE: one objective, the negative bound of K draws, per example, in nats.

    The decoder passes all K B draws as one batch, whose moments a BatchNorm in it sees: time and
    memory of a step grow with K. The encoder passes x once.

    Args:
        encoder, decoder, latent_dim, posterior, likelihood, gamma, gamma_floor: as in `vae`.
        k: K, draws for each example.
        gradient: of the module's table; the loss is the same.

    Returns:
        A `Model` whose evaluation is that of `vae` (`terms` is the ELBO, of one draw; the bound of K
        is `metrics.likelihood.iw_bound`), with the metrics `loss`, `rec` (mean over draws), `kl` and
        `elbo` in nats, and `ess`, the effective number of draws 1 / sum_k v_k^2, in [1, K].

    Raises:
        UserError: for a K below 1, an unknown gradient, a posterior with a `penalty` ("ar1-readme",
            "ar1-released"), and as `vae`.
    """
    check_count("k", k)
    if gradient not in GRADIENTS:
        raise unknown("gradient", gradient, GRADIENTS)
    kin = kin_of(
        encoder,
        decoder,
        latent_dim=latent_dim,
        posterior=posterior,
        likelihood=likelihood,
        gamma=gamma,
        gamma_floor=gamma_floor,
        pay_kl="importance-weighted auto-encoders",
    )

    def log_weights(net: Passes, q, z: Array, batch: Batch, rng: Array):
        """Returns log w [B, K] and log p(x|z) [B, K] of z [B, K, D], by one pass of the decoder."""
        flat = z.reshape(-1, latent_dim)
        x, cond = jnp.repeat(batch.x, k, axis=0), batch.cond
        net.cond = None if cond is None else jnp.repeat(cond, k, axis=0)
        log_p = distributions.log_prob(kin.p_of(net, flat, rng), x).reshape(-1, k)
        log_prior = distributions.Normal(jnp.zeros_like(flat), jnp.zeros(())).log_prob(flat)
        log_q = jax.vmap(q.log_prob, in_axes=1, out_axes=1)(z)
        return log_p + log_prior.reshape(-1, k) - log_q, log_p

    def loss(params, state, rng, batch: Batch, step, carry):
        rng_z, rng_encoder, rng_decoder = jax.random.split(rng, 3)
        net = kin.passes(params, state, rng, batch)
        q = net.E(batch.x, rng_encoder)
        z = jnp.moveaxis(jax.vmap(q.sample)(jax.random.split(rng_z, k)), 0, 1)
        fixed = q if gradient == "standard" else jax.lax.stop_gradient(q)
        if gradient == "dreg":  # the same pass once more, for its weights: compiled, it is one
            first = kin.passes(params, net.state, rng, batch)
            found, _ = log_weights(first, fixed, z, batch, rng_decoder)
            z = scale_gradient(z, jax.nn.softmax(jax.lax.stop_gradient(found), axis=1)[..., None])
        log_w, log_p = log_weights(net, fixed, z, batch, rng_decoder)
        value = math.log(k) - jax.nn.logsumexp(log_w, axis=1)
        metrics = kin.report(params, q, -jnp.mean(log_p, axis=1), distributions.kl(q))
        metrics["ess"] = 1.0 / jnp.sum(jnp.square(jax.nn.softmax(log_w, axis=1)), axis=1)
        return value, Aux(net.state, metrics)

    return kin.base._replace(objectives=(Objective(kin.groups, loss),))


@jax.custom_vjp
def scale_gradient(x: Array, weight: Array) -> Array:
    """Returns x itself, whose gradient is multiplied by `weight` (which broadcasts to x, and has
    none)."""
    return x


def _scale_forward(x: Array, weight: Array) -> tuple[Array, Array]:
    return x, weight


def _scale_backward(weight: Array, cotangent: Array) -> tuple[Array, Array]:
    return weight * cotangent, jnp.zeros_like(weight)


scale_gradient.defvjp(_scale_forward, _scale_backward)
