"""Phases that bring what is their own: a larger net, other images, another batch size."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae
from jaxvae import models, nets, parallel, types, writers
from jaxvae.data.preprocess import make_preprocess
from jaxvae.errors import UserError
from jaxvae.train import Phase, evaluate, fit, training
from jaxvae.train.checkpoint import Checkpoints
from small import EXAMPLE, SHAPE, one_device, small, source
from small import go as go_small

EDGE = 7


def corner(old, new):
    """Carries parameters over to wider layers: the old ones are a corner of the new."""
    return jax.tree.map(lambda o, n: n.at[tuple(map(slice, o.shape))].set(o), old, new)


def growing(last=6, tx=None, **brings):
    return [Phase(small(8), EDGE), Phase(small(16), last, tx, grow=corner, **brings)]


def go(phases, **options):
    options = {"batch_size": 16, "mesh": one_device(), "log_every": 3, **options}
    return fit(phases, options.pop("tx", optax.adam(1e-2)), source(), **options)


def bits(result):
    return [np.asarray(x) for x in jax.tree.leaves(result.train_state._replace(rng=None))]


def log_of(folder):
    lines = writers.read(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("convolves", [False, True], ids=["mlp", "conv"])
def test_a_phase_traces_its_losses_once(convolves, devices):
    """For their shapes, for the loop, and for the single step where nets convolve on a CPU."""
    traced = []

    def counted(model, name):
        def loss(*args):
            traced.append(name)
            return objective.loss(*args)

        (objective,) = model.objectives
        return model._replace(objectives=(objective._replace(loss=loss),))

    def model(name):
        encoder, decoder = nets.mlp((4,), 4), nets.mlp((4,), SHAPE)
        if convolves:
            encoder = nets.conv_encoder(4, channels=(2,), hidden=4)
            decoder = nets.conv_decoder(SHAPE, channels=(2,), hidden=4)
        return counted(models.vae(encoder, decoder, latent_dim=2), name)

    mesh = parallel.make_mesh(jax.devices()[:devices])
    go([Phase(model("first"), 5), Phase(model("second"), 5)], mesh=mesh)
    assert traced == ["first", "second"]


def test_a_phase_that_grows_and_averages_traces_its_loss_once():
    traced = []

    def counted(hidden):
        def loss(*args):
            traced.append(hidden)
            return objective.loss(*args)

        model = small(hidden)
        (objective,) = model.objectives
        return model._replace(objectives=(objective._replace(loss=loss),))

    go([Phase(counted(8), 5), Phase(counted(16), 5, grow=corner)], ema_decay=0.9)
    assert traced == [8, 16]


def test_a_grown_net_starts_from_what_was_learned_and_its_own_fresh_part():
    before = go([Phase(small(8), EDGE)]).train_state
    after = go(growing(1, optax.sgd(0.0))).train_state
    rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), training.GROW), 1)
    fresh, _ = small(16).init(rng, types.Batch(jnp.zeros((16, *SHAPE))))
    for old, new, grown in zip(
        *(jax.tree.leaves(tree) for tree in (before.params, fresh, after.params)), strict=True
    ):
        inside = tuple(map(slice, old.shape))
        np.testing.assert_array_equal(grown[inside], old)
        outside = np.ones(new.shape, bool)
        outside[inside] = False
        np.testing.assert_array_equal(np.asarray(grown)[outside], np.asarray(new)[outside])
    assert after.step == EDGE + 1


@pytest.mark.long
@pytest.mark.parametrize("stop", [EDGE - 1, EDGE, EDGE + 1])
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.5}], ids=["plain", "ema"])
def test_a_growing_run_resumes_to_the_bit_on_both_sides_of_the_edge(tmp_path, stop, options):
    options = {"valid": source(1), "eval_every": 4, "log_every": 1, **options}
    unstopped = go(growing(), workdir=tmp_path / "whole", **options)

    def raise_sigterm(step, split, values):
        if (step, split) == (stop, "train"):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        go(growing(), workdir=tmp_path / "parts", on_log=raise_sigterm, **options)
    steps = [line["step"] for line in log_of(tmp_path / "parts")]
    assert stop <= max(steps) <= stop + 1
    parts = go(growing(), workdir=tmp_path / "parts", **options)
    for a, b in zip(bits(unstopped), bits(parts), strict=True):
        np.testing.assert_array_equal(a, b)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_each_phase_is_evaluated_by_its_own_model_on_its_own_data(tmp_path):
    kept = {}

    def keep(step, state):
        kept[step] = jax.device_get(state.params)

    second = source(2, size=40)
    options = {"valid": source(1), "eval_every": 6, "on_eval": keep, "workdir": tmp_path}
    go(growing(valid=second), **options)
    lines = {line["step"]: line for line in log_of(tmp_path) if line["split"] == "valid"}
    assert sorted(lines) == [6, 12, 13]
    for step, model, data in ((6, small(8), source(1)), (12, small(16), second)):
        found = evaluate(model, kept[step], {"encoder": {}, "decoder": {}}, data, mesh=one_device())
        assert lines[step]["elbo"] == pytest.approx(found["elbo"], rel=1e-5)


def test_a_phase_may_see_other_images_in_other_batches():
    """Bytes are enlarged inside the step, and the nets of the second phase are of that size."""

    def enlarged(rng, examples):
        x = make_preprocess()(rng, examples).x
        return types.Batch(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))

    seen = []

    def noting(model):
        (objective,) = model.objectives

        def loss(params, state, rng, batch, step, carry):
            seen.append(batch.x.shape)
            return objective.loss(params, state, rng, batch, step, carry)

        return model._replace(objectives=(objective._replace(loss=loss),))

    large = models.vae(nets.mlp((8,), 4), nets.mlp((8,), (8, 8, 1)), latent_dim=2)
    phases = [
        Phase(noting(small()), 3),
        Phase(noting(large), 3, None, enlarged, 8, grow=lambda old, new: new),
    ]
    state = go(phases, valid=source(1)).train_state
    assert state.params["encoder"]["Dense_0"]["kernel"].shape[0] == 64
    assert {shape for shape in seen if shape[0] > 2} >= {(16, 4, 4, 1), (8, 8, 8, 1)}


def test_growth_that_does_not_fit_is_refused_before_a_folder_is_made(tmp_path):
    phases = [Phase(small(8), 3), Phase(small(16), 3, grow=lambda old, new: old)]
    with pytest.raises(UserError, match=r"grow of phase 1 .*Dense_0.* is \(8,\), and \(16,\)"):
        go(phases, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_net_that_grows_without_being_told_how_is_refused(tmp_path):
    with pytest.raises(
        UserError, match="another shape in the group 'encoder': give the phase a grow"
    ):
        go([Phase(small(8), 3), Phase(small(16), 3)], workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_grown_run_is_loaded_with_the_model_it_ended_with(tmp_path):
    result = go(growing(), workdir=tmp_path)
    loaded = jaxvae.load(tmp_path, model=small(16), example=EXAMPLE)
    for a, b in zip(
        jax.tree.leaves(loaded.params), jax.tree.leaves(result.train_state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_phases_need_not_measure_the_same(tmp_path):
    """A model without numbers is not evaluated, and one with others does not choose the best."""
    silent = small(8)._replace(terms=None)
    density = small(8)._replace(
        terms=None,
        log_prob=lambda params, state, x, cond=None, *, stats="running": x.sum((1, 2, 3)),
    )
    phases = [Phase(silent, 3), Phase(density, 3), Phase(small(8), 3)]
    go(phases, valid=source(1), eval_every=2, workdir=tmp_path)
    lines = {line["step"]: line for line in log_of(tmp_path) if line["split"] == "valid"}
    assert [step for step, line in lines.items() if "log_prob" in line] == [4, 6]
    assert [step for step, line in lines.items() if "elbo" in line] == [8, 9]
    best = Checkpoints(tmp_path / "checkpoints", read_only=True).best_step()
    assert best == max((8, 9), key=lambda step: lines[step]["elbo"])


def test_the_best_is_of_the_last_model(tmp_path):
    """The first one measures the same and better, and is not what the run is of."""
    last = small(8)
    terms = last.terms

    def worse(params, state, rng, batch, *, stats="running"):
        found = terms(params, state, rng, batch, stats=stats)
        return found._replace(rec=found.rec + 1000.0)

    last = last._replace(terms=worse)
    phases = [Phase(small(8), 4), Phase(last, 2), Phase(last, 4, optax.sgd(1.0))]
    go(phases, valid=source(1), eval_every=2, workdir=tmp_path)
    lines = {line["step"]: line for line in log_of(tmp_path) if line["split"] == "valid"}
    assert min(lines[2]["elbo"], lines[4]["elbo"]) > lines[6]["elbo"] + 900
    best = Checkpoints(tmp_path / "checkpoints", read_only=True).best_step()
    assert best == max((6, 8, 10), key=lambda step: lines[step]["elbo"])


def test_what_augments_training_is_not_in_the_evaluation():
    """A model that reports the mean of what it sees; training sees everything darker."""
    model = small(8)
    objective, terms = model.objectives[0], model.terms

    def loss(params, state, rng, batch, step, carry):
        value, aux = objective.loss(params, state, rng, batch, step, carry)
        return value, aux._replace(metrics={"seen": jnp.mean(batch.x, axis=(1, 2, 3))})

    def measured(params, state, rng, batch, *, stats="running"):
        found = terms(params, state, rng, batch, stats=stats)
        return found._replace(extra={"seen": jnp.mean(batch.x, axis=(1, 2, 3))})

    model = model._replace(objectives=(objective._replace(loss=loss),), terms=measured)
    darker = lambda rng, batch: batch._replace(x=batch.x / 4)  # noqa: E731
    seen = go([Phase(model, 3)], valid=source(), augment=darker).metrics
    mean = source().arrays["x"].mean() / 255
    assert seen["valid"]["seen"] == pytest.approx(mean, rel=1e-4)
    assert seen["train"]["seen"] == pytest.approx(mean / 4, rel=0.1)
    with pytest.raises(UserError, match="augment must return a batch of the shapes"):
        go([Phase(model, 3)], augment=lambda rng, batch: batch._replace(x=batch.x[:, :2]))


def test_a_model_watches_the_lines_of_its_phase_across_a_resume_and_speaks_once(tmp_path, capsys):
    seen = []

    def watch(rows):
        seen.append([set(row) >= {"loss", "kl"} for row in rows])
        return f"{len(rows)} lines" if len(rows) >= 3 else None

    watched = small()._replace(watch=(watch, lambda rows: None))

    def run(steps):
        go_small(None, model=[Phase(small(), 10), Phase(watched, steps)], workdir=tmp_path)
        return [line for line in capsys.readouterr().err.splitlines() if "lines" in line]

    assert run(10) == []  # lines every 5 steps, and those of the first phase are not its own
    assert [len(rows) for rows in seen] == [1, 2] and all(map(all, seen))
    (line,) = run(25)
    assert line.startswith("jaxvae: ") and line.endswith("step 25: 3 lines")
    assert [len(rows) for rows in seen] == [1, 2, 3, 4, 5] and all(map(all, seen))


def test_a_model_is_shown_the_newest_lines_and_no_more_are_kept(monkeypatch):
    monkeypatch.setattr(training, "WATCHED", 3)
    seen = []
    watched = small()._replace(watch=(lambda rows: seen.append(rows),))
    fit = go_small(30, model=watched)
    assert [len(rows) for rows in seen] == [1, 2, 3, 3, 3, 3]
    assert seen[-1][-1] == fit.metrics["train"] and seen[-1][:2] == seen[-2][1:]
