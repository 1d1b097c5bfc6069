"""Soft-IntroVAE over style-based nets that grow: one level of it.

The losses are those of `soft_intro_vae`, of squared errors on the scale [-1, 1], with

    b       the blend of the level, which `fade_in` raises from 0 to 1; nets mix both sides by it
    x       the image, mixed by b with itself at half the side, every pixel made 2x2
    fakes   decoded from two latents each with the probability `mixing`, one of them in the rows of styles before a cut
            that is drawn from 1, ..., rows: both are drawn once for a batch
    noise   drawn anew in every pass of the decoder

Source: Daniel & Tamar 2021 (arXiv 2012.13253), section 6.3, appendix 9.2.3, and its released code,
style_soft_intro_vae/model.py and train_style_soft_intro_vae.py.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxvae import noise
from jaxvae.errors import UserError, check_count, check_number
from jaxvae.models.introspective import plain_vae
from jaxvae.models.soft_intro_vae import soft_intro_vae
from jaxvae.models.vae import use_batch
from jaxvae.nets.intro import doubled, halved
from jaxvae.nets.style import faded, mixed, style_rows
from jaxvae.nets.style_layers import lerp
from jaxvae.types import Array, Loss, Model, Net, Prior

SCALE = 5e-6  # s of the released code, at every level; about 1 / (3 256^2)
PIXELS = 4.0  # squared errors on [-1, 1] over those on [0, 1]

Fade = Callable[[Array], Array]  # (step) -> blend


def fade_in(start: int, steps: int) -> Fade:
    """Returns the blend of a level that begins at the step `start`, as a function of the step of the
    run.

        b = 1/2 + 1/2 sin(pi t - pi / 2),   t = (step - start) / steps, at most 1

    Raises:
        UserError: for a start below 0, and steps below 1.
    """
    check_count("start", start, least=0)
    check_count("steps", steps)

    def blend(step: Array) -> Array:
        t = jnp.clip((step - start) / steps, 0.0, 1.0)
        return 0.5 + 0.5 * jnp.sin(jnp.pi * (t - 0.5))

    return blend


def style_soft_intro_vae(
    encoder: Net,
    decoder: Net,
    *,
    side: int,
    latent_dim: int,
    beta_rec: float = 0.05,
    beta_kl: float = 0.2,
    beta_neg: float = 512.0,
    s: float | None = None,
    gamma_r: float = 1e-8,
    mixing: float = 0.9,
    fade: Fade | None = None,
    convention: Literal["paper", "released"] = "released",
) -> Model:
    """Returns one level of a style-based Soft-IntroVAE, for images in [0, 1].

    | convention                       | "paper"                            | "released"                             |
    | -------------------------------- | ---------------------------------- | -------------------------------------- |
    | s                                | 1 / number of values of an image   | 5e-6 at every level                    |
    | latents of the decoder's loss    | those of the encoder's loss        | drawn anew, from the updated encoder   |
    | what is held fixed               | as in `soft_intro_vae`             | as in `soft_intro_vae`                 |

    Args:
        encoder, decoder: of `nets.style`.
        side: of the images, in pixels.
        latent_dim: D.
        beta_rec, beta_kl, beta_neg: weights, >= 0, of errors on the scale [-1, 1]; published for
            CelebA-HQ are the defaults, for FFHQ beta_rec = 0.1.
        s: scale of the ELBO, > 0; default: of the convention.
        gamma_r: weight of the fakes' error in the decoder, >= 0.
        mixing: probability that fakes have two latents each, in [0, 1].
        fade: (step) -> blend; default: the level is there from the start.
        convention: "paper" or "released".

    Returns:
        A `Model` as of `soft_intro_vae`; its `squared_error` is on the scale [0, 1]. `sample` adds
        noise, `decode` does not, and takes latents for each row of styles, too (`nets.mixed`).

    Raises:
        UserError: for numbers out of range, an unknown convention, and as `soft_intro_vae`.
    """
    check_number("mixing", mixing, least=0.0, at_most=1.0)
    released = convention == "released"
    model = soft_intro_vae(
        encoder,
        decoder,
        latent_dim=latent_dim,
        beta_rec=PIXELS * beta_rec,
        beta_kl=beta_kl,
        beta_neg=beta_neg,
        s=SCALE if s is None and released else s,
        gamma_r=gamma_r,
        convention=convention,
        fakes=mixed_draws(latent_dim, style_rows(side), mixing),
        redraw=released,
    )
    return _level(model, decoder, side, latent_dim, fade)


def style_plain_vae(
    encoder: Net,
    decoder: Net,
    *,
    side: int,
    latent_dim: int,
    beta_rec: float = 0.05,
    beta_kl: float = 0.2,
    fade: Fade | None = None,
) -> Model:
    """Returns the VAE that may come before it: beta_rec L + beta_kl KL, without the scale s.

    Arguments and errors are those of `style_soft_intro_vae`.
    """
    model = plain_vae(
        encoder, decoder, latent_dim=latent_dim, beta_rec=PIXELS * beta_rec, beta_kl=beta_kl
    )
    return _level(model, decoder, side, latent_dim, fade)


def mixed_draws(latent_dim: int, rows: int, mixing: float) -> Prior:
    """Returns (rng, n) -> latents of fakes [n, rows, D]: all of a batch are mixed, at one cut, or none
    is."""

    def draw(rng: Array, n: int) -> Array:
        rng_z, rng_coin, rng_row = jax.random.split(rng, 3)
        z = noise.normal(rng_z, (n, 2, latent_dim))
        drawn = jax.random.randint(rng_row, (), 1, rows + 1)
        row = jnp.where(jax.random.uniform(rng_coin) < mixing, drawn, rows)
        return mixed(z[:, 0], z[:, 1], row, rows)

    return draw


def _level(model: Model, decoder: Net, side: int, latent_dim: int, fade: Fade | None) -> Model:
    """Returns a model whose losses are of images and nets as far as they are faded in, and whose
    samples have noise."""

    def init(rng: Array, batch: Any):
        if batch.cond is not None:
            raise UserError("style-based models take no labels: leave the condition out.")
        if batch.x.shape[1:3] != (side, side):
            raise UserError(
                f"this level is of images of {side}x{side} pixels, not of shape {batch.x.shape[1:]}."
            )
        return model.init(rng, batch)

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        rng_z, rng_noise = jax.random.split(rng)
        z, train = noise.normal(rng_z, (n, latent_dim)), use_batch(stats)
        y, _ = decoder.apply(params["decoder"], state["decoder"], z, rng=rng_noise, train=train)
        return y

    def at_blend(loss: Loss, fade: Fade) -> Loss:
        def faded_loss(params, state, rng, batch, step, carry):
            blend = fade(step)
            x = lerp(doubled(halved(batch.x)), batch.x, blend)
            return loss(params, faded(state, blend), rng, batch._replace(x=x), step, carry)

        return faded_loss

    objectives = model.objectives
    if fade is not None:
        objectives = tuple(o._replace(loss=at_blend(o.loss, fade)) for o in objectives)
    return model._replace(init=init, sample=sample, objectives=objectives)
