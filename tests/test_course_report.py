"""The course report's experiment: its settings against the report, and tiny runs of all three
systems, measured and drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seeded
from experiments import needs, plan, runner
from experiments.budgets import Budget
from experiments.course_report import __main__ as command
from experiments.course_report import cells, figures, setting, train
from experiments.course_report.train import Case
from experiments.needs import unfinished
from jaxvae import table, writers
from jaxvae.errors import UserError
from jaxvae.metrics import squeezenet
from jaxvae.types import Batch


def test_settings_are_the_reports():
    """Parameters and steps as its code has them: torch's loaders keep the last, smaller batch."""
    full = setting.Sizes()
    for kind, count, steps in (
        ("z20", 815_824, 40 * 391),
        ("z2", 815_824 - 3 * 18 * 500 - 2 * 18, 40 * 391),
        ("gan", 1_510_032 + 533_505, 200 * 938),
        ("flow", 27_685_120, 40 * 313),
    ):
        task = setting.task(kind, cells.SHAPE, full)
        batch = Batch(jnp.zeros((2, *cells.SHAPE)))
        params, _ = jax.eval_shape(task.model.init, jax.random.key(0), batch)
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count, kind
        [cell] = [c for c in cells.cells(1.0) if c.name == f"mnist/{kind}"]
        assert cell.needs.steps == steps
        [part] = cell.needs.parts()
        assert part.batch.x.shape == (task.batch_size, *cells.SHAPE)
        assert task.shown[-1] == task.epochs  # the last samples are those of the end


def test_the_likelihood_counts_as_work_of_the_vae():
    """K decodes of each test image: 2 operations for each weight, and the activations."""
    weights = 20 * 500 + 500 * 784
    [z20] = [c for c in cells.cells(1.0) if c.name == "mnist/z20"]
    beside = z20.needs.measuring()
    assert 1.0 < beside / (2 * weights * 10_000 * 5000) < 1.03
    planned = plan.Planned("course_report", (), z20)
    counted = plan.Costs().of(planned)
    assert counted is not None
    assert counted.flops == pytest.approx(needs.work(z20.needs.parts()).flops + beside)
    assert counted.flops > 3 * (counted.flops - beside)  # most of the seconds are not training


def test_a_budget_is_a_protocol_and_of_gan_and_flow_alone():
    assert [cell.name for cell in cells.cells(0.05)] == ["mnist/gan", "mnist/flow"]
    at_full = {cell.name: cell.needs for cell in cells.cells(1.0)}
    for cell in cells.cells(0.05):
        assert cell.needs.steps == 0.05 * at_full[cell.name].steps
        assert all(name.endswith(", 5 % of the epochs") for name in cell.needs.protocols)
    tiny = train.task_of(Case("gan", budget=Budget(0.05)), cells.SHAPE)
    assert (tiny.epochs, tiny.shown) == (10, (1, 5, 10))
    with pytest.raises(UserError, match="--budget must be at most 1"):
        cells.cells(1.5)


def test_published_numbers_have_a_cell_and_a_protocol_of_it():
    entries = writers.read_json(cells.FOLDER / "expected.json")["cells"]
    table.join([], {"cells": entries})
    assert {entry["cell"] for entry in entries} == {cell.name for cell in cells.cells(1.0)}


def test_bits_of_a_uniform_density_are_those_of_a_byte():
    assert cells.bits(0.0, (4, 4, 1)) == pytest.approx(8.0)
    assert cells.bits(16 * np.log(256.0), (4, 4, 1)) == pytest.approx(0.0)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A smoke run of GAN, flow and one VAE through the command, with SqueezeNet weights of the right
    shapes."""
    folder = tmp_path_factory.mktemp("course_report")
    with pytest.MonkeyPatch.context() as patch:
        for module in (cells, figures, train):
            patch.setattr(module, "FOLDER", folder)
        patch.setattr(train.setting, "BATCH_SIZE", 256)  # fewer steps
        train.trained.cache_clear()
        weights = folder / "weights"
        weights.mkdir()
        np.savez(weights / "squeezenet1_1_features.npz", **seeded.state_dict(squeezenet.shapes()))
        patch.setenv("JAXVAE_WEIGHTS_DIR", str(weights))
        chosen = ("mnist/gan", "mnist/flow", "mnist/z2")
        words = [word for name in chosen for word in ("--cell", name)]
        runner.main(folder, cells.cells, ["--smoke", *words], command.OPTIONS)
        yield folder
        train.trained.cache_clear()


@pytest.mark.slow
def test_every_number_of_the_report_is_measured(ran):
    found = {(r["cell"], r["metric"], r["protocol"]): r for r in table.load(ran, "smoke")[0]}
    assert all(np.isfinite(line["value"]) for line in found.values())
    published = writers.read_json(train.setting.__file__.replace("setting.py", "expected.json"))
    for entry in published["cells"]:
        key = entry["cell"], entry["metric"], entry["protocol"]
        assert key in found or "Larochelle" in entry["protocol"]
    [distance] = {key[2] for key in found if key[1] == "fid"}
    assert distance == "squeezenet(samples=16,reals=16)"
    first = found["mnist/flow", "bpd", "train, moved; mean of the first epoch"]
    last = found["mnist/flow", "bpd", "train, moved; mean of the last epoch"]
    assert 2 * first["steps"] == last["steps"] and last["value"] < first["value"]
    assert ("mnist/flow", "bpd", "valid") in found and ("mnist/flow", "bpd", "test") in found


@pytest.mark.slow
def test_losses_are_means_of_an_epoch(ran):
    """One line of the log for each epoch, of all its steps."""
    lines = writers.read(ran / "runs" / "smoke" / "gan.seed0" / "metrics.jsonl")
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == [21, 42]  # 1,293 digits in batches of 64


@pytest.mark.slow
def test_runs_are_kept_with_samples_on_the_way_and_not_trained_again(ran, monkeypatch, capsys):
    case = Case("gan", smoke=True)
    assert {path.name for path in case.folder.glob("samples.*.png")} == {
        "samples.001.png",
        "samples.002.png",
    }
    assert not unfinished(case.folder)
    before = train.trained(case)
    train.trained.cache_clear()
    again = train.trained(case)  # from its last checkpoint
    jax.tree.map(np.testing.assert_array_equal, before.params, again.params)
    (case.folder / "finished").unlink()
    assert unfinished(case.folder)
    (case.folder / "finished").touch()


@pytest.mark.slow
def test_figures_of_smoke_runs(ran, monkeypatch, capsys):
    figures.main(["--smoke"])
    made = capsys.readouterr().out.split()
    assert {name.rpartition("/")[2] for name in made} == {
        *("gan.losses.png", "gan.samples.png", "gan.interpolation.png"),
        *("flow.bpd.png", "flow.samples.png"),
        *("z2.curves.png", "z2.manifold.png", "z2.samples.png"),
    }
    for name in made:
        assert (ran / name).stat().st_size > 500


@pytest.fixture
def weightless(tmp_path, monkeypatch):
    """A folder of weights without any."""
    monkeypatch.setenv("JAXVAE_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAXVAE_DATA_DIR", raising=False)
    return tmp_path


@pytest.mark.slow
def test_without_weights_the_distance_alone_is_not_measured(ran, weightless, capsys):
    found = cells.gan(Case("gan", smoke=True))
    assert [m.metric for m in found] == 2 * ["generator_loss"] + 2 * ["discriminator_loss"]
    said = "  fid: not measured, as its weights are not here: jaxvae weights fetch squeezenet\n"
    assert capsys.readouterr().out.endswith(said)
    for cell in cells.cells(1.0):
        cell.check(True)
        cell.check(False)
        assert cell.needs.weights == ()
        assert cells.DISTANCE.label not in cell.needs.protocols
    (weightless / "squeezenet1_1_features.npz").touch()
    at_full = {cell.name: cell.needs for cell in cells.cells(1.0)}
    for name in ("mnist/gan", "mnist/flow"):  # which they now lack
        assert at_full[name].protocols[-1] == cells.DISTANCE.label
    assert cells.DISTANCE.label not in at_full["mnist/z2"].protocols


def test_damaged_weights_are_said_before_anything_is_trained(weightless, capsys):
    (weightless / "squeezenet1_1_features.npz").write_bytes(b"PK")
    with pytest.raises(SystemExit):
        runner.main(weightless, cells.cells, ["--smoke", "--cell", "mnist/gan"], command.OPTIONS)
    assert "squeezenet" in capsys.readouterr().err
    assert not (weightless / "runs").exists()


def test_nothing_run_is_said(tmp_path, monkeypatch, capsys):
    for module in (figures, train):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match="2"):
        figures.main([])
    assert capsys.readouterr().err.startswith("nothing has been run")
