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


class Table(NamedTuple):
    """A net, layer by layer, from the image down to the heads and from z up to the image."""

    act: str  # of the convolutions down and the dense layers up
    down: tuple[Layer, ...]
    trunk: int  # width of a dense layer before the heads; 0: none
    trunk_each: bool  # each head has a trunk of its own, with the activation; else one without
    one_head: bool  # mean and scale share one dense layer
    hidden: tuple[int, ...]  # dense layers of the decoder before its first feature map
    reduction: int  # side of the image / side of that feature map
    channels: int  # of that feature map
    up: tuple[Layer, ...]  # transposed, each with ReLU
    last: Layer  # transposed; its features are the image's colours
    norm: bool = False  # BatchNorm after the activation of every convolution but the last


TABLES = {
    "cnn": Table(
        act="elu",
        down=(Layer(64, p=15), Layer(128, p=15)),
        trunk=1024,
        trunk_each=True,
        one_head=False,
        hidden=(1024,),
        reduction=4,
        channels=128,
        up=(Layer(64),),
        last=Layer(1),
    ),
    "beta": Table(
        act="relu",
        down=(Layer(32), Layer(32), Layer(64), Layer(64), Layer(256, 4, 1, 0)),
        trunk=0,
        trunk_each=False,
        one_head=True,
        hidden=(),
        reduction=64,
        channels=256,
        up=(Layer(64, 4, 1, 0), Layer(64), Layer(32), Layer(32)),
        last=Layer(1),
    ),
    "info": Table(
        act="relu",
        down=(Layer(64), Layer(64, 3, 1), Layer(128), Layer(128, 3, 1)),
        trunk=1024,
        trunk_each=False,
        one_head=False,
        hidden=(1024,),
        reduction=4,
        channels=128,
        up=(Layer(64), Layer(64, 3, 1), Layer(32)),
        last=Layer(1, 3, 1),
        norm=True,
    ),
}
NETS = ("vanilla", *TABLES)
LEAST_TRUNK = 0.02  # the last head of the AR(1) cnn sees log max(trunk, LEAST_TRUNK)


class Encoder(nn.Module):
    """Convolutions, perhaps a trunk, and the heads, side by side."""

    table: Table
    heads: tuple[int, ...]
    least: float | None  # the last head sees log max(trunk, least)
    uniform_scale: bool

    @nn.compact
    def __call__(self, x, *, cond=None, train=False):
        table, act = self.table, activation(self.table.act)
        for layer in table.down:
            h = act(Conv(*layer, init_name=INIT)(x))
            x = BatchNorm(uniform_scale=self.uniform_scale)(h, train=train) if table.norm else h
        h = x.reshape(x.shape[0], -1)
        if table.trunk and not table.trunk_each:
            h = Dense(table.trunk, INIT)(h)
        outputs = []
        for i, width in enumerate(self.heads):
            t = act(Dense(table.trunk, INIT)(h)) if table.trunk_each else h
            if self.least is not None and i == len(self.heads) - 1:
                t = jnp.log(jnp.maximum(t, self.least))
            outputs.append(Dense(width, INIT)(t))
        return jnp.concatenate(outputs, axis=-1)


class Decoder(nn.Module):
    """Dense layers, a small feature map, transposed convolutions; the last one gives logits."""

    table: Table
    shape: tuple[int, int, int]
    uniform_scale: bool

    @nn.compact
    def __call__(self, z, *, cond=None, train=False):
        table, act = self.table, activation(self.table.act)
        height, width = (side // table.reduction for side in self.shape[:2])
        for features in (*table.hidden, height * width * table.channels):
            z = act(Dense(features, INIT)(z))
        x = z.reshape(-1, height, width, table.channels)
        for layer in table.up:
            h = nn.relu(Conv(*layer, transposed=True)(x))
            x = BatchNorm(uniform_scale=self.uniform_scale)(h, train=train) if table.norm else h
        return Conv(self.shape[-1], *table.last[1:], transposed=True)(x)


def _shrunk(table: Table, shrink: int) -> Table:
    """Returns the net with every width divided by `shrink`, at least 1."""

    def w(width: int) -> int:
        return max(1, width // shrink)

    def narrow(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        return tuple(layer._replace(features=w(layer.features)) for layer in layers)

    return table._replace(
        down=narrow(table.down),
        trunk=w(table.trunk) if table.trunk else 0,
        hidden=tuple(map(w, table.hidden)),
        channels=w(table.channels),
        up=narrow(table.up),
    )


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
    if name not in NETS:
        raise unknown("net", name, NETS)
    check_count("latent_dim", latent_dim)
    check_count("shrink", shrink)
    shape = shape or ((64, 64, 1) if name == "beta" else (28, 28, 1))
    heads = (latent_dim, 1, 1) if correlated else (latent_dim, latent_dim)
    if uniform_scale and name != "info":
        raise UserError(f"the {name} net has no BatchNorm: uniform_scale is for the info net.")
    if name == "vanilla":
        hidden = (max(1, 400 // shrink),)
        return mlp(hidden, sum(heads), heads=heads, init=INIT), mlp(hidden, shape, init=INIT)
    multiple = 1 if name == "beta" else 4
    shape, _ = check_images(name, shape, latent_dim, heads, "logits", multiple=multiple)
    if name == "beta" and shape[:2] != (64, 64):
        raise UserError(
            f"the beta net takes images of 64x64, not {shape[0]}x{shape[1]}: resize them."
        )
    table = _shrunk(TABLES[name], shrink)
    heads = (sum(heads),) if table.one_head else heads
    least = LEAST_TRUNK if name == "cnn" and correlated else None
    encoder = Encoder(table, heads, least, uniform_scale)
    return from_linen(encoder), from_linen(Decoder(table, shape, uniform_scale))
