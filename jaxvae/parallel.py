"""One step on many devices: `jit` over a mesh, or `pmap` for users who want the mapped form.

Both compute what one device would: noise is drawn for the global batch (`noise`), BatchNorm and
gradients see the global batch (`mean` below). Inside `pmap` the mapped axis is called `AXIS`;
outside, the collectives here do nothing, so the same code runs everywhere.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvae.errors import UserError, check_count
from jaxvae.types import Array, Tree

AXIS = "devices"
_alone = contextvars.ContextVar("alone", default=False)  # inside `alone`


# ---- inside a step -------------------------------------------------------------------------


def axis_size() -> int:
    """Returns the number of devices of the mapped axis: 1 outside `pmap`."""
    if _alone.get():
        return 1
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:
        return 1


def mean(tree: Tree) -> Tree:
    """Returns the mean of `tree` over the devices of the mapped axis; outside `pmap` the tree."""
    return tree if axis_size() == 1 else jax.lax.pmean(tree, AXIS)


def total(tree: Tree) -> Tree:
    """Returns the sum of `tree` over the devices of the mapped axis; outside `pmap` the tree."""
    return tree if axis_size() == 1 else jax.lax.psum(tree, AXIS)


def gather(x: Array) -> Array:
    """Returns the global batch [B, ...] of which `x` is this device's slice, for coupled losses."""
    return x if axis_size() == 1 else jax.lax.all_gather(x, AXIS, tiled=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Makes each device of the mapped axis compute what is called inside as if it were the only one,
    `axis_size() == 1`: nets that pass a whole batch (`gather`) on every device, whose noise and moments
    are then not cut or added up once more. Call no jitted function inside: its trace may be another
    place's."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def whole_batch(draw: Callable[[Array, int], Array]) -> Callable[[Array, int], Array]:
    """Returns (rng, n) -> x [n, ...] that draws for the global batch on every device of the mapped
    axis, and returns this device's slice; outside `pmap` it is `draw`.

    For data of which a row depends on its place, or that are not drawn from `noise`. `draw` is plain, not
    jitted: a trace of it that another place has made is of other rows.
    """

    def slice_of_draw(rng: Array, n: int) -> Array:
        devices = axis_size()
        if devices == 1:
            return draw(rng, n)
        with alone():
            x = draw(rng, n * devices)
        return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * n, n)

    return slice_of_draw


# ---- jit over a mesh -----------------------------------------------------------------------


def make_mesh(devices: Iterable[Any] | None = None) -> Mesh:
    """Returns a one-dimensional mesh over `devices` (default: every device of every process)."""
    devices = jax.devices() if devices is None else list(devices)
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def mesh_for(batch_size: int) -> Mesh:
    """Returns a mesh over as many devices as divide a batch: 100 examples cannot be cut over 8, but
    over 5."""
    counts = range(jax.device_count(), 0, -1)
    return make_mesh(jax.devices()[: next(n for n in counts if batch_size % n == 0)])


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of parameters and resident data: whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding of a batch: cut along `axis`, a slice for each device."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), AXIS))


def put(tree: Tree, sharding: NamedSharding) -> Tree:
    """Returns `tree` placed by `sharding`; every process passes the same global values."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def place(x):
        if getattr(x, "sharding", None) == sharding:
            return x
        if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key):
            data = place(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def shapes(tree: Tree, sharding: jax.sharding.Sharding) -> Any:
    """Returns the shapes and types of `tree` as if `sharding` had placed it: a template, or what to
    trace with."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def local_rows(sharding: NamedSharding, size: int) -> slice:
    """Returns the rows of a global batch of `size` that this process's devices hold under
    `sharding`, which cuts axis 0."""
    indices = sharding.addressable_devices_indices_map((size,)).values()
    bounds = [index[0].indices(size) for index in indices if index is not None]
    return slice(min(start for start, _, _ in bounds), max(stop for _, stop, _ in bounds))


def put_rows(tree: Tree, sharding: NamedSharding, size: int) -> Tree:
    """Returns global arrays placed by `sharding`, of which each process passes only its
    `local_rows` of `size`.

    `sharding` is `batch_sharded(mesh, axis)`; the rows are those of that axis.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    axis = len(sharding.spec) - 1
    by_rows = NamedSharding(sharding.mesh, PartitionSpec(AXIS))
    first = local_rows(by_rows, size).start

    def place(x):
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])

        def piece(index):
            start, stop, _ = index[axis].indices(size)
            return x[(*index[:axis], slice(start - first, stop - first))]

        return jax.make_array_from_callback(shape, sharding, piece)

    return jax.tree.map(place, tree)


# Of a device's memory that resident data may take whole; larger ones are cut over the devices.
SHARE = 1 / 8


def is_cut(arrays: Tree, mesh: Mesh) -> bool:
    """Returns whether resident data are cut over the devices of a mesh, for whole on each they would
    take more than `SHARE` of its memory, where that is known."""
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    size = sum(x.nbytes for x in jax.tree.leaves(arrays))
    return mesh.size > 1 and limit is not None and size > SHARE * limit


def resident(arrays: Tree, mesh: Mesh) -> Tree:
    """Returns data [n, ...] on the devices: whole on each, or where `is_cut` says so a part on each,
    with rows of zeros behind them for equal parts.

    A jitted step gathers from either by the same indices; of parts every device sends its rows of the
    batch to the others, which costs the bytes of a batch each step, not those of the data.
    """
    if not is_cut(arrays, mesh):
        return put(arrays, replicated(mesh))

    def padded(x):
        return np.pad(x, [(0, -len(x) % mesh.size), *[(0, 0)] * (x.ndim - 1)])

    return put(jax.tree.map(padded, arrays), batch_sharded(mesh))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises `UserError` unless `batch_size` can be cut into equal slices over `mesh`."""
    check_count("batch_size", batch_size)
    if batch_size % mesh.size:
        near = max(mesh.size, round(batch_size / mesh.size) * mesh.size)
        raise UserError(
            f"batch_size {batch_size} cannot be cut into equal slices over {mesh.size} devices: "
            f"use {near}, or fewer devices."
        )


def jit_step(step: Callable, mesh: Mesh | None = None, *, donate: bool = True) -> Callable:
    """Returns `step(train_state, batch)` compiled over `mesh`: state replicated, batch cut.

    Args:
        step: what `train.make_train_step` returned.
        mesh: default: all devices.
        donate: reuse the memory of the state passed in, which must then not be used again.

    Raises:
        UserError: when called, for a batch that cannot be cut into equal slices.
    """
    mesh = make_mesh() if mesh is None else mesh
    on_each, by_rows = replicated(mesh), batch_sharded(mesh)
    compiled = jax.jit(
        step,
        in_shardings=(on_each, by_rows),
        out_shardings=(on_each, on_each),
        donate_argnums=0 if donate else (),
    )

    def check(batch: Tree) -> None:
        for x in jax.tree.leaves(batch):
            if np.ndim(x) and len(x) % mesh.size:
                check_batch(len(x), mesh)

    return _after(check, compiled)


def _after(check: Callable[[Tree], None], compiled: Any) -> Callable:
    """Returns `compiled`, with all that it has, such as `lower`, after a check of the batch."""

    @functools.wraps(compiled)
    def step(train_state: Tree, batch: Tree) -> Any:
        check(batch)
        return compiled(train_state, batch)

    vars(step).update({k: getattr(compiled, k) for k in dir(compiled) if not k.startswith("__")})
    return step


def pmap_step(step: Callable, devices: list[Any] | None = None) -> Callable:
    """Returns `step` in pmapped form: `(train_state, batch [devices, B / devices, ...]) ->
    (train_state, metrics)`.

    The state goes in and comes out whole (it is the same on every device, and needs no replicating
    by hand); metrics are of the global batch. `shard(batch, n)` cuts a batch. Losses, noise and
    BatchNorm see the global batch, so the result is that of one device, up to rounding.
    """
    count = jax.local_device_count() if devices is None else len(devices)
    compiled = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices)

    def check(batch: Tree) -> None:
        for x in jax.tree.leaves(batch):
            if np.ndim(x) < 2 or len(x) > count:
                raise UserError(
                    f"a pmapped step takes [devices, B / devices, ...], at most {count} devices, not "
                    f"shape {np.shape(x)}: cut the batch with parallel.shard(batch, {count})."
                )

    return _after(check, compiled)


def shard(batch: Tree, devices: int) -> Tree:
    """Returns `batch [B, ...]` cut for `pmap_step`: [devices, B / devices, ...].

    Raises:
        UserError: where B is not a multiple of `devices`.
    """

    def slices(x):
        if x.shape[0] % devices:
            raise UserError(
                f"a batch of {x.shape[0]} cannot be cut into equal slices over {devices} devices."
            )
        return x.reshape(devices, x.shape[0] // devices, *x.shape[1:])

    return jax.tree.map(slices, batch)


# ---- several processes ---------------------------------------------------------------------


def local(tree: Tree) -> Tree:
    """Returns a tree that is whole on every device as arrays of this process alone; that of a single
    process as it is."""
    if jax.process_count() == 1:
        return tree

    def local_array(x):
        if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                local_array(jax.random.key_data(x)), impl=jax.random.key_impl(x)
            )
        return jnp.asarray(np.asarray(x))

    return jax.tree.map(local_array, tree)
