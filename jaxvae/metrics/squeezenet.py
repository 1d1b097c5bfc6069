"""The features of SqueezeNet 1.1, as torchvision publishes them (Iandola et al. 2016).

Parameters are a dictionary with torchvision's names (`0.weight`, `3.squeeze.weight`, ...),
convolutions as [H, W, in, out]. Source: arXiv 1602.07360.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.metrics import weights
from jaxvae.types import Array

DIMENSION = 512
SIDE = 224  # pixels of the images that it was trained on
# of ImageNet's pixels in [0, 1], which it expects removed
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIRES = {
    3: (16, 64),
    4: (16, 64),
    6: (32, 128),
    7: (32, 128),
    9: (48, 192),
    10: (48, 192),
    11: (64, 256),
    12: (64, 256),
}
POOLS = (2, 5, 8)

Params = Mapping[str, Array]


class Ops(NamedTuple):
    """What the net is made of, so that one description serves several purposes (and libraries)."""

    # (name, x, features, side, stride), padded by side // 2 where the stride is 1; then ReLU
    conv: Callable
    max_pool: Callable  # x: 3x3, stride 2, the last window may be cut off
    join: Callable  # (*branches): channels beside each other


def net(ops: Ops, x: Any) -> dict[str, Any]:
    """Returns the output of every part of x, by torchvision's number."""
    x = ops.conv("0", x, 64, 3, 2)
    found = {"1": x}
    for number in range(2, 13):
        if number in POOLS:
            x = ops.max_pool(x)
        else:
            narrow, wide = FIRES[number]
            x = ops.conv(f"{number}.squeeze", x, narrow, 1, 1)
            x = ops.join(
                *(ops.conv(f"{number}.expand{side}x{side}", x, wide, side, 1) for side in (1, 3))
            )
        found[str(number)] = x
    return found


def _max_pool(x: Array) -> Array:
    ends = [(-(-(n - 3) // 2)) * 2 + 3 - n for n in x.shape[1:3]]  # torch's ceil_mode
    pad = ((0, 0), (0, ends[0]), (0, ends[1]), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pad)


def _ops(conv: Callable) -> Ops:
    """Returns what the net is made of in JAX, but for its convolutions."""
    return Ops(conv, _max_pool, lambda *branches: jnp.concatenate(branches, axis=-1))


def activations(params: Params, x: Array) -> dict[str, Array]:
    """Returns the output of every part of `features`, and "pool", the mean over places.

    Args:
        params: of `from_state_dict`.
        x: [B, H, W, 3], pixels in [0, 1] less MEAN, divided by STD; at least 17 pixels a side.

    Returns:
        By torchvision's numbers {"1": [B, h, w, 64], ..., "12": [B, h, w, 512], "pool": [B, 512]}, after the ReLU of each.
    """

    def conv(name, x, features, side, stride):
        edge = 0 if stride == 2 else side // 2
        y = jax.lax.conv_general_dilated(
            x,
            params[f"{name}.weight"],
            (stride, stride),
            [(edge, edge), (edge, edge)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(y + params[f"{name}.bias"])

    found = net(_ops(conv), x)
    return {**found, "pool": found["12"].mean(axis=(1, 2))}


def features(params: Params, x: Array, *, stats: str = "running") -> Array:
    """Returns the last fire module's output (`features.12`), averaged over places: [B, 512].

    The net has no BatchNorm, so `stats` changes nothing.
    """
    return activations(params, x)["pool"]


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns torchvision's name -> shape of every parameter of `features`."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name, x, features, side, stride):
        found[f"{name}.weight"] = (features, x.shape[-1], side, side)
        found[f"{name}.bias"] = (features,)
        return jnp.zeros((*x.shape[:-1], features))

    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    jax.eval_shape(lambda x: net(_ops(conv), x), images)
    return found


def from_state_dict(
    state_dict: Mapping[str, np.ndarray], what: str = "SqueezeNet 1.1"
) -> weights.StateDict:
    """Returns the parameters from a state dictionary of `squeezenet1_1` or of its `features`.

    Raises:
        UserError: for weights of another model.
    """
    return weights.convolutions(state_dict, shapes(), what)
