"""Numbers of a model with their protocols: what a model has, on which pixels, in which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import systems
from jaxvae.data import shapes
from jaxvae.data.preprocess import at_side, make_preprocess
from jaxvae.errors import UserError
from jaxvae.presets import measure as measuring
from jaxvae.presets.config import System
from jaxvae.types import Batch
from small import small, source


def test_what_a_model_is_measured_by_where_nobody_asks():
    vae = System(small())
    assert measuring.available(vae) == ("elbo", "active_units")
    assert measuring.available(vae._replace(on_examples="a column"))[-1] == "completions"
    assert measuring.available(System(systems.flow(2))) == ("log_prob",)
    assert measuring.available(System(systems.gan())) == ()


@pytest.mark.parametrize(
    ("system", "metric", "message"),
    [
        (System(small()), "bpd", "have no bits per dimension"),
        (System(systems.gan()), "bpd", "this model has no likelihood"),
        (System(small()), "completions", "are of a model that completes examples"),
        (System(small()), "log_prob", "this model has no exact density"),
        (System(systems.flow(2)), "elbo", "no evidence lower bound"),
        (System(small()), "lpips", "at least 17 pixels a side, not 4x4"),
    ],
)
def test_metrics_that_a_model_does_not_have_are_refused_before_the_work(system, metric, message):
    with pytest.raises(UserError, match=message):
        measuring.check(system, source(), (metric,), measuring.Setting())


@pytest.fixture(scope="module")
def measured():
    """Rows of a model at its start, and the shapes of the pixels that each pass saw."""
    seen = []
    real = make_preprocess("binarised")

    def preprocess(rng, examples):
        seen.append(examples["x"].shape)
        return real(rng, examples)

    system = System(small(), preprocess=preprocess, pixels="binarised", likelihood="bernoulli")
    params, state = system.model.init(jax.random.key(0), Batch(jnp.zeros((2, 4, 4, 1))))
    metrics = ("elbo", "kl_per_dim", "active_units", "iw_nll", "bpd")
    setting = measuring.Setting(k=20, statistics="statistics of a kind", seed=3)
    rows = measuring.measure(system, params, state, source(), metrics, setting)
    return {row["metric"]: row for row in rows}, seen


def test_every_number_is_of_the_same_pixels(measured):
    assert len(measured[1]) == 2 and measured[1][0] == measured[1][1]


def test_numbers_agree_with_each_other(measured):
    rows, _ = measured
    value = {name: row["value"] for name, row in rows.items()}
    assert value["elbo"] == pytest.approx(-value["rec"] - value["kl"], rel=1e-6)
    assert sum(value["kl_per_dim"]) == pytest.approx(value["kl"], rel=1e-5)
    assert value["iw_nll"] < -value["elbo"]
    assert value["bpd"] == pytest.approx(value["iw_nll"] / (16 * np.log(2)))
    assert rows["bpd"]["error"] == pytest.approx(rows["iw_nll"]["error"] / (16 * np.log(2)))
    assert 0 <= value["active_units"] <= 2 and {row["n"] for row in rows.values()} == {100}


def test_protocols_say_pixels_seed_draws_and_statistics(measured):
    rows, _ = measured
    assert rows["elbo"]["protocol"] == (
        "nats per example, one draw of z, pixels drawn as 0 or 1 with seed 3, statistics of a kind"
    )
    assert "K=20" in rows["iw_nll"]["protocol"] and "K=20" in rows["bpd"]["protocol"]
    assert all(row["protocol"].endswith(", statistics of a kind") for row in rows.values())


def test_scores_are_of_the_images_that_training_saw():
    """An encoder of 4x4 pixels, trained on images of 8x8 that are averaged, as growing nets are."""
    model = small()
    params, state = model.init(jax.random.key(0), Batch(jnp.zeros((2, 4, 4, 1))))
    shown = source()._replace(world=shapes.world(8))
    for pixels, said in (("grey", "seed 3"), ("dequantised", "dequantisation with seed 3")):
        system = System(model, preprocess=at_side(4), pixels=pixels)
        setting = measuring.Setting(seed=3, batch_size=1000)
        (row,) = measuring.measure(system, params, state, shown, ("mig",), setting)
        assert 0.0 <= row["value"] <= 1.0 and row["protocol"].endswith(said)


def test_statistics_of_batches_say_how_large_they_are():
    row = {"metric": "kl", "protocol": "nats", "n": 70}
    of_batch = measuring.Setting(
        batch_size=100, stats="batch", statistics="statistics of each batch"
    )
    assert measuring._with_statistics(row, of_batch)["protocol"] == (
        "nats, statistics of each batch of 70"
    )
    assert measuring._with_statistics(row, measuring.Setting()) is row
