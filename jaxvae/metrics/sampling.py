"""Batches of generated images from any sampler: of JAX, NumPy, PyTorch, or a folder of files."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core

from jaxvae import parallel
from jaxvae.errors import UserError
from jaxvae.types import Array, Tree

# (rng, n, statistics of BatchNorm as the protocol names them) -> images [n, H, W, C] in [0, 1]
Sampler = Callable[[Array, int, str], Array]


class Call(NamedTuple):
    """A call of a sampler with the key of a traced number."""

    images: Any  # traced, or what the sampler has computed outside JAX
    jaxpr: Any  # number -> images where they are traced
    consts: list[Any]  # what the program closes over: parameters, or images of its own

    @property
    def is_traced(self) -> bool:
        """Whether the images are those of the program."""
        return isinstance(self.images, core.Tracer)


def finished_batches(
    sampler: Sampler,
    finish: Callable[[Array], Tree],
    *,
    batches: int,
    shape: tuple[int, ...],
    stats: str,
    seed: int,
    shardings: Tree,
) -> Iterator[Tree]:
    """Yields `finish(images)` of each batch of samples, at the matmul precision of the caller.

    Batch b has the key fold_in(key(seed), b). A sampler that is a pure function of its key is
    compiled together with `finish`; any other one is called for every batch. Two calls with a
    traced key tell which: a pure function gives the same program, with the same constants, twice.
    Where it does not (files, a generator with a state of its own, either with noise from the key),
    the two calls give the first two batches, and none is lost. A sampler that fails with a traced
    key, whose value it wants, is called again with a concrete one.

    Args:
        sampler: (rng, n, stats) -> images [n, H, W, C].
        finish: pure.
        batches: how many.
        shape: of a batch, [n, H, W, C].
        stats: BatchNorm's statistics, one of `protocols.GENERATORS`.
        seed: of the keys.
        shardings: of what `finish` returns.

    Raises:
        UserError: for images of another shape or that are not floating point, and a sampler that
            keeps values of a traced call.
    """

    def key(number: Array | np.int32 | int) -> Array:
        return jax.random.fold_in(jax.random.key(seed), number)

    def draw(rng: Array) -> Any:
        return sampler(rng, shape[0], stats)

    first = _traced(draw, key)
    second = _traced(draw, key) if first is not None and batches > 1 else first
    if first is not None and _is_pure(first, second):
        _check(first.images, shape)
        # as constants of the program, parameters would take minutes to compile
        mesh = jax.tree.leaves(shardings)[0].mesh
        consts = parallel.put(first.consts, parallel.replicated(mesh))
        compiled = jax.jit(
            lambda consts, number: finish(*core.eval_jaxpr(first.jaxpr, consts, number)),
            out_shardings=shardings,
        )
        yield from (compiled(consts, np.int32(number)) for number in range(batches))
        return

    finish = jax.jit(finish, out_shardings=shardings)
    calls = {0: first, 1: second}
    for number in range(batches):
        call = calls.pop(number, None)
        if call is None:
            images = _on_host(draw, key(number))
        elif call.is_traced:
            (images,) = core.eval_jaxpr(call.jaxpr, call.consts, np.int32(number))
        else:
            images = call.images
        # a copy: the sampler may write the next batch before this one is finished
        images = np.array(images) if hasattr(images, "__array__") else images
        _check(images, shape)
        yield finish(images)


def _traced(draw: Callable, key: Callable) -> Call | None:
    """Returns a call of `draw` with the key of a traced number, or None where it fails."""
    images = None

    def traced(number):
        nonlocal images
        images = draw(key(number))
        return [images] if isinstance(images, core.Tracer) else []

    try:
        program = jax.make_jaxpr(traced)(np.int32(0))
    except Exception:  # whatever a foreign library says to a tracer
        return None
    if any(isinstance(value, core.Tracer) for value in program.consts):
        return None  # a value that the sampler keeps of an earlier call
    # copies, as the next call may write into the same memory
    consts = [np.array(value) if _in_memory(value) else value for value in program.consts]
    images = np.array(images) if _in_memory(images) else images
    return Call(images, program.jaxpr, consts)


def _in_memory(value: Any) -> bool:
    """Returns whether a value is an array of NumPy or another library, which can change."""
    return hasattr(value, "__array__") and not isinstance(value, jax.Array)


def _is_pure(first: Call, second: Call | None) -> bool:
    """Returns whether two calls are one program of the key, with the same constants."""
    return (
        second is not None
        and first.is_traced
        and second.is_traced
        and _text(first) == _text(second)
        and all(map(_equal, first.consts, second.consts))
    )


def _text(call: Call) -> str:
    """Returns the program without the addresses of functions that it names."""
    return re.sub(r"0x[0-9a-f]+", "", str(call.jaxpr))


def _equal(a: Any, b: Any) -> bool:
    return a is b or ((a.shape, a.dtype) == (b.shape, b.dtype) and bool((a == b).all()))


def _on_host(draw: Callable, rng: Array) -> Any:
    try:
        return draw(rng)
    except jax.errors.UnexpectedTracerError:
        raise UserError(
            "the sampler keeps a JAX value of an earlier call, which was traced: compute images "
            "from rng alone, or begin the sampler with np.asarray(jax.random.key_data(rng)), and "
            "nothing it keeps is traced."
        ) from None


def _check(images: Any, shape: tuple[int, ...]) -> None:
    """Raises `UserError` unless images, traced or not, are floating point and of `shape`."""
    found, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if found != shape or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"the sampler gives {dtype} {found}, the real images are {shape[1:]}: it must give "
            f"floating point images {shape} in [0, 1]."
        )
