"""The style-based nets of `jaxvae.nets.style` in NumPy, float64, transcribed from the description of the
released code: convolutions at full size, then means; pixels made 2x2, then convolutions."""

import numpy as np


def conv(x, kernel):
    """Returns a convolution that keeps the size, padded with zeros."""
    k = kernel.shape[0]
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel)


def halved(x):
    return 0.25 * sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))


def doubled(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def blur(x):
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    return np.concatenate(
        [conv(x[..., c : c + 1], kernel[:, :, None, None]) for c in range(x.shape[-1])], axis=-1
    )


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def norm(x, epsilon):
    mean, var = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    return (x - mean) / np.sqrt(var + epsilon)


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def from_rgb(params, x, side):
    layer = params[f"from_rgb_{side}"]
    return leaky(leaky(conv(x, layer["kernel"]) + layer["bias"]))


def encode(params, x, blend=None):
    """Returns the outputs [B, 2 D] for images in [0, 1]."""
    x = 2 * x - 1
    side = top = x.shape[1]
    h, w = from_rgb(params, x, side), 0.0
    while side >= 4:
        block, part = params[f"block_{side}"], 0.0
        h = leaky(conv(h, block["conv_1"]["kernel"]) + block["bias_1"])
        part = dense(np.hstack([h.mean((1, 2)), h.std((1, 2))]), block["style_1"])
        h = conv(blur(norm(h, 1e-5)), block["conv_2"]["kernel"])
        h = leaky(halved(h) + block["bias_2"])
        part = part + dense(np.hstack([h.mean((1, 2)), h.std((1, 2))]), block["style_2"])
        h = norm(h, 1e-5)
        if side == top and blend is not None:
            h = (1 - blend) * from_rgb(params, halved(x), side // 2) + blend * h
            part = blend * part
        w, side = w + part, side // 2
    for i in range(3):
        w = leaky(dense(w, params[f"mapping_{i}"]))
    return w


def styles(params, z):
    w = z / np.sqrt((z**2).mean(axis=-1, keepdims=True) + 1e-8)
    for i in range(sum(name.startswith("mapping") for name in params)):
        w = leaky(dense(w, params[f"mapping_{i}"]))
    return w


def to_rgb(params, x, side):
    layer = params[f"to_rgb_{side}"]
    return conv(x, layer["kernel"]) + layer["bias"]


def decode(params, w, top, blend=None, noise=None, still="zero"):
    """Returns images in [0, 1] of styles w [B, rows, D]; noise is [B, 2 (4^2 + 8^2 + ...)]."""
    h = np.broadcast_to(params["const"], (len(w), *params["const"].shape))
    side, number, at, before = 4, 0, 0, None
    while side <= top:
        block = params[f"block_{side}"]
        if side == top and blend is not None:
            before = doubled(to_rgb(params, h, side // 2))
        for i in (1, 2):
            if number or i == 2:
                h = conv(doubled(h) if i == 1 else h, block[f"conv_{i}"]["kernel"])
                h = blur(h) if i == 1 else h
            if noise is not None:
                drawn = noise[:, at : at + side * side].reshape(-1, side, side, 1)
                h, at = h + drawn * block[f"noise_{i}"], at + side * side
            elif still == "released":
                t = np.sqrt(number + 1)
                h = h + 0.8 * t * np.exp(-h * h / (2 * t * t)) / np.sqrt(2 * np.pi)
            h = norm(leaky(h + block[f"bias_{i}"]), 1e-8)
            a, b = np.split(dense(w[:, 2 * number + i - 1], block[f"modulation_{i}"]), 2, axis=-1)
            h = h * (1 + a[:, None, None]) + b[:, None, None]
        side, number = 2 * side, number + 1
    y = to_rgb(params, h, top)
    y = y if before is None else (1 - blend) * before + blend * y
    return (y + 1) / 2
