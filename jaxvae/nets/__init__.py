"""Networks: Flax Linen modules behind the `Net` contract. The only place that knows Flax."""

from jaxvae.nets.conv import conv_decoder, conv_encoder
from jaxvae.nets.layers import from_linen
from jaxvae.nets.mlp import mlp
from jaxvae.nets.rho import rho_nets

__all__ = ["conv_decoder", "conv_encoder", "from_linen", "mlp", "rho_nets"]
