"""WAE-GAN: a VAE whose aggregated posterior is drawn to the prior by a discriminator of latents.

    discriminator   softplus(-l(z')) + softplus(l(z)),          z' ~ p(z), z ~ q(z|x)
    auto-encoder    rec + beta KL(q(z|x) || p(z)) + weight softplus(-l(z))

with l the discriminator's logit, so that softplus(-l) = -log sigmoid(l) is the cross-entropy of "from
the prior". Each is per example: unlike MMD it compares no two of them. Where z cannot be told from
the prior the discriminator pays 2 ln 2, and the auto-encoder ln 2 times the weight.

Sources: Tolstikhin et al. 2018 (arXiv 1711.01558), Algorithm 1, where beta is 0; Makhzani et al.
2015 (arXiv 1511.05644); Zhao et al. 2017 (arXiv 1706.02262), section 3.2: any divergence of the
aggregated posterior in place of MMD.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxvae import distributions, objectives
from jaxvae.errors import UserError, check_number
from jaxvae.models.kin import JUDGE, Judge, kin_of
from jaxvae.types import Aux, Batch, Model, Net, Objective


def wae_gan(
    encoder: Net,
    decoder: Net,
    discriminator: Net,
    *,
    latent_dim: int,
    weight: float = 10.0,
    beta: float = 0.0,
    prior_trick: bool = False,
    **options: Any,
) -> Model:
    """Returns a WAE-GAN: two objectives, the discriminator's, which moves first, and the
    auto-encoder's.

    Each draws its own z ~ q(z|x). BatchNorm's averages in the encoder are those of the
    auto-encoder's pass alone.

    Args:
        encoder, decoder, latent_dim: as in `vae`.
        discriminator: z [B, D] -> logits [B], such as `nets.mlp((512,) * 4, ())`.
        weight: of the adversary, >= 0; it may be traced. The paper's code has 10.
        beta: of the KL, >= 0; it may be traced.
        prior_trick: adds log p(z) to the discriminator's output, as that code does for CelebA: the
            best logit is log p(z) - log q(z), of which half is known.
        options: posterior, likelihood, gamma and gamma_floor of `vae`.

    Returns:
        A `Model` with what `vae` has, and the metrics `loss`, `rec`, `kl`, `elbo`, `adversary`
        (without its weight), `discriminator_loss`, `on_prior` and `on_posterior`: mean outputs.

    Raises:
        UserError: for weights below zero, other options of `vae`, and as `vae`; when initialised,
            for a discriminator that does not return one number for each example.
    """
    check_number("weight", weight, least=0.0)
    check_number("beta", beta, least=0.0)
    unused = sorted(set(options) - {"posterior", "likelihood", "gamma", "gamma_floor"})
    if unused:
        raise UserError(f"wae_gan has no {', '.join(unused)}: leave that out.")
    kin = kin_of(encoder, decoder, latent_dim=latent_dim, **options)
    judge = Judge(_with_log_prior(discriminator) if prior_trick else discriminator)

    def discriminator_loss(params, state, rng, batch: Batch, step, carry):
        net = kin.passes(params, state, rng, batch)
        z, prior = net.draw(net.E(batch.x)), net.prior(len(batch.x), latent_dim)
        on_prior, state = judge(params, state, prior, net.key())
        on_posterior, state = judge(params, state, z, net.key())
        value = jax.nn.softplus(-on_prior) + jax.nn.softplus(on_posterior)
        return value, Aux(state, {"on_prior": on_prior, "on_posterior": on_posterior})

    def loss(params, state, rng, batch: Batch, step, carry):
        net, q, z, rec = kin.coded(params, state, rng, batch)
        adversary = jax.nn.softplus(-judge(params, state, z, net.key())[0])
        value = objectives.beta_elbo_loss(rec, distributions.penalty(q, z), beta)
        metrics = kin.report(params, q, rec, distributions.kl(q)) | {"adversary": adversary}
        return value + weight * adversary, Aux(net.state, metrics)

    return kin.base._replace(
        init=judge.started(kin),
        objectives=(
            Objective((JUDGE,), discriminator_loss, name="discriminator_loss"),
            Objective(kin.groups, loss),
        ),
    )


def _with_log_prior(discriminator: Net) -> Net:
    """Returns the discriminator whose output has log p(z) added."""

    def apply(params, state, z, *, cond=None, rng=None, train):
        output, state = discriminator.apply(params, state, z, cond=cond, rng=rng, train=train)
        return output + distributions.Normal(jnp.zeros_like(z), jnp.zeros(())).log_prob(z), state

    return discriminator._replace(apply=apply)
