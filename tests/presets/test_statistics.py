"""A run of an introspective model with BatchNorm, from training to export: whose statistics are used
where, what every protocol says of them, what training warns of, and AUROC against other data."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import jaxvae
from jaxvae import data, models, nets, writers
from jaxvae.cli import evaluate as evaluating
from jaxvae.cli.main import main
from jaxvae.cli.use import open_run
from jaxvae.errors import UserError
from jaxvae.metrics import fid
from jaxvae.metrics.protocols import PROTOCOLS
from jaxvae.models import verbs
from jaxvae.presets import parts, statistics
from jaxvae.presets.config import System
from jaxvae.train import evaluate, reestimate
from jaxvae.train.statistics import STATS
from jaxvae.types import Batch
from small import _Normed, small

SEED = 3
WORDS = "statistics re-estimated over 1,200 training examples"


def normed_nets(config, shape, num_classes):
    return nets.from_linen(_Normed((2 * config.latent_dim,))), nets.from_linen(_Normed(shape))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run's folder, and what training said on stderr; beta_neg is far too large."""
    folder, err = tmp_path_factory.mktemp("intro") / "run", io.StringIO()
    words = ["train", "soft_intro_vae", "--data", "digits", "--workdir", str(folder)]
    words += ["--latent-dim", "3", "--beta-neg", "1e6", "--steps", "30", "--batch-size", "32"]
    words += ["--log-every", "1", "--eval-every", "15", "--seed", str(SEED), "--no-progress"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "nets_of", normed_nets)
        with contextlib.redirect_stderr(err):
            assert main(words) == 0
        yield folder, err.getvalue()


def numbers(tmp_path, *words):
    """Returns the arrays that a command keeps."""
    npz = tmp_path / "kept.npz"
    assert main([*map(str, words), "--out", str(tmp_path / "x.png"), "--npz", str(npz)]) == 0
    with np.load(npz) as arrays:
        return dict(arrays)


def refused(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return err


def test_statistics_that_a_model_does_not_tell_are_refused_in_the_words_of_the_command():
    pair = nets.from_linen(_Normed((4,))), nets.from_linen(_Normed((4, 4, 1)))
    model = models.vae(*pair, latent_dim=2)._replace(moments=None)
    trees = jax.jit(model.init)(jax.random.key(0), Batch(np.zeros((2, 4, 4, 1), np.float32)))
    with pytest.raises(UserError, match="choose --stats running or batch"):
        statistics.choose(System(model), *trees, "reestimated", None, seed=0)


def train_split():
    return data.load("digits", data.splits("digits").train)


def states(folder):
    """Returns the state of each of the statistics, from Python."""
    model, params, state = jaxvae.load(folder)
    found = {
        over: reestimate(model, params, state, train_split(), over=over, seed=SEED)
        for over in ("data", "samples")
    }
    return model, params, state, found["data"], found["samples"]


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.long
def test_training_says_once_what_is_wrong_and_what_to_do(trained):
    _, err = trained
    (line,) = [line for line in err.splitlines() if "exp_elbo" in line]
    assert "step 20: exp_elbo is stuck at 0" in line and "Lower beta_neg" in line


@pytest.mark.long
def test_what_a_run_reports_is_of_reestimated_statistics(trained):
    folder, _ = trained
    model, params, state, of_data, _ = states(folder)
    lines = writers.read(folder / "metrics.jsonl")
    (test,) = [line for line in lines if line["split"] == "test"]
    (*_, valid) = [line for line in lines if line["split"] == "valid"]
    assert test["statistics"] == WORDS
    assert test["stats"] == valid["stats"] == "reestimated"
    for line, split in ((test, "test"), (valid, "valid")):
        source = data.load("digits", getattr(data.splits("digits"), split))
        right, wrong = (
            evaluate(model, params, each, source, seed=SEED)["elbo"] for each in (of_data, state)
        )
        assert line["elbo"] == pytest.approx(right, rel=1e-5)
        assert line["elbo"] != pytest.approx(wrong, rel=1e-3)


@pytest.mark.long
def test_every_command_has_the_statistics_of_its_option(trained, tmp_path):
    folder, _ = trained
    model, params, state, of_data, of_samples = states(folder)
    rng = jax.random.key(0)
    x = numbers(tmp_path, "sample", folder, "--n", 8)["x"]
    np.testing.assert_allclose(x, model.sample(params, of_samples, rng, 8), atol=1e-6)
    for stats, averages, mode in (
        ("running", state, "running"),
        ("batch", state, "batch"),
        ("reestimated", of_data, "running"),
    ):
        x = numbers(tmp_path, "sample", folder, "--n", 8, "--stats", stats)["x"]
        np.testing.assert_allclose(x, model.sample(params, averages, rng, 8, stats=mode), atol=1e-6)

    test = data.load("digits", data.splits("digits").test).read(np.arange(4))["x"]
    batch = Batch(test.astype(np.float32) / np.float32(255))
    for command, key, want in (
        ("reconstruct", "x_hat", verbs.reconstruct(model, params, of_data, batch)),
        ("interpolate", "x", verbs.interpolate_square(model, params, of_data, batch, 8)),
    ):
        more = ("--square",) if command == "interpolate" else ("--n", 4)
        np.testing.assert_allclose(numbers(tmp_path, command, folder, *more)[key], want, atol=1e-5)


@pytest.mark.long
def test_evaluate_puts_the_statistics_side_by_side_and_says_which(trained, tmp_path, capsys):
    folder, _ = trained
    words = ["evaluate", folder, "--metrics", "elbo", "--out", tmp_path / "e.json"]
    assert main([*map(str, words), "--stats", *STATS]) == 0
    rows = json.loads((tmp_path / "e.json").read_text())["metrics"]
    elbos = {row["protocol"]: row["value"] for row in rows if row["metric"] == "elbo"}
    start = "nats per example, one draw of z, grey pixels, "
    assert list(elbos) == [
        start + "running statistics",
        start + "statistics of each batch of 100",
        start + WORDS,
        start + WORDS + ", the decoder's over 1,200 samples",
    ]
    assert len(set(elbos.values())) == 4
    assert main([str(word) for word in words]) == 0
    (usual, *_) = json.loads((tmp_path / "e.json").read_text())["metrics"]
    assert usual["protocol"] == start + WORDS and usual["value"] == elbos[start + WORDS]
    message = refused(capsys, *words, "--stats", "batch", "batch")
    assert "--stats needs one or more of running, batch" in message


@pytest.mark.long
def test_export_writes_the_statistics_and_says_so(trained, tmp_path, capsys):
    folder, _ = trained
    _, _, state, of_data, of_samples = states(folder)
    for stats, want in ((None, of_data), ("running", state), ("reestimated-samples", of_samples)):
        out = tmp_path / str(stats)
        options = ["--stats", stats] if stats else []
        assert main(["export", str(folder), "--out", str(out), *options]) == 0
        same(jaxvae.load(out).state, want)
        page = json.loads((out / "config.json").read_text())
        assert page["statistics"]["name"] == (stats or "reestimated")
    same(jaxvae.load(folder, stats="reestimated").state, of_data)
    same(jaxvae.load(folder).state, state)

    out = tmp_path / "None"
    page = json.loads((out / "config.json").read_text())
    assert page["statistics"] == {"name": "reestimated", "about": WORDS}
    assert main(["evaluate", str(out), "--metrics", "elbo"]) == 0
    (row, *_) = json.loads((out / "evaluation.json").read_text())["metrics"]
    assert row["protocol"].endswith(WORDS)
    assert "was exported with" in refused(capsys, "sample", out, "--stats", "running")
    x = numbers(tmp_path, "sample", tmp_path / "running", "--n", 4)["x"]  # as it was exported
    model, params, *_ = jaxvae.load(folder)
    want = model.sample(params, state, jax.random.key(0), 4)
    np.testing.assert_allclose(x, want, atol=1e-6)
    with pytest.raises(UserError, match="are in no file"):
        jaxvae.export(folder, tmp_path / "batch", stats="batch")
    with pytest.raises(UserError, match="load takes stats=running, reestimated"):
        jaxvae.load(folder, stats="batch")


@pytest.mark.long
def test_distances_name_the_generators_statistics(trained, tmp_path, monkeypatch):
    folder, _ = trained
    seen = []

    def compare(real, sampler, protocol, **options):
        seen.append((protocol.label, sampler(jax.random.key(0), 4, protocol.generator)))
        return {"fid": fid.Distance(1.0, None, 4, 4, protocol.label)}

    monkeypatch.setattr(evaluating.fid, "compare", compare)
    words = ["evaluate", str(folder), "--metrics", "fid", "--out", str(tmp_path / "e.json")]
    assert main([*words, "--protocol", "squeezenet"]) == 0
    assert main([*words, "--protocol", "squeezenet", "--stats", "running", "batch"]) == 0
    assert main([*words, "--protocol", "soft-intro-released"]) == 0
    assert [label for label, _ in seen] == [
        "squeezenet(generator=reestimated-samples)",
        "squeezenet",
        "squeezenet(generator=batch)",
        "soft-intro-released",
    ]
    model, params, state, _, of_samples = states(folder)
    want = [(of_samples, "running"), (state, "running"), (state, "batch"), (state, "batch")]
    for (_, x), (averages, stats) in zip(seen, want, strict=True):
        drawn = model.sample(params, averages, jax.random.key(0), 4, stats=stats)
        np.testing.assert_allclose(x, np.clip(drawn, 0, 1), atol=1e-6)
    protocol = PROTOCOLS["squeezenet"]._replace(generator="reestimated")
    with pytest.raises(UserError, match="give model_sampler the state of train.reestimate"):
        fid.model_sampler(model, params, state)(jax.random.key(0), 2, protocol.generator)


def test_statistics_of_a_net_without_any_are_refused():
    model = small()
    params, state = model.init(jax.random.key(0), Batch(np.zeros((2, 4, 4, 1), np.float32)))
    system = parts.System(model)
    with pytest.raises(UserError, match="no batch statistics: leave out --stats"):
        statistics.choose(system, params, state, "batch", None, seed=0)
    usual = statistics.choose(system, params, state, None, None, seed=0)
    assert usual == ("running", state, "running", "")


def test_usual_running_averages_are_said_of_no_plain_vae():
    pair = [nets.from_linen(_Normed(shape)) for shape in ((4,), (4, 4, 1))]
    model = models.vae(*pair, latent_dim=2)
    params, state = model.init(jax.random.key(0), Batch(np.zeros((2, 4, 4, 1), np.float32)))
    for stats in (None, "running"):
        found = statistics.choose(parts.System(model), params, state, stats, None, seed=0)
        assert (found.name, found.stats, found.about) == ("running", "running", "")


# ---- auroc ---------------------------------------------------------------------------------------


@pytest.mark.long
def test_auroc_by_both_scores_with_its_interval_and_its_picture(trained, tmp_path):
    folder, _ = trained
    words = ["evaluate", folder, "--metrics", "auroc", "--out-data", "fake_mnist", "--convert"]
    words += ["--out-split", "test[:70]", "--split", "test[:90]", "--draws", 2, "--gamma", 0.3]
    words += ["--stats", "running", "batch", "--npz", tmp_path / "e.npz"]
    assert main([*map(str, words), "--out", str(tmp_path / "e.json")]) == 0
    rows = json.loads((tmp_path / "e.json").read_text())["metrics"]
    assert [row["metric"] for row in rows] == ["auroc"] * 4
    with np.load(tmp_path / "e.npz") as arrays:
        for i, (row, score) in enumerate(zip(rows, ("elbo", "iw") * 2, strict=True)):
            inside, outside = (arrays[f"{score}_{side}"][i // 2] for side in ("inside", "outside"))
            assert len(inside) == len(arrays[f"{score}_train"][0]) == 90 and len(outside) == 70
            truth = np.repeat([1, 0], [90, 70])
            area = roc_auc_score(truth, np.concatenate([inside, outside]))
            assert row["value"] == pytest.approx(area, abs=1e-9) and row["n"] == 160
            assert row["low"] <= row["value"] <= row["high"] and row["error"] >= 0
        np.testing.assert_array_equal(arrays["auroc"], [row["value"] for row in rows])
    first, second, third, _ = (row["protocol"] for row in rows)
    about = "AUROC of digits test[:90] against fake_mnist as 8x8x1 test[:70] by nats per example, "
    about += "{}, decoder variance 0.3, {} statistics{}; DeLong interval of 0.95"
    assert first == about.format("ELBO, one draw of z", "running", "")
    assert second == about.format("importance-weighted log-likelihood, K=2", "running", "")
    assert third == about.format("ELBO, one draw of z", "batch", " of {} examples").replace(
        "{}", "90"
    )
    assert (tmp_path / "auroc.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["auroc"], "--out-data NAME"),
        (["elbo", "--out-data", "fake_mnist"], "--out-data: only for --metrics auroc"),
        (["elbo", "--gamma", "1", "--convert"], "--convert and --gamma: only for --metrics auroc"),
        (["elbo", "--draws", "3"], "--draws is of --metrics auroc and completions"),
        (
            ["auroc", "--out-data", "fake_mnist"],
            "8x8x1, fake_mnist of 28x28x1: with --convert they become 8x8x1",
        ),
        (
            ["auroc", "--out-data", "digits", "--out-split", "test[:100]", "--convert"],
            "has the shape 8x8x1 already: leave out --convert",
        ),
        (["auroc", "--out-data", "digits", "--split", "test"], "choose another data set"),
        (["auroc", "--out-data", "nothing"], "unknown data set"),
        (["auroc", "--out-data", "fake_mnist", "--gamma", "0"], "--gamma must be"),
        (["lpips", "auroc", "--out-data", "fake_mnist"], "at least 17 pixels a side, not 8x8"),
    ],
)
def test_what_auroc_cannot_compare_is_said_before_any_work(
    trained, words, message, capsys, monkeypatch
):
    folder, _ = trained
    monkeypatch.setattr(evaluating, "chosen", None)  # nothing is estimated
    assert message in refused(capsys, "evaluate", folder, "--metrics", *words)


@pytest.mark.long
def test_auroc_is_not_of_a_conditional_model(trained):
    opened = open_run(trained[0])
    system = opened.system._replace(classes=10)
    source = data.load("digits", "test")
    with pytest.raises(UserError, match="auroc is of models without labels"):
        evaluating.detecting.sets(system, source, source, source, convert=False)
