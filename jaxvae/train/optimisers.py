"""The optimisers of a training, one for each parameter group: their states, and their updates."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from jaxvae.errors import UserError
from jaxvae.types import Params, Tree

Optimisers = optax.GradientTransformation | Mapping[str, optax.GradientTransformation]


def check_optimisers(tx: Any) -> None:
    """Raises `UserError` for what is no optax transformation, nor a mapping of them."""
    for each in tx.values() if isinstance(tx, Mapping) else (tx,):
        if not hasattr(each, "update"):
            raise UserError(
                f"tx must be an optax transformation such as optax.adam(1e-3), not {each!r}."
            )


def optimisers(tx: Optimisers, names: tuple[str, ...]) -> dict[str, optax.GradientTransformation]:
    """Returns the optimiser of each group: `tx` itself for every one, or its entry in a mapping.

    Raises:
        UserError: for a mapping that lacks a group.
    """
    if not isinstance(tx, Mapping):
        return dict.fromkeys(names, tx)
    if not set(tx) >= set(names):
        raise UserError(
            f"optimisers are given for {sorted(tx)}, but the objectives move {sorted(names)}."
        )
    return {name: tx[name] for name in names}


def init_optimisers(each: Mapping[str, optax.GradientTransformation], params: Params) -> Tree:
    """Returns the first state of each group's optimiser, made by one program."""

    @jax.jit
    def init(params: Params) -> Tree:
        return {name: tx.init(params[name]) for name, tx in each.items()}

    with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 counts and float32
        return init({name: params[name] for name in each})


def update(
    name: str, tx: optax.GradientTransformation, grads: Tree, opt_state: Tree, params: Tree
) -> tuple[Tree, Tree]:
    """Returns (params + u, opt_state'), where (u, opt_state') = tx.update(grads, opt_state, params).

    Args:
        name: of the parameter group.
        tx: its optimiser.
        grads, params: trees of the same shapes.
        opt_state: what `tx.init(params)` or the update before has returned.

    Raises:
        UserError: where the update fails, and the state is not of the form that `tx` makes.
    """
    with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 counts and float32
        try:
            updates, after = tx.update(grads, opt_state, params)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if _form(jax.eval_shape(tx.init, params)) == _form(opt_state):
                raise
            raise UserError(
                f"the optimiser's state of {name!r} is not of the form that the step's optimiser makes: "
                "give make_train_step the tx that init_state was given."
            ) from error
        return optax.apply_updates(params, updates), after


def _form(tree: Tree) -> tuple[Any, list[tuple[int, ...]]]:
    """Returns the structure of a tree and the shapes in it."""
    return jax.tree.structure(tree), [jax.numpy.shape(leaf) for leaf in jax.tree.leaves(tree)]
