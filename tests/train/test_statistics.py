"""Re-estimated statistics of a model with BatchNorm in both nets, and when they are the default."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import data, models, nets, noise, parallel, writers
from jaxvae.errors import UserError
from jaxvae.train import evaluate, reestimate
from jaxvae.train.statistics import default_stats, make_reestimator, size_of
from jaxvae.types import Batch, Net
from small import SHAPE, _Normed, go, normed, one_device, small, source

MODEL = normed(likelihood="gaussian")
SOURCE = source(size=100)
PARAMS, STATE = MODEL.init(jax.random.key(1), Batch(jnp.zeros((2, *SHAPE))))
OPTIONS = {"batch_size": 32, "seed": 5, "mesh": one_device()}


@pytest.fixture(scope="module", params=["data", "samples"])
def found(request):
    return request.param, reestimate(MODEL, PARAMS, STATE, SOURCE, over=request.param, **OPTIONS)


def layer(state, name):
    return state[name]["batch_stats"]["BatchNorm_0"]


def hidden(name, x):
    """Returns what the norm of a net gets, in NumPy."""
    dense = PARAMS[name]["Dense_0"]
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    return x @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"], np.float64)


def test_the_encoder_sees_whole_batches_of_data_and_the_decoder_what_is_said(found):
    """100 examples in batches of 32: three, and the four that are left are not padded."""
    over, state = found
    index = np.concatenate([data.batch_indices(100, 5, i, 32) for i in range(3)])
    assert len(np.unique(index)) == 96
    x = SOURCE.arrays["x"][index] / np.float32(255)
    h = hidden("encoder", x)
    np.testing.assert_allclose(layer(state, "encoder")["mean"], h.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(layer(state, "encoder")["var"], h.var(axis=0), rtol=1e-4)

    z = []
    root = jax.random.fold_in(jax.random.key(5), 0x57A75)
    for i in range(3):
        rng = jax.random.split(jax.random.fold_in(root, i))[1]
        if over == "samples":
            z.append(noise.normal(rng, (32, 2)))
            continue
        batch = jnp.asarray(x[32 * i : 32 * (i + 1)])
        z.append(MODEL.encode(PARAMS, STATE, batch, stats="batch").sample(rng))
    h = hidden("decoder", np.concatenate(z))
    np.testing.assert_allclose(layer(state, "decoder")["mean"], h.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(layer(state, "decoder")["var"], h.var(axis=0), rtol=1e-4)


def test_they_are_the_same_on_all_devices_and_at_every_call_and_differ_by_seed(found):
    over, state = found
    everywhere = make_reestimator(
        MODEL, SOURCE, over=over, **{**OPTIONS, "mesh": parallel.make_mesh()}
    )(PARAMS, STATE)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(everywhere), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    again = reestimate(MODEL, PARAMS, STATE, SOURCE, over=over, **OPTIONS)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    other = reestimate(MODEL, PARAMS, STATE, SOURCE, over=over, **{**OPTIONS, "seed": 6})
    assert (layer(other, "decoder")["mean"] != layer(state, "decoder")["mean"]).any()


def test_evaluation_with_the_moments_of_one_batch_is_that_in_batch_mode():
    """All of a split as one batch: then both modes are one."""
    options = {"batch_size": 100, "seed": 0, "mesh": one_device()}
    state = reestimate(MODEL, PARAMS, STATE, SOURCE, **options)
    x = jnp.asarray(SOURCE.arrays["x"] / np.float32(255))
    a = MODEL.encode(PARAMS, state, x).mean
    np.testing.assert_allclose(a, MODEL.encode(PARAMS, STATE, x, stats="batch").mean, atol=1e-4)
    assert np.abs(a - MODEL.encode(PARAMS, STATE, x).mean).max() > 0.05
    assert (
        evaluate(MODEL, PARAMS, state, SOURCE)["elbo"]
        != evaluate(MODEL, PARAMS, STATE, SOURCE)["elbo"]
    )


def test_how_large_a_pass_is():
    assert size_of(SOURCE) == (1, 100)
    assert size_of(SOURCE, batch_size=30) == (3, 30)
    assert size_of(SOURCE, examples=50, batch_size=30) == (1, 30)
    assert size_of(source(size=7), batch_size=30) == (1, 7)


def test_introspective_models_are_evaluated_with_them_where_nobody_says_otherwise():
    pair = [nets.from_linen(_Normed(shape)) for shape in ((4,), SHAPE)]
    intro = models.soft_intro_vae(*pair, latent_dim=2)
    assert default_stats(intro, STATE) == "reestimated"
    assert default_stats(intro, STATE, samples=True) == "reestimated-samples"
    assert default_stats(models.intro_vae(*pair, latent_dim=2, m=1.0), STATE) == "reestimated"
    for model, state in ((MODEL, STATE), (small(), {"encoder": {}, "decoder": {}})):
        assert default_stats(model, state) == default_stats(model, state, samples=True) == "running"
    assert default_stats(intro, {"encoder": {}, "decoder": {}}) == "running"  # no BatchNorm


def test_statistics_that_do_not_exist_are_refused():
    model = small()._replace(stats="re-estimated")
    with pytest.raises(UserError, match="unknown stats of a model 're-estimated'. Did you mean"):
        default_stats(model, {})


def test_what_cannot_be_reestimated_is_refused():
    with pytest.raises(UserError, match="does not tell the moments of its batches"):
        reestimate(MODEL._replace(moments=None), PARAMS, STATE, SOURCE)
    with pytest.raises(UserError, match="unknown statistics over"):
        reestimate(MODEL, PARAMS, STATE, SOURCE, over="tests")
    with pytest.raises(UserError, match="batch_size must be"):
        reestimate(MODEL, PARAMS, STATE, SOURCE, batch_size=1)
    bare = [Net(*nets.from_linen(_Normed(shape))[:2]) for shape in ((4,), SHAPE)]
    model = models.vae(*bare, latent_dim=2)
    with pytest.raises(UserError, match="the encoder has batch statistics and does not tell"):
        reestimate(model, PARAMS, STATE, SOURCE)
    with pytest.raises(UserError, match="are a state, not a mode"):
        MODEL.encode(PARAMS, STATE, jnp.zeros((2, *SHAPE)), stats="reestimated")


def test_the_log_says_whose_statistics_the_validation_split_is_measured_with(tmp_path):
    """Also those of each batch, where the model says so; a resumed run has the values alone."""
    values, valid = {}, source(1)
    for stats in ("running", "batch", "reestimated"):
        model, folder = MODEL._replace(stats=stats), tmp_path / stats
        options = {"model": model, "valid": valid, "workdir": folder}
        result = go(6, **options)
        [line] = [x for x in writers.read(folder / "metrics.jsonl") if x["split"] == "valid"]
        assert line["stats"] == stats
        assert all("stats" not in x for x in writers.read(folder / "metrics.jsonl") if x != line)
        values[stats] = line["elbo"]
        assert "stats" not in result.metrics["valid"]
        assert go(6, **options).metrics == result.metrics
        state, mode = result.train_state, "batch" if stats == "batch" else "running"
        if stats != "reestimated":
            want = evaluate(model, state.params, state.state, valid, stats=mode, mesh=one_device())
            assert line["elbo"] == pytest.approx(want["elbo"], rel=1e-5)
    assert len({round(value, 2) for value in values.values()}) == 3


def test_without_batch_statistics_the_log_says_nothing_of_them(tmp_path):
    go(2, valid=source(1), workdir=tmp_path)
    assert all("stats" not in line for line in writers.read(tmp_path / "metrics.jsonl"))
