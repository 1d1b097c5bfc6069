"""LORD's nets of `jaxvae.nets.translation` in NumPy, float64, transcribed from the description of
the released code: images of 8x4 whose sides are halved once, with torch's or TensorFlow's slope and
instance norm."""

import numpy as np

SLOPES = {"torch": 0.01, "tensorflow": 0.3}


def leaky(x, convention):
    return np.where(x > 0, x, SLOPES[convention] * x)


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def conv(layer, x, stride=1):
    """Cross-correlation with (k - 1) // 2 zeros before each side and as many as are needed after."""
    kernel = layer["kernel"]
    k = kernel.shape[0]
    edge = (k - 1) // 2
    x = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel) + layer["bias"]


def encode(params, x, convention="torch"):
    """Conv k7, conv k4 of stride 2, two dense layers, one linear layer."""
    h = leaky(conv(params["Conv_0"], x), convention)
    h = leaky(conv(params["Conv_1"], h, 2), convention)
    h = h.reshape(len(h), -1)
    for name in ("Dense_0", "Dense_1"):
        h = leaky(dense(params[name], h), convention)
    return dense(params["Dense_2"], h)


def adain(layer, x, code, convention):
    modulation = dense(layer["Dense_0"], code).reshape(len(x), 1, 1, x.shape[-1], 2)
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    if convention == "torch":
        x = (x - mean) / np.sqrt(variance + 1e-5)
    else:
        x = (x - mean) / (np.sqrt(variance) + 1e-7)
    return modulation[..., 1] * x + modulation[..., 0]


def decode(params, z, content_dim, small, convention="torch"):
    """Three dense layers, one doubling with conv k3 and AdaIN, conv k5, conv k7, sigmoid."""
    h, code = z[:, :content_dim], z[:, content_dim:]
    for i in range(3):
        h = leaky(dense(params[f"Dense_{i}"], h), convention)
    h = h.reshape(len(h), *small, -1).repeat(2, axis=1).repeat(2, axis=2)
    h = leaky(conv(params["Conv_0"], h), convention)
    h = adain(params["AdaIN_0"], h, code, convention)
    h = leaky(conv(params["Conv_1"], h), convention)
    return 1.0 / (1.0 + np.exp(-conv(params["Conv_2"], h)))
