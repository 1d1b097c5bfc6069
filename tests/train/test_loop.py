"""Many steps in one call: the same bits however they are cut, and the sums and marks that they carry."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import data, models, nets, parallel, types
from jaxvae.data.preprocess import make_preprocess
from jaxvae.errors import UserError
from jaxvae.train import evaluate, loop
from jaxvae.types import Mean
from small import EXAMPLE, assert_same, go, one_device, params, small, source


def test_steps_per_call_changes_no_bit():
    a, b, c = (params(go(17, steps_per_call=k)) for k in (4, 64, 1))
    assert_same(a, b)
    for x, y in zip(a, c, strict=True):  # another program: equal up to rounding
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.long
@pytest.mark.optimised
def test_streamed_source_gives_the_bits_of_the_resident_one():
    resident = source()
    assert_same(params(go(11, data=resident)), params(go(11, data=resident._replace(arrays=None))))


@pytest.mark.parametrize(
    ("key", "wrong", "message"),
    [
        ("label", lambda label: label + 10, "there is a label 1., but those of 10 classes"),
        ("label", None, "returns label of int32, x of uint8 for its first .* and x of uint8 for"),
        ("x", lambda x: x.astype(np.float32), "and label of int32, x of float32 for later ones"),
        ("x", lambda x: x[:-1], "must return x of shape"),
    ],
)
def test_every_batch_of_a_stream_is_looked_at(key, wrong, message):
    """The first one is right; in training, and in an evaluation."""
    labelled = source()._replace(num_classes=10)
    labelled.arrays["label"] = np.arange(labelled.size, dtype=np.int32) % 10

    def read(indices):
        found = {name: array[indices] for name, array in labelled.arrays.items()}
        if np.all(indices <= 60):
            return found
        changed = {} if wrong is None else {key: wrong(found[key])}
        return {**{name: x for name, x in found.items() if name != key}, **changed}

    streamed = labelled._replace(read=read, arrays=None)
    with pytest.raises(UserError, match=message):
        go(30, data=streamed, batch_size=4)
    with pytest.raises(UserError, match=message):
        evaluate(small(), *small().init(jax.random.key(0), EXAMPLE), streamed, batch_size=16)


def test_convolutions_are_stepped_one_by_one_on_cpu_and_mlps_are_not(monkeypatch):
    """Of shapes alone, too; and where the devices of the mesh are not those of this machine."""
    from jaxvae.train import init_state, make_train_step

    encoder, decoder = (
        nets.conv_encoder(4, channels=(4,), hidden=8),
        nets.conv_decoder((4, 4, 1), channels=(4,), hidden=8),
    )
    conv = models.vae(encoder, decoder, latent_dim=2)
    mesh = one_device()
    for model, limit in ((conv, 1), (small(), loop.STEPS_PER_CALL)):
        tx = optax.sgd(1e-3)
        batch = types.Batch(jnp.zeros((16, 4, 4, 1)))
        state, step = init_state(model, tx, jax.random.key(0), batch), make_train_step(model, tx)
        sums = loop.empty_sums(step, state, batch)
        loop_state = parallel.put(
            loop.LoopState(state, sums, loop.no_bad(sums)), parallel.replicated(mesh)
        )
        options = {"preprocess": make_preprocess(), "batch_size": 16, "mesh": mesh}
        compiled = loop.compile_loop(
            step,
            loop_state,
            source(),
            source().arrays,
            indices_of=lambda step: data.batch_indices(100, 0, step, 16),
            **options,
        )
        assert compiled.max_steps == limit
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parallel.replicated(mesh)),
            (loop_state, source().arrays),
        )
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "tpu")
            program = loop.compile_program(step, shapes[0], source(), shapes[1], **options)
        assert program.max_steps == limit


def test_sums_of_nothing_and_marks_of_a_run_that_is_finite_so_far():
    def step(train_state, batch):
        return train_state, {"loss": Mean(batch.x.sum(), jnp.ones(())), "kl": Mean(0.0, 0.0)}

    sums = loop.empty_sums(step, None, types.Batch(jnp.zeros((2, 3))))
    assert {name: (float(m.total), float(m.count)) for name, m in sums.items()} == {
        "loss": (0.0, 0.0),
        "kl": (0.0, 0.0),
    }
    assert {name: int(at) for name, at in loop.no_bad(sums).items()} == {"loss": -1, "kl": -1}


class Counting(NamedTuple):
    """A training state whose every step adds its batch to `seen`."""

    step: jax.Array
    rng: jax.Array
    seen: jax.Array


def counted(train_state, batch):
    """One step, whose loss is not finite for a batch of ones."""
    total = jnp.sum(batch.x)
    loss = jnp.where(total == len(batch.x), jnp.nan, total)
    seen = train_state.seen + total
    return Counting(train_state.step + 1, train_state.rng, seen), {"loss": Mean(loss, 1.0)}


def test_many_steps_are_as_many_as_are_asked_for_and_end_where_one_is_not_finite():
    one = loop.one_step(counted, lambda rng, examples: types.Batch(examples["x"]))
    many = jax.jit(loop.many_steps(one))
    start = Counting(jnp.asarray(5, jnp.int32), jax.random.key(0), jnp.zeros(()))
    sums = {"loss": Mean(jnp.zeros(()), jnp.zeros(()))}
    begin = loop.LoopState(start, sums, loop.no_bad(sums))
    data = {"x": jnp.asarray([2.0, 3.0, 4.0, 1.0])}
    indices = jnp.asarray([[0, 0], [1, 1], [3, 3], [2, 2]], jnp.int32)
    for count, steps, seen in ((0, 0, 0.0), (2, 2, 10.0), (4, 3, 12.0)):
        end = many(begin, data, indices, jnp.asarray(count, jnp.int32))
        assert (int(end.train.step), float(end.train.seen)) == (5 + steps, seen)
        assert int(end.bad["loss"]) == (7 if count == 4 else -1)  # the step, counted from the start
        assert float(end.sums["loss"].count) == steps


def test_a_convolution_is_found_at_any_depth():
    def convolution(x):
        return jax.lax.conv(x, jnp.ones((1, 1, 2, 2)), (1, 1), "SAME")

    def deep(x):
        return jax.lax.cond(True, lambda x: jax.lax.map(convolution, x), lambda x: x, x)

    x = jnp.ones((3, 1, 1, 4, 4))
    assert loop.convolves(jax.make_jaxpr(jax.jit(deep))(x).jaxpr)
    assert not loop.convolves(jax.make_jaxpr(lambda x: jax.lax.map(jnp.sin, x))(x).jaxpr)


@pytest.mark.optimised
def test_data_that_are_cut_over_the_devices_give_the_bits_of_whole_ones(monkeypatch):
    """Every device holds a part, and no device is sent the whole."""
    compiled, places = loop.compile_loop, []

    def spy(step, loop_state, source, arrays, **options):
        places.append(arrays["x"])
        return compiled(step, loop_state, source, arrays, **options)

    monkeypatch.setattr("jaxvae.train.training.compile_loop", spy)
    eight = {"mesh": parallel.make_mesh()}
    replicated = params(go(7, **eight))
    monkeypatch.setattr(parallel, "is_cut", lambda arrays, mesh: mesh.size > 1)
    sharded = params(go(7, **eight))
    assert_same(replicated, sharded)
    first, second = places
    assert first.shape[0] == 100 and first.sharding.is_fully_replicated
    assert second.shape[0] == 104  # a multiple of the devices
    assert {shard.data.shape[0] for shard in second.addressable_shards} == {13}
    rows = parallel.put(np.arange(16, dtype=np.int32), parallel.batch_sharded(eight["mesh"]))
    text = jax.jit(lambda x, i: x[i]).lower(second, rows).compile().as_text()
    assert not re.search(r"u8\[104,[\d,]+\]\S* all-gather", text) and "all-" in text
