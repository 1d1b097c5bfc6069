"""IntroVAE: the encoder pushes the KL of fakes up to a margin m, the decoder pulls it down.

    L(x, y) = sum_i (x_i - y_i)^2,   KL(x) = KL(q(z|x) || N(0, I)),   [a]+ = max(0, a)

    encoder:  beta_rec L(x, D(z)) + beta_kl KL(x) + beta_neg [m - KL(fake)]+
    decoder:  beta_rec L(x, D(z)) + beta_neg KL(fake)

Sources: Huang et al. 2018 (arXiv 1807.06358); Daniel & Tamar 2021 (arXiv 2012.13253), Eq. 2 and
appendix 9.1.1.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxvae import distributions, parallel
from jaxvae.errors import UserError, unknown
from jaxvae.models.introspective import Passes, check_weights, in_turn, plain_vae, squared_error
from jaxvae.models.soft_intro_vae import CONVENTIONS
from jaxvae.types import Array, Aux, Batch, Model, Net, Posterior


def intro_vae(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    m: float | None = None,
    beta_rec: float = 1.0,
    beta_kl: float = 1.0,
    beta_neg: float = 1.0,
    posterior: str | Posterior = "normal",
    convention: Literal["paper", "released"] = "paper",
) -> Model:
    """Returns an IntroVAE: "encoder_loss", then "decoder_loss" against the updated encoder.

    |                | "paper" (9.1.1 of the Soft-IntroVAE paper) | "released" (IntroVAE's own code)                       |
    | -------------- | ------------------------------------------ | ------------------------------------------------------ |
    | fakes          | samples D(n), n ~ N(0, I)                  | samples and reconstructions, half each                 |
    | hinge          | of each example                            | of the batch mean of KL(fake): a coupled loss          |
    | encoder        | as above                                   | beta_neg becomes beta_kl beta_neg                      |
    | decoder        | as above                                   | beta_kl instead of beta_neg                            |
    | order, encoder | E(x), D(z), D(n), E(D(n))                  | D(n), E(x), D(z), E(D(z)), E(D(n))                     |
    | order, decoder | E(D(n))                                    | E(D(z)), E(D(n))                                       |

    In "released" the fakes do not move with the encoder. In both, the decoder's reconstruction is
    that of the z that the encoder drew before it moved. The order of the passes shows in
    BatchNorm's running averages alone.

    Args:
        encoder: x [B, ...] -> [B, posterior.size(latent_dim)]; takes `cond` if batches have one.
        decoder: z [B, D] -> x's shape; takes `cond` if batches have one (fakes get the batch's
            own).
        latent_dim: D.
        m: margin on the KL of fakes, >= 0, in nats; there is no default that works everywhere
            (Table 5 has 1 to 8 in two dimensions; 120 for 256-pixel images with D = 512).
        beta_rec, beta_kl, beta_neg: weights, >= 0. All of them and m may be traced.
        posterior: as in `plain_vae`.
        convention: "paper" or "released".

    Returns:
        A `Model` with the evaluation functions of `plain_vae`, evaluated with re-estimated
        statistics where nobody says otherwise, and the metrics `encoder_loss`,
        `decoder_loss`, `squared_error`, `kl`, `kl_fake`, and `kl_rec` in "released".

    Raises:
        UserError: for a missing m, weights out of range, an unknown convention or posterior, and as
            `vae` when initialised.
    """
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    if m is None:
        raise UserError(
            "intro_vae needs m, the margin on the KL of generated samples in nats, such as m=1."
        )
    check_weights(m=m, beta_rec=beta_rec, beta_kl=beta_kl, beta_neg=beta_neg)
    base = plain_vae(encoder, decoder, latent_dim=latent_dim, posterior=posterior)
    q_of = distributions.posterior(posterior)
    held = jax.lax.stop_gradient
    released = convention == "released"

    def hinge(kl: Array) -> Array:
        return jnp.maximum(m - kl, 0.0)

    def mean(values: Array) -> Array:
        return jnp.mean(parallel.gather(values))

    def encoder_loss(params, state, rng, batch: Batch, step, carry):
        x, net = batch.x, Passes(encoder, decoder, q_of, params, state, rng, batch.cond)
        rng_q, rng_z, rng_n, rng_rec, rng_fake = (net.key() for _ in range(5))

        def reconstruct():
            q = net.E(x, rng_q)
            z = net.draw(q, rng_z)
            return q, z, net.D(z, rng_rec)

        def draw_fake():
            n = net.prior(x.shape[0], latent_dim, rng_n)
            return n, net.D(n, rng_fake)

        if released:  # BatchNorm's averages tell which of the two decodes came first
            (n, fake), (q, z, rec) = draw_fake(), reconstruct()
        else:
            (q, z, rec), (n, fake) = reconstruct(), draw_fake()
        error, kl = squared_error(x, rec), distributions.kl(q)
        metrics = {"squared_error": error, "kl": kl, **distributions.metrics(q)}
        if released:
            kl_rec = distributions.kl(net.E(held(rec)))
            kl_fake = distributions.kl(net.E(held(fake)))
            fakes = 0.5 * beta_neg * (hinge(mean(kl_rec)) + hinge(mean(kl_fake)))
            loss = beta_rec * mean(error) + beta_kl * (mean(kl) + fakes)
            metrics["kl_rec"] = kl_rec
        else:
            kl_fake = distributions.kl(net.E(fake))
            loss = beta_rec * error + beta_kl * kl + beta_neg * hinge(kl_fake)
        return loss, Aux(net.state, {**metrics, "kl_fake": kl_fake}, carry=(n, z))

    def decoder_loss(params, state, rng, batch: Batch, step, carry):
        x, net = batch.x, Passes(encoder, decoder, q_of, params, state, rng, batch.cond)
        n, z = carry
        rec, fake = net.D(held(z)), net.D(n)
        # the encoder's turn made these two passes, and they are in its state
        net.state = {**net.state, "decoder": state["decoder"]}
        error = beta_rec * squared_error(x, rec)
        if released:
            kl_rec, kl_fake = distributions.kl(net.E(rec)), distributions.kl(net.E(fake))
            return error + 0.5 * beta_kl * (kl_rec + kl_fake), Aux(net.state)
        return error + beta_neg * distributions.kl(net.E(fake)), Aux(net.state)

    return in_turn(base, encoder_loss, decoder_loss, coupled=released)
