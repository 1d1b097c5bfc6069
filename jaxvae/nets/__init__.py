"""Networks: Flax Linen modules behind the `Net` contract, a file for each family.

    layers, moments, spectral    layers with the initialisers of the papers' frameworks,
                       `from_linen`; what BatchNorm sees in a pass; spectral normalisation
    modules            Linen modules of others: what does not fit, in a sentence
    bounds             how many layers a net may have
    mlp, conv, ladder  for any size of data
    rho, infogan, wae, resnet, intro, gan, realnvp, doersch, vq, patch, translation    of the
                       papers
    style, style_layers    nets that grow, and their layers and optimiser

The only place that knows Flax. Stands on the ground alone; imported by models that bring nets, by
presets, experiments and users. A net of your own needs none of this: any pair of functions will do.
"""

from jaxvae.nets.bounds import TooManyLayers, at_most
from jaxvae.nets.conv import conv_decoder, conv_encoder
from jaxvae.nets.doersch import completion_nets, completion_regressor, tutorial_vae
from jaxvae.nets.gan import infogan_autoencoder, infogan_gan, mlp_gan
from jaxvae.nets.infogan import infogan
from jaxvae.nets.intro import intro
from jaxvae.nets.ladder import ladder
from jaxvae.nets.layers import from_linen
from jaxvae.nets.mlp import mlp, second_stage
from jaxvae.nets.moments import has_averages, pool
from jaxvae.nets.patch import patches
from jaxvae.nets.realnvp import coupling
from jaxvae.nets.resnet import resnet
from jaxvae.nets.rho import rho_nets
from jaxvae.nets.style import faded, mixed, style, style_rows, truncated
from jaxvae.nets.style_layers import equalised_adam
from jaxvae.nets.translation import translation
from jaxvae.nets.vq import masked_conv, vq_nets
from jaxvae.nets.wae import wae

__all__ = [
    "TooManyLayers",
    "at_most",
    "completion_nets",
    "completion_regressor",
    "conv_decoder",
    "conv_encoder",
    "coupling",
    "equalised_adam",
    "faded",
    "from_linen",
    "has_averages",
    "infogan",
    "infogan_autoencoder",
    "infogan_gan",
    "intro",
    "ladder",
    "masked_conv",
    "mixed",
    "mlp",
    "mlp_gan",
    "patches",
    "pool",
    "resnet",
    "rho_nets",
    "second_stage",
    "style",
    "style_rows",
    "translation",
    "truncated",
    "tutorial_vae",
    "vq_nets",
    "wae",
]
