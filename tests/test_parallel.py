"""Eight devices compute what one does, by `jit` over a mesh and by `pmap`."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import nets, parallel
from jaxvae.errors import UserError
from jaxvae.models import vae
from jaxvae.train.step import init_state, make_eval_step, make_train_step
from jaxvae.types import Aux, Batch, Model, Objective
from systems import SYSTEMS, images

SIZE = 16


def coupled() -> Model:
    """Returns a VAE whose loss also holds the squared mean of all latents, which no slice of the
    batch knows."""
    plain = vae(nets.mlp((8,), 4, act="tanh"), nets.mlp((8,), (4, 4, 1)), latent_dim=2)
    (objective,) = plain.objectives

    def loss(params, state, rng, batch, step, carry):
        value, aux = objective.loss(params, state, rng, Batch(batch.x), step, carry)
        mean = plain.encode(params, state, batch.x).mean
        spread = jnp.sum(jnp.square(jnp.mean(parallel.gather(mean), axis=0)))
        size = 1e-2 * optax.tree.norm(
            params["decoder"], squared=True
        )  # and what is the same on every device
        total = jnp.mean(parallel.gather(value)) + 10.0 * spread + size
        return total, Aux(state, {"rec": aux.metrics["rec"], "spread": spread})

    return plain._replace(objectives=(Objective(("encoder", "decoder"), loss, coupled=True),))


MODELS = {**SYSTEMS, "coupled": (coupled, lambda: Batch(images().x))}


def run(step, train_state, batch, steps: int = 3):
    values = []
    for _ in range(steps):
        train_state, metrics = step(train_state, batch)
        values.append({name: float(value) for name, value in metrics.items()})
    return train_state, values


def assert_same(have, want):
    (have_state, have_metrics), (want_state, want_metrics) = have, want
    for a, b in zip(have_metrics, want_metrics, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    assert int(have_state.step) == int(want_state.step)
    for part in ("params", "state"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            getattr(have_state, part),
            getattr(want_state, part),
        )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "options", [{}, {"accumulate": 2, "max_grad_norm": 1.0}], ids=["plain", "accumulated"]
)
def test_eight_devices_are_one(name, options):
    build, data = MODELS[name]
    model, batch, tx = build(), data(), optax.sgd(1e-2, momentum=0.9)
    if "accumulate" in options and model.objectives[0].coupled:
        options = {"max_grad_norm": 1.0}
    step = make_train_step(model, tx, **options)

    def start(place=lambda train_state: train_state):
        return place(init_state(model, tx, jax.random.key(0), batch))

    one, mesh = run(jax.jit(step), start(), batch), parallel.make_mesh()
    everywhere = functools.partial(parallel.put, sharding=parallel.replicated(mesh))
    sharded = parallel.put(batch, parallel.batch_sharded(mesh))
    assert_same(run(parallel.jit_step(step, mesh), start(everywhere), sharded), one)
    assert_same(run(parallel.pmap_step(step), start(everywhere), parallel.shard(batch, 8)), one)
    still = jax.tree.map(np.array_equal, one[0].params, start().params)
    assert not any(
        all(jax.tree.leaves(group)) for group in still.values()
    )  # or the comparison would say nothing


def test_pmap_on_fewer_devices_and_on_one():
    build, data = SYSTEMS["alternating_vae"]
    model, batch, tx = build(), data(), optax.sgd(1e-2)
    step, start = make_train_step(model, tx), init_state(model, tx, jax.random.key(0), batch)
    one = run(jax.jit(step), start, batch)
    for n in (1, 2):
        assert_same(
            run(parallel.pmap_step(step, jax.devices()[:n]), start, parallel.shard(batch, n)), one
        )


def test_what_jit_step_returns_is_placed_and_fed_back():
    build, data = SYSTEMS["flow"]
    model, tx, mesh = build(), optax.sgd(1e-2), parallel.make_mesh()
    batch = parallel.put(data(), parallel.batch_sharded(mesh))
    assert {shard.data.shape for shard in batch.x.addressable_shards} == {(SIZE // 8, 2)}
    step = parallel.jit_step(make_train_step(model, tx), mesh)
    train_state = parallel.put(
        init_state(model, tx, jax.random.key(0), batch), parallel.replicated(mesh)
    )
    train_state, _ = step(train_state, batch)
    for leaf in jax.tree.leaves(train_state):
        assert leaf.sharding.is_equivalent_to(parallel.replicated(mesh), leaf.ndim)
    step(train_state, batch)
    assert step._cache_size() == 1


def test_the_memory_of_the_state_is_reused_unless_asked_not_to():
    build, data = SYSTEMS["flow"]
    model, tx, batch = build(), optax.sgd(1e-2), data()
    step, mesh = make_train_step(model, tx), parallel.make_mesh()
    for donate in (True, False):
        start = parallel.put(
            init_state(model, tx, jax.random.key(0), batch), parallel.replicated(mesh)
        )
        parallel.jit_step(step, mesh, donate=donate)(start, batch)
        assert start.params["flow"][0]["Dense_0"]["kernel"].is_deleted() == donate


# ---- collectives -------------------------------------------------------------------


def test_collectives_see_the_whole_batch_and_do_nothing_outside_pmap():
    x = jnp.arange(float(SIZE))
    for collective, want in [
        (lambda part: parallel.gather(part), x),
        (lambda part: parallel.mean(jnp.mean(part)), jnp.mean(x)),
        (lambda part: parallel.total(jnp.sum(part)), jnp.sum(x)),
        (lambda part: parallel.axis_size() * jnp.ones(()), 8.0),
    ]:
        have = jax.pmap(collective, axis_name=parallel.AXIS)(parallel.shard(x, 8))
        for row in np.asarray(have):
            np.testing.assert_array_equal(row, want)
    assert parallel.axis_size() == 1
    for collective in (parallel.gather, parallel.mean, parallel.total):
        assert collective(x) is x


def test_evaluation_over_a_mesh_is_that_of_one_device():
    model, batch = coupled(), Batch(images().x)
    params, state = model.init(jax.random.key(0), batch)
    mask = (jnp.arange(SIZE) < 11).astype(jnp.float32)
    evaluate, mesh = make_eval_step(model), parallel.make_mesh()
    one = jax.jit(evaluate)(params, state, jax.random.key(1), batch, mask)
    replicated, sharded = parallel.replicated(mesh), parallel.batch_sharded(mesh)
    by_jit = jax.jit(evaluate, in_shardings=(replicated, replicated, replicated, sharded, sharded))
    by_pmap = jax.pmap(
        evaluate, axis_name=parallel.AXIS, in_axes=(None, None, None, 0, 0), out_axes=None
    )
    for have in (
        by_jit(params, state, jax.random.key(1), batch, mask),
        by_pmap(
            params, state, jax.random.key(1), parallel.shard(batch, 8), parallel.shard(mask, 8)
        ),
    ):
        assert {k: float(v) for k, v in have.items()} == pytest.approx(
            {k: float(v) for k, v in one.items()}, rel=1e-5
        )
    assert float(one["rec"].count) == 11


# ---- what is refused ---------------------------------------------------------------------------


def test_batches_must_be_cut_into_equal_slices():
    mesh = parallel.make_mesh()
    parallel.check_batch(24, mesh)
    parallel.check_batch(7, parallel.make_mesh(jax.devices()[:1]))
    with pytest.raises(
        UserError, match="batch_size 100 cannot be cut into equal slices over 8 devices: use 96,"
    ):
        parallel.check_batch(100, mesh)
    with pytest.raises(UserError, match="batch_size 3 .* use 8,"):
        parallel.check_batch(3, mesh)
    with pytest.raises(UserError, match="batch_size must be at least 1, not 0"):
        parallel.check_batch(0, mesh)
    with pytest.raises(
        UserError, match="a batch of 12 cannot be cut into equal slices over 8 devices"
    ):
        parallel.shard(Batch(jnp.zeros((12, 2))), 8)


def test_steps_say_how_to_cut_a_batch():
    model, tx, batch = vae(nets.mlp((4,), 4), nets.mlp((4,), 2), latent_dim=2), optax.sgd(0.1), 12
    x = jnp.full((batch, 2), 0.5)
    train_state = init_state(model, tx, jax.random.key(0), Batch(x))
    step = make_train_step(model, tx)
    with pytest.raises(UserError, match="batch_size 12 cannot be cut .* over 8 devices: use 16,"):
        parallel.jit_step(step)(train_state, Batch(x))
    for uncut in (x, x[:4, 0]):
        with pytest.raises(UserError, match=r"cut the batch with parallel.shard\(batch, 8\)"):
            parallel.pmap_step(step)(train_state, Batch(uncut))


def test_shard_cuts_every_array_in_order():
    batch = parallel.shard(Batch(jnp.arange(16.0), jnp.arange(32).reshape(16, 2)), 8)
    np.testing.assert_array_equal(batch.x, np.arange(16.0).reshape(8, 2))
    np.testing.assert_array_equal(batch.cond, np.arange(32).reshape(8, 2, 2))


@pytest.mark.parametrize(("batch_size", "devices"), [(100, 5), (64, 8), (7, 7), (11, 1), (1, 1)])
def test_a_mesh_for_a_batch_has_as_many_devices_as_divide_it(batch_size, devices):
    assert parallel.mesh_for(batch_size).size == devices


@pytest.mark.parametrize(
    ("limit", "devices", "sharded"),
    [(None, 8, False), (799, 8, True), (800, 8, False), (8, 1, False)],
)
def test_resident_data_are_cut_where_they_would_fill_the_devices(limit, devices, sharded):
    stats = None if limit is None else {"bytes_limit": limit}
    device = types.SimpleNamespace(memory_stats=lambda: stats)
    mesh = types.SimpleNamespace(size=devices, local_devices=[device])
    arrays = {"x": np.zeros((15, 5), np.uint8), "label": np.zeros(25, np.uint8)}  # 100 bytes
    assert parallel.is_cut(arrays, mesh) == sharded
