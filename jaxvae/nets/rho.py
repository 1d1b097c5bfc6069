"""The four pairs of nets of the rho-VAE paper's experiments, as its released code builds them.

vanilla   784-400 ReLU, a linear head each; 10-400 ReLU-784
cnn       conv 64 and 128, k4 s2 p15, ELU (28x28 stays 28x28), and for each head a trunk of 1024 ELU
          (for AR(1)'s log s the head sees log max(trunk, 0.02));
          10-1024-6272 ELU, 7x7x128, convT 64 ReLU, convT 1 (k4 s2 p1)
beta      64x64: conv 32, 32, 64, 64 k4 s2 p1, conv 256 k4 s1 p0, ReLU, one linear head;
          10-256, convT 64 k4 s1 p0, convT 64, 32, 32 k4 s2 p1, ReLU, convT 1
info      [conv, ReLU, BatchNorm] 64 k4 s2, 64 k3 s1, 128 k4 s2, 128 k3 s1 (p1), dense 1024, a linear head each;
          10-1024-6272 ReLU, 7x7x128, [convT, ReLU, BatchNorm] 64 k4 s2, 64 k3 s1, 32 k4 s2, convT 1 k3 s1

What the heads of a variance give is turned into logvar by `jaxvae.models.rho_vae.net_posterior`.
Xavier weights and zero biases in dense layers and convolutions; transposed convolutions start as
torch does.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count, unknown
from jaxvae.nets.layers import BatchNorm, Conv, Dense, activation, check_images, from_linen
from jaxvae.nets.mlp import mlp
from jaxvae.types import Net

INIT = "xavier"


class Layer(NamedTuple):
    """A convolution: kernel k, stride s, padding p as torch counts it."""

    features: int
    k: int = 4
    s: int = 2
    p: int = 1


class Encoder(nn.Module):
    """Convolutions, each followed by the activation and perhaps BatchNorm; then the heads, side by
    side."""

    layers: tuple[Layer, ...]
    heads: tuple[int, ...]
    act: str
    norm: str | None = None  # BatchNorm, whose scale starts at "ones" or "uniform"
    trunk: int = 0  # width of a dense layer before the heads; 0: none
    trunk_each: bool = False  # one for each head, with the activation; else one without
    least: float | None = None  # the last head sees log max(trunk, least)

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        act, h = (
            activation(self.act),
            _convolve(x, self.layers, self.act, self.norm, train, transposed=False),
        )
        h = h.reshape(h.shape[0], -1)
        if self.trunk and not self.trunk_each:
            h = Dense(self.trunk, INIT)(h)
        parts = []
        for i, width in enumerate(self.heads):
            t = act(Dense(self.trunk, INIT)(h)) if self.trunk_each else h
            if self.least is not None and i == len(self.heads) - 1:
                t = jnp.log(jnp.maximum(t, self.least))
            parts.append(Dense(width, INIT)(t))
        return jnp.concatenate(parts, axis=-1)


class Decoder(nn.Module):
    """Dense layers, a small feature map, transposed convolutions; the last one gives logits."""

    hidden: tuple[int, ...]
    start: tuple[int, int, int]
    layers: tuple[Layer, ...]
    last: Layer
    act: str
    norm: str | None = None  # as in Encoder

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        h, act = z, activation(self.act)
        for width in self.hidden:
            h = act(Dense(width, INIT)(h))
        h = _convolve(
            h.reshape(-1, *self.start), self.layers, "relu", self.norm, train, transposed=True
        )
        return Conv(self.last.features, self.last.k, self.last.s, self.last.p, transposed=True)(h)


def _convolve(x, layers, act: str, norm: str | None, train: bool, *, transposed: bool):
    for layer in layers:
        init = "torch" if transposed else INIT
        x = activation(act)(
            Conv(layer.features, layer.k, layer.s, layer.p, transposed=transposed, init_name=init)(
                x
            )
        )
        x = BatchNorm(uniform_scale=norm == "uniform")(x, train=train) if norm else x
    return x


def rho_nets(
    name: str,
    *,
    latent_dim: int = 10,
    correlated: bool = False,
    shape: tuple[int, int, int] | None = None,
    shrink: int = 1,
    uniform_scale: bool = False,
) -> tuple[Net, Net]:
    """Returns (encoder, decoder) of one of the four nets.

    Args:
        name: vanilla, cnn, beta or info.
        latent_dim: D.
        correlated: heads of AR(1), mean [D], rho and log s, instead of mean and logvar [D] each.
        shape: of the images; default 28x28x1, for "beta" 64x64x1, its only size ("cnn", "info":
            sides that 4 divides).
        shrink: divides every width, for tests; 1 is the paper's size.
        uniform_scale: of "info": BatchNorm's scales start at U(0, 1), as in PyTorch before 1.2, not
            at 1.

    Raises:
        UserError: for an unknown name, images that do not fit, and uniform_scale where there is no
            BatchNorm.
    """
    if name not in ("vanilla", "cnn", "beta", "info"):
        raise unknown("net", name, ("vanilla", "cnn", "beta", "info"))
    check_count("latent_dim", latent_dim)
    check_count("shrink", shrink)
    shape = tuple(shape or ((64, 64, 1) if name == "beta" else (28, 28, 1)))
    heads = (latent_dim, 1, 1) if correlated else (latent_dim, latent_dim)
    if name != "vanilla":
        check_images(name, shape, latent_dim, heads, "logits", multiple=1 if name == "beta" else 4)
    if name == "beta" and shape[:2] != (64, 64):
        raise UserError(
            f"the beta net takes images of 64x64, not {shape[0]}x{shape[1]}: resize them."
        )
    if uniform_scale and name != "info":
        raise UserError(f"the {name} net has no BatchNorm: uniform_scale is for the info net.")

    def w(width: int) -> int:
        return max(1, width // shrink)

    if name == "vanilla":
        return mlp((w(400),), sum(heads), heads=heads, init=INIT), mlp((w(400),), shape, init=INIT)
    colours, small = shape[-1], (shape[0] // 4, shape[1] // 4, w(128))
    hidden = (w(1024), small[0] * small[1] * small[2])
    if name == "cnn":
        wide = (Layer(w(64), p=15), Layer(w(128), p=15))
        least = 0.02 if correlated else None
        encoder = Encoder(wide, heads, "elu", trunk=w(1024), trunk_each=True, least=least)
        decoder = Decoder(hidden, small, (Layer(w(64)),), Layer(colours), "elu")
    elif name == "beta":
        encoder = Encoder(
            (*map(Layer, map(w, (32, 32, 64, 64))), Layer(w(256), 4, 1, 0)), (sum(heads),), "relu"
        )
        up = (Layer(w(64), 4, 1, 0), *map(Layer, map(w, (64, 32, 32))))
        decoder = Decoder((w(256),), (1, 1, w(256)), up, Layer(colours), "relu")
    else:
        norm = "uniform" if uniform_scale else "ones"
        down = (Layer(w(64)), Layer(w(64), 3, 1), Layer(w(128)), Layer(w(128), 3, 1))
        encoder = Encoder(down, heads, "relu", norm=norm, trunk=w(1024))
        up = (Layer(w(64)), Layer(w(64), 3, 1), Layer(w(32)))
        decoder = Decoder(hidden, small, up, Layer(colours, 3, 1), "relu", norm=norm)
    return from_linen(encoder), from_linen(decoder)
