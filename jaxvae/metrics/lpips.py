"""LPIPS: how different two images look, by the features of a net trained to classify.

    d(x, y) = sum_l 1/(H_l W_l) sum_hw sum_c w_lc (u_lhwc(x) - u_lhwc(y))^2,   u = f / |f|

f are the features of layer l after its ReLU, divided by their length over the channels at every
place; w >= 0 are the published linear heads, version 0.1. 0 for equal images, down is better; a
pure number. Neither a metric in the mathematical sense (no triangle inequality is promised) nor
comparable between nets or image sizes: a value belongs to its net, such as LPIPS(squeeze).

Sources: Zhang et al. 2018 (arXiv 1801.03924), Eq. 1; the code published with it
(richzhang/PerceptualSimilarity, lpips/lpips.py).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.abilities import HasMean
from jaxvae.data import places
from jaxvae.data.source import Source
from jaxvae.errors import UserError, concrete, unknown
from jaxvae.metrics import likelihood, squeezenet
from jaxvae.metrics import weights as weight_files
from jaxvae.types import Array, Model, Params, State

SLACK = 1e-4  # how far rounding may carry a pixel out of [0, 1]
TINY = 1e-10  # added to the length of features


class Layer(NamedTuple):
    """A convolution of AlexNet or VGG, and the ReLU after it."""

    name: str  # torchvision's number
    features: int
    side: int = 3
    stride: int = 1
    pad: int = 1
    pool: int = 0  # side of the max pool of stride 2 before it
    compared: bool = True


ALEXNET = (
    Layer("0", 64, 11, 4, 2),
    Layer("3", 192, 5, 1, 2, pool=3),
    Layer("6", 384, pool=3),
    Layer("8", 256),
    Layer("10", 256),
)
VGG16 = (
    Layer("0", 64, compared=False),
    Layer("2", 64),
    Layer("5", 128, pool=2, compared=False),
    Layer("7", 128),
    Layer("10", 256, pool=2, compared=False),
    Layer("12", 256, compared=False),
    Layer("14", 256),
    Layer("17", 512, pool=2, compared=False),
    Layer("19", 512, compared=False),
    Layer("21", 512),
    Layer("24", 512, pool=2, compared=False),
    Layer("26", 512, compared=False),
    Layer("28", 512),
)
SQUEEZED = ("1", "4", "7", "9", "10", "11", "12")  # the parts of SqueezeNet that are compared


class Backbone(NamedTuple):
    """A net whose features are compared."""

    weights: str  # keys of `weights.KNOWN`: of the net
    heads: str  # and of the linear heads
    side: int  # pixels of the smallest image that it can take
    widths: tuple[int, ...]  # channels of the features that are compared
    shapes: Callable  # () -> torchvision's name -> shape
    features: Callable  # (params, x [B, H, W, 3], normalised) -> tuple of [B, h, w, width]


class Weights(NamedTuple):
    """What `distance` needs: the parameters of the net, and a head [width] for each of its
    features."""

    net: dict[str, Array]
    heads: tuple[Array, ...]


def load(
    net: str = "squeeze",
    *,
    weights: places.PathLike | Mapping[str, np.ndarray] | None = None,
    heads: places.PathLike | Mapping[str, np.ndarray] | None = None,
) -> Weights:
    """Returns the weights of LPIPS(net), read from files of torch; nothing in them is run.

    Args:
        net: "squeeze" (SqueezeNet 1.1), "alex" (AlexNet; what the authors report) or "vgg" (VGG16).
        weights: torchvision's weights of the net: a file, a folder, or a state dictionary; default:
            where `jaxvae weights list` shows them.
        heads: the published linear heads, likewise.

    Raises:
        UserError: for an unknown net, and files that are missing, damaged, or of another net.
    """
    backbone = _backbone(net)
    found, what = _read(backbone.weights, weights)
    params = weight_files.convolutions(found, backbone.shapes(), what)
    found, what = _read(backbone.heads, heads)
    names = [f"lin{i}.model.1.weight" for i in range(len(backbone.widths))]
    shapes = {n: (1, c, 1, 1) for n, c in zip(names, backbone.widths, strict=True)}
    linear = weight_files.select(found, shapes, what)
    return Weights(
        {name: jnp.asarray(value) for name, value in params.items()},
        tuple(jnp.asarray(linear[name].reshape(-1)) for name in names),
    )


def distance(weights: Weights, x: Array, y: Array, *, net: str = "squeeze") -> Array:
    """Returns LPIPS(net) of each pair of images: [B], from 0 (equal) up. Pure, with gradients, and
    compiled for each shape.

    Args:
        weights: of `load(net)`.
        x, y: images [B, H, W, 3] in [0, 1] (the published code takes [-1, 1]); at least 17 pixels a
            side for "squeeze", 31 for "alex", 16 for "vgg".
        net: as for `load`.

    Raises:
        UserError: for images of other shapes or types, smaller ones, and, where they are concrete,
            values outside [0, 1] or not finite.
    """
    _check(x, y, net, _backbone(net))
    with jax.default_matmul_precision("highest"):
        return _distance(weights, x, y, net=net)


@functools.partial(jax.jit, static_argnames="net")
def _distance(weights: Weights, x: Array, y: Array, *, net: str) -> Array:
    both = jnp.concatenate([images.astype(jnp.float32) for images in (x, y)])
    # the published scaling layer, for [0, 1] instead of [-1, 1]
    mean, std = jnp.asarray(squeezenet.MEAN), jnp.asarray(squeezenet.STD)
    total = jnp.zeros(len(x))
    features = BACKBONES[net].features(weights.net, (both - mean) / std)
    for f, head in zip(features, weights.heads, strict=True):
        u, v = jnp.split(_unit(f), 2)
        total += jnp.mean(jnp.square(u - v) @ head, axis=(1, 2))
    return total


def of_reconstructions(
    model: Model,
    params: Params,
    state: State,
    source: Source,
    weights: Weights,
    *,
    net: str = "squeeze",
    stats: str = "running",
    **options: Any,
) -> np.ndarray:
    """Returns LPIPS(net) of every image and its reconstruction, the decoder's mean at the
    posterior's mean: [n].

    Reconstructions are cut to [0, 1]; grey images are given to the net as three equal channels.

    Args:
        source: of images of 1 or 3 channels.
        weights: of `load(net)`.
        net: as for `load`.
        stats: "running" or "batch", of the model's BatchNorm.
        options: of `likelihood.per_example`: preprocess, batch_size, seed, mesh, progress.

    Raises:
        UserError: for a model that does not reconstruct, and images that are too small, have other
            channels or values outside [0, 1].
    """
    encode, decode = model.encode, model.decode
    if encode is None or decode is None:
        raise UserError("LPIPS of reconstructions needs a model that encodes and decodes.")
    check_source(source, net)

    def distances(trained, state, rng, batch):
        params, weights = trained["model"], trained["lpips"]
        q = encode(params, state, batch.x, batch.cond, stats=stats)
        if not isinstance(q, HasMean):
            raise UserError(
                f"a reconstruction needs a posterior's mean: {type(q).__name__} has none."
            )
        x_hat = decode(params, state, q.mean, batch.cond, stats=stats).mean
        x, y = (
            jnp.broadcast_to(images, (*images.shape[:-1], 3))
            for images in (batch.x, jnp.clip(x_hat, 0.0, 1.0))
        )
        pixels = batch.x.reshape(len(batch.x), -1)
        found = distance(weights, x, y, net=net)
        return {"lpips": found, "low": pixels.min(axis=1), "high": pixels.max(axis=1)}

    found = likelihood.per_example(
        distances, {"model": params, "lpips": weights}, state, source, stats=stats, **options
    )
    low, high = found["low"].min(), found["high"].max()
    if not (low >= -SLACK and high <= 1.0 + SLACK):
        raise UserError(
            f"LPIPS needs images in [0, 1], and those of {source.name} run from {low:g} to "
            f"{high:g}: scale them."
        )
    if not np.isfinite(found["lpips"]).all():
        raise UserError("reconstructions hold values that are not finite: check the model.")
    return found["lpips"]


def check_source(source: Source, net: str) -> None:
    """Raises `UserError` unless a source has images of 1 or 3 channels that are large enough for
    LPIPS(net)."""
    check_shape(source.shape, net)


def check_shape(shape: tuple[int, ...], net: str) -> None:
    """Raises `UserError` unless examples of `shape` are images of 1 or 3 channels that are large enough
    for LPIPS(net)."""
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise UserError(f"LPIPS needs images of 1 or 3 channels, not examples of {shape}.")
    _check_size(shape, net, _backbone(net))


def _unit(f: Array) -> Array:
    """Returns f over its length along the channels; 0, with finite gradients, where f is 0."""
    square = jnp.sum(jnp.square(f), axis=-1, keepdims=True)
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return f / (length + TINY)


def _check(x: Array, y: Array, net: str, backbone: Backbone) -> None:
    for name, images in (("x", x), ("y", y)):
        if images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(
                f"LPIPS needs {name} as [batch, height, width, 3], not shape {images.shape}: repeat "
                "the one channel of grey images with jnp.repeat(x, 3, axis=-1)."
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(
                f"{name} must be floating point in [0, 1], not {images.dtype}: divide bytes by 255."
            )
    if x.shape != y.shape:
        raise UserError(f"LPIPS compares images of one shape, not {x.shape} with {y.shape}.")
    _check_size(x.shape[1:], net, backbone)
    for name, images in (("x", x), ("y", y)):
        if not concrete(images):
            continue
        low, high = float(images.min()), float(images.max())
        if not (low >= -SLACK and high <= 1.0 + SLACK):
            raise UserError(
                f"{name} must be in [0, 1], and runs from {low:g} to {high:g}: scale it (from [-1, "
                "1]: (x + 1) / 2), or use jnp.clip."
            )


def _check_size(shape: tuple[int, ...], net: str, backbone: Backbone) -> None:
    side = min(shape[:2])
    if side < backbone.side:
        others = any(other.side <= side for other in BACKBONES.values())
        raise UserError(
            f"LPIPS({net}) needs images of at least {backbone.side} pixels a side, not "
            f"{shape[0]}x{shape[1]}: resize them{', or use another net' if others else ''}."
        )


def _read(name: str, given: Any) -> tuple[Mapping[str, np.ndarray], str]:
    if isinstance(given, Mapping):
        return given, f"the weights given for {name}"
    path = weight_files.locate(name, given)
    return weight_files.read(path), str(path)


def _backbone(net: str) -> Backbone:
    if net not in BACKBONES:
        raise unknown("net of LPIPS", net, BACKBONES)
    return BACKBONES[net]


# ---- nets ----------------------------------------------------------------------------------------


def _squeezed(params: dict[str, Array], x: Array) -> tuple[Array, ...]:
    found = squeezenet.activations(params, x)
    return tuple(found[part] for part in SQUEEZED)


def chain_shapes(layers: tuple[Layer, ...]) -> dict[str, tuple[int, ...]]:
    """Returns torchvision's name -> shape of every parameter of `layers`."""
    channels, found = 3, {}
    for layer in layers:
        shape = (layer.features, channels, layer.side, layer.side)
        found |= {f"{layer.name}.weight": shape, f"{layer.name}.bias": shape[:1]}
        channels = layer.features
    return found


def chain(layers: tuple[Layer, ...], params: dict[str, Array], x: Array) -> tuple[Array, ...]:
    """Returns the features [B, h, w, c] of those of `layers` that are compared, after their ReLU, of
    images x [B, H, W, 3]."""
    found = []
    for layer in layers:
        if layer.pool:
            window = (1, layer.pool, layer.pool, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
        x = jax.lax.conv_general_dilated(
            x,
            params[f"{layer.name}.weight"],
            (layer.stride, layer.stride),
            [(layer.pad, layer.pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + params[f"{layer.name}.bias"])
        if layer.compared:
            found.append(x)
    return tuple(found)


def _of_chain(name: str, heads: str, side: int, layers: tuple[Layer, ...]) -> Backbone:
    return Backbone(
        name,
        heads,
        side,
        tuple(layer.features for layer in layers if layer.compared),
        functools.partial(chain_shapes, layers),
        functools.partial(chain, layers),
    )


BACKBONES = {
    "squeeze": Backbone(
        "squeezenet",
        "lpips_squeeze",
        17,
        (64, 128, 256, 384, 384, 512, 512),
        squeezenet.shapes,
        _squeezed,
    ),
    "alex": _of_chain("alexnet", "lpips_alex", 31, ALEXNET),
    "vgg": _of_chain("vgg16", "lpips_vgg", 16, VGG16),
}
