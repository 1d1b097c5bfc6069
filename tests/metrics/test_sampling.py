"""Samplers of every kind: each batch is the sampler's own, none is lost, and pure ones are compiled
once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import parallel
from jaxvae.errors import UserError
from jaxvae.metrics import fid, sampling
from jaxvae.types import Batch
from small import normed, one_device

SIZE, BATCHES = 4, 5
IMAGES = np.random.default_rng(0).random((BATCHES * SIZE, 2, 2, 1)).astype(np.float32)


def drawn(sampler, batches=BATCHES, shape=(SIZE, 2, 2, 1), mesh=None):
    """Returns all images, and the number of traces of what finishes them."""
    traces = []

    def finish(x):
        traces.append(x.shape)
        return jnp.asarray(x, jnp.float32)

    found = sampling.finished_batches(
        sampler,
        finish,
        batches=batches,
        shape=shape,
        stats="running",
        seed=3,
        shardings=parallel.replicated(one_device() if mesh is None else mesh),
    )
    images = np.concatenate([np.asarray(x) for x in found])
    assert traces == [shape]
    return images


def keys(batches=BATCHES):
    return [jax.random.fold_in(jax.random.key(3), b) for b in range(batches)]


class Files:
    """Serves its images once, in order, as a folder does; `give` is what it makes of them."""

    def __init__(self, give):
        self.give, self.at, self.calls = give, 0, 0

    def __call__(self, rng, n, stats):
        self.calls += 1
        images = IMAGES[self.at : self.at + n]
        self.at += n
        return self.give(images, rng)


class Tensor:
    """What another library returns: no JAX type, but an array for NumPy."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x if dtype is None else self.x.astype(dtype)


@pytest.mark.parametrize(
    "give",
    [
        lambda x, rng: x,
        lambda x, rng: x.astype(np.float64),
        lambda x, rng: jnp.asarray(x),
        lambda x, rng: jnp.clip(x, 0.0, 1.0),
        lambda x, rng: jax.jit(lambda x: x * 1.0)(x),
        lambda x, rng: Tensor(x),
    ],
    ids=["numpy", "float64", "jax", "computed", "jitted", "tensor"],
)
@pytest.mark.parametrize("batches", [1, 2, BATCHES])
def test_a_sampler_that_ignores_its_key_is_called_for_every_batch(give, batches):
    files = Files(give)
    np.testing.assert_array_equal(drawn(files, batches), IMAGES[: batches * SIZE])
    assert files.calls == batches


@pytest.mark.parametrize("give", [lambda x: x, jnp.asarray, lambda x: jnp.clip(x, 0.0, 1.0)])
def test_a_sampler_may_write_every_batch_into_the_same_memory(give):
    memory, batches = np.zeros((SIZE, 2, 2, 1), np.float32), iter(np.split(IMAGES, BATCHES))

    def sampler(rng, n, stats):
        memory[:] = next(batches)
        return give(memory)

    np.testing.assert_array_equal(drawn(sampler), IMAGES)


def test_files_with_noise_from_the_key_are_all_there():
    """The key changes each batch, so one program would pass for all: its constants tell."""
    files = Files(lambda x, rng: jnp.asarray(x) + jax.random.uniform(rng, x.shape))
    noise = np.concatenate([jax.random.uniform(key, (SIZE, 2, 2, 1)) for key in keys()])
    np.testing.assert_allclose(drawn(files), IMAGES + noise, rtol=1e-6)
    assert files.calls == BATCHES


def test_a_counter_among_the_numbers_of_a_program_is_seen():
    calls = []

    def sampler(rng, n, stats):
        calls.append(n)
        return jax.random.uniform(rng, (n, 2, 2, 1)) + float(len(calls))

    found = drawn(sampler).reshape(BATCHES, -1)
    np.testing.assert_array_equal(np.floor(found.mean(1)), np.arange(1, BATCHES + 1))


class Generator:
    """Keeps a key of its own, and may say that it wants concrete ones."""

    def __init__(self, concrete):
        self.key, self.concrete = jax.random.key(0), concrete

    def __call__(self, rng, n, stats):
        if self.concrete:
            np.asarray(jax.random.key_data(rng))
        self.key, key = jax.random.split(self.key)
        return jax.random.uniform(key, (n, 2, 2, 1))


def test_a_generator_that_keeps_a_key_of_its_own():
    want = Generator(True)
    want = np.concatenate([want(key, SIZE, "running") for key in keys()])
    np.testing.assert_array_equal(drawn(Generator(True)), want)
    with pytest.raises(UserError, match="keeps a JAX value of an earlier call, which was traced"):
        drawn(Generator(False))


def by_numpy(rng, n, stats):
    seed = np.asarray(jax.random.key_data(rng))
    return np.random.default_rng(seed).random((n, 2, 2, 1))


def by_callback(rng, n, stats):
    shape = jax.ShapeDtypeStruct((n, 2, 2, 1), jnp.float32)

    def draw(data):
        return np.random.default_rng(np.asarray(data)).random(shape.shape).astype(np.float32)

    return jax.pure_callback(draw, shape, jax.random.key_data(rng))


def by_foreign_seed(rng, n, stats):
    """Fails with a traced key in a library of its own."""
    if isinstance(rng, jax.core.Tracer):
        raise RuntimeError("seed must be a number")
    return by_numpy(rng, n, stats)


@pytest.mark.parametrize("sampler", [by_numpy, by_callback, by_foreign_seed])
def test_noise_on_the_host_from_the_key(sampler):
    want = np.concatenate([by_numpy(key, SIZE, "running") for key in keys()])
    np.testing.assert_allclose(drawn(sampler), want, rtol=1e-6)


def test_a_pure_function_is_compiled_once_with_its_parameters_as_arguments(monkeypatch):
    weights, traces, constants = jnp.linspace(0.0, 1.0, 4), [], []
    evaluate = jax.core.eval_jaxpr

    def seen(jaxpr, consts, *args):
        constants.extend(isinstance(c, jax.core.Tracer) for c in consts)
        return evaluate(jaxpr, consts, *args)

    def sampler(rng, n, stats):
        traces.append(isinstance(rng, jax.core.Tracer))
        shift = jnp.asarray([0.5, 0.25, 0.0, 1.0])  # made anew at every call
        x = jax.nn.relu(jax.random.uniform(rng, (n, 4)) * jnp.tanh(weights) + shift)
        return x.reshape(n, 2, 2, 1)

    monkeypatch.setattr(jax.core, "eval_jaxpr", seen)
    found = drawn(sampler)
    assert traces == [True, True] and constants and all(constants)
    want = np.concatenate([sampler(key, SIZE, "running") for key in keys()])
    np.testing.assert_allclose(found, want, rtol=1e-6)


@pytest.mark.parametrize("on_all_devices", [False, True])
def test_a_model_is_compiled(on_all_devices):
    model = normed()
    params, state = model.init(jax.random.key(0), Batch(jnp.zeros((2, 4, 4, 1))))
    sampler, traced = fid.model_sampler(model, params, state), []

    def seen(rng, n, stats):
        traced.append(isinstance(rng, jax.core.Tracer))
        return sampler(rng, n, stats)

    mesh = parallel.make_mesh() if on_all_devices else one_device()
    found = drawn(seen, shape=(SIZE, 4, 4, 1), mesh=mesh)
    assert traced == [True, True]
    want = np.concatenate([sampler(key, SIZE, "running") for key in keys()])
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_a_sampler_that_keeps_a_traced_value_is_told_so():
    class Keeps:
        total = 0.0

        def __call__(self, rng, n, stats):
            self.total = self.total + jax.random.uniform(rng, (n, 2, 2, 1))
            return self.total

    with pytest.raises(UserError, match="keeps a JAX value of an earlier call"):
        drawn(Keeps())


def test_what_a_sampler_raises_reaches_its_user():
    def sampler(rng, n, stats):
        raise FileNotFoundError("no such folder")

    with pytest.raises(FileNotFoundError, match="no such folder"):
        drawn(sampler)
