"""Soft-IntroVAE: the encoder also learns to tell data from fakes, the decoder to pass for data.

    ELBO(x; b_rec, b_kl) = -(b_rec L(x, D(z)) + b_kl KL(q(z|x) || N(0, I))),   z ~ q(z|x),   L(x, y) = sum_i (x_i - y_i)^2

    encoder:  -s ELBO(x; beta_rec, beta_kl) + 1/alpha mean over fakes of exp(alpha s ELBO(fake; beta_rec, beta_neg))
    decoder:   s beta_rec L(x, rec) - gamma s mean over fakes of ELBO(fake; gamma_r beta_rec, beta_kl)

The fakes are the reconstruction rec = D(z) and the sample D(n), n ~ N(0, I).

Source: Daniel & Tamar 2021 (arXiv 2012.13253), Eqs. 4 and 7, Algorithm 2 (appendix 9.1).
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxvae import distributions
from jaxvae.errors import check_number, concrete, unknown
from jaxvae.models.introspective import (
    Error,
    Passes,
    check_kl_weights,
    check_weights,
    errors_of,
    exp_elbo_stuck,
    fakes_fall_below,
    in_turn,
    plain_vae,
    squared_error,
    weighted_kl,
)
from jaxvae.types import Array, Aux, Batch, Model, Net, Posterior, Prior

CONVENTIONS = ("paper", "released")
held = jax.lax.stop_gradient


def soft_intro_vae(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    beta_rec: float = 1.0,
    beta_kl: float | Array = 1.0,
    beta_neg: float | Array | None = None,
    s: float | None = None,
    alpha: float = 2.0,
    gamma: float = 1.0,
    gamma_r: float = 1e-8,
    posterior: str | Posterior = "normal",
    convention: Literal["paper", "released"] = "released",
    error: Error = squared_error,
    fakes: Prior | None = None,
    redraw: bool = False,
) -> Model:
    """Returns a Soft-IntroVAE: "encoder_loss", then "decoder_loss" against the updated encoder.

    The two conventions agree in the value of both losses and differ in what is held fixed:

    |                                 | "paper" (Algorithm 2)              | "released" (the authors' code)         |
    | ------------------------------- | ---------------------------------- | -------------------------------------- |
    | encoder: E(rec)                 | rec moves with the encoder         | rec is held fixed                      |
    | encoder: the target in L(rec, .)| rec moves with the encoder         | rec moves with the encoder             |
    | decoder: L(fake, D(E(fake)))    | the second decode is held fixed    | the target and E(fake) are held fixed  |

    Line 24 of Algorithm 2 lacks a minus sign (its ascent would raise the error); here it has the
    sign of Eq. 7. The plain VAE that may come before is `plain_vae`, as a phase of the same run:
    `fit([Phase(plain_vae(...), num_vae), Phase(soft_intro_vae(...), steps - num_vae)], tx, ...)`;
    both phases share Adam's moments.

    Args:
        encoder: x [B, ...] -> [B, posterior.size(latent_dim)]; takes `cond` if batches have one.
        decoder: z [B, D] -> x's shape; takes `cond` if batches have one (fakes get the batch's
            own).
        latent_dim: D.
        beta_rec, beta_kl: weights of error and KL, >= 0. All weights may be traced.
        beta_neg: weight of the KL of fakes in the exponential, >= 0; default: latent_dim (section
            5). It and beta_kl may be one for each latent dimension [D].
        s: scale of the ELBO, > 0; default: 1 / number of dimensions of x.
        alpha: of Eq. 4, > 0.
        gamma: weight of the fakes' ELBO in the decoder, >= 0 (Eq. 4).
        gamma_r: weight of the fakes' error in the decoder, >= 0 (section 5).
        posterior: as in `plain_vae`.
        convention: "paper" or "released".
        error: (x, x_hat) -> [B], what stands in place of the squared error L everywhere, with
            gradients to both; the log then has it as `error`.
        fakes: (rng, n) -> latents that samples are decoded from in training; default: N(0, I).
        redraw: whether the decoder's loss draws new latents for samples, and z of the data anew, from
            the updated encoder; else it has those of the encoder's loss.

    Returns:
        A `Model` with the evaluation functions of `plain_vae`, evaluated with re-estimated
        statistics where nobody says otherwise, and the metrics `encoder_loss`, `decoder_loss`,
        `squared_error`, `kl`, `kl_rec`, `kl_fake`, `exp_elbo_rec`, `exp_elbo_fake`. Training works
        while `kl_rec` and `kl_fake` stay above `kl`, which its `watch` looks after.

    Raises:
        UserError: for weights out of range, an unknown convention or posterior, and as `vae` when
            initialised.
    """
    beta_neg = float(latent_dim) if beta_neg is None else beta_neg
    _check(convention, s, alpha)
    check_weights(beta_rec=beta_rec, gamma=gamma, gamma_r=gamma_r)
    base = plain_vae(encoder, decoder, latent_dim=latent_dim, posterior=posterior)
    q_of = distributions.posterior(posterior)
    check_kl_weights(q_of, latent_dim, beta_kl=beta_kl, beta_neg=beta_neg)
    released = convention == "released"

    scale, draw_n = functools.partial(_scale, s), functools.partial(_draw, latent_dim, fakes)

    def encoder_loss(params, state, rng, batch: Batch, step, carry):
        x, net = batch.x, Passes(encoder, decoder, q_of, params, state, rng, batch.cond)
        n = draw_n(net, x)
        fake, q = net.D(n), net.E(x)
        z = net.draw(q)
        rec = net.D(z)

        def exp_elbo(y):
            """Returns exp(alpha s ELBO(y; beta_rec, beta_neg)) and KL(q(z|y) || N(0, I)), [B]."""
            q_y = net.E(held(y) if released else y)
            paid = beta_rec * error(y, net.D(net.draw(q_y))) + weighted_kl(q_y, beta_neg)
            return jnp.exp(-alpha * scale(x) * paid), distributions.kl(q_y)

        (exp_rec, kl_rec), (exp_fake, kl_fake) = exp_elbo(rec), exp_elbo(fake)
        paid = error(x, rec)
        loss = scale(x) * (beta_rec * paid + weighted_kl(q, beta_kl))
        loss += 0.5 * (exp_rec + exp_fake) / alpha
        metrics = errors_of(error, x, rec, paid) | {
            "kl": distributions.kl(q),
            "kl_rec": kl_rec,
            "kl_fake": kl_fake,
            "exp_elbo_rec": exp_rec,
            "exp_elbo_fake": exp_fake,
            **distributions.metrics(q),
        }
        return loss, Aux(net.state, metrics, carry=None if redraw else (n, z))

    def decoder_loss(params, state, rng, batch: Batch, step, carry):
        x, net = batch.x, Passes(encoder, decoder, q_of, params, state, rng, batch.cond)
        if redraw:
            fake, z = net.D(draw_n(net, x)), net.draw(net.E(x))
        else:
            fake, z = net.D(carry[0]), carry[1]
        rec = net.D(held(z))
        q_rec, q_fake = net.E(rec), net.E(fake)

        def fake_loss(y, q_y):
            """Returns -ELBO(y; gamma_r beta_rec, beta_kl) [B]."""
            kl = weighted_kl(q_y, beta_kl)
            if concrete(gamma_r) and gamma_r == 0:
                return kl
            z_y = net.draw(q_y)
            y, y_hat = (held(y), net.D(held(z_y))) if released else (y, held(net.D(z_y)))
            return kl + gamma_r * beta_rec * error(y, y_hat)

        paid = 0.5 * (fake_loss(rec, q_rec) + fake_loss(fake, q_fake))
        return scale(x) * (beta_rec * error(x, rec) + gamma * paid), Aux(net.state)

    return in_turn(base, encoder_loss, decoder_loss, watch=(fakes_fall_below, exp_elbo_stuck))


def _scale(s: float | None, x: Array) -> Any:
    """Returns the scale of the ELBO: `s`, or 1 / number of dimensions of x."""
    return 1.0 / math.prod(x.shape[1:]) if s is None else s


def _draw(latent_dim: int, fakes: Prior | None, net: Passes, x: Array) -> Array:
    """Returns latents that samples are decoded from, as many as x has examples."""
    return net.prior(x.shape[0], latent_dim) if fakes is None else fakes(net.key(), x.shape[0])


def _check(convention: str, s: float | None, alpha: float) -> None:
    """Raises `UserError` for an unknown convention and for numbers out of range."""
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    check_number("alpha", alpha, above=0.0)
    if s is not None:
        check_number("s", s, above=0.0)
