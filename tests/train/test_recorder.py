"""What a run leaves behind where it ends early, says once, and counts."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae
from jaxvae import data, writers
from jaxvae.train import NonFinite
from jaxvae.train import recorder as recorders
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.recorder import Recorder
from small import EXAMPLE, go, small, source


def nan_from(step):
    """A VAE whose reconstruction is not a number from `step` on."""
    model = small()
    (objective,) = model.objectives

    def loss(params, state, rng, batch, at, carry):
        value, aux = objective.loss(params, state, rng, batch, at, carry)
        poison = jnp.where(at >= step, jnp.nan, 0.0)
        return value + poison, aux._replace(
            metrics={**aux.metrics, "rec": aux.metrics["rec"] + poison}
        )

    return model._replace(objectives=(objective._replace(loss=loss),))


@pytest.mark.parametrize("steps_per_call", [1, 64])
def test_non_finite_loss_stops_the_run_and_names_step_and_metric(tmp_path, steps_per_call):
    with pytest.raises(
        NonFinite, match=r"at step 13: loss, rec\. The last good checkpoint is of step 10\."
    ):
        go(40, model=nan_from(13), workdir=tmp_path, save_every=5, steps_per_call=steps_per_call)
    loaded = jaxvae.load(tmp_path, model=small(), example=EXAMPLE)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(loaded.params))
    assert [line["step"] for line in writers.read(tmp_path / "metrics.jsonl")] == [5, 10]


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    """The last step's loss is finite, but its update is not."""
    model = small()
    (objective,) = model.objectives

    def loss(params, state, rng, batch, step, carry):
        value, aux = objective.loss(params, state, rng, batch, step, carry)
        scale = jnp.where(step == 9, jnp.float32(1e38), 0.0)
        w = params["encoder"]["Dense_0"]["bias"][0]
        return value + (
            w - jax.lax.stop_gradient(w)
        ) * scale * scale, aux  # a gradient of infinity, a value of 0

    broken = model._replace(objectives=(objective._replace(loss=loss),))
    with pytest.raises(NonFinite, match="step 10: parameters or optimiser state"):
        go(10, model=broken, tx=optax.sgd(1.0), workdir=tmp_path, save_every=5)
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps() == [5]


def test_validation_that_is_not_finite_stops_the_run_and_spares_the_best(tmp_path):
    def terms(params, state, rng, batch, stats="running"):
        found = model.terms(params, state, rng, batch, stats=stats)
        late = params["decoder"]["Dense_1"]["bias"].sum() > 8.0  # reached on the way
        return found._replace(rec=jnp.where(late, jnp.nan, found.rec))

    model = small()
    x = np.full((64, 4, 4, 1), 255, np.uint8)  # all ones: the output biases rise
    broken = model._replace(terms=terms)
    with pytest.raises(
        NonFinite, match="elbo of the validation split, rec of the validation split"
    ):
        go(
            400,
            model=broken,
            data=data.from_arrays(x),
            workdir=tmp_path,
            valid=source(1),
            eval_every=5,
        )
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).best_step() is not None


def test_final_update_that_is_not_finite_is_seen_without_a_folder():
    with pytest.raises(NonFinite, match="at step 1: parameters"):
        go(1, tx=optax.scale(float("inf")))


def test_a_recorder_without_a_folder_keeps_nothing(capsys):
    recorder = Recorder(None, {}, 10)
    assert recorder.restore(lambda step: pytest.fail("there is nothing")) is None
    recorder.write({"step": 1, "split": "train"})
    recorder.save(1, None, None)
    recorder.wait()
    recorder.close(1)
    assert recorder.lines() == [] and capsys.readouterr().out == ""
    assert "The last good" not in str(recorder.non_finite(3, ["loss"]))


def test_a_warning_is_said_once_for_each_thing_that_it_is_about(tmp_path, capsys):
    recorder = Recorder(None, {}, 10)
    recorder.warn("gamma", 1, None)
    for step in (2, 3):
        recorder.warn("gamma", step, "gamma is at its floor")
        recorder.warn("kl", step, "the KL is zero")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["jaxvae: step 2: gamma is at its floor", "jaxvae: step 2: the KL is zero"]


def test_lines_of_the_log_are_those_of_splits(tmp_path):
    recorder = Recorder(tmp_path, {}, 10)
    recorder.write({"step": 1, "split": "train", "loss": 2.0})
    recorder.write({"step": 1, "note": "no split"})
    assert recorder.lines() == [{"step": 1, "split": "train", "loss": 2.0}]
    recorder.close(1)


def test_a_bar_that_nobody_reads_any_more_keeps_no_checkpoint_from_the_disk(tmp_path):
    recorder = Recorder(tmp_path, {}, 20, keep=2, best=("elbo", "max"), progress=False)
    closed = []

    def gone():
        raise BrokenPipeError

    recorder.bar = types.SimpleNamespace(n=0, update=lambda steps: None, close=gone)
    recorder.checkpoints = types.SimpleNamespace(close=lambda: closed.append(True))
    recorder.close(20)
    assert closed == [True]


def test_the_bar_shows_a_few_metrics_and_what_was_validated_last():
    recorder, shown = Recorder(None, {}, 10), []
    recorder.note({"loss": 1.0}, 5.0)  # without a bar
    recorder.bar = types.SimpleNamespace(set_postfix_str=lambda text, refresh: shown.append(text))
    values = {"beta": 1.0, "elbo": -3.0, "kl": 1.0, "loss": 3.0, "rec": 2.0}
    recorder.note(values, 1234.5)
    recorder.note_validated("elbo", {"elbo": -3.25, "kl": 1.0})
    recorder.note({"generator": 0.5, "discriminator": 1.0}, 10.0)
    assert shown == [
        "loss 3.00, rec 2.00, kl 1.00, 1,234 images/s",
        "generator 0.50, discriminator 1.00, valid elbo -3.25, 10 images/s",
    ]


def test_the_rate_counts_examples_without_pauses(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(recorders.time, "perf_counter", lambda: now[0])
    recorder = Recorder(None, {}, 10)
    recorder.start_clock(4)
    now[0] += 2.0
    with recorder.paused():
        now[0] += 50.0
    assert recorder.rate(10, 16) == pytest.approx(6 * 16 / 2.0)
    now[0] += 4.0
    assert recorder.rate(11, 16) == pytest.approx(16 / 4.0)  # since the last one
