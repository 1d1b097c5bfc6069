"""Batch statistics estimated anew: the moments that BatchNorm sees in a pass, and those of many.

A running average mixes all batches that went through a layer in training. Where those were of
several kinds (data, reconstructions, samples) it is the average of none of them, and a net that
evaluates with it may fail where it trained well. One pass with each batch's own moments, kept
instead of averaged into the old ones, and the mean over passes have no such past.

Sources: Wu & Johnson 2021 (arXiv 2105.07576), section 3 ("precise" statistics).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.errors import UserError
from jaxvae.types import Array, NetMoments, Tree

AVERAGES, SEEN = "batch_stats", "moments"  # collections of a net: its averages, and of one pass
LONG = 1e9  # passes, after which an average has forgotten how it began


def keep_moments(module: nn.Module, mean: Array, var: Array) -> None:
    """Keeps the moments of this pass beside the averages of a BatchNorm, where they are asked for."""
    if not module.is_mutable_collection(SEEN):
        return
    module.put_variable(SEEN, "mean", mean)
    module.put_variable(SEEN, "var", var)
    if module.has_variable(AVERAGES, "count"):
        module.put_variable(SEEN, "count", jnp.full((), LONG))


def of_linen(module: nn.Module) -> NetMoments:
    """Returns `Net.moments` of a Linen module: a pass as with `stats="batch"`, and the state whose
    averages are its moments, biased variances."""

    def moments(
        params: Tree, state: Tree, x: Array, /, *, cond: Array | None = None
    ) -> tuple[Array, Tree]:
        variables, mutable = {"params": params, **state}, [*state, SEEN]
        y, new = module.apply(variables, x, cond=cond, train=True, mutable=mutable)
        if AVERAGES not in state:
            return y, state
        seen = new.get(SEEN, {})
        if jax.tree.structure(seen) != jax.tree.structure(state[AVERAGES]):
            raise UserError(
                "this net's BatchNorm does not tell its moments: use jaxvae.nets.layers.BatchNorm, "
                "or evaluate with running averages: model._replace(stats='running')."
            )
        return y, {**state, AVERAGES: seen}

    return moments


def has_averages(state: Tree) -> bool:
    """Returns whether a state, of one net or of several by name, holds averages of BatchNorm."""
    return any(
        isinstance(tree, dict) and (name == AVERAGES or has_averages(tree))
        for name, tree in (state.items() if isinstance(state, dict) else ())
    )


def pool(states: Sequence[Tree]) -> Tree:
    """Returns the state whose averages are those of all values of several passes, of equal size:

        mean = 1/n sum_i mean_i,   var = 1/n sum_i [var_i + (mean_i - mean)^2],

    in float64 on the host. What is no average is that of the first.

    Args:
        states: at least one, as `Net.moments` returns them, of one net or of several by name.
    """
    first = states[0]
    if not isinstance(first, dict):
        return first
    return {
        name: _pooled([state[name] for state in states])
        if name == AVERAGES
        else pool([state[name] for state in states])
        for name in first
    }


def _pooled(layers: list[dict[str, Any]]) -> dict[str, Any]:
    first = layers[0]
    if not hasattr(first.get("mean"), "dtype"):  # a module that holds others
        return {name: _pooled([layer[name] for layer in layers]) for name in first}
    means, variances = (
        np.asarray([layer[name] for layer in layers], np.float64) for name in ("mean", "var")
    )
    mean, var = means.mean(axis=0), (variances + np.square(means - means.mean(axis=0))).mean(axis=0)
    pooled = {"mean": mean.astype(np.float32), "var": var.astype(np.float32)}
    return {**first, **pooled}
