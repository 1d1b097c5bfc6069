"""The 2-D experiment: its settings against the paper, and its commands on tiny runs."""

import json
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import runner
from experiments.soft_intro_2d import cells, figures, measure, setting, sweep
from jaxvae import table, writers
from jaxvae.data import toy2d
from jaxvae.errors import UserError
from jaxvae.metrics import grid2d
from jaxvae.train.ensemble import Ensemble
from jaxvae.types import Batch, Model

ROOT = Path(__file__).parents[1] / "experiments" / "soft_intro_2d"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Sends everything that is written into a folder of its own."""
    for module in (cells, sweep):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(grid2d, "BLOCK", 2**12)  # fewer points at a time, and less memory
    return tmp_path


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("method", setting.METHODS)
def test_parameters(method):
    model = setting.build(method, **setting.HYPER["8gaussians"][method])
    params, _ = jax.eval_shape(model.init, jax.random.key(0), Batch(jnp.zeros((2, 2))))
    assert (count(params["encoder"]), count(params["decoder"])) == (
        199_172,
        198_658,
    )  # released: one unused scalar more


def test_length_and_learning_rate():
    phases = setting.phases("soft_intro_vae", **setting.HYPER["rings"]["soft_intro_vae"])
    assert [phase.steps for phase in phases] == [2_000, 28_000]
    tx, params = setting.optimiser(), jnp.zeros(())
    state = tx.init(params)
    for at, rate in ((0, 2e-4), (9_999, 2e-4), (10_000, 2e-5), (14_999, 2e-5), (15_000, 2e-6)):
        late = jax.tree.map(
            lambda x, at=at: jnp.asarray(at, x.dtype) if x.dtype == jnp.int32 else x, state
        )
        with jax.numpy_dtype_promotion("standard"):
            update, _ = tx.update(jnp.ones(()), late, params)
        correction = (0.1 / (1 - 0.9 ** (at + 1))) / np.sqrt(0.001 / (1 - 0.999 ** (at + 1)))
        assert float(-update) == pytest.approx(rate * correction, rel=1e-3)


def test_the_other_reading_of_intro_vae_is_that_of_its_own_code():
    cell = setting.READINGS["rings/intro_vae_released"]
    assert cell.hyper == setting.TABLE_2["rings/intro_vae"].hyper
    coupled = [
        [o.coupled for o in setting.phases(m, **cell.hyper)[-1].model.objectives]
        for m in ("intro_vae", cell.method)
    ]
    assert coupled == [
        [False, False],
        [True, False],
    ]  # a hinge of each example, and of the batch mean
    assert [phase.steps for phase in setting.phases(cell.method, **cell.hyper)] == [2_000, 28_000]


def test_grid_search_has_the_paper_s_numbers_of_runs_and_holds_table_5():
    for method, runs in (("vae", 81), ("soft_intro_vae", 210), ("intro_vae", 1260)):
        settings = setting.search(method)
        assert len(settings) == runs == len({tuple(s.values()) for s in settings})
        for s in settings:
            assert all(0.05 <= s[name] <= 1.0 for name in ("beta_rec", "beta_kl"))
            assert s["beta_kl"] - 1e-9 <= s.get("beta_neg", s["beta_kl"]) <= 5 * s["beta_kl"] + 1e-9
        for data in setting.DATA:
            assert setting.HYPER[data][method] in settings


def test_expected_numbers_name_cells_that_exist():
    _, expected = table.load(ROOT)
    assert len(expected["cells"]) == 48
    names = {cell.name for cell in cells.CELLS}
    assert (
        {entry["cell"] for entry in expected["cells"]}
        == {*setting.TABLE_2, *setting.READINGS}
        <= names
    )
    values = {
        (entry["cell"], entry["metric"]): (entry["value"], entry["sd"])
        for entry in expected["cells"]
    }
    for cell in setting.READINGS:  # two readings of one row
        for metric in ("histogram_kl", "histogram_jsd", "gn_elbo"):
            assert values[cell, metric] == values[cell.removesuffix("_released"), metric]
    assert {f"{data}/real" for data in setting.DATA} < names


def test_measured_numbers_tell_the_data_from_something_else():
    """A "model" whose samples are the data, shifted by its only parameter."""
    toy = toy2d.toy("8gaussians")
    model = Model(
        init=None,
        sample=lambda params, state, rng, n: toy.draw(rng, n) + params,
        encode=lambda params, state, x: _unit(x),
        decode=lambda params, state, z: _unit(z),
    )
    real = {(m.metric, m.protocol): m.value for m in measure.floor("8gaussians", 0, smoke=True)}
    meter = measure.meter("8gaussians", model, smoke=True)
    same, far = (
        {(m.metric, m.protocol): m.value for m in meter(jnp.asarray(shift), {}, 0, 7)}
        for shift in (0.0, 0.3)
    )
    assert set(same) == set(measure.NAMES)
    for key, value in real.items():
        assert far[key] > 5 * same[key], key
        assert same[key] < 3 * value + 0.01, key
    assert same["gn_elbo", "standard"] == far["gn_elbo", "standard"]  # samples do not enter it


def _unit(x):
    from jaxvae.distributions import Normal

    return Normal(x, jnp.zeros(()))


@pytest.mark.long
def test_a_cell_from_the_command_line(folder, capsys):
    for _ in range(2):  # the second replaces the finished run of the first
        runner.main(folder, cells.CELLS, ["--cell", "8gaussians/vae", "--smoke"])
    lines = [
        json.loads(line)
        for line in (folder / "smoke" / "8gaussians.vae.jsonl").read_text().splitlines()
    ]
    assert [(line["metric"], line["protocol"]) for line in lines] == [
        (m, p)
        for m in ("histogram_kl", "histogram_jsd", "gn_elbo")
        for p in ("released", "standard")
    ] * 2
    assert [line["value"] for line in lines[:6]] == [line["value"] for line in lines[6:]]
    assert lines[0]["steps"] == 30
    film = sorted((folder / "runs" / "smoke" / "8gaussians.vae.seed0" / "film").iterdir())
    assert len(film) == 3
    assert "8gaussians/vae" in capsys.readouterr().out


def test_figures_of_what_has_been_run(folder, capsys, monkeypatch):
    figures.main([])
    assert "nothing has been run yet" in capsys.readouterr().out
    for cell in setting.FIGURE_3:
        for seed in (0, 1):
            line = {"cell": cell, "seed": seed, "protocol": "released", "value": 1.0 + seed}
            for metric in ("histogram_kl", "histogram_jsd"):
                writers.append(folder / "results" / "lines.jsonl", {**line, "metric": metric})
    figures.main([])
    assert capsys.readouterr().out.strip() == "figures/figure_3.png"
    assert 5_000 < (folder / "figures" / "figure_3.png").stat().st_size < 300_000


@pytest.mark.slow
def test_sweeps_and_search_from_the_command_line(folder, capsys):
    sweep.main(["figure_21", "--smoke"])
    assert "8gaussians/collapse/vae" in capsys.readouterr().out
    assert (folder / "runs" / "smoke" / "8gaussians.collapse.vae.seed0" / "checkpoints").is_dir()
    films = [
        sorted((folder / "runs" / "smoke" / f"8gaussians.collapse.{m}.seed0" / "film").iterdir())
        for m in setting.METHODS
        if m != "intro_vae"
    ]
    assert [len(film) for film in films] == [30, 30]
    assert not np.array_equal(np.load(films[0][-1]), np.load(films[1][-1]))
    sweep.main(["search", "--data", "rings", "--method", "intro_vae", "--smoke"])
    assert len(writers.read(folder / "smoke" / "rings.intro_vae.jsonl")) == 4
    assert "rings, intro_vae: best of 4" in capsys.readouterr().out


def test_a_search_that_was_stopped_trains_only_what_its_file_lacks(folder, capsys, monkeypatch):
    settings, trained, scores = setting.search("vae")[:5], [], [np.nan, 3.0, 2.0, np.nan, 4.0]
    monkeypatch.setattr(setting, "search", lambda method: settings)

    def train(name, method, runs, seeds, smoke):
        (folder / "runs" / "full" / f"{name}.{method}").mkdir(parents=True)
        trained.append((name, len(runs)))
        return None, 0.0

    def measured(ensemble, method, runs, seeds, smoke):
        for i, chosen in enumerate(runs):
            value = scores[settings.index(chosen.hyper)]
            yield (
                i,
                0,
                None,
                [measure.Measure(m, p, value, 1, 1, "float32") for m, p in measure.NAMES],
            )

    monkeypatch.setattr(sweep, "train", train)
    monkeypatch.setattr(sweep, "measured", measured)
    line = {
        "data": "rings",
        "method": "vae",
        "seed": 0,
        "histogram_kl_released": np.nan,
        "histogram_jsd_released": np.nan,
    }
    for setting_ in settings[
        :3
    ]:  # a chunk of two is done, the next one was stopped while it was measured
        writers.append(folder / "search" / "rings.vae.jsonl", {**line, **setting_})
    for expected in (
        [("search.rings.2", 2), ("search.rings.4", 1)],
        [],
    ):  # the second time nothing is left
        trained.clear()
        sweep.main(["search", "--data", "rings", "--method", "vae", "--at-once", "2"])
        assert trained == expected
        assert [
            sweep._hyper(x) for x in writers.read(folder / "search" / "rings.vae.jsonl")
        ] == settings
        assert (
            f"best of 5: {settings[4]}, released KL + JSD = 8.000" in capsys.readouterr().out
        )  # not a nan, though first


def test_the_time_of_a_sweep_that_was_stopped_is_counted_from_its_beginning(folder, monkeypatch):
    def train_ensemble(build, tx, data, *, workdir, on_log, **options):
        workdir.mkdir(parents=True, exist_ok=True)
        on_log(1, types.SimpleNamespace(params=stacked))
        return Ensemble({}, [{"seed": 0}], [{}], {})  # nothing is trained

    model = setting.build("vae", sweep.width(True), **setting.COLLAPSE)
    stacked = jax.tree.map(
        lambda x: x[None], model.init(jax.random.key(0), Batch(jnp.zeros((2, 2))))[0]
    )
    monkeypatch.setattr(sweep, "train_ensemble", train_ensemble)
    args = "figure_21", "vae", [setting.FIGURE_21["8gaussians/collapse/vae"]], range(1), True
    clock = folder / "runs" / "smoke" / "figure_21.vae" / "seconds.json"
    assert sweep.train(*args)[1] < 60
    writers.write_json(clock, 1000.0)
    assert 1000 < sweep.train(*args)[1] < 1060
    assert writers.read_json(clock) > 1000


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["table2"], "unknown sweep 'table2'. Did you mean 'table_2'"),
        ([], "the following arguments are required"),
        (["search", "--data", "ring"], "unknown 2-D data set 'ring'. Did you mean 'rings'"),
        (["search", "--method", "gan"], "unknown method 'gan'"),
        (["search", "--at-once", "0"], "--at-once must be at least 1"),
        (["table_2", "--seeds", "5:5"], "--seeds 5:5 holds no seed"),
        (["table_2", "--sed", "0:1"], "unknown argument '--sed'. Did you mean '--seeds'"),
    ],
)
def test_mistakes_are_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        sweep.main(argv)
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_unknown_cell():
    with pytest.raises(UserError, match="unknown cell"):
        runner.select(cells.CELLS, ["8gaussian/vae"])
