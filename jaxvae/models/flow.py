"""The normalising flow of affine couplings with checkerboard masks (RealNVP), with exact densities.

A coupling keeps the numbers of mask m and scales and shifts the others by what a net makes of them;
masks take turns, m = 1 where the sum of the indices of a pixel is even, and 1 - m:

    h' = m h + (1 - m) (h exp(s) + t),   (a, t) = net(m h),   s = tanh(a)
    log |det dh'/dh| = sum (1 - m) s,    h = m h' + (1 - m) (h' - t) exp(-s)

Before the couplings pixels x in [0, 1] become real numbers by a logit that keeps off both ends:

    v = (1 - alpha) x + alpha / 2,   h = log v - log(1 - v)
    log |det dh/dx| = sum log(1 - alpha) - log v - log(1 - v)

Density: log p(x) = log N(z; 0, I) + all log-determinants, of x, in nats. With dequantised pixels,
x = (byte + u) / 256, bits per dimension of bytes are -log p(x) / (n ln 2) + 8.

Sources: Dinh et al. 2017 (arXiv 1605.08803), Eqs. 7 to 9, section 3.4 (masks) and 4.1 (logit); the
course report, section 3. The report's code leaves out log(1 - alpha), 1e-5 nats a pixel, and does
not undo alpha in sampling; its text has Gaussian noise where its code draws uniform noise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import noise
from jaxvae.distributions import Normal
from jaxvae.errors import UserError, check_count, check_number, concrete
from jaxvae.models.likelihoods import check_float
from jaxvae.models.vae import use_batch
from jaxvae.types import Array, Aux, Batch, Model, Net, Objective, Params, State, Tree


class Flow(NamedTuple):
    """An invertible map of x [B, *shape] to z [B, *shape], at the matmul precision of who calls."""

    net: Net
    shape: tuple[int, ...]
    couplings: int
    alpha: float | None

    def to_latent(self, params: Params, x: Array, cond: Array | None = None) -> tuple[Array, Array]:
        """Returns z and log |det dz/dx| [B]."""
        h, log_det = x, jnp.zeros(len(x), x.dtype)
        if self.alpha is not None:
            h, log_det = _logit(x, self.alpha)
        for mask, coupling in zip(self._masks(x), params["flow"], strict=True):
            s, t = self._scale_shift(coupling, mask * h, cond)
            h = mask * h + (1 - mask) * (h * jnp.exp(s) + t)
            log_det = log_det + _sum((1 - mask) * s)
        return h, log_det

    def to_data(self, params: Params, z: Array, cond: Array | None = None) -> Array:
        """Returns the x that `to_latent` brings to z."""
        h = z
        for mask, coupling in reversed(list(zip(self._masks(z), params["flow"], strict=True))):
            s, t = self._scale_shift(coupling, mask * h, cond)
            h = mask * h + (1 - mask) * (h - t) * jnp.exp(-s)
        return h if self.alpha is None else (jax.nn.sigmoid(h) - self.alpha / 2) / (1 - self.alpha)

    def log_prob(self, params: Params, x: Array, cond: Array | None = None) -> Array:
        """Returns log p(x) [B], in nats."""
        z, log_det = self.to_latent(params, x, cond)
        return Normal(jnp.zeros_like(z), jnp.zeros((), z.dtype)).log_prob(z) + log_det

    def init(self, rng: Array, batch: Batch) -> tuple[Params, State]:
        """Returns parameters, a list with those of each coupling, and no state; raises `UserError`
        for data that they do not fit."""
        x, cond = batch
        if x.shape[1:] != self.shape:
            raise UserError(
                f"this flow is of shape {self.shape} per example, the data have {x.shape[1:]}: "
                f"build it for shape {x.shape[1:]}."
            )
        self.check(x)
        starts = [self.net.init(r, x, cond) for r in jax.random.split(rng, self.couplings)]
        if any(jax.tree.leaves(state) for _, state in starts):
            raise UserError(
                "a coupling's net must be a function of its input alone, or it has no inverse: "
                "build it without BatchNorm."
            )
        params = {"flow": [coupling for coupling, _ in starts]}
        found = jax.eval_shape(
            lambda: self.net.apply(params["flow"][0], {}, x, cond=cond, train=False)[0]
        )
        if found.shape != (len(x), 2, *self.shape):
            raise UserError(
                f"a coupling's net must return shape {(2, *self.shape)} per example, not "
                f"{found.shape[1:]}: build it for shape {self.shape}."
            )
        return params, {}

    def check(self, x: Array) -> None:
        """Raises `UserError` for concrete data that the logit cannot take."""
        check_float(x)
        if self.alpha is None or not concrete(x) or isinstance(x, jax.ShapeDtypeStruct):
            return
        values = np.asarray(x)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0.0 and high <= 1.0):
            raise UserError(
                f"the logit needs pixels in [0, 1]; these run from {low:g} to {high:g}: scale them "
                "(dequantised bytes are (byte + u) / 256), or use alpha=None for numbers of any "
                "size."
            )

    def _masks(self, x: Array) -> list[Array]:
        even = jnp.asarray(checkerboard(self.shape), x.dtype)
        return [even if i % 2 == 0 else 1 - even for i in range(self.couplings)]

    def _scale_shift(self, params: Tree, masked: Array, cond: Array | None) -> tuple[Array, Array]:
        y = self.net.apply(params, {}, masked, cond=cond, train=False)[0]
        return jnp.tanh(y[:, 0]), y[:, 1]


def flow(
    net: Net, shape: int | Sequence[int], *, couplings: int = 8, alpha: float | None = 1e-5
) -> Model:
    """Returns a flow: one objective, -log p(x), which moves the group "flow".

    `log_prob` and `sample` are at the highest matmul precision; training is at that of the run. The
    defaults are the course report's; samples of pixels are clipped to [0, 1], which the inverse
    exceeds by alpha / 2 at most.

    Args:
        net: of each coupling, with parameters of its own: x [B, ...] -> [B, 2, ...], without state
            and without noise (`nets.coupling`); takes `cond` if batches have one.
        shape: of an example: (H, W, C), or n numbers, at least 2.
        couplings: how many, at least 2, so that every number is moved.
        alpha: of the logit, in (0, 1); None: no logit, for data that are any real numbers, such as
            points or latents.

    Returns:
        A `Model` with `log_prob` and `sample`, and the metric `log_prob`, in nats.

    Raises:
        UserError: for settings out of range, images with an odd side, and shapes that are neither;
            when initialised, for data outside [0, 1] with a logit, and a net that has state or
            another shape. `log_prob` refuses such data too, where it is not traced.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    _check_shape(shape)
    check_count("couplings", couplings, least=2)
    if alpha is not None:
        check_number("alpha", alpha, above=0.0, below=1.0)
    of = Flow(net, shape, couplings, alpha)

    def loss(params, state, rng, batch: Batch, step, carry):
        value = of.log_prob(params, batch.x, batch.cond)
        return -value, Aux(state, {"log_prob": value})

    def log_prob(params, state, x, cond=None, *, stats="running"):
        use_batch(stats)
        of.check(x)
        with jax.default_matmul_precision("highest"):
            return of.log_prob(params, x, cond)

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        use_batch(stats)
        z = noise.normal(rng, (n, *shape))
        with jax.default_matmul_precision("highest"):
            x = of.to_data(params, z, cond)
        return x if alpha is None else jnp.clip(x, 0.0, 1.0)

    return Model(of.init, (Objective(("flow",), loss),), sample=sample, log_prob=log_prob)


def checkerboard(shape: tuple[int, ...]) -> np.ndarray:
    """Returns 1 where the sum of a place's indices is even, else 0, for `shape` (n,) or (H, W, C);
    all channels of a pixel have its number."""
    places = shape[:-1] if len(shape) == 3 else shape
    even = np.indices(places).sum(axis=0) % 2 == 0
    return np.broadcast_to(even[..., None] if len(shape) == 3 else even, shape).astype(np.float32)


def _logit(x: Array, alpha: float) -> tuple[Array, Array]:
    """Returns the logit of (1 - alpha) x + alpha / 2, and its log-determinant [B]."""
    low, high = (jnp.log((1 - alpha) * part + alpha / 2) for part in (x, 1 - x))  # log v, log(1-v)
    return low - high, _sum(jnp.log1p(-alpha) - low - high)


def _check_shape(shape: tuple[int, ...]) -> None:
    for side in shape:
        check_count("a side of the data", side)
    if len(shape) not in (1, 3) or shape == (1,):
        raise UserError(
            "a flow is of images (height, width, channels) or of at least two numbers, not of "
            f"shape {shape}."
        )
    if len(shape) == 3 and (shape[0] % 2 or shape[1] % 2):
        raise UserError(
            "checkerboard masks take turns at halves of an image, so its sides must be even, not "
            f"{shape[0]}x{shape[1]}: resize or pad the images."
        )


def _sum(x: Array) -> Array:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))
