"""FactorVAE: a VAE whose total correlation is weighed by itself, estimated by a discriminator.

    auto-encoder    rec + KL(q(z|x) || p(z)) + tc_weight l(z),                     z ~ q(z|x)
    discriminator   1/2 mean softplus(-l(z_i)) + 1/2 mean softplus(l(z'_i)),    i of half a batch

with l the discriminator's logit that z is of q(z) and not of prod_j q(z_j). Draws of the latter, z',
are those of the batch's other half, with the values of each dimension in an order of their own. Where
the discriminator is as good as it can be, l(z) = log q(z) - sum_j log q(z_j), whose mean over q(z) is
the total correlation; where it cannot tell the two, it pays ln 2.

Source: Kim & Mnih 2018 (arXiv 1802.05983), Eqs. 2 and 3, Algorithms 1 and 2. There the second half is
a batch of its own, which only the discriminator sees; here the auto-encoder learns from both halves.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxvae import distributions, noise, parallel
from jaxvae.errors import UserError, check_number
from jaxvae.models.kin import JUDGE, Judge, kin_of
from jaxvae.types import (
    Array,
    Aux,
    Batch,
    Likelihood,
    Model,
    Net,
    Objective,
    Params,
    Posterior,
    State,
)


def factor_vae(
    encoder: Net,
    decoder: Net,
    discriminator: Net,
    *,
    latent_dim: int,
    tc_weight: float = 35.0,
    posterior: str | Posterior = "normal",
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
    gamma: float | Literal["learned"] = 1.0,
    gamma_floor: float = 1e-8,
) -> Model:
    """Returns a FactorVAE: two objectives, the auto-encoder's and, of the same draws of z, the
    discriminator's, which is `coupled`.

    Args:
        encoder, decoder, latent_dim, posterior, likelihood, gamma, gamma_floor: as in `vae`.
        discriminator: z [B, D] -> logits [B], such as `nets.mlp((1000,) * 6, (), act="leaky_relu")`,
            the paper's (whose two outputs stand for one: their difference).
        tc_weight: the paper's gamma, >= 0; it may be traced. There it is 35 for dSprites, 6.4 for
            chairs and faces.

    Returns:
        A `Model` whose evaluation is that of `vae`, with the metrics `loss`, `rec`, `kl`, `elbo`,
        `total_correlation` (the mean logit, without its weight), `discriminator_loss` and
        `discriminator_accuracy`, 1/2 where it cannot tell.

    Raises:
        UserError: for a weight below zero, a posterior with a `penalty`, and as `vae`; when
            initialised, for a batch of one and a discriminator that does not return one number for
            each example.
    """
    check_number("tc_weight", tc_weight, least=0.0)
    kin = kin_of(
        encoder,
        decoder,
        latent_dim=latent_dim,
        posterior=posterior,
        likelihood=likelihood,
        gamma=gamma,
        gamma_floor=gamma_floor,
        pay_kl="FactorVAEs",
    )

    judge = Judge(discriminator)
    start = judge.started(kin)

    def init(rng: Array, batch: Batch) -> tuple[Params, State]:
        if len(batch.x) < 2:
            raise UserError("a FactorVAE compares two halves of a batch: use a batch_size above 1.")
        return start(rng, batch)

    def loss(params, state, rng, batch: Batch, step, carry):
        net, q, z, rec = kin.coded(params, state, rng, batch)
        kl, tc = distributions.kl(q), judge(params, state, z, net.key())[0]
        metrics = {**kin.report(params, q, rec, kl), "total_correlation": tc}
        return rec + kl + tc_weight * tc, Aux(net.state, metrics, z)

    def discriminator_loss(params, state, rng, batch: Batch, step, carry):
        rng_order, rng_joint, rng_apart = jax.random.split(rng, 3)
        z = parallel.gather(carry)
        order = parallel.gather(noise.uniform(rng_order, carry.shape))
        half = len(z) // 2
        apart = jnp.take_along_axis(z[half:], jnp.argsort(order[half:], axis=0), axis=0)
        with parallel.alone():  # every device has all of z
            joint, state = judge(params, state, z[:half], rng_joint)
            other, state = judge(params, state, apart, rng_apart)
        value = jnp.mean(jax.nn.softplus(-joint)) + jnp.mean(jax.nn.softplus(other))
        right = jnp.mean((joint > 0).astype(z.dtype)) + jnp.mean((other < 0).astype(z.dtype))
        return 0.5 * value, Aux(state, {"discriminator_accuracy": 0.5 * right})

    return kin.base._replace(
        init=init,
        objectives=(
            Objective(kin.groups, loss),
            Objective((JUDGE,), discriminator_loss, coupled=True, name="discriminator_loss"),
        ),
    )
