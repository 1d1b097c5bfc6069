"""Means over a whole split are exact, whatever the batches and the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import parallel, types
from jaxvae.errors import UserError
from jaxvae.train import evaluate
from jaxvae.train.evaluate import _stretches
from small import normed, one_device, small, source


def test_evaluation_is_the_exact_mean_whatever_the_batch_and_the_devices():
    """A model whose terms depend on the data alone, so that the mean is known."""
    model = small()._replace(
        terms=lambda params, state, rng, batch, stats="running": types.Terms(
            rec=jnp.sum(batch.x, axis=(1, 2, 3)), kl=jnp.ones(batch.x.shape[0])
        )
    )
    src = source()
    want = (src.arrays["x"].astype(np.float64) / 255).sum(axis=(1, 2, 3)).mean()
    for batch_size in (7, 32, 512):
        for mesh in (one_device(), parallel.make_mesh()):
            for each in (src, src._replace(arrays=None)):
                found = evaluate(model, {}, {}, each, batch_size=batch_size, mesh=mesh)
                assert found["rec"] == pytest.approx(want, rel=1e-6)
                assert found["elbo"] == pytest.approx(-want - 1, rel=1e-6)


@pytest.mark.long
def test_batch_statistics_are_those_of_whole_batches_whatever_the_devices():
    """70 examples at a time, or 64 and the 6 that are left: never padded, in memory or streamed."""
    model, src = normed(), source(size=70)
    params, state = model.init(jax.random.key(0), types.Batch(jnp.zeros((2, 4, 4, 1))))
    x = jnp.asarray(src.arrays["x"], jnp.float32) / 255
    kl = lambda x: np.asarray(model.encode(params, state, x, stats="batch").kl())  # noqa: E731
    for batch_size, want in (
        (70, kl(x)),
        (512, kl(x)),
        (64, np.concatenate([kl(x[:64]), kl(x[64:])])),
        (30, np.concatenate([kl(x[:30]), kl(x[30:60]), kl(x[60:])])),
    ):
        for mesh in (one_device(), parallel.make_mesh()):
            for each in (src, src._replace(arrays=None)):
                options = {"batch_size": batch_size, "mesh": mesh, "stats": "batch"}
                found = evaluate(model, params, state, each, **options)
                assert found["kl"] == pytest.approx(want.mean(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [7, 64])
def test_noise_does_not_depend_on_the_devices_whether_they_divide_a_batch_or_not(
    batch_size, monkeypatch
):
    """Two batches of 64, or fifteen of 7, over 1, 3, 6 and 8 devices: in memory, whole or in parts,
    or streamed."""
    model, src = small(), source()
    params, state = model.init(jax.random.key(0), types.Batch(jnp.zeros((2, 4, 4, 1))))
    found = {}
    for devices in (1, 3, 6, 8):
        options = {"batch_size": batch_size, "mesh": parallel.make_mesh(jax.devices()[:devices])}
        for name, each in (("memory", src), ("streamed", src._replace(arrays=None)), ("cut", src)):
            with monkeypatch.context() as patch:
                if name == "cut":
                    patch.setattr(parallel, "is_cut", lambda arrays, mesh: mesh.size > 1)
                found[devices, name] = evaluate(model, params, state, each, **options)["rec"]
    assert list(found.values()) == pytest.approx([found[1, "memory"]] * 12, rel=1e-6)
    other = evaluate(model, params, state, src, batch_size=batch_size, seed=1)["rec"]
    assert other != pytest.approx(found[1, "memory"], rel=1e-4)  # or there would be no noise


@pytest.mark.parametrize("examples", [1, 63, 64, 100])
@pytest.mark.parametrize("batch_size", [7, 64, 512])
def test_every_example_is_in_one_batch_and_counted_once(examples, batch_size):
    (padded,) = _stretches(examples, batch_size, padded=True)
    unpadded = _stretches(examples, batch_size, padded=False)
    assert all(mask.all() for _, _, mask in unpadded)
    for stretches in ([padded], unpadded):
        seen = np.concatenate([index[mask > 0] for _, index, mask in stretches])
        np.testing.assert_array_equal(seen, np.arange(examples))
        numbers = np.concatenate([numbers for numbers, _, _ in stretches])
        np.testing.assert_array_equal(numbers, np.arange(len(numbers)))  # each with its own noise


def test_arrays_are_no_source():
    with pytest.raises(UserError, match=r"source must be a Source, not ndarray: data.from_arrays"):
        evaluate(small(), {}, {}, np.zeros((4, 4, 4, 1), np.uint8))
