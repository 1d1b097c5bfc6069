"""Parts of losses, each per example and in nats. The step alone takes means over the batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae import noise, parallel
from jaxvae.abilities import HasKLPerDim
from jaxvae.errors import UserError, check_number, unknown
from jaxvae.types import Array, Terms

COLLAPSED = 0.1  # nats of KL below which a posterior has collapsed
# a number (it may be traced), or a schedule: step -> number
Weight = float | Array | Callable[[Array], Array]


def elbo(terms: Terms) -> Array:
    """Returns the evidence lower bound [B] in nats.

        E_q[log p(x|z)] - KL(q(z|x) || p(z)) = -(rec + kl)

    Source: Kingma & Welling 2014, Eq. 3; Doersch 2016, Eq. 5.
    """
    return -(terms.rec + terms.kl)


def beta_elbo_loss(rec: Array, kl: Array, beta: Array | float = 1.0) -> Array:
    """Returns rec + beta * kl [B], to minimise; beta = 1 is the negative ELBO.

    Source: Higgins et al. 2017, Eq. 4.
    """
    return rec + beta * kl


def weight_at(weight: Weight, step: Array) -> Array:
    """Returns the value at `step` of a number or of a schedule (any optax schedule will do)."""
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules mix int32 steps and float32
        return jnp.asarray(weight(step) if callable(weight) else weight, jnp.float32)


def check_weight(name: str, weight: Weight) -> None:
    """Raises `UserError` for a concrete weight below zero; schedules are tried at step 0."""
    value = weight_at(weight, jnp.zeros((), jnp.int32)) if callable(weight) else weight
    check_number(name, value, least=0.0)


def free_bits_kl(dist: HasKLPerDim, floor: float) -> Array:
    """Returns sum_j max(KL_j, floor) [B]: each latent dimension may use `floor` nats for free.

    The per-example form of Kingma et al. 2016 (arXiv 1606.04934), Eq. 15, which takes the maximum
    after a mean over the minibatch; here no example depends on another.

    Args:
        dist: a posterior.
        floor: nats per dimension, at least 0.

    Raises:
        UserError: for a posterior without `kl_per_dim`.
    """
    check_free_bits(dist)
    return jnp.sum(jnp.maximum(dist.kl_per_dim(), floor), axis=-1)


def check_free_bits(dist: object) -> None:
    """Raises `UserError` unless a posterior has a KL per dimension (`HasKLPerDim`)."""
    if not isinstance(dist, HasKLPerDim):
        raise UserError(
            f"free bits need a KL per dimension, which {type(dist).__name__} does not have: use "
            "free_bits=0."
        )


def linear_warmup(steps: int, final: float = 1.0) -> Callable[[Array], Array]:
    """Returns the schedule final * min(1, step / steps), for beta.

    Source: Sonderby et al. 2016, KL warm-up.
    """
    check_number("warm-up steps", steps, above=0)
    return lambda step: final * jnp.minimum(1.0, step.astype(jnp.float32) / steps)


def cyclical(period: int, final: float = 1.0, ratio: float = 0.5) -> Callable[[Array], Array]:
    """Returns the schedule final * min(1, tau / ratio), for beta, where tau = (step mod period) /
    period: it rises from 0 in the first part of every cycle, and stays at `final` for the rest.

    Args:
        period: steps of one cycle, > 0.
        final: the value that it rises to.
        ratio: the part of a cycle in which it rises, in (0, 1].

    Source: Fu et al. 2019 (arXiv 1903.10145), Eqs. 6 and 7, with their linear function.
    """
    check_number("steps of a cycle", period, above=0)
    check_number("ratio", ratio, above=0.0, at_most=1.0)

    def beta(step: Array) -> Array:
        tau = (step % period).astype(jnp.float32) / period
        return final * jnp.minimum(1.0, tau / ratio)

    return beta


def collapse(kl: float, latent: str = "z") -> str | None:
    """Returns a warning if the mean KL says that the posterior has become the prior, else None."""
    if not kl < COLLAPSED:
        return None
    return (
        f"posterior collapse: KL(q({latent}|x) || p({latent})) is {kl:.2g} nats, so {latent} "
        "carries almost nothing about x. Raise beta from 0 over the first steps, give free bits "
        "(Normal posteriors), or lower beta."
    )


def floored(metrics: Mapping[str, float]) -> str | None:
    """Returns a warning if a learned gamma was at its floor in some of these steps, else None."""
    share, gamma = metrics.get("gamma_floored", 0.0), metrics.get("gamma", 0.0)
    if not share > 0.0:
        return None
    return (
        f"gamma is at its floor in {share:.0%} of the last steps (mean {gamma:.2g}): the decoder "
        "can repeat the data exactly, so the loss says nothing any more. Use more data, a smaller "
        "net, or a fixed gamma."
    )


def mmd(x: Array, y: Array, *, kernel: str = "gaussian", bandwidth: float | None = None) -> Array:
    """Returns the squared maximum mean discrepancy [] of two sets of points, >= 0.

    0 means no difference that the kernel sees.

        MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)          (all pairs, the diagonal too)

        gaussian   k(x, y) = exp(-|x - y|^2 / h),    default h = D^2    (as InfoVAE's authors' code)
        imq        k(x, y) = h / (h + |x - y|^2),    default h = 2 D    (inverse multiquadric, for N(0, I))

    Args:
        x, y: points [N, D] and [M, D].
        kernel: one of the two.
        bandwidth: h > 0, in squared units of z.

    Raises:
        UserError: for an unknown kernel, and a bandwidth that is not above 0.

    Source: Gretton et al. 2012 (JMLR 13), Eq. 5; Zhao et al. 2017 (arXiv 1706.02262); Tolstikhin et
    al. 2018 (WAE), section 4.
    """
    check_kernel(kernel, bandwidth)
    dim = x.shape[-1]
    h = (float(dim**2) if kernel == "gaussian" else 2.0 * dim) if bandwidth is None else bandwidth

    def mean_kernel(a: Array, b: Array) -> Array:
        square = jnp.sum(jnp.square(a[:, None] - b[None]), axis=-1)
        return jnp.mean(jnp.exp(-square / h) if kernel == "gaussian" else h / (h + square))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2.0 * mean_kernel(x, y)


def check_kernel(kernel: str, bandwidth: float | None) -> None:
    """Raises `UserError` for a kernel that `mmd` does not have, or a bandwidth not above 0."""
    if kernel not in ("gaussian", "imq"):
        raise unknown("kernel", kernel, ("gaussian", "imq"))
    if bandwidth is not None:
        check_number("bandwidth", bandwidth, above=0.0)


def mmd_to_prior(rng: Array, z: Array, **options: Any) -> Array:
    """Returns `mmd` [] of the global batch of z [B, D] to as many draws from N(0, I)."""
    return mmd(parallel.gather(z), parallel.gather(noise.normal(rng, z.shape, z.dtype)), **options)
