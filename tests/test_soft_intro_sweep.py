"""Sweeps of the 2-D experiment that were stopped, and those of which a part has its numbers."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.soft_intro_2d import cells, measure, setting, sweep
from experiments.soft_intro_2d.setting import Run
from jaxvae import writers
from jaxvae.errors import UserError
from jaxvae.train.ensemble import Ensemble, members_of
from jaxvae.train.step import init_state
from jaxvae.types import Batch

TINY = {
    "8gaussians/vae": Run("8gaussians", "vae", {"beta_rec": 0.5, "beta_kl": 1.0}),
    "rings/vae": Run("rings", "vae", {"beta_rec": 0.8, "beta_kl": 0.5}),
}
CELLS = list(TINY)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Sends everything that is written into a folder of its own; there is one more sweep."""
    for module in (cells, sweep):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setitem(cells.SWEEPS, "tiny", TINY)
    return tmp_path


def numbers(value, steps=1):
    return [measure.Measure(m, p, value, 1, steps, "float32") for m, p in measure.NAMES]


def lines_of(folder, kind):
    paths = sorted((folder / kind).glob("*.jsonl"))
    return [line for path in paths for line in writers.read(path)]


@pytest.mark.slow
def test_a_sweep_that_was_stopped_goes_on_with_its_seeds_whatever_is_asked(
    folder, monkeypatch, capsys
):
    """The nets are trained; what is measured of them is made up."""
    trained, real = [], sweep.train_ensemble

    def train_ensemble(build, tx, data, *, seeds, hyper, **options):
        trained.append((hyper["beta_kl"], list(seeds)))
        return real(build, tx, data, seeds=seeds, hyper=hyper, **options)

    def camera(model):
        shoot = real_camera(model)

        def stopped(where, step, params, seed):
            shoot(where, step, params, seed)
            if step == 12 and len(trained) == 1:  # the last checkpoint is of step 10
                raise KeyboardInterrupt

        return stopped

    real_camera = cells.camera
    monkeypatch.setattr(sweep, "train_ensemble", train_ensemble)
    monkeypatch.setattr(cells, "camera", camera)
    meter = lambda *args: lambda params, state, seed, steps: numbers(float(seed), steps)  # noqa: E731
    monkeypatch.setattr(measure, "meter", meter)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep("tiny", range(2), True)
    assert cells.begun("tiny", "vae", True) == (CELLS, [0, 1])
    assert lines_of(folder, "smoke") == []

    # the planner sees it; where a full run is kept
    shutil.copytree(cells.sweep_folder("tiny", "vae", True), cells.sweep_folder("tiny", "vae"))
    said = cells.needs("rings/vae", TINY["rings/vae"], "tiny")
    assert [seed for seed in range(3) if said.ensemble_stopped(seed)] == [0, 1]
    assert not said.stopped(0)
    other = cells.needs("spiral/vae", Run("spiral", "vae", {}), "tiny")
    assert not other.ensemble_stopped(0)

    steps = []
    monkeypatch.setattr(cells, "camera", lambda model: lambda *args: steps.append(args[1]))
    monkeypatch.setattr(sweep, "keep", lambda *args: None)
    sweep.sweep("tiny", range(1, 3), True)
    both = [TINY[cell].hyper["beta_kl"] for cell in CELLS]
    assert trained == [(both, [0, 1]), (both, [0, 1]), (both, [2])]
    assert steps[:2] == [11, 11]  # two cells: from the checkpoint on
    found = lines_of(folder, "smoke")
    assert len(found) == 2 * 3 * len(measure.NAMES)
    assert {(x["cell"], x["seed"]) for x in found} == {(c, s) for c in CELLS for s in range(3)}
    assert {x["command"].partition("tiny ")[2] for x in found} == {
        "--seeds 0:2 --smoke",
        "--seeds 2:3 --smoke",
    }
    assert cells.begun("tiny", "vae", True) is None
    assert "vae: going on with what was stopped, 2 cells, seeds 0, 1\n" in capsys.readouterr().err


def test_runs_of_other_settings_are_refused_before_anything_is_trained(folder, monkeypatch):
    def train(*args):
        raise AssertionError

    monkeypatch.setattr(sweep, "train", train)
    where = cells.sweep_folder("tiny", "vae")
    members = members_of([0], {"beta_rec": [0.5], "beta_kl": [0.7]})
    config = {"data": ["8gaussians"], "members": [{**members[0], "data": 0}]}
    writers.write_json(where / "config.json", {"config": config, "versions": {}})
    with pytest.raises(UserError, match=r"tiny\.vae holds runs of other settings that were stop"):
        sweep.sweep("tiny", range(1), False)
    said = cells.needs("8gaussians/vae", TINY["8gaussians/vae"], "tiny")
    assert not said.ensemble_stopped(0)  # it cannot be gone on with
    assert (where / "config.json").exists()


@pytest.fixture
def trainings(folder, monkeypatch):
    """Returns what is trained as (method, cells' settings, seeds); nothing is."""
    found = []

    def train(name, method, runs, seeds, smoke):
        found.append((method, [(r.data, r.hyper) for r in runs], list(seeds)))
        cells.sweep_folder(name, method, smoke).mkdir(parents=True)
        (cells.sweep_folder(name, method, smoke) / "films" / "0").mkdir(parents=True)
        return Ensemble({}, members_of(seeds, {"beta": [0.0] * len(runs)}), [], {}), 1.0

    def measured(ensemble, method, runs, seeds, smoke):
        for i, member in enumerate(ensemble.settings):
            yield i // len(seeds), member["seed"], {}, numbers(1.0)

    monkeypatch.setattr(sweep, "train", train)
    monkeypatch.setattr(sweep, "measured", measured)
    monkeypatch.setattr(sweep, "keep", lambda *args: None)
    return found


def test_what_has_its_numbers_is_not_trained_again(folder, trainings):
    for cell in ("8gaussians/collapse/vae", "rings/vae"):
        for metric, protocol in measure.NAMES:
            line = {"cell": cell, "seed": 0, "metric": metric, "protocol": protocol, "value": 1.0}
            writers.append(folder / "results" / "lines.jsonl", line)
    collapse = setting.FIGURE_21
    sweep.sweep("figure_21", range(1), False)
    soft = collapse["8gaussians/collapse/soft_intro_vae"]
    assert trainings == [("soft_intro_vae", [("8gaussians", soft.hyper)], [0])]

    trainings.clear()
    sweep.sweep("tiny", range(2), False)  # rings lacks one seed, 8 Gaussians two
    known = {cell: (run.data, run.hyper) for cell, run in TINY.items()}
    assert trainings == [
        ("vae", [known["8gaussians/vae"]], [0, 1]),
        ("vae", [known["rings/vae"]], [1]),
    ]
    trainings.clear()
    sweep.sweep("tiny", range(2), False)
    sweep.sweep("tiny", range(1, 2), False)
    assert trainings == []
    found = [(x["cell"], x["seed"]) for x in lines_of(folder, "results") if x["seed"] == 1]
    assert sorted(set(found)) == [("8gaussians/vae", 1), ("rings/vae", 1)]
    assert len(found) == 2 * len(measure.NAMES)


def test_the_command_of_a_line_names_no_seed_that_was_not_trained(folder, trainings):
    for cell in CELLS:
        for metric, protocol in measure.NAMES:
            line = {"cell": cell, "seed": 1, "metric": metric, "protocol": protocol, "value": 1.0}
            writers.append(folder / "results" / "lines.jsonl", line)
    sweep.sweep("tiny", range(4), False)
    assert [seeds for _, _, seeds in trainings] == [[0, 2, 3]]
    said = {x["seed"]: x["command"] for x in lines_of(folder, "results") if "command" in x}
    command = "python -m experiments.soft_intro_2d.sweep tiny --seeds "
    assert said == {0: f"{command}0:1", 2: f"{command}2:4", 3: f"{command}2:4"}


def test_a_part_of_the_search_that_has_its_lines_leaves_nothing(folder, trainings, capsys):
    """Killed between its last line and the end of its folder, with any size asked for then."""
    scores = {"histogram_kl_released": 1.0, "histogram_jsd_released": 1.0}
    settings = sweep.settings_of("vae", False)
    for hyper in settings:
        writers.append(folder / "search" / "rings.vae.jsonl", {**hyper, **scores})
    where = cells.sweep_folder("search.rings.0", "vae")
    config = {"members": [{"seed": 0}] * len(settings)}
    writers.write_json(where / "config.json", {"config": config, "versions": {}})
    sweep.main(["search", "--data", "rings", "--method", "vae"])
    assert trainings == []
    assert not where.exists()
    sweep.main(["search", "--data", "rings", "--method", "vae", "--at-once", "5"])
    assert capsys.readouterr().out.count("rings, vae: best of 81: ") == 2


def test_a_seed_that_lacks_a_number_is_trained_again(folder, trainings):
    for metric, protocol in measure.NAMES[:-1]:  # killed while its lines were written
        line = {"cell": "rings/vae", "seed": 0, "metric": metric, "protocol": protocol}
        writers.append(folder / "results" / "lines.jsonl", {**line, "value": 1.0})
    sweep.sweep("tiny", range(1), False)
    assert trainings == [("vae", [(run.data, run.hyper) for run in TINY.values()], [0])]


def test_a_member_is_kept_whole_with_its_film(folder):
    film = folder / "film"
    film.mkdir()
    np.save(film / "000001.npy", np.zeros((2, 2)))
    source, cell = TINY["rings/vae"], "rings/vae"
    model = setting.build("vae", 16, **source.hyper)
    state = init_state(model, setting.optimiser(), jax.random.key(0), Batch(jnp.zeros((4, 2))))
    for _ in range(2):  # a second time, as after a kill between the checkpoint and the numbers
        sweep.keep(cell, source, 3, state, film, True)
        where = cells.workdir(cell, 3, True)
        assert (where / "film" / "000001.npy").exists()
        assert json.loads((where / "finished.json").read_text())["seed"] == 3
    assert (film / "000001.npy").exists()


def test_a_part_of_the_search_with_another_size_is_refused_before_anything_is_trained(
    folder, trainings
):
    where = cells.sweep_folder("search.rings.4", "vae")
    config = {"members": [{"seed": 0}] * 4}
    writers.write_json(where / "config.json", {"config": config, "versions": {}})
    for words in (["--at-once", "2"], ["--at-once", "3"]):
        with pytest.raises(SystemExit):
            sweep.main(["search", "--data", "8gaussians", "--data", "rings", *words])
    assert trainings == []
    sweep.check_search("rings", "vae", 4, False)
    sweep.check_search("rings", "intro_vae", 3, False)
