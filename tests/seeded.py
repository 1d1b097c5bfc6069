"""Weights and images that are the same everywhere, without keeping them: drawn from a name's own
stream of bits."""

import importlib.util
import math
import zlib

import numpy as np

TORCH = all(importlib.util.find_spec(name) for name in ("torch", "torchvision", "pytorch_fid"))


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns standard normal float32 values that depend on name and shape alone (Box and
    Muller)."""
    count = math.prod(shape)
    raw = np.random.Philox(zlib.crc32(name.encode())).random_raw(2 * count)
    u, v = (raw[:count] + 0.5) / 2.0**64, raw[count:] / 2.0**64
    return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).astype(np.float32).reshape(shape)


def state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns weights for these names and shapes under which signals neither vanish nor explode."""
    found = {}
    for name, shape in shapes.items():
        draw, last = normal(name, shape), name.rsplit(".", 1)[-1]
        if last == "running_var":
            found[name] = np.float32(0.6) + np.abs(draw)
        elif last in ("running_mean", "bias"):
            found[name] = np.float32(0.1) * draw
        elif len(shape) == 1:  # scale of BatchNorm
            found[name] = 1 + np.float32(0.1) * draw
        else:
            found[name] = np.float32(math.sqrt(2 / math.prod(shape[1:]))) * draw
    return found


def images(shape: tuple[int, ...]) -> np.ndarray:
    """Returns images [B, C, H, W] in [0, 1], whole bytes: waves of many lengths and some noise."""
    batch, channels, height, width = shape
    i = np.arange(batch * channels).reshape(batch, channels, 1, 1)
    y, x = np.arange(height).reshape(-1, 1) / height, np.arange(width) / width
    waves = np.sin((3 + i) * x * 4 + i) * np.cos((2 + i) * y * 5) + 0.3 * normal("images", shape)
    return np.round(np.clip(0.5 + 0.35 * waves, 0, 1) * 255).astype(np.float32) / np.float32(255)


def points(x: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` of the values of x, spread over it."""
    return x.reshape(-1)[np.linspace(0, x.size - 1, count).astype(int) // 7 * 7]


def nhwc(x: np.ndarray) -> np.ndarray:
    """Returns images [B, C, H, W] as [B, H, W, C]."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))
