"""Spectral normalisation: weights over their largest singular value, by power iterations.

Source: Miyato et al. 2018 (arXiv 1802.05957), Algorithm 1.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvae.types import Array

SpectralNorm = bool | Literal["released"]  # "released": evaluation iterates too


def by_norm(module: nn.Module, kernel: Array, kind: SpectralNorm, train: bool) -> Array:
    """Returns W / (u' W v), W [rows, outputs], whose largest singular value is about 1; W itself
    where `kind` is False.

    The vectors u and v are state. A training pass does one power iteration, v = W'u / |W'u|, u = Wv
    / |Wv|, without gradient, and keeps them; an evaluation uses those that are kept. With
    "released", as the two-stage VAE's code and others of TensorFlow's time have it, an evaluation
    does one more iteration, from those that are kept.

    Source: Miyato et al. 2018, Algorithm 1.
    """
    if not kind:
        return kernel
    matrix = kernel.reshape(-1, kernel.shape[-1])
    rows, outputs = matrix.shape
    u = module.variable(
        "spectral_norm", "u", lambda: jax.random.normal(module.make_rng("params"), (rows,))
    )
    v = module.variable("spectral_norm", "v", lambda: jnp.zeros((outputs,)))

    def unit(x):
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x)), 1e-12))

    is_kept = train or module.is_initializing()  # stored vectors are of use from the first step
    left, right = u.value, v.value
    if is_kept or kind == "released":
        fixed = jax.lax.stop_gradient(matrix)
        right = unit(fixed.T @ left)
        left = unit(fixed @ right)
    if is_kept:
        u.value, v.value = left, right
    return kernel / (left @ matrix @ right)
