"""Inception-v3 as FID uses it: the net of 2015-12-05 whose weights pytorch-fid publishes.

It is torchvision's Inception-v3 (Szegedy et al. 2015, arXiv 1512.00567) but for what TensorFlow's
graph does otherwise: average pools divide by the pixels inside the image, the pool of the last
block is a maximum, and there are 1008 classes. Parameters are a dictionary with the names of
pytorch-fid's state dictionary, convolutions as [H, W, in, out]; functions are plain JAX.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.errors import unknown
from jaxvae.metrics import weights
from jaxvae.types import Array

DIMENSION = 2048
SIDE = 299
CLASSES = 1008
EPSILON = 1e-3  # of its BatchNorm

Params = Mapping[str, Array]


class Ops(NamedTuple):
    """What a net is made of, so that one description serves several purposes (and libraries)."""

    # (name, x, features, kernel, stride=1, same=True): without a bias, then BatchNorm and ReLU
    conv: Callable
    max_pool: Callable  # (x, stride): 3x3
    average_pool: Callable  # x: 3x3, stride 1, the mean over the pixels that are inside the image
    join: Callable  # (*branches): channels beside each other


def net(ops: Ops, x: Any) -> dict[str, Any]:
    """Returns the output of every block of x."""
    found: dict[str, Any] = {}
    conv = ops.conv

    def keep(name, x):
        found[name] = x
        return x

    def within(block):
        return ops._replace(conv=lambda name, *args: conv(f"{block}.{name}", *args))

    x = keep("Conv2d_1a_3x3", conv("Conv2d_1a_3x3", x, 32, (3, 3), 2, False))
    x = keep("Conv2d_2a_3x3", conv("Conv2d_2a_3x3", x, 32, (3, 3), 1, False))
    x = keep("Conv2d_2b_3x3", conv("Conv2d_2b_3x3", x, 64, (3, 3)))
    x = ops.max_pool(x, 2)
    x = keep("Conv2d_3b_1x1", conv("Conv2d_3b_1x1", x, 80, (1, 1)))
    x = keep("Conv2d_4a_3x3", conv("Conv2d_4a_3x3", x, 192, (3, 3), 1, False))
    x = ops.max_pool(x, 2)
    for name, width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = keep(name, _block_a(within(name), x, width))
    x = keep("Mixed_6a", _block_b(within("Mixed_6a"), x))
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = keep(name, _block_c(within(name), x, width))
    x = keep("Mixed_7a", _block_d(within("Mixed_7a"), x))
    x = keep("Mixed_7b", _block_e(within("Mixed_7b"), x, ops.average_pool))
    keep("Mixed_7c", _block_e(within("Mixed_7c"), x, lambda x: ops.max_pool(x, 1)))
    return found


def _block_a(ops: Ops, x: Any, width: int) -> Any:
    """35x35: 1x1, 5x5, two 3x3, pool."""
    conv = ops.conv
    five = conv("branch5x5_2", conv("branch5x5_1", x, 48, (1, 1)), 64, (5, 5))
    three = conv("branch3x3dbl_2", conv("branch3x3dbl_1", x, 64, (1, 1)), 96, (3, 3))
    three = conv("branch3x3dbl_3", three, 96, (3, 3))
    return ops.join(
        conv("branch1x1", x, 64, (1, 1)),
        five,
        three,
        conv("branch_pool", ops.average_pool(x), width, (1, 1)),
    )


def _block_b(ops: Ops, x: Any) -> Any:
    """35x35 -> 17x17."""
    conv = ops.conv
    three = conv("branch3x3dbl_2", conv("branch3x3dbl_1", x, 64, (1, 1)), 96, (3, 3))
    three = conv("branch3x3dbl_3", three, 96, (3, 3), 2, False)
    return ops.join(conv("branch3x3", x, 384, (3, 3), 2, False), three, ops.max_pool(x, 2))


def _block_c(ops: Ops, x: Any, width: int) -> Any:
    """17x17: 1x1, 7x7 as 1x7 and 7x1, the same twice, pool."""
    conv = ops.conv
    seven = conv("branch7x7_2", conv("branch7x7_1", x, width, (1, 1)), width, (1, 7))
    seven = conv("branch7x7_3", seven, 192, (7, 1))
    twice = conv("branch7x7dbl_1", x, width, (1, 1))
    for number, features, kernel in (
        (2, width, (7, 1)),
        (3, width, (1, 7)),
        (4, width, (7, 1)),
        (5, 192, (1, 7)),
    ):
        twice = conv(f"branch7x7dbl_{number}", twice, features, kernel)
    return ops.join(
        conv("branch1x1", x, 192, (1, 1)),
        seven,
        twice,
        conv("branch_pool", ops.average_pool(x), 192, (1, 1)),
    )


def _block_d(ops: Ops, x: Any) -> Any:
    """17x17 -> 8x8."""
    conv = ops.conv
    three = conv("branch3x3_2", conv("branch3x3_1", x, 192, (1, 1)), 320, (3, 3), 2, False)
    seven = conv("branch7x7x3_2", conv("branch7x7x3_1", x, 192, (1, 1)), 192, (1, 7))
    seven = conv("branch7x7x3_4", conv("branch7x7x3_3", seven, 192, (7, 1)), 192, (3, 3), 2, False)
    return ops.join(three, seven, ops.max_pool(x, 2))


def _block_e(ops: Ops, x: Any, pool: Callable) -> Any:
    """8x8: 1x1, 3x3 as 1x3 beside 3x1, the same behind a 3x3, pool."""
    conv = ops.conv
    three = conv("branch3x3_1", x, 384, (1, 1))
    three = ops.join(
        conv("branch3x3_2a", three, 384, (1, 3)), conv("branch3x3_2b", three, 384, (3, 1))
    )
    twice = conv("branch3x3dbl_2", conv("branch3x3dbl_1", x, 448, (1, 1)), 384, (3, 3))
    twice = ops.join(
        conv("branch3x3dbl_3a", twice, 384, (1, 3)), conv("branch3x3dbl_3b", twice, 384, (3, 1))
    )
    return ops.join(
        conv("branch1x1", x, 320, (1, 1)), three, twice, conv("branch_pool", pool(x), 192, (1, 1))
    )


def _max_pool(x: Array, stride: int) -> Array:
    pad = "SAME" if stride == 1 else "VALID"
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, stride, stride, 1), pad
    )


def _average_pool(x: Array) -> Array:
    """3x3, stride 1: the mean over the pixels that are inside the image."""

    def total(x):
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _ops(conv: Callable) -> Ops:
    """Returns what the net is made of in JAX, but for its convolutions."""
    return Ops(conv, _max_pool, _average_pool, lambda *branches: jnp.concatenate(branches, axis=-1))


def activations(params: Params, x: Array, *, stats: str = "running") -> dict[str, Array]:
    """Returns the output of every block by its name, "pool3" [B, 2048] and "logits" [B, 1008].

    Args:
        params: of `from_state_dict`.
        x: [B, 299, 299, 3] in [-1, 1]; at least 75 pixels a side.
        stats: "running", or "batch" for BatchNorm with the moments of this batch (what
            Soft-IntroVAE's FID does).
    """
    if stats not in ("running", "batch"):
        raise unknown("stats", stats, ("running", "batch"))

    def conv(name, x, features, kernel, stride=1, same=True):
        pad = [(side // 2, side // 2) if same else (0, 0) for side in kernel]
        x = jax.lax.conv_general_dilated(
            x,
            params[f"{name}.conv.weight"],
            (stride, stride),
            pad,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        mean, var = params[f"{name}.bn.running_mean"], params[f"{name}.bn.running_var"]
        if stats == "batch":
            mean = x.mean(axis=(0, 1, 2))
            var = jnp.square(x - mean).mean(axis=(0, 1, 2))
        scale = params[f"{name}.bn.weight"] * jax.lax.rsqrt(var + EPSILON)
        return jax.nn.relu((x - mean) * scale + params[f"{name}.bn.bias"])

    found = net(_ops(conv), x)
    pool = found["Mixed_7c"].mean(axis=(1, 2))
    return {**found, "pool3": pool, "logits": pool @ params["fc.weight"] + params["fc.bias"]}


def features(params: Params, x: Array, *, stats: str = "running") -> Array:
    """Returns pool3, the mean of the last block over places: [B, 2048]; see `activations`."""
    return activations(params, x, stats=stats)["pool3"]


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of every array that is used of pytorch-fid's state dictionary."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name, x, features, kernel, stride=1, same=True):
        found[f"{name}.conv.weight"] = (features, x.shape[-1], *kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.bn.{part}"] = (features,)
        height, width = (
            x.shape[1:3]
            if same
            else ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], kernel, strict=True))
        )
        return jnp.zeros((x.shape[0], height, width, features))

    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    jax.eval_shape(lambda x: net(_ops(conv), x), images)
    return {**found, "fc.weight": (CLASSES, DIMENSION), "fc.bias": (CLASSES,)}


def from_state_dict(
    state_dict: Mapping[str, np.ndarray], what: str = "Inception-v3"
) -> weights.StateDict:
    """Returns the parameters from a state dictionary as pytorch-fid's.

    Raises:
        UserError: for weights of another model, such as torchvision's own Inception-v3 (1000
            classes).
    """
    arrays = weights.select(state_dict, shapes(), what)
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # of convolutions, the dense layer, vectors
    return {name: value.transpose(axes[value.ndim]) for name, value in arrays.items()}
