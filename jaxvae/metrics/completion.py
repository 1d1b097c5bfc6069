"""How well a conditional model completes what it is given: near the truth, and varied.

    e_k = |x - x_k|^2,   x_k ~ the model given the condition of x,   k = 1 ... K
    mean_error = mean_k e_k,   best_of_k = min_k e_k,   diversity = sum_i Var_k(x_ki), over K - 1

Squared distances are sums over pixels; given pixels are the same in all, and add nothing. A
regressor, whose completions are all equal, has diversity 0 and equal errors; a model of many
possible completions pays for them in the mean error and wins by the best of K.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxvae.errors import UserError, check_count
from jaxvae.types import Array, Batch, Model, Params, Sample, State

NAMES = ("best_of_k", "mean_error", "diversity")


def make_completions(model: Model, k: int = 10, *, stats: str = "running") -> Callable:
    """Returns `(params, state, rng, batch) -> {best_of_k, mean_error, diversity}`, each [B], for
    `metrics.likelihood.per_example`.

    Args:
        model: that samples given a condition; what it calls a sample is what is compared.
        k: draws for each condition, at least 2.
        stats: "running" or "batch".

    Raises:
        UserError: for a model that does not sample, and k below 2; when called, for batches without
            a condition.
    """
    check_count("k", k, least=2)
    if model.sample is None:
        raise UserError("this model does not sample, so it completes nothing.")
    return functools.partial(_completions, model.sample, k, stats=stats)


def _completions(
    sample: Sample, k: int, params: Params, state: State, rng: Array, batch: Batch, *, stats: str
) -> dict[str, Array]:
    if batch.cond is None:
        raise UserError("completions need a condition, which these batches do not have.")
    size = len(batch.x)
    with jax.default_matmul_precision("highest"):
        draws = jax.lax.map(
            lambda key: sample(params, state, key, size, batch.cond, stats=stats),
            jax.random.split(rng, k),
        )
    return compare(batch.x, draws)


def compare(x: Array, draws: Array) -> dict[str, Array]:
    """Returns best_of_k, mean_error and diversity, each [B], of x [B, ...] and draws [K, B, ...]."""
    pixels = tuple(range(2, draws.ndim))
    error = jnp.sum(jnp.square(draws - x), axis=pixels)
    variance = jnp.sum(jnp.var(draws, axis=0, ddof=1), axis=tuple(range(1, x.ndim)))
    values = (jnp.min(error, axis=0), jnp.mean(error, axis=0), variance)
    return dict(zip(NAMES, values, strict=True))
