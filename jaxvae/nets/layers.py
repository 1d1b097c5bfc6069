"""Layers that the papers' nets share, and `from_linen`, which turns a Linen module into a `Net`.

Initialisers have the names of the frameworks that the papers used:

| name       | weights                                    | biases                       |
| ---------- | ------------------------------------------ | ---------------------------- |
| torch      | U(+-1/sqrt(fan_in))                        | U(+-1/sqrt(fan_in))          |
| glorot     | U(+-sqrt(6 / (fan_in + fan_out)))          | 0 (TensorFlow, Keras)        |
| xavier     | the same, as torch calls it                | 0 (rho-VAE, Soft-IntroVAE)   |
| normal0.02 | N(0, 0.02^2)                               | 0 (DCGAN, InfoGAN)           |
| cut0.02    | the same, cut at two standard deviations   | 0 (InfoGAN's convolutions)   |

For a transposed convolution torch counts fan_in from the *output* channels.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError

from jaxvae import noise, parallel
from jaxvae.errors import UserError, check_count, unknown
from jaxvae.nets.modules import check_module, fitting
from jaxvae.nets.moments import keep_moments, of_linen
from jaxvae.nets.spectral import SpectralNorm, by_norm
from jaxvae.types import Array, Net, Tree

INITIALISERS = ("torch", "glorot", "xavier", "normal0.02", "cut0.02")
ACTIVATIONS = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "elu": nn.elu,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
    "leaky_relu": lambda x: nn.leaky_relu(x, 0.2),
    "identity": lambda x: x,
}


def activation(name: str) -> Any:
    """Returns the activation called `name`; "leaky_relu" has the slope 0.2 of the papers."""
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def check_init(name: str) -> None:
    """Raises `UserError` for an initialiser that is not in `INITIALISERS`."""
    if name not in INITIALISERS:
        raise unknown("initialiser", name, INITIALISERS)


def _weights(name: str, fan_in: int, fan_out: int) -> tuple[Any, Any]:
    """Returns the initialisers of kernel and bias."""
    check_init(name)

    def symmetric(bound):
        def draw(rng, shape, dtype=jnp.float32):
            return jax.random.uniform(rng, shape, dtype, -bound, bound)

        return draw

    def truncated(rng, shape, dtype=jnp.float32):
        return 0.02 * jax.random.truncated_normal(rng, -2.0, 2.0, shape, dtype)

    if name == "torch":
        uniform = symmetric(1.0 / math.sqrt(fan_in))
        return uniform, uniform
    if name == "cut0.02":
        return truncated, nn.initializers.zeros
    if name == "normal0.02":
        return nn.initializers.normal(0.02), nn.initializers.zeros
    return symmetric(math.sqrt(6.0 / (fan_in + fan_out))), nn.initializers.zeros


def param(module: nn.Module, name: str, draw: Any, shape: tuple[int, ...]) -> Array:
    """Returns the parameter `name` of a Linen module, drawn as `draw(rng, shape)` at first.

    Flax's own `param` traces the initialiser at every use, only to know its shape.

    Raises:
        ScopeParamShapeError: for a parameter of another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, draw, shape)
    value = module.get_variable("params", name)
    if value.shape != shape:
        raise ScopeParamShapeError(name, "/".join(module.path), value.shape, shape)
    return value


class Dense(nn.Module):
    """x W + b over the last axis: [B, n] -> [B, features].

    With `spectral_norm` W is divided by its largest singular value, by the vectors that training
    keeps, or with "released" by those of one more power iteration in evaluation.
    """

    features: int
    init_name: str = "torch"
    dtype: Any = jnp.float32
    spectral_norm: SpectralNorm = False

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        kernel_init, bias_init = _weights(self.init_name, x.shape[-1], self.features)
        kernel = param(self, "kernel", kernel_init, (x.shape[-1], self.features))
        kernel = by_norm(self, kernel, self.spectral_norm, train)
        bias = param(self, "bias", bias_init, (self.features,))
        return jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype)) + bias.astype(self.dtype)


def conv_transpose(x: Array, kernel: Array, stride: int, padding: Any) -> Array:
    """Returns the transposed convolution of x [B, H, W, C] with kernel [k, k, C, O].

    The value is that of `jax.lax.conv_transpose`. The gradients are written as those of the
    convolution that it is the transpose of: XLA on CPU computes the kernel's own tens of times
    slower. Reverse mode only.
    """
    return _conv_transpose(x, kernel, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_transpose(x, kernel, stride, padding):
    return jax.lax.conv_transpose(x, kernel, (stride, stride), padding, dimension_numbers=_NHWC)


def _conv_transpose_forward(x, kernel, stride, padding):
    return _conv_transpose(x, kernel, stride, padding), (x, kernel)


def _conv_transpose_backward(stride, padding, residuals, g):
    x, kernel = residuals
    k = kernel.shape[0]
    if padding == "SAME":  # as jax.lax counts it, on the dilated input
        before = k - 1 if stride > k - 1 else -(-(k + stride - 2) // 2)
    else:
        before = k - 1 if padding == "VALID" else padding[0][0]
    low = k - 1 - before
    pads = [
        (low, (n - 1) * stride + k - low - m)
        for n, m in zip(x.shape[1:3], g.shape[1:3], strict=True)
    ]

    def conv(g, turned):
        return jax.lax.conv_general_dilated(
            g, turned, (stride, stride), pads, dimension_numbers=_NHWC
        )

    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    dx, back = conv(g, turned), jax.vjp(lambda w: conv(g, w), turned)[1]
    return dx, back(x)[0].swapaxes(2, 3)[::-1, ::-1]


_conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)
_NHWC = ("NHWC", "HWIO", "NHWC")


class Conv(nn.Module):
    """A square convolution, or with `transposed` its transpose: [B, H, W, C] -> [B, H', W',
    features].

    `padding` is "SAME", "VALID" or one number for all sides; with "SAME" sides become ceil(side /
    stride), or side * stride when transposed (the amounts of TensorFlow; for even sides torch's k4
    s2 p1 is the same). With `spectral_norm` the kernel, as a matrix [k k channels, features], is
    divided by its largest singular value, as in `Dense`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: str | int = "SAME"
    transposed: bool = False
    use_bias: bool = True
    init_name: str = "torch"
    dtype: Any = jnp.float32
    spectral_norm: SpectralNorm = False

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        k, channels, taps = self.kernel_size, x.shape[-1], self.kernel_size**2
        fan_in, fan_out = channels * taps, self.features * taps
        if self.transposed and self.init_name == "torch":
            fan_in, fan_out = fan_out, fan_in
        kernel_init, bias_init = _weights(self.init_name, fan_in, fan_out)
        kernel = param(self, "kernel", kernel_init, (k, k, channels, self.features))
        kernel = by_norm(self, kernel, self.spectral_norm, train)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        pad = self.padding
        if not isinstance(pad, str):
            # torch's padding p of a transposed convolution pads the dilated input by k - 1 - p
            pad = k - 1 - pad if self.transposed else pad
            pad = ((pad, pad), (pad, pad))
        if self.transposed:
            x = conv_transpose(x, kernel, self.stride, pad)
        else:
            x = jax.lax.conv_general_dilated(
                x, kernel, (self.stride, self.stride), pad, dimension_numbers=_NHWC
            )
        if not self.use_bias:
            return x
        return x + param(self, "bias", bias_init, (self.features,)).astype(self.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with the moments of the global batch.

    Normalises with the biased variance in training. Running averages, by `convention`:
    "torch": `momentum` 0.1 of the new value, unbiased variance, starting at mean 0, variance 1;
    "tensorflow": biased variance, zero-debiased averages (divided by 1 - (1 - momentum)^t). The
    scale starts at 1, or with `uniform_scale` at U(0, 1), as PyTorch before 1.2 drew it.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    convention: str = "torch"
    uniform_scale: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train: bool):
        if self.convention not in ("torch", "tensorflow"):
            raise unknown("BatchNorm convention", self.convention, ("torch", "tensorflow"))
        torch, channels = self.convention == "torch", (x.shape[-1],)
        start = jnp.ones if torch else jnp.zeros
        running_mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(channels))
        running_var = self.variable("batch_stats", "var", lambda: start(channels))
        count = None if torch else self.variable("batch_stats", "count", lambda: jnp.zeros(()))
        drawn = jax.random.uniform if self.uniform_scale else nn.initializers.ones
        scale = param(self, "scale", drawn, channels)
        bias = param(self, "bias", nn.initializers.zeros, channels)
        x = x.astype(jnp.float32)
        if train:
            axes, n = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1]) * parallel.axis_size()
            if n < 2:
                raise UserError(
                    "BatchNorm in training needs more than one value per channel: use a larger "
                    "batch."
                )
            mean = parallel.mean(jnp.mean(x, axes))
            var = parallel.mean(jnp.mean(jnp.square(x - mean), axes))
            if not self.is_initializing():
                keep = 1.0 - self.momentum
                running_mean.value = keep * running_mean.value + self.momentum * mean
                running_var.value = keep * running_var.value + self.momentum * (
                    var * n / (n - 1) if torch else var
                )
                if count is not None:
                    count.value = count.value + 1.0
                keep_moments(self, mean, var)
        else:
            mean, var = running_mean.value, running_var.value
            if count is not None:
                seen = 1.0 - (1.0 - self.momentum) ** count.value
                mean = jnp.where(seen > 0, mean / jnp.maximum(seen, 1e-30), 0.0)
                var = jnp.where(seen > 0, var / jnp.maximum(seen, 1e-30), 1.0)
        y = (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(self.dtype)


def tf_batch_norm(dtype: Any) -> BatchNorm:
    """Returns BatchNorm as in the two-stage VAE's code: TensorFlow's averages, decay 0.999."""
    return BatchNorm(momentum=0.001, convention="tensorflow", dtype=dtype)


class Dropout(nn.Module):
    """Zeroes each value with probability `rate` in training and scales the rest by 1 / (1 - rate).

    Without an rng it returns x: evaluation with `stats="batch"` wants BatchNorm's moments, not
    dropout. Its mask is drawn for the global batch, unlike Linen's own under `pmap`.
    """

    rate: float

    @nn.compact
    def __call__(self, x, *, train: bool):
        if not train or self.rate == 0.0 or not self.has_rng("dropout"):
            return x
        keep = noise.uniform(self.make_rng("dropout"), x.shape) >= self.rate
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


SCALES = ("logvar", "log_sd", "softplus")


def log_variance(outputs: Array, dims: int, scale: str) -> Array:
    """Returns an encoder's outputs [B, n] with the last `dims` of them made log-variances.

    "logvar": they are; "log_sd": logvar = 2 v; "softplus": logvar = 2 log(1e-6 + log(1 + e^v)).
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    if scale == "logvar":
        return outputs
    rest, v = outputs[:, :-dims], outputs[:, -dims:]
    log_sd = v if scale == "log_sd" else jnp.log(1e-6 + nn.softplus(v))
    return jnp.concatenate([rest, 2.0 * log_sd], axis=-1)


def join(x: Array, cond: Array | None) -> Array:
    """Returns x [B, n] with cond [B, m] beside it: [B, n + m]; x itself without a condition."""
    if cond is None:
        return x
    if jnp.ndim(cond) != 2 or len(cond) != x.shape[0]:
        raise UserError(
            f"cond must be [batch, n], not shape {jnp.shape(cond)} for a batch of {x.shape[0]}: make "
            "labels one-hot with jax.nn.one_hot(label, classes)."
        )
    return jnp.concatenate([x, cond.astype(x.dtype)], axis=-1)


def check_shape(net: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Returns the shape (H, W, C) of an image; raises `UserError` for what is none."""
    shape = tuple(shape)
    if len(shape) != 3:
        raise UserError(f"the {net} net needs images (height, width, channels), not shape {shape}.")
    for side in shape:
        check_count("a side of the image", side)
    return shape


def check_images(
    net: str,
    shape: Sequence[int],
    latent_dim: int,
    heads: Sequence[int] | None,
    output: str,
    *,
    multiple: int,
) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Returns shape and heads as tuples; raises `UserError` for what no such net has."""
    shape = height, width, _ = check_shape(net, shape)
    if height % multiple or width % multiple:
        raise UserError(
            f"the {net} net takes images whose sides {multiple} divides, not {height}x{width}: "
            "resize them."
        )
    check_count("latent_dim", latent_dim)
    heads = (latent_dim, latent_dim) if heads is None else tuple(heads)
    for head in heads:
        check_count("a head's width", head)
    if output not in ("sigmoid", "logits"):
        raise UserError(
            "output must be 'sigmoid' (Gaussian likelihood) or 'logits' (Bernoulli), not "
            f"{output!r}."
        )
    return shape, heads


def from_linen(module: nn.Module) -> Net:
    """Returns `module` as a `Net` of pure functions.

    Args:
        module: its `__call__(x, *, cond=None, train)` returns one array. Collections other than
            "params" become the state (BatchNorm averages, power iterations); the rng given to
            `apply` is the stream "dropout".

    Raises:
        UserError: for what is no such module; from `apply`, for parameters of a net of another size.
    """
    check_module(module)

    @jax.jit  # one program, without the forward pass, whose outputs nobody reads
    def init(rng: Array, x: Array, cond: Array | None = None) -> tuple[Tree, Tree]:
        variables = dict(module.init({"params": rng, "dropout": rng}, x, cond=cond, train=True))
        return variables.pop("params", {}), variables

    def apply(
        params: Tree,
        state: Tree,
        x: Array,
        *,
        cond: Array | None = None,
        rng: Array | None = None,
        train: bool,
    ) -> tuple[Array, Tree]:
        variables, mutable = {"params": params, **state}, list(state) if train else []
        rngs = None if rng is None else {"dropout": rng}
        with fitting(x, cond):
            y, new = module.apply(variables, x, cond=cond, train=train, rngs=rngs, mutable=mutable)
        return y, dict(new) if mutable else state

    return Net(init, apply, of_linen(module))
