"""A perceptual error to train on: how far apart two images are by features of a trained classifier.

    L(x, y) = n (1/n sum_i |x_i - y_i| + sum_l 1/n_l sum_j |f_lj(x) - f_lj(y)|)

with n numbers in an image and n_l in the features f_l of level l, after its ReLU. The mean absolute
differences are those of the implementation that the Soft-IntroVAE paper cites for its VGG loss; the
factor n, of which neither says anything, gives the error the scale of a sum over pixels, beside a KL
that is a sum over latents, as s = 1/n of `models.soft_intro_vae` expects. Each level has half the
resolution of the one before; how many count depends on the size of the images.

"vgg" is VGG16, with the levels of that implementation; pixels go in as they are, in [0, 1].
"squeeze" is SqueezeNet 1.1, ours where VGG's weights are not at hand; pixels are normalised as it was
trained. Errors of two nets do not compare. Neither is LPIPS (`metrics.lpips`), which normalises and
weighs channels and squares differences.

Sources: Hoshen et al. 2019 (GLANN; CVPR, pages 5811 to 5819) and its released code, vgg_metric.py, for
images up to 64 pixels; Daniel & Tamar 2021 (arXiv 2012.13253), section 6.4 and appendix 9.3.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxvae.data import places
from jaxvae.errors import UserError, check_count, unknown
from jaxvae.metrics import lpips, squeezenet
from jaxvae.metrics import weights as weight_files
from jaxvae.types import Array

SIZES = {64: 4, 28: 3, 0: 2}  # pixels of the shorter side, at least -> levels
# the last convolution of VGG16's first, second and fourth stage, and the second of its third
VGG = ("2", "7", "12", "21")
SQUEEZE = ("1", "4", "7", "9")


class Extractor(NamedTuple):
    """A net whose features are compared."""

    weights: str  # key of `weights.KNOWN`
    side: int  # pixels of the smallest image that it can take
    levels: tuple[str, ...]  # torchvision's numbers of the features, first to last
    shapes: Callable  # (levels) -> torchvision's name -> shape of every parameter that they need
    features: Callable  # (params, x [B, H, W, 3] in [0, 1], levels) -> list of [B, h, w, c]


def make_error(
    net: str = "vgg",
    *,
    weights: places.PathLike | Mapping[str, np.ndarray] | None = None,
    levels: int | None = None,
) -> Callable[[Array, Array], Array]:
    """Returns `error(x, x_hat) -> [B]` of images [B, H, W, 1 or 3] in [0, 1], >= 0, with gradients to both; pure.

    Grey images are given to the net as three equal channels.

    Args:
        net: "vgg" or "squeeze".
        weights: torchvision's weights of the net: a file, a folder, or a state dictionary; default: where
            `jaxvae weights list` shows them.
        levels: how many count, from the image on, 1 to 4; default: 4 for sides of 64 pixels or more, 3 of 28 or
            more, else 2.

    Raises:
        UserError: for an unknown net, levels that it does not have, and weights that are missing, damaged or of
            another net; when called, for images of other channels, and ones that are too small.
    """
    extractor = _extractor(net)
    if levels is not None:
        check_count("levels", levels)
        if levels > len(extractor.levels):
            raise UserError(f"{net} has {len(extractor.levels)} levels, not {levels}.")
    levels_read = extractor.levels[: levels or len(extractor.levels)]
    params = _read(extractor, levels_read, weights)

    def error(x: Array, x_hat: Array) -> Array:
        if x.shape != x_hat.shape:
            raise UserError(
                f"a perceptual error is of images of one shape, not of {x.shape} and {x_hat.shape}."
            )
        check_shape(net, x.shape[1:])
        used = extractor.levels[: levels or _levels_of(x.shape)]
        total = _mean_difference(x, x_hat)
        both = jnp.concatenate([x, x_hat]).astype(jnp.float32)
        both = jnp.broadcast_to(both, (*both.shape[:-1], 3))
        for found in extractor.features(params, both, used):
            total += _mean_difference(*jnp.split(found, 2))
        return math.prod(x.shape[1:]) * total

    return error


def _mean_difference(x: Array, y: Array) -> Array:
    """Returns the mean absolute difference [B]."""
    return jnp.mean(jnp.abs(x - y), axis=tuple(range(1, x.ndim)))


def _levels_of(shape: tuple[int, ...]) -> int:
    side = min(shape[1:3])
    return next(levels for least, levels in SIZES.items() if side >= least)


def _read(extractor: Extractor, levels: tuple[str, ...], given) -> dict[str, np.ndarray]:
    if isinstance(given, Mapping):
        found, what = given, f"the weights given for {extractor.weights}"
    else:
        path = weight_files.locate(extractor.weights, given)
        found, what = weight_files.read(path), str(path)
    return weight_files.convolutions(found, extractor.shapes(levels), what)


def check_shape(net: str, shape: tuple[int, ...]) -> None:
    """Raises `UserError` for examples of `shape` that are no images which the error of `net` takes."""
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise UserError(
            f"a perceptual error is of images of 1 or 3 channels, not of examples of shape {shape}."
        )
    least = _extractor(net).side
    if min(shape[:2]) < least:
        raise UserError(
            f"the perceptual error of {net} needs images of at least {least} pixels a side, not "
            f"{shape[0]}x{shape[1]}: resize them, or train on the squared error."
        )


def _extractor(net: str) -> Extractor:
    if net not in EXTRACTORS:
        raise unknown("net of a perceptual error", net, EXTRACTORS)
    return EXTRACTORS[net]


# ---- nets ----------------------------------------------------------------------------------------


def _vgg(levels: tuple[str, ...]) -> tuple[lpips.Layer, ...]:
    """Returns the layers of VGG16 up to the last of `levels`, of which those are compared."""
    last = [layer.name for layer in lpips.VGG16].index(levels[-1])
    return tuple(layer._replace(compared=layer.name in levels) for layer in lpips.VGG16[: last + 1])


def _squeeze(params, x: Array, levels: tuple[str, ...]) -> list[Array]:
    mean, std = jnp.asarray(squeezenet.MEAN), jnp.asarray(squeezenet.STD)
    found = squeezenet.activations(params, (x - mean) / std)
    return [found[level] for level in levels]


EXTRACTORS = {
    "vgg": Extractor(
        "vgg16",
        8,
        VGG,
        lambda levels: lpips.chain_shapes(_vgg(levels)),
        lambda params, x, levels: list(lpips.chain(_vgg(levels), params, x)),
    ),
    "squeeze": Extractor("squeezenet", 17, SQUEEZE, lambda levels: squeezenet.shapes(), _squeeze),
}
