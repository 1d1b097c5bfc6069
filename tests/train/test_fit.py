import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae
from jaxvae import data, models, nets, objectives, parallel, types, writers
from jaxvae.data.preprocess import make_preprocess
from jaxvae.errors import UserError
from jaxvae.presets.config import Options
from jaxvae.presets.optimise import transformation
from jaxvae.train import Phase, evaluate, fit, folder, signals
from jaxvae.train.checkpoint import Checkpoints
from small import EXAMPLE, SHAPE, assert_same, go, log_of, one_device, params, small, source

X = np.zeros((100, *SHAPE), np.uint8)
LATE = np.r_[np.zeros(99, int), 3]


def test_log_has_one_line_per_interval_and_the_loss_falls(tmp_path):
    result = go(32, workdir=tmp_path, valid=source(1), eval_every=12)
    lines = writers.read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "train"] == [
        5,
        10,
        15,
        20,
        25,
        30,
        32,
    ]
    assert [line["step"] for line in lines if line["split"] == "valid"] == [12, 24, 32]
    train = [line["loss"] for line in lines if line["split"] == "train"]
    assert train[-1] < train[0]
    assert result.metrics["valid"]["elbo"] == lines[-1]["elbo"]
    assert int(result.train_state.step) == 32
    assert set(json.loads((tmp_path / "config.json").read_text())) == {"config", "versions"}


def test_log_line_is_the_mean_over_its_steps():
    """With a learning rate of zero, each step's loss can be computed alone from the same keys."""
    model, tx = small(), optax.sgd(0.0)
    result = go(3, model=model, tx=tx, log_every=3)
    state, src, losses = result.train_state, source(), []
    for step in range(3):
        x = src.arrays["x"][data.batch_indices(src.size, 0, step, 16)].astype(
            np.float32
        ) / np.float32(255)
        key = jax.random.fold_in(jax.random.fold_in(state.rng, step), 0)
        loss, _ = model.objectives[0].loss(
            state.params, state.state, key, types.Batch(jnp.asarray(x)), step, None
        )
        losses.append(np.mean(loss))
    assert result.metrics["train"]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_one_device_and_eight_agree():
    for x, y in zip(params(go(6)), params(go(6, mesh=parallel.make_mesh())), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_a_phase_with_its_own_optimiser_starts_it_anew_and_one_without_goes_on():
    first, second = small(), small(beta=2.0)
    for tx, count in ((None, 11), (optax.adam(1e-2), 4)):
        phases = [Phase(first, 7), Phase(second, 4, tx)]
        shared = fit(phases, optax.adam(1e-2), source(), batch_size=16, mesh=one_device())
        assert int(shared.train_state.opt_state["encoder"][0].count) == count
    alone = go(7, model=first)
    assert not np.array_equal(params(shared)[0], params(alone)[0])


def test_phases_resume_in_the_right_phase(tmp_path):
    def phases(n):
        return [Phase(small(), 7), Phase(small(beta=2.0), n, optax.sgd(1e-2))]

    def go_on(n, **options):
        return fit(
            phases(n),
            optax.adam(1e-2),
            source(),
            batch_size=16,
            mesh=one_device(),
            log_every=3,
            **options,
        )

    for n in (1, 3, 6):  # stops inside the second phase, then goes on
        resumed = go_on(n, workdir=tmp_path)
    assert_same(params(resumed), params(go_on(6)))


def test_ema_is_kept_evaluated_and_loaded(tmp_path):
    result = go(3, workdir=tmp_path, ema_decay=0.5, valid=source(1))
    plain = [go(n).train_state.params for n in (1, 2, 3)]
    want, _ = small().init(
        jax.random.split(jax.random.key(0))[0], types.Batch(jnp.zeros((16, 4, 4, 1)))
    )
    for p in plain:
        want = jax.tree.map(lambda e, p: 0.5 * e + 0.5 * p, want, p)
    loaded = jaxvae.load(tmp_path, model=small(), example=EXAMPLE)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(loaded.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    found = evaluate(small(), loaded.params, loaded.state, source(1), mesh=one_device())
    assert found["elbo"] == pytest.approx(result.metrics["valid"]["elbo"], rel=1e-5)


def test_resumed_run_ends_with_the_same_bits_and_the_same_log(tmp_path):
    options = {"valid": source(1), "eval_every": 6}
    unstopped = go(30, workdir=tmp_path / "whole", **options)
    stop_at = iter([6, 18])
    for stop in (next(stop_at), next(stop_at)):

        def raise_sigterm(step, state, stop=stop):
            if step == stop:
                signal.raise_signal(signal.SIGTERM)

        with pytest.raises(SystemExit) as stopped:
            go(30, workdir=tmp_path / "parts", on_eval=raise_sigterm, **options)
        assert stopped.value.code == signals.EXIT_SIGTERM == 75
    parts = go(30, workdir=tmp_path / "parts", **options)
    assert_same(
        *(
            jax.tree.leaves(jax.device_get(result.train_state.opt_state))
            for result in (unstopped, parts)
        )
    )
    assert_same(params(unstopped), params(parts))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_patience_ends_a_run_that_gets_worse_and_so_do_its_parts(tmp_path, capsys):
    """Uphill, by an optimiser and a beta whose schedules are not at their end."""
    words = {"optimizer": "adamw", "lr_schedule": "cosine", "lr_steps": 30, "warmup": 3}
    tx = transformation(Options(workdir=tmp_path, **words), -1e-2)
    options = {"valid": source(1), "eval_every": 4, "patience": 2, "tx": tx}
    options["model"] = small(beta=objectives.cyclical(6))
    unstopped = go(30, workdir=tmp_path / "whole", **options)
    assert int(unstopped.train_state.step) == 12
    assert (
        "step 12: the run ends here: no better elbo of the validation split in 2 evaluations. The "
        in (said := capsys.readouterr().err)
    )
    assert "best checkpoint is of step 4." in said
    assert Checkpoints(tmp_path / "whole" / "checkpoints", read_only=True).best_step() == 4

    def raise_sigterm(step, state):
        if step == 8:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        go(30, workdir=tmp_path / "parts", on_eval=raise_sigterm, **options)
    parts = go(30, workdir=tmp_path / "parts", **options)
    assert_same(params(unstopped), params(parts))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    again = go(30, workdir=tmp_path / "parts", **options)  # which has ended
    assert_same(params(unstopped), params(again))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_log_intervals_that_do_not_meet_the_checkpoints_survive_a_stop(tmp_path):
    """The sums of an unfinished interval are part of a checkpoint."""
    unstopped = go(30, workdir=tmp_path / "whole", log_every=10, save_every=7)

    def interrupt(step, state):
        if step == 14:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit) as stopped:
        go(30, workdir=tmp_path / "parts", log_every=10, eval_every=14, on_eval=interrupt)
    assert stopped.value.code == 130
    parts = go(30, workdir=tmp_path / "parts", log_every=10, save_every=7)
    assert_same(params(unstopped), params(parts))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_finished_run_is_not_run_again_and_a_longer_one_goes_on(tmp_path):
    first = go(10, workdir=tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = go(10, workdir=tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert again.metrics == first.metrics
    assert_same(params(again), params(first))
    assert_same(params(go(20, workdir=tmp_path)), params(go(20)))


def test_resumes_on_another_number_of_devices(tmp_path):
    go(10, workdir=tmp_path, mesh=parallel.make_mesh())
    for x, y in zip(params(go(14, workdir=tmp_path)), params(go(14)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_best_checkpoint_is_kept_and_loaded(tmp_path):
    """Validation gets worse from step 5 on: gradient ascent."""
    tx = optax.sgd(lambda count: jnp.where(count < 5, 1e-2, -1e-2))
    go(20, tx=tx, workdir=tmp_path, valid=source(1), eval_every=5, keep=1)
    lines = [line for line in writers.read(tmp_path / "metrics.jsonl") if line["split"] == "valid"]
    best = max(lines, key=lambda line: line["elbo"])
    assert best["step"] == 5
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert checkpoints.steps() == [5, 20]
    loaded = jaxvae.load(tmp_path, step="best", model=small(), example=EXAMPLE)
    found = evaluate(small(), loaded.params, loaded.state, source(1), mesh=one_device())
    assert found["elbo"] == pytest.approx(best["elbo"], rel=1e-5)


def test_best_survives_a_resume_with_and_without_a_validation_split(tmp_path):
    tx = optax.sgd(lambda count: jnp.where(count < 5, 1e-2, -1e-2))
    kept = lambda: Checkpoints(tmp_path / "checkpoints", read_only=True).steps()  # noqa: E731
    for steps, valid in ((10, source(1)), (20, source(1)), (25, None)):
        go(steps, tx=tx, workdir=tmp_path, valid=valid, eval_every=5, keep=1)
        assert kept() == [5, steps]
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).best_step() == 5


def test_best_may_be_a_minimum_and_load_knows_it(tmp_path):
    tx = optax.sgd(lambda count: jnp.where(count < 5, 1e-2, -1e-2))
    go(20, tx=tx, workdir=tmp_path, valid=source(1), eval_every=5, keep=1, best=("elbo", "min"))
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).best_step() == 20


def test_phase_without_an_optimiser_goes_on_with_that_of_the_phase_before(tmp_path):
    model = small()
    three = [Phase(model, 4), Phase(model, 4, optax.sgd(1e-2)), Phase(model, 4)]
    two = [Phase(model, 4), Phase(model, 8, optax.sgd(1e-2))]
    results = [
        fit(phases, optax.adam(1e-2), source(), batch_size=16, mesh=one_device())
        for phases in (three, two)
    ]
    assert_same(*(params(result) for result in results))


def test_lengths_of_finished_phases_may_not_change(tmp_path):
    def phases(*lengths):
        return [Phase(small(), n) for n in lengths]

    options = {"batch_size": 16, "mesh": one_device(), "workdir": tmp_path}
    fit(phases(4, 4), optax.adam(1e-2), source(), **options)
    with pytest.raises(UserError, match=r"phases is \[4\] there and \[6\] here"):
        fit(phases(6, 4), optax.adam(1e-2), source(), **options)
    fit(phases(4, 6), optax.adam(1e-2), source(), **options)


def test_other_data_in_the_folder_are_refused(tmp_path):
    go(5, workdir=tmp_path)
    with pytest.raises(UserError, match="size is 100 there and 90 here"):
        go(10, workdir=tmp_path, data=source(size=90))


def test_numbers_of_numpy_are_good_settings(tmp_path):
    go(
        5,
        workdir=tmp_path,
        seed=np.int64(3),
        config={"lr": np.float32(0.5), "widths": (1, np.int32(2))},
    )
    assert folder.read_config(tmp_path) == {"lr": 0.5, "widths": [1, 2]}
    go(10, workdir=tmp_path, seed=np.int64(3), config={"lr": 0.5, "widths": [1, 2]})


def test_float_data_are_searched_for_their_range():
    x = np.full((100, 4), 0.5, np.float32)
    x[77, 2] = 255.0
    model = models.vae(nets.mlp((4,), 4), nets.mlp((4,), (4,)), latent_dim=2)
    with pytest.raises(UserError, match=r"needs pixels in \[0, 1\]; these run from 0.5 to 255"):
        go(5, model=model, data=data.from_arrays(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        (
            {"batch_size": 12, "mesh": None},
            "batch_size 12 cannot be cut into equal slices over 8 devices: use",
        ),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"eval_every": -1}, "eval_every must be at least 1"),
        ({"steps": None}, "fit needs steps"),
        ({"accumulate": 3}, "cannot be cut into 3 equal parts, as accumulate says"),
        ({"tx": {"encoder": optax.adam(1e-3)}}, r"objectives move \['decoder', 'encoder'\]"),
        ({"ema_decay": 1.5}, "ema_decay must be below 1"),
        ({"seed": 2**32}, "seed must be below 2\\*\\*32"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"best": ("elbo", "maximum")}, "best must be"),
        (
            {"best": ("eblo", "max"), "valid": source(1)},
            "unknown metric for best 'eblo'. Did you mean 'elbo'",
        ),
        ({"patience": 2, "eval_every": 1}, "patience needs a metric of the validation split"),
        (
            {"patience": 4, "eval_every": 1, "valid": source(1)},
            "patience 4 cannot end this run early: it needs 5 evaluations before its last step, 5, and has 4",
        ),
        ({"config": {"lr": object()}}, "config must be made of numbers"),
        ({"data": X}, r"source must be a Source, not ndarray: data.from_arrays\(x, label\)"),
        ({"valid": X}, "valid must be a Source, not ndarray"),
        ({"model": [(small(), 3)], "steps": None}, "each phase must be a Phase, not tuple"),
        ({"model": models.vae, "steps": None}, "a run is one model with steps, or a list"),
        ({"mesh": jax.devices()}, "mesh must be a Mesh, not list: parallel.make_mesh"),
        (
            {"model": [Phase(small(), 3, preprocess="grey")], "steps": None},
            "preprocess must be a function .*, not 'grey'",
        ),
        ({"preprocess": "binarised"}, "preprocess must be a function .*, not 'binarised'"),
        # found before the first step, not by the first evaluation
        (
            {"valid": data.from_arrays(X[:, :3])},
            r"do not fit a net for inputs of shape \(3, 4, 1\)",
        ),
        (
            {"valid": data.from_arrays(X), "preprocess": make_preprocess(num_classes=3)},
            "these examples have none: use a labelled source",
        ),
        # a class that the first batch does not show
        (
            {"data": data.from_arrays(X, LATE), "preprocess": make_preprocess(num_classes=3)},
            "there is a label 3, but those of 3 classes run from 0 to 2",
        ),
        (
            {"valid": data.from_arrays(X, LATE), "preprocess": make_preprocess(num_classes=3)},
            "there is a label 3, but those of 3 classes run from 0 to 2",
        ),
    ],
)
def test_settings_that_cannot_work(tmp_path, options, message):
    options = {"steps": 5, **options}
    with pytest.raises(UserError, match=message):
        go(options.pop("steps"), workdir=tmp_path / "run", **options)
    assert not (
        tmp_path / "run"
    ).exists()  # so that the corrected settings find no folder with the wrong ones
