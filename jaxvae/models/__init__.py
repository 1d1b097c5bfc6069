"""One file per system; each constructor takes nets and hyper-parameters and returns a `Model`.

    vae, likelihoods    the variational auto-encoder, and what its decoder stands for
    rho_vae, info_vae, wae_gan    its kin; kin, what those with losses of their own share
    iwae, vamp          a tighter bound, a prior of its own posteriors
    ladder_vae          layers of latents
    tc_vae, factor_vae  less total correlation
    autoencoder         codes without a distribution
    vq_vae, fsq, code_prior    codes of a finite set: a table, a grid, their prior
    introspective, intro_vae, soft_intro_vae    what they share, and the two
    style_soft_intro_vae    of nets that grow
    two_stage, joint    stages one after the other, or at once
    prior, mixture      another prior for a trained model
    cvae                images completed
    translation         content and class of images exchanged
    vae_gan             kept sharp by a discriminator of patches
    gan, began, flow    without an encoder; with an exact density
    verbs               what one does with a trained model of any kind

Stands on distributions, objectives, nets and data; imported by presets, experiments and users.
"""

from jaxvae.models.autoencoder import autoencoder
from jaxvae.models.began import began
from jaxvae.models.code_prior import code_prior, indices, with_code_prior
from jaxvae.models.cvae import completion, cvae, regressor
from jaxvae.models.factor_vae import factor_vae
from jaxvae.models.flow import flow
from jaxvae.models.fsq import finite_scalar
from jaxvae.models.gan import clip_weights, gan
from jaxvae.models.info_vae import info_vae
from jaxvae.models.intro_vae import intro_vae
from jaxvae.models.introspective import plain_vae
from jaxvae.models.iwae import iwae
from jaxvae.models.joint import joint_two_stage
from jaxvae.models.ladder_vae import ladder_vae
from jaxvae.models.mixture import fit_mixture, with_mixture
from jaxvae.models.prior import with_prior
from jaxvae.models.rho_vae import rho_vae
from jaxvae.models.soft_intro_vae import soft_intro_vae
from jaxvae.models.style_soft_intro_vae import fade_in, style_plain_vae, style_soft_intro_vae
from jaxvae.models.tc_vae import tc_vae
from jaxvae.models.translation import plain_translation, translation
from jaxvae.models.two_stage import join_stages, latents, two_stage
from jaxvae.models.vae import vae
from jaxvae.models.vae_gan import vae_gan
from jaxvae.models.vamp import vamp
from jaxvae.models.verbs import (
    interpolate,
    interpolate_draws,
    interpolate_square,
    reconstruct,
    translate,
    translations,
    traverse,
)
from jaxvae.models.vq_vae import codebook, vq_vae
from jaxvae.models.wae_gan import wae_gan

__all__ = [
    "autoencoder",
    "began",
    "clip_weights",
    "code_prior",
    "codebook",
    "completion",
    "cvae",
    "factor_vae",
    "fade_in",
    "finite_scalar",
    "fit_mixture",
    "flow",
    "gan",
    "indices",
    "info_vae",
    "interpolate",
    "interpolate_draws",
    "interpolate_square",
    "intro_vae",
    "iwae",
    "join_stages",
    "joint_two_stage",
    "ladder_vae",
    "latents",
    "plain_translation",
    "plain_vae",
    "reconstruct",
    "regressor",
    "rho_vae",
    "soft_intro_vae",
    "style_plain_vae",
    "style_soft_intro_vae",
    "tc_vae",
    "translate",
    "translation",
    "translations",
    "traverse",
    "two_stage",
    "vae",
    "vae_gan",
    "vamp",
    "vq_vae",
    "wae_gan",
    "with_code_prior",
    "with_mixture",
    "with_prior",
]
