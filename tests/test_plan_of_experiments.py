"""What `experiments.plan` knows of a cell before it runs, and `experiments.needs` of its cost."""

import importlib
import json
import subprocess
import sys

import fake_experiments as fakes
import jax.numpy as jnp
import optax
import pytest

from experiments import needs, plan, schedule
from experiments.needs import Needs, Part, batch
from experiments.plan import Timing
from jaxvae import models, nets, table, writers
from jaxvae.errors import UserError

HERE = fakes.DEVICE


def by_cell(root, device=HERE, jobs=1):
    return {(c.experiment, c.cell, c.words): c for c in plan.survey(root, device, jobs)}


def one(root, name, cell, **options):
    [found] = [c for at, c in by_cell(root, **options).items() if at[:2] == (name, cell)]
    return found


def test_experiments_are_found_by_their_files(tmp_path):
    root = fakes.make(tmp_path, b={"x": {}}, a={"y": {}, "z": {}})
    (root / "half").mkdir()
    (root / "half" / "cells.py").write_text("CELLS = []")
    assert list(by_cell(root)) == [("a", "y", ()), ("a", "z", ()), ("b", "x", ())]


def test_variants_are_options_and_a_cell_comes_once_for_its_protocols(tmp_path):
    root = fakes.make(tmp_path, a={})
    (root / "a" / "cells.py").write_text(
        "from experiments.needs import Needs\n"
        "from experiments.runner import Cell\n"
        "VARIANTS = ({'at_most': 1.0}, {'at_most': 0.5})\n"
        "def cells(at_most):\n"
        "    same = Cell('same', None, needs=Needs(protocols=('p',)))\n"
        "    return [Cell('x', None, needs=Needs(protocols=(f'{at_most}',))), same]\n"
    )
    assert list(by_cell(root)) == [
        ("a", "x", ("--at-most", "1.0")),
        ("a", "same", ("--at-most", "1.0")),
        ("a", "x", ("--at-most", "0.5")),
    ]


def test_an_experiment_that_cannot_be_loaded_is_named(tmp_path):
    root = fakes.make(tmp_path, a={})
    (root / "a" / "cells.py").write_text("import no_such_package")
    with pytest.raises(UserError, match=r"a/cells\.py cannot be planned: No module named"):
        plan.survey(root, HERE)


def test_a_damaged_line_is_named_with_file_and_line(tmp_path):
    root = fakes.make(tmp_path, a={"x": {}})
    fakes.result(root, "a", "x")
    fakes.result(root, "a", "x", value="one")
    with pytest.raises(UserError, match=r"old\.jsonl: 'value' must be .* line 2 of that file"):
        plan.survey(root, HERE)
    (root / "a" / "results" / "old.jsonl").write_text("{\n{}\n")
    with pytest.raises(UserError, match=r"old\.jsonl, line 1 is broken"):
        plan.survey(root, HERE)


def test_a_seed_counts_that_has_a_number_of_each_protocol(tmp_path):
    cells = {"both": {"protocols": ("p", "q")}, "any": {}, "q": {"protocols": ("q",)}}
    root = fakes.make(tmp_path, a=cells)
    for cell in cells:
        fakes.result(root, "a", cell, 0)
        fakes.result(root, "a", cell, 2)
        fakes.result(root, "a", cell, 2, protocol="q")
    found = {cell: one(root, "a", cell).have for cell in cells}
    assert found == {"both": (2,), "any": (0, 2), "q": (2,)}


def test_published_numbers_rank_before_other_protocols_before_extras(tmp_path):
    cells = {"same": {"protocols": ("p",)}, "other": {"protocols": ("q",)}, "extra": {}, "any": {}}
    root = fakes.make(tmp_path, a=cells)
    fakes.publish(root, "a", "same", "other", "any")
    ranks = {cell: one(root, "a", cell).rank for cell in cells}
    assert ranks == {
        "same": plan.PUBLISHED,
        "other": plan.OTHER_PROTOCOL,
        "extra": plan.EXTRA,
        "any": plan.PUBLISHED,
    }


def test_what_a_cell_lacks(tmp_path, monkeypatch):
    for name in ("HOME", "JAXVAE_DATA_DIR", "TFDS_DATA_DIR", "JAXVAE_WEIGHTS_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    plan.missing_data.cache_clear()
    cells = {
        "data": {"data": ("mnist", "digits", "celeb_a"), "weights": ("inception",)},
        "large": {"accelerator": True},
        "nothing": {"data": ("digits", "fake_mnist")},
    }
    root = fakes.make(tmp_path, a=cells)
    with (root / "a" / "cells.py").open("a") as file:
        file.write(
            "def check(smoke):\n"
            "    from jaxvae.errors import UserError\n"
            "    raise UserError('not today.')\n"
            "CELLS.append(Cell('refused', None, check=check))\n"
        )
    wanted = ("data: mnist", "data: celeb_a", "weights: inception")
    assert one(root, "a", "data").lacks == wanted
    assert one(root, "a", "large").lacks == ("a GPU or TPU",)
    assert one(root, "a", "large", device="B x1 (gpu)").lacks == ()
    assert one(root, "a", "nothing").lacks == ()
    assert one(root, "a", "refused").lacks == ("not today.",)
    (tmp_path / "pt_inception-2015-12-05-6726825d.pth").touch()
    assert one(root, "a", "data").lacks == wanted[:2]
    plan.missing_data.cache_clear()


def test_a_cell_takes_what_it_took_here_else_on_another_cpu():
    here, there = Timing("x", HERE, 10, 3.0), Timing("x", "B, 4 cores (cpu)", 10, 2.0)
    gpu = Timing("x", "C x1 (gpu)", 10, 1.0)
    assert plan.pick([here, there, gpu], 10, HERE, 2) == (3.0, "")
    assert plan.pick([here, here._replace(seconds=4.0)], 20, HERE, 1) == (8.0, "")  # the longest
    assert plan.pick([there, gpu], 10, HERE, 2) == (4.0, " on B, 4 cores (cpu)")
    assert plan.pick([here, there, gpu], 10, "C x1 (gpu)", 1) == (1.0, "")
    assert plan.pick([here, there, gpu], 10, "D x1 (gpu)", 1) is None
    assert plan.pick([], 10, HERE, 1) is None


def test_cells_of_one_net_take_the_same_for_a_step(tmp_path):
    cells = {
        "x": {"net": "n", "steps": 10},
        "y": {"net": "n", "steps": 40},
        "z": {"net": "m", "steps": 10},
    }
    root = fakes.make(tmp_path, a=cells, b={"x": {"net": "n", "steps": 10}})
    fakes.result(root, "a", "x")
    found = [one(root, "a", c) for c in cells] + [one(root, "b", "x")]
    assert [c.seconds for c in found] == [0.5, 2.0, None, None]
    assert [c.basis for c in found] == ["measured", "as other cells of n", "not known", "not known"]


def model(hidden):
    return models.vae(nets.mlp((hidden,), 4), nets.mlp((hidden,), (6,)), latent_dim=2)


@pytest.fixture(scope="module")
def small():
    """Two trainings of 10 and 30 steps, the second of a net that is wider."""
    return [
        Part(model(8), optax.adam(1e-3), batch(32, 6), 10),
        Part(model(16), optax.adam(1e-3), batch(32, 6), 30),
    ]


def test_work_and_state_are_counted(small):
    single = [needs.work([part._replace(steps=1)]).flops for part in small]
    assert needs.work(small).flops == 10 * single[0] + 30 * single[1]
    # one product forward and two back for each weight, two operations each, the first back only
    # one: the rest (activations, Adam) is less
    weights = 6 * 8 + 8 * 4 + 2 * 8 + 8 * 6
    assert 0.8 * 6 * 32 * weights < single[0] < 2.5 * 6 * 32 * weights
    parameters = 16 * (6 + 4 + 2 + 6) + 16 + 4 + 16 + 6
    counts = 2 * 4  # Adam's step count of encoder and decoder
    assert needs.work(small).memory == 3 * 4 * parameters + counts


def test_first_steps_are_timed(small, monkeypatch):
    """With a clock that says one second for each look: a step takes one, and members share it."""
    times = iter(range(1000))
    monkeypatch.setattr(needs.time, "perf_counter", lambda: float(next(times)))
    assert needs.seconds(small[:1]) == 10.0
    assert needs.seconds(small[:1], members=4) == 2.5


def test_after_a_time_what_is_not_timed_follows_from_what_is(small, monkeypatch):
    """One step of the first part, of one second; the second part at that speed."""
    times = iter(range(1000))
    monkeypatch.setattr(needs.time, "perf_counter", lambda: float(next(times)))
    first, second = (needs.work([part]).flops for part in small)
    assert needs.seconds(small, within=0.0) == pytest.approx(10.0 * (1 + second / first))
    assert next(times) == 2  # one step alone


def test_what_is_measured_beside_a_training_counts(small, monkeypatch):
    """A cell that measures as much as it trains was computed at twice the speed of its training
    alone, and takes twice its first steps."""
    alone = needs.work(small[:1]).flops
    said = Needs(steps=10, net="n", parts=lambda: small[:1], measuring=lambda: alone)
    each = plan.Planned("a", (), plan.Cell("x", None, needs=said))
    known = {each.key: [Timing("x", HERE, 10, 4.0)]}
    found = plan.speed([each], known, HERE, 1, plan.Costs())
    assert found == plan.Speed(2 * alone / 4.0, "x")
    times = iter(range(1000))
    monkeypatch.setattr(needs.time, "perf_counter", lambda: float(next(times)))
    monkeypatch.setattr(plan, "names", lambda root: ["a"])
    monkeypatch.setattr(plan, "cells_of", lambda root, name: [each])
    assert plan.first_steps(plan.ROOT, each.key, 1) == pytest.approx(20.0)


def test_amounts_of_work():
    said = [needs.operations(x) for x in (1.25e15, 1.04e16, 3e12, 9.9e8)]
    assert said == ["1.2 PFLOP", "10 PFLOP", "3.0 TFLOP", "990 MFLOP"]


def test_a_run_is_unfinished_that_has_begun_and_left_no_mark(tmp_path):
    folder = tmp_path / "run"
    assert not needs.unfinished(folder)
    folder.mkdir()
    assert needs.unfinished(folder)
    (folder / "finished").touch()
    assert not needs.unfinished(folder)
    assert needs.unfinished(folder, "finished.json")


def test_without_a_timing_the_work_is_held_against_the_longest_cell(small, monkeypatch):
    def planned(name, steps, **more):
        said = Needs(steps=steps, net=name, parts=lambda: [small[0]._replace(steps=steps)], **more)
        return plan.Planned("a", (), plan.Cell(name, None, needs=said))

    cells = [planned("short", 10), planned("long", 20), planned("new", 60)]
    cells.append(planned("shares", 40, shares="stage"))
    known = {p.key: [] for p in cells}
    known["a short"], known["a long"] = (
        [Timing("short", HERE, 10, 9.0)],
        [Timing("long", HERE, 20, 10.0)],
    )
    known["a shares"] = [Timing("shares", HERE, 40, 0.1)]  # after another had trained the stage
    found = plan.estimates(cells, known, HERE, 1, plan.Costs())
    assert [found[p.key][0] for p in cells] == pytest.approx([9.0, 10.0, 30.0, 20.0])
    assert found["a new"][1].startswith("estimate: ")
    assert found["a new"][1].endswith(" of long")
    gpu = plan.estimates(cells, known, "C x1 (gpu)", 1, plan.Costs())
    assert gpu["a new"] == (None, "timed before it starts")


# ---- what the experiments of this repository say of themselves -----------------------------------


@pytest.mark.parametrize("name", plan.names(plan.ROOT))
def test_what_cells_say_is_what_their_results_say(name):
    """Steps and protocols of `Needs` are those of lines that the cell has written."""
    lines, _ = table.load(plan.ROOT / name)
    compared = 0
    for each in plan.cells_of(plan.ROOT, name):
        said = each.cell.needs
        newest = {
            (line["seed"], line["metric"], line["protocol"]): line
            for line in lines
            if line["cell"] == each.cell.name and line["protocol"] in said.protocols
        }
        mine = newest.values()
        for line in mine:
            assert line["steps"] == said.steps, (each.key, line["steps"])
        compared += len(mine)
    assert compared or not lines


def test_every_command_of_a_cell_is_its_own(tmp_path):
    """No two candidates have the same key, and options are those that the experiment takes."""
    for name in plan.names(plan.ROOT):
        found = plan.cells_of(plan.ROOT, name)
        assert len({p.key for p in found}) == len(found)
        options = importlib.import_module(f"experiments.{name}.__main__")
        known = {f"--{o.name}" for o in getattr(options, "OPTIONS", ())}
        assert {w for p in found for w in p.words if w.startswith("--")} <= known


def test_the_survey_is_json_of_a_process(tmp_path):
    root = fakes.make(tmp_path, a={"x": {"net": "n", "steps": 10}})
    fakes.result(root, "a", "x")
    argv = [sys.executable, "-m", "experiments.plan", "--root", str(root)]
    done = subprocess.run(argv, cwd=plan.ROOT.parent, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["platform"] == "cpu"
    [candidate] = found["candidates"]
    assert candidate["key"] == "a x"
    assert candidate["have"] == [0]
    assert jnp.isfinite(candidate["seconds"])
    with pytest.raises(UserError, match="no cell 'a y' whose steps can be timed"):
        plan.first_steps(root, "a y", 1)


def test_a_cell_that_cannot_be_built_is_said_and_the_others_go_on(small, tmp_path, monkeypatch):
    def refused():
        raise UserError("no such net")

    def full():
        raise OSError(28, "No space left on device")

    def cell(name, parts, net=None):
        said = Needs(steps=10, net=net or name, parts=parts)
        return plan.Planned("a", (), plan.Cell(name, None, needs=said))

    root = fakes.make(tmp_path, a={})
    bad = [cell("broken", lambda: {}["width"]), cell("refused", refused)]
    cells = [*bad, cell("good", lambda: small[:1]), cell("silent", None, "broken")]
    monkeypatch.setattr(plan, "cells_of", lambda root, name: cells)
    first, second, good, silent = plan.survey(root, HERE, memory=True)
    assert first.lacks == ("cannot be built: KeyError: 'width'",)
    assert second.lacks == ("cannot be built: no such net",)
    assert not first.can_time and first.memory is None
    assert good.lacks == silent.lacks == () and good.can_time and good.memory
    tasks = schedule.tasks([first, good], set(), "e", "cpu", schedule.Clock({}))
    assert {key for task in tasks for key, _ in task.runs} == {"a good"}
    costs = plan.Costs()
    plan.keep_costs(root, cells, costs)
    assert set(writers.read_json(root / plan.WORK)["a"]) == {"good"}
    assert [why for each in cells for why in costs.why_not(each)] == [*first.lacks, *second.lacks]
    with pytest.raises(OSError, match="No space left"):
        plan.Costs().of(cell("full", full))


# ---- work that was counted before --------------------------------------------------------------


def nets_of(root):
    """Returns {(experiment, net): a cell that trains it, of the fewest steps}."""
    found = {}
    for name in plan.names(root):
        for each in plan.cells_of(root, name):
            said = each.cell.needs
            if said.parts is not None and said.steps:
                found.setdefault((name, said.net or each.key), each)
    return found


def compared(each, work):
    """Asserts that a cell's work is as it was counted, with a count of the same XLA or another's."""
    counted, steps = plan.Costs().of(each), each.cell.needs.steps
    assert work == pytest.approx([counted.flops / steps, counted.memory], rel=0.02), each.key


def test_the_work_of_every_net_is_kept_and_that_of_small_ones_is_as_counted():
    kept = writers.read_json(plan.ROOT / plan.WORK)
    nets = nets_of(plan.ROOT)
    assert {(name, net) for name in kept for net in kept[name]} == set(nets), (
        "run `python -m experiments --page`"
    )
    small = sorted(nets, key=lambda at: kept[at[0]][at[1]][0])[:4]
    for name, net in small:
        compared(nets[name, net], kept[name][net])


@pytest.mark.slow
def test_the_work_of_every_net_is_as_counted():
    kept = writers.read_json(plan.ROOT / plan.WORK)
    for (name, net), each in nets_of(plan.ROOT).items():
        compared(each, kept[name][net])


def test_what_is_kept_is_not_counted_again(small, tmp_path, monkeypatch):
    said = Needs(steps=40, net="n", parts=lambda: small)
    each = plan.Planned("a", (), plan.Cell("x", None, needs=said))
    other = plan.Planned("a", (), plan.Cell("y", None, needs=Needs(steps=3)))
    assert plan.kept_costs(tmp_path).of(other) is None
    counted = plan.Costs().of(each)
    plan.keep_costs(tmp_path, [each, other], plan.kept_costs(tmp_path))
    assert set(writers.read_json(tmp_path / plan.WORK)["a"]) == {"n"}
    monkeypatch.setattr(needs, "work", None)
    assert plan.kept_costs(tmp_path).of(each) == pytest.approx(counted)
    (tmp_path / plan.WORK).write_text("{")
    with pytest.raises(UserError, match=plan.WORK):
        plan.kept_costs(tmp_path)
