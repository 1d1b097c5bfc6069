"""Assertions about trees of arrays, each of which names the leaf where it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.types import Array, Mean, Tree

TOLERANCE = 1e-4  # relative to the largest entry of an array
SMALL = 1e-6  # and absolute


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turns what goes wrong inside into an AssertionError that begins with the property's name."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        raise AssertionError(f"{name}: {kind}{error}") from error


def require(holds: Any, message: str) -> None:
    """Raises AssertionError with `message` unless `holds`."""
    if not holds:
        raise AssertionError(message)


def assert_shape(name: str, value: Array, *wanted: tuple[int, ...]) -> None:
    """Raises AssertionError unless an array has one of the shapes wanted."""
    require(
        value.shape in wanted,
        f"{name} has shape {value.shape}, must be {' or '.join(map(str, wanted))}.",
    )


def _leaves(tree: Tree) -> dict[str, np.ndarray]:
    """Returns the leaves of `tree` by path, on the host: keys as numbers, a `Mean` as its value."""

    def host(x):
        if isinstance(x, Mean):  # of no example: an objective whose turn has not come
            return np.asarray(float(x) if float(x.count) else 0.0)
        is_key = jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, Mean))
    return {jax.tree_util.keystr(path): host(x) for path, x in paths}


def _same_paths(message: str, have: dict[str, Any], want: dict[str, Any]) -> None:
    alone = sorted(have.keys() ^ want.keys())
    require(not alone, f"{message}: {alone} in one of them alone.")


def assert_form(name: str, have: Tree, want: Tree) -> None:
    """Raises AssertionError unless two trees have the same paths, shapes and types."""

    def forms(tree: Tree) -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): (x.shape, str(x.dtype)) for path, x in leaves}

    found, expected = forms(have), forms(jax.eval_shape(lambda: want))
    for path in sorted(found.keys() | expected.keys()):
        require(
            found.get(path) == expected.get(path),
            f"{name}{path} is {found.get(path, 'absent')}, but init returned "
            f"{expected.get(path, 'none')}.",
        )


def assert_finite(name: str, tree: Tree) -> None:
    """Raises AssertionError unless all values of a tree are finite."""
    for path, x in _leaves(tree).items():
        bad = int(np.sum(~np.isfinite(x.astype(np.float64))))
        require(bad == 0, f"{name}{path} has {bad} of {x.size} values that are not finite.")


def assert_same(message: str, have: Tree, want: Tree) -> None:
    """Raises AssertionError unless two trees are equal bit by bit."""
    found, expected = _leaves(have), _leaves(want)
    _same_paths(message, found, expected)
    for path, y in expected.items():
        x = found[path]
        equal = x.dtype == y.dtype and x.tobytes() == y.tobytes()
        require(equal, f"{message}: at {path or 'its value'}.")


def assert_close(message: str, have: Tree, want: Tree) -> None:
    """Raises AssertionError unless two trees are equal to rounding."""
    found, expected = _leaves(have), _leaves(want)
    _same_paths(message, found, expected)
    for path in expected:
        a, b = found[path].astype(np.float64), expected[path].astype(np.float64)
        gap, scale = (float(np.max(np.abs(x), initial=0.0)) for x in (a - b, b))
        require(
            gap <= TOLERANCE * scale + SMALL,
            f"{message}: at {path or 'its value'} by {gap:.2g}, where values reach {scale:.2g}.",
        )


def assert_repeats(message: str, have: Tree, want: Tree) -> None:
    """Raises AssertionError unless two trees are equal bit by bit; on a GPU, to rounding.

    Sums may come in any order there.
    """
    (assert_close if jax.default_backend() == "gpu" else assert_same)(message, have, want)
