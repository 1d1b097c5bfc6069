"""The preset of two stages: its folder, resume in either stage, what other commands make of it, and
what it refuses."""

import dataclasses
import json
import shlex
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from jaxvae import Batch, data, safetensors, writers
from jaxvae.cli import main, options
from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, measure, record
from jaxvae.presets.load import FILE, open_run
from jaxvae.train import evaluate
from jaxvae.train import folder as folders

pytestmark = pytest.mark.long  # each test uses two trained stages, or trains some


def build(settings, shape, num_classes):
    return PRESETS[record.name_of(settings)].build(settings, shape, num_classes)


TINY = [
    "--data",
    "digits",
    "--net",
    "mlp",
    "--hidden",
    "16",
    "--latent-dim",
    "3",
    "--second-width",
    "8",
    "--second-depth",
    "2",
    "--batch-size",
    "32",
    "--log-every",
    "10",
    "--eval-every",
    "10",
    "--no-progress",
]
D = 3


def train(folder, *more, steps=20, second=30):
    return main(
        [
            "train",
            "two_stage_vae",
            "--workdir",
            str(folder),
            "--steps",
            str(steps),
            "--second-steps",
            str(second),
            *TINY,
            *more,
        ]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(folder) == 0
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.parametrize("entries", [{"hidden": [8] * 100_000}, {"second_depth": 10**9}])
def test_settings_are_bounded_by_the_arrays_of_both_stages(copy, capsys, entries):
    page = json.loads((copy / "config.json").read_text())
    page["config"] |= entries
    (copy / "config.json").write_text(json.dumps(page))
    assert "settings ask for a larger net than the weights" in refused(capsys, "sample", copy)


def refused(capsys, *argv):
    """Returns the one line that `jaxvae argv` ends with."""
    capsys.readouterr()
    assert main([str(a) for a in argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("jaxvae: ") and err.count("\n") == 1, err
    return err


def refused_train(capsys, folder, *more, steps=20, second=30):
    lengths = ["--steps", steps, "--second-steps", second]
    return refused(capsys, "train", "two_stage_vae", "--workdir", folder, *lengths, *TINY, *more)


def files(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def log_of(folder):
    return [
        {k: v for k, v in line.items() if k != "images_per_s"}
        for line in writers.read(folder / "metrics.jsonl")
    ]


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


# ---- the folder --------------------------------------------------------------------------------


def test_the_folder_holds_a_run_of_each_stage_and_the_whole(trained):
    pages = {name: folders.read_config(trained / name) for name in ("", "first", "second")}
    assert (
        pages[""]["preset"] == "two_stage_vae"
        and pages["first"]["preset"] == "vae"
        and pages["second"]["first_step"] == 20
    )
    for stage, last in (("first", 20), ("second", 30)):
        lines = log_of(trained / stage)
        assert [line["step"] for line in lines if line["split"] == "train"] == list(
            range(10, last + 1, 10)
        )
        assert "gamma" in next(line for line in lines if line["split"] == "train")
        assert (trained / stage / "curves.png").is_file()
    for name in ("samples", "reconstructions", "interpolation"):
        assert (trained / f"{name}.png").is_file() and (trained / "first" / f"{name}.png").is_file()
    (line,) = log_of(trained)
    assert (line["split"], line["step"]) == ("test", 50)
    assert line["elbo"] == pytest.approx(-line["rec"] - line["kl"], rel=1e-5)


def test_loaded_model_gives_the_numbers_of_the_run(trained):
    model, params, state = jaxvae.load(trained)
    found = evaluate(model, params, state, data.load("digits", "test"))
    assert found["elbo"] == pytest.approx(log_of(trained)[0]["elbo"], rel=1e-5)
    assert model.sample(params, state, jax.random.key(0), 3).shape == (3, 8, 8, 1)
    first = jaxvae.load(trained / "first")  # a run that can be used alone
    assert_same(first.params, params["first"])
    assert first.model.sample(first.params, first.state, jax.random.key(0), 3).shape == (3, 8, 8, 1)
    at = {
        step: jaxvae.load(trained, step=step).params for step in (20, 30, "best")
    }  # of the second stage
    assert_same(at[30], params)
    assert_same(at[20]["first"], params["first"])
    assert not np.array_equal(
        at[20]["second"]["likelihood"]["log_sd"], params["second"]["likelihood"]["log_sd"]
    )
    with pytest.raises(UserError, match="is the second stage of a run, which cannot be used alone"):
        jaxvae.load(trained / "second")


def test_gammas_learn_at_their_own_rate_and_the_nets_at_theirs(trained):
    _, params, _ = jaxvae.load(trained)
    log_sd = float(params["first"]["likelihood"]["log_sd"])
    assert 10e-3 < abs(log_sd) <= 20e-3 * 1.01  # Adam: at most 1e-3 a step, in 20 steps
    start, _ = open_run(trained).system.model.init(
        jax.random.key(0), Batch(jnp.zeros((2, 8, 8, 1)))
    )
    assert start["first"]["likelihood"]["log_sd"] == 0.0


def test_second_call_repeats_no_work(trained, capsys):
    before = files(trained)
    assert train(trained) == 0
    assert "digits, test split, step 50, nats per image" in capsys.readouterr().out
    assert files(trained) == before


# ---- resume ------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stage", [pytest.param("first", marks=pytest.mark.slow), "second"])
def test_run_killed_in_a_stage_ends_as_one_never_killed(trained, tmp_path, monkeypatch, stage):
    """At the line of step 20 nothing after step 10 is saved."""
    append = writers.append

    def fail(path, record):
        if path.parent.name == stage and record["step"] == 20:
            raise Killed
        append(path, record)

    with monkeypatch.context() as patched:
        patched.setattr(writers, "append", fail)
        with pytest.raises(Killed):
            train(tmp_path / "run")
    before = files(tmp_path / "run" / "first")
    if stage == "first":
        with pytest.raises(
            UserError, match="has no second stage yet: start the command that trains it again"
        ):
            jaxvae.load(tmp_path / "run")
    assert train(tmp_path / "run") == 0
    if stage == "second":
        assert files(tmp_path / "run" / "first") == before
    assert_same(jaxvae.load(tmp_path / "run")[1:], jaxvae.load(trained)[1:])
    for name in ("first", "second", ""):
        assert log_of(tmp_path / "run" / name) == log_of(trained / name)


def test_a_longer_first_stage_is_refused_until_the_second_is_deleted(copy, capsys):
    before = files(copy)
    message = "was trained on the latents of a first stage at step 20, not 30: delete that folder to train it anew"
    assert message in refused_train(capsys, copy, steps=30)
    assert files(copy) == before
    shutil.rmtree(copy / "second")
    assert (
        train(copy, steps=30, second=20) == 0
    )  # as many steps together as before: measured again all the same
    (line,) = log_of(copy)
    assert line["step"] == 50
    model, params, state = jaxvae.load(copy)
    assert line["elbo"] == pytest.approx(
        evaluate(model, params, state, data.load("digits", "test"))["elbo"], rel=1e-5
    )
    assert folders.read_config(copy / "second")["first_step"] == 30


def test_a_first_stage_that_ended_early_stays_as_it_is(copy, capsys, tmp_path):
    before = files(copy)
    assert train(copy, "--patience", "1", steps=40) == 0
    assert files(copy) == before
    message = (
        "patience 2 cannot end this run early: it needs 3 evaluations before its last step, 30"
    )
    assert message in refused_train(capsys, tmp_path / "new", "--patience", 2, steps=40)
    assert not (tmp_path / "new").exists()


def test_next_command_of_the_report_goes_on_with_the_second_stage(copy, capsys):
    assert train(copy) == 0
    command = next(
        line for line in capsys.readouterr().out.splitlines() if "--second-steps 60" in line
    )
    first = files(copy / "first")
    assert main(shlex.split(command)[1:]) == 0
    assert [line["step"] for line in log_of(copy)] == [50, 80]
    assert files(copy / "first") == first


def test_a_first_stage_trained_on_by_itself_is_noticed(copy, capsys):
    _, settings, *_ = record.from_dict(folders.read_config(copy / "first"))
    longer = dataclasses.replace(settings, workdir=copy / "first", steps=40)
    assert main([*shlex.split(record.command(longer)), "--workdir", str(copy / "first")]) == 0
    with pytest.raises(
        UserError,
        match="has no checkpoint of step 20 any more, whose latents the second stage was trained "
        "on",
    ):
        jaxvae.load(copy)
    assert "of a first stage at step 20, not 40" in refused_train(capsys, copy)


# ---- the other commands ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "shapes"),
    [
        (["sample", "--n", "5"], {"x": (5, 8, 8, 1)}),
        (["reconstruct", "--n", "4"], {"x": (4, 8, 8, 1), "x_hat": (4, 8, 8, 1)}),
        (["interpolate", "--n", "3", "--points", "4"], {"x": (3, 4, 8, 8, 1)}),
        (["traverse", "--n", "2", "--points", "5"], {"x": (2, 5, 8, 8, 1), "dimensions": (2,)}),
    ],
)
def test_commands_use_the_composed_model(trained, tmp_path, command, shapes):
    name, *rest = command
    assert (
        main(
            [
                name,
                str(trained),
                *rest,
                "--out",
                str(tmp_path / "a.png"),
                "--npz",
                str(tmp_path / "a.npz"),
            ]
        )
        == 0
    )
    with np.load(tmp_path / "a.npz") as arrays:
        assert {key: arrays[key].shape for key in arrays} == shapes
        found = arrays["x"]
    if name == "sample":
        model, params, state = jaxvae.load(trained)
        np.testing.assert_allclose(
            found, model.sample(params, state, jax.random.key(0), 5), atol=1e-6
        )


def test_evaluate_measures_the_composed_model(trained, tmp_path):
    others = ("log_prob", "completions", "bpd", "lpips", "auroc", "fid", "kid", *measure.SCORES)
    metrics = [name for name in options.METRICS if name not in others]
    assert (
        main(
            [
                "evaluate",
                str(trained),
                "--metrics",
                *metrics,
                "--k",
                "50",
                "--split",
                "test[:100]",
                "--out",
                str(tmp_path / "e.json"),
            ]
        )
        == 0
    )
    rows = {row["metric"]: row for row in json.loads((tmp_path / "e.json").read_text())["metrics"]}
    assert rows["elbo"]["value"] == pytest.approx(
        -rows["rec"]["value"] - rows["kl"]["value"], rel=1e-5
    )
    assert (
        len(rows["kl_per_dim"]["value"]) == D
        and "of u, at the mean of z" in rows["kl_per_dim"]["protocol"]
    )
    assert "3 dimensions of u" in rows["active_units"]["protocol"]
    # over z and u: a little better than the ELBO. With N(0, I) and p(x|u) = decode(u) it would be
    # another number.
    model, params, state = jaxvae.load(trained)
    x = jnp.asarray(data.load("digits", "test").arrays["x"][:100], jnp.float32) / 255
    weights = jax.vmap(lambda rng: model.log_weight(params, state, rng, Batch(x)))(
        jax.random.split(jax.random.key(1), 50)
    )
    want = -float(jnp.mean(jax.nn.logsumexp(weights, axis=0) - np.log(50.0)))
    assert rows["iw_nll"]["value"] == pytest.approx(want, abs=0.1)
    assert rows["iw_nll"]["value"] < -rows["elbo"]["value"]


def test_export_and_load_give_the_same_model(trained, tmp_path):
    out = tmp_path / "exported"
    assert main(["export", str(trained), "--out", str(out)]) == 0
    assert_same(jaxvae.load(trained)[1:], jaxvae.load(out)[1:])
    page = json.loads((out / "config.json").read_text())
    assert page["step"] == 30 and set(page["metrics"]) == {"second"}
    assert "params.first.encoder.Dense_0.kernel" in safetensors.read(out / FILE)
    assert main(["sample", str(out)]) == 0 and main(["evaluate", str(out)]) == 0


# ---- the first stage's options -----------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        (
            "--likelihood",
            "bernoulli",
            "--posterior",
            "ar1",
            "--conditional",
            "--ema-decay",
            "0.5",
            "--pixels",
            "binarised",
        ),
        pytest.param(
            (
                "--net",
                "conv",
                "--channels",
                "4",
                "--gamma",
                "0.5",
                "--accumulate",
                "2",
                "--no-noise-on-z",
                "--max-grad-norm",
                "1",
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.large
def test_any_first_stage_will_do(tmp_path, more):
    assert train(tmp_path / "run", *more, steps=2, second=2) == 0
    model, params, state = jaxvae.load(tmp_path / "run")
    cond = jax.nn.one_hot(np.arange(3), 10) if "--conditional" in more else None
    assert np.isfinite(model.sample(params, state, jax.random.key(0), 3, cond)).all()
    assert np.isfinite(log_of(tmp_path / "run")[0]["elbo"])
    assert ("likelihood" in params["first"]) is False and "likelihood" in params["second"]


# ---- mistakes ----------------------------------------------------------------------------------


def test_other_latent_sizes_are_another_run(trained, capsys):
    before = files(trained)
    assert "latent_dim is 3 there and 4 here" in refused_train(capsys, trained, "--latent-dim", "4")
    assert "second_width is 8 there and 9 here" in refused_train(
        capsys, trained, "--second-width", "9"
    )
    assert files(trained) == before


def test_stages_in_use_are_not_trained_twice(trained, capsys):
    from jaxvae.train.lease import lock

    with lock(trained):
        assert "is in use by another run" in refused_train(capsys, trained, second=40)
