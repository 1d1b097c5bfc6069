"""The residual nets of `jaxvae.nets.intro` in NumPy, float64, transcribed from the paper's
description: blocks of the widths 3 and 4, images of 8x4."""

import jax
import numpy as np


class Numpy:
    """The nets. Parameters are taken in the order of the layers, running averages are
    kept in `state`."""

    def __init__(self, params, state, norm, variant, train):
        self.params, self.state, self.used = params, {}, {}
        self.stats = state.get("batch_stats")
        self.norm, self.variant, self.train = norm, variant, train

    def next(self, kind):
        number = self.used[kind] = self.used.get(kind, -1) + 1
        return f"{kind}_{number}"

    def conv(self, x):
        layer = self.params[self.next("Conv")]
        kernel = layer["kernel"]
        k = kernel.shape[0]
        x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))
        return np.einsum("bhwcij,ijco->bhwo", windows, kernel) + layer.get("bias", 0.0)

    def dense(self, x):
        layer = self.params["Dense_0"]
        return x @ layer["kernel"] + layer["bias"]

    def normalise(self, x):
        if self.norm == "none":
            return x
        name = self.next("BatchNorm" if self.norm == "batch" else "GroupNorm")
        layer = self.params[name]
        if self.norm == "group":
            groups = {3: 1, 4: 4}[x.shape[-1]]
            y = x.reshape(*x.shape[:-1], groups, -1)
            mean = y.mean((1, 2, 4), keepdims=True)
            y = (y - mean) / np.sqrt(y.var((1, 2, 4), keepdims=True) + 1e-5)
            return y.reshape(x.shape) * layer["scale"] + layer["bias"]
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        n = x.size // x.shape[-1]
        old = self.stats[name]
        self.state[name] = {
            "mean": 0.9 * old["mean"] + 0.1 * mean,
            "var": 0.9 * old["var"] + 0.1 * var * n / (n - 1),
        }
        if not self.train:
            mean, var = old["mean"], old["var"]
        return (x - mean) / np.sqrt(var + 1e-5) * layer["scale"] + layer["bias"]

    def block(self, x, width):
        h = leaky(self.normalise(self.conv(x)))
        h = self.conv(h)
        skip = x if x.shape[-1] == width else self.conv(x)
        if self.variant == "intro_vae":
            return leaky(self.normalise(h + skip))
        return leaky(self.normalise(h) + skip)

    def encode(self, x, cond):
        h = pooled(leaky(self.normalise(self.conv(x))))
        h = pooled(self.block(h, 4))
        h = self.block(h, 4)
        return self.dense(np.hstack([h.reshape(len(h), -1), cond]))

    def decode(self, z, cond):
        h = np.maximum(self.dense(np.hstack([z, cond])), 0.0).reshape(len(z), 2, 1, 4)
        for width in (4, 3):
            h = self.block(h, width).repeat(2, axis=1).repeat(2, axis=2)
        return self.conv(self.block(h, 3))


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def pooled(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def doubles(tree):
    return jax.tree.map(lambda v: np.asarray(v, np.float64), tree)
