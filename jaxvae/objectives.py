"""Parts of losses, each per example and in nats. Means over the batch are taken in `train.py` alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxvae.distributions import Distribution
from jaxvae.errors import UserError, check_number
from jaxvae.types import Array, Terms

COLLAPSED = 0.1   # nats of KL below which a posterior has collapsed
Weight = float | Array | Callable[[Array], Array]   # a number (it may be traced), or a schedule: step -> number

def elbo(terms: Terms) -> Array:
    """Returns the evidence lower bound [B] in nats: E_q[log p(x|z)] - KL(q(z|x) || p(z)) = -(rec + kl).

    Source: Kingma & Welling 2014, Eq. 3; Doersch 2016, Eq. 5.
    """
    return -(terms.rec + terms.kl)

def beta_elbo_loss(rec: Array, kl: Array, beta: Array | float = 1.0) -> Array:
    """Returns rec + beta * kl [B], to minimise; beta = 1 is the negative ELBO (Higgins et al. 2017, Eq. 4)."""
    return rec + beta * kl

def weight_at(weight: Weight, step: Array) -> Array:
    """Returns the value at `step` of a number or of a schedule (any optax schedule will do)."""
    with jax.numpy_dtype_promotion("standard"):   # optax's schedules mix int32 steps and float32
        return jnp.asarray(weight(step) if callable(weight) else weight, jnp.float32)

def check_weight(name: str, weight: Weight) -> None:
    """Raises `UserError` for a concrete weight below zero; schedules are tried at step 0."""
    check_number(name, weight_at(weight, jnp.zeros((), jnp.int32)) if callable(weight) else weight, least=0.0)

def free_bits_kl(dist: Distribution, floor: float) -> Array:
    """Returns sum_j max(KL_j, floor) [B]: each latent dimension may use `floor` nats for free.

    The per-example form of Kingma et al. 2016 (arXiv 1606.04934), Eq. 15, which takes the maximum
    after a mean over the minibatch; here no example depends on another.

    Args:
        dist: a posterior with `kl_per_dim() -> [B, D]`.
        floor: nats per dimension, at least 0.
    Raises:
        UserError: where the posterior has no divergence per dimension.
    """
    if not hasattr(dist, "kl_per_dim"):
        raise UserError(f"free bits need a KL per dimension, which {type(dist).__name__} does not have: use free_bits=0.")
    return jnp.sum(jnp.maximum(dist.kl_per_dim(), floor), axis=-1)

def linear_warmup(steps: int, final: float = 1.0) -> Callable[[Array], Array]:
    """Returns the schedule final * min(1, step / steps), for beta (Sonderby et al. 2016, KL warm-up)."""
    check_number("warm-up steps", steps, above=0)
    return lambda step: final * jnp.minimum(1.0, step.astype(jnp.float32) / steps)

def collapse(kl: float, latent: str = "z") -> str | None:
    """Returns a warning where the mean KL says that the posterior has become the prior, else None."""
    if not kl < COLLAPSED:
        return None
    return (f"posterior collapse: KL(q({latent}|x) || p({latent})) is {kl:.2g} nats, so {latent} carries almost nothing about "
            f"x. Raise beta from 0 over the first steps, give free bits, or lower beta.")
