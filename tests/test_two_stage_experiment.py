"""The two-stage VAE's experiment: schedules, cells and figures on tiny runs, and the toy whose
density is known."""

import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import seeded
from experiments import costs, runner
from experiments.budgets import Budget, check_budget
from experiments.two_stage import __main__ as command
from experiments.two_stage import cells, figures, gans, setting, toy, train
from jaxvae import table, writers
from jaxvae.errors import UserError
from jaxvae.metrics import fid, squeezenet
from jaxvae.types import Batch


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Sends everything that is written into a folder of its own, and gives SqueezeNet weights of
    the right shapes."""
    for module in (cells, figures, train):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    for cached in (train.stage_one, train.stage_two, train.first_latents):
        cached.cache_clear()
    weights = tmp_path / "weights"
    weights.mkdir()
    np.savez(weights / "squeezenet1_1_features.npz", **seeded.state_dict(squeezenet.shapes()))
    monkeypatch.setenv("JAXVAE_WEIGHTS_DIR", str(weights))
    return tmp_path


def test_schedules():
    """Steps and learning rates of the paper's MNIST, whole and at 5 %."""
    steps, tx = setting.length(400, 150, 60_000, 100, 1.0)
    assert steps == 240_000
    assert set(tx) == {"encoder", "decoder", "flow", "likelihood", "first", "second"}
    assert setting.length(400, 150, 60_000, 100, 0.05)[0] == 12_000
    for share, at, rate in (
        (1.0, 0, 1e-4),
        (1.0, 89_999, 1e-4),
        (1.0, 90_000, 5e-5),
        (0.05, 4_499, 1e-4),
        (0.05, 4_500, 5e-5),
    ):
        for group, factor in (("decoder", 1.0), ("likelihood", 1 / share)):
            tx = setting.length(400, 150, 60_000, 100, share)[1][group]
            assert first_update(tx, at) == pytest.approx(factor * rate, rel=2e-3)


def first_update(tx, at: int) -> float:
    """Returns the size of Adam's update at step `at` where every gradient has been 1."""
    import jax.numpy as jnp

    params = jnp.zeros(())
    state = jax.tree.map(
        lambda x: jnp.asarray(at, x.dtype) if x.dtype == jnp.int32 else x, tx.init(params)
    )
    with jax.numpy_dtype_promotion("standard"):
        update, _ = tx.update(jnp.ones(()), state, params)
    return float(-update) / (
        (0.1 / (1 - 0.9 ** (at + 1))) / np.sqrt(0.001 / (1 - 0.999 ** (at + 1)))
    )


def test_there_is_a_cell_for_every_published_number():
    expected = writers.read_json(cells.FOLDER / "expected.json")["cells"]
    names = {cell.name for cell in cells.cells("two-stage-released", 1.0)}
    assert {entry["cell"] for entry in expected} <= names
    assert {f"{name}/{method}" for name in setting.DATA for method in setting.METHODS} <= names
    assert {"mnist/decay/two_stage", "celeba/resnet/two_stage", "celeba/wae/wae_mmd"} <= names
    assert not any("latent_dim" in name for name in names)
    table.join([], {"cells": expected})


def test_models_of_table_1():
    """The four first stages differ in the likelihood and the loss alone."""
    import jax.numpy as jnp

    from jaxvae.train.step import groups, init_state

    for method, extra in (
        ("cross_entropy", 0),
        ("fixed_gamma", 0),
        ("learned_gamma", 1),
        ("wae_mmd", 0),
    ):
        model = setting.stage_one(method, (28, 28, 1))
        params, _ = jax.eval_shape(model.init, jax.random.key(0), Batch(jnp.zeros((2, 28, 28, 1))))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 13_331_585 + extra
    for build, count in ((setting.stage_two, 4_540_609), (setting.flow_prior, 2_892_800)):
        params, _ = jax.eval_shape(build().init, jax.random.key(0), Batch(jnp.zeros((2, 64))))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    both = setting.stage_one("joint", (28, 28, 1))
    _, tx = setting.length(400, 150, 60_000, 100, 0.05)
    start = jax.eval_shape(
        lambda: init_state(
            both,
            {name: tx[name] for name in groups(both)},
            jax.random.key(0),
            Batch(jnp.zeros((2, 28, 28, 1))),
        )
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(start.params)) == 13_331_586 + 4_540_609
    with pytest.raises(UserError, match="two_stage is not a first stage"):
        setting.stage_one("two_stage", (28, 28, 1))


def test_variants_are_those_of_the_texts_and_of_the_code():
    """Steps of both stages, batch sizes and nets, without training: "resnet" is Figure 11's with a
    second stage of 2,048; "decay" moves weights whose gradient is 0, and gamma not."""
    import jax.numpy as jnp

    def parts(name, variant, method="two_stage"):
        found = train.parts(train.Case(name, 0, Budget(), False, variant), method)
        return [(part.steps, len(part.batch.x)) for part in found]

    assert parts("mnist", "decay") == parts("mnist", "") == [(240_000, 100), (480_000, 100)]
    assert parts("mnist", "batch_64") == [(375_000, 64), (750_000, 64)]
    assert parts("celeba", "resnet") == [(195_324, 100), (488_310, 100)]
    assert parts("celeba", "wae", "wae_mmd") == [(178_029, 64)]
    for variant, counts in (
        ("resnet_released", (19_649_476, None)),
        ("wae", (47_082_628, 4_540_609)),
        ("resnet", (None, 17_457_345)),
    ):
        case = train.Case("celeba", 0, Budget(), False, variant)
        for part, count in zip(train.parts(case, "two_stage"), counts, strict=True):
            params, _ = jax.eval_shape(part.model.init, jax.random.key(0), part.batch)
            size = sum(leaf.size for leaf in jax.tree.leaves(params))
            assert count is None or size == count, variant

    for weight_decay, moved in ((0.0, 0.0), (5e-4, 1e-4)):
        _, tx = setting.length(400, 150, 60_000, 100, 1.0, weight_decay)
        for group, want in (("decoder", moved), ("likelihood", 0.0)):
            ones, zeros = {"w": jnp.ones(3)}, {"w": jnp.zeros(3)}
            with jax.numpy_dtype_promotion("standard"):
                update, _ = tx[group].update(zeros, tx[group].init(ones), ones)
            np.testing.assert_allclose(update["w"], -want, rtol=1e-3, atol=1e-12)


def test_gans_have_the_studys_settings():
    """One step of the discriminator each; the generator in every fifth where the study has it so."""
    shape = (28, 28, 1)
    for method, chosen in gans.SETTINGS.items():
        model = gans.build(method, shape, shrink=16)
        assert [o.wrt for o in model.objectives] == [("discriminator",), ("generator",)]
        assert model.objectives[1].every == chosen.every
        steps, tx = gans.length(method, "mnist", 60_000, 1.0)
        assert steps == 18_750 and set(tx) == {"generator", "discriminator"}
    assert gans.length("gan_ns", "celeba", 162_770, 0.05)[0] == 5086
    fives = {name for name, chosen in gans.SETTINGS.items() if chosen.every == 5}
    assert fives == {"gan_wgan", "gan_wgan_gp", "gan_began"}
    [part] = train.parts(train.Case("mnist", 0, Budget(0.05), False), "gan_ns")
    assert part.steps == 937 and part.batch.x.shape == (64, *shape)


@pytest.mark.long
def test_gans_are_trained_and_measured(folder, capsys):
    """BEGAN, whose state has more than its nets, through the command: its distance and no bound."""
    argv = ["--smoke", "--protocol", "squeezenet", "--cell", "mnist/gan_began"]
    runner.main(folder, cells.cells, argv, command.OPTIONS)
    assert "gan_began: 8 steps of 64: about" in capsys.readouterr().out
    [line] = table.load(folder, "smoke")[0]
    assert (line["metric"], line["steps"]) == ("fid", 8)
    case = train.Case("mnist", 0, Budget(), True)
    k = float(train.stage_one(case, "gan_began").state["balance"])
    assert 0.0 < abs(k) < 8e-3 and (case.folder / "gan_began" / "finished").exists()


def test_the_starred_row_picks_a_size_of_z(monkeypatch):
    """By the test images, as the paper does, and by training images; each size was trained once."""
    distances = {16: (3.0, 5.0), 32: (2.0, 4.0), 64: (2.5, 3.0), 128: (9.0, 9.0)}
    trained = []

    def method(case, name):
        trained.append(case.latent_dim)
        return train.Stage(case.latent_dim, None, None, 10)  # no model: `distance` needs its size

    def distance(real, sampler, protocol, seed):
        value = distances[sampler][0 if protocol.split == "test" else 1]
        return fid.Distance(value, None, 7, 7, protocol.label)

    monkeypatch.setattr(train, "method", method)
    monkeypatch.setattr(cells.fid, "model_sampler", lambda model, params, state: model)
    monkeypatch.setattr(cells.fid, "fid", distance)
    case = train.Case("mnist", 0, Budget(0.05), False)
    found = cells.run(case, setting.PICKED, "squeezenet")
    assert trained == [16, 32, 64, 128]
    values = {(m.metric, m.protocol.split(", ")[1]): m.value for m in found}
    assert values == {
        **{("fid", f"latent_dim {n}"): pair[0] for n, pair in distances.items()},
        ("fid", "best latent_dim of each seed"): 2.0,
        ("latent_dim", "best latent_dim of each seed"): 32,
        ("fid", "latent_dim picked on train"): 2.5,
        ("latent_dim", "latent_dim picked on train"): 64,
    }
    assert {m.steps for m in found} == {40}
    assert all(m.protocol.endswith(", 5 % of the schedule") for m in found)


def test_picks_of_each_seed_are_not_held_against_one_size_for_a_data_set():
    """The mean of the smallest of each seed lies below the smallest mean: it is no row of the
    paper's, which says why it is empty."""
    expected = writers.read_json(Path(cells.__file__).with_name("expected.json"))["cells"]
    starred = {e["cell"]: e for e in expected if e["cell"].endswith(setting.PICKED)}
    assert len(starred) == 4
    for cell in cells.cells("two-stage-released", 1.0):
        if cell.name in starred:
            assert cell.needs.protocols == (f"two-stage-released, {cells.BEST}",)
            assert starred[cell.name]["protocol"] not in cell.needs.protocols
            assert "each seed" in starred[cell.name]["empty"]


def test_a_budget_is_a_protocol():
    assert check_budget(1.0).suffix == ""
    assert check_budget(0.05).suffix == ", 5 % of the schedule"
    assert {check_budget(s).folder for s in (1.0, 0.05, 0.5)} == {
        "full",
        "budget_0.05",
        "budget_0.5",
    }
    for share in (0.0, 1.5, -1.0):
        with pytest.raises(UserError, match="--budget must be"):
            check_budget(share)


@pytest.mark.large
@pytest.mark.slow
def test_methods_on_tiny_runs(folder, capsys):
    """Cells of a data set, through the command: stages are shared, costs are said first, numbers
    have their protocol."""
    methods = (*setting.STAGE_ONE, *setting.ON_STAGE_ONE)
    argv = [
        "--smoke",
        "--protocol",
        "squeezenet",
        *(word for method in methods for word in ("--cell", f"mnist/{method}")),
    ]
    runner.main(folder, cells.cells, argv, command.OPTIONS)
    said = capsys.readouterr()
    stages = [m for m in methods if m in (*setting.STAGE_ONE, "flow", "two_stage")]
    assert said.out.count("8 steps of 100: about") == len(stages)  # each stage is trained once
    assert "MiB of memory" in said.out
    results, _ = table.load(folder, "smoke")
    assert {line["cell"] for line in results} == {f"mnist/{method}" for method in methods}
    distances = [line for line in results if line["metric"].startswith("fid")]
    assert {line["metric"] for line in distances} == {"fid", "fid_reconstruction"}
    assert {line["protocol"] for line in distances} == {"squeezenet(samples=64,reals=64)"}
    assert all(np.isfinite(line["value"]) for line in results)
    assert all("--protocol squeezenet" in line["command"] for line in results)
    bounds = {line["cell"] for line in results if line["metric"] == "elbo"}
    assert bounds == {f"mnist/{method}" for method in methods}
    figures.main(["--smoke", "--data", "mnist"])
    for name in ("gamma", "directions", "rows", "variances", "singular", "reconstructions"):
        assert (folder / "smoke" / "full" / "mnist" / f"{name}.png").stat().st_size > 1000


@pytest.mark.long
def test_all_of_a_cell_is_announced_before_its_first_stage(folder, capsys, monkeypatch):
    """Also the second stage's cost; the latents and what is drawn from them are of full
    precision."""
    precisions = []
    encode = train.models.latents
    monkeypatch.setattr(
        train.models,
        "latents",
        lambda *args, **options: (
            precisions.append(jax.config.jax_default_matmul_precision) or encode(*args, **options)
        ),
    )
    runner.main(
        folder,
        cells.cells,
        ["--smoke", "--cell", "mnist/two_stage", "--protocol", "squeezenet"],
        command.OPTIONS,
    )
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if "steps of" in line]
    assert [line.partition(":")[0] for line in lines] == [
        "two_stage, after learned_gamma",
        "learned_gamma",
        "two_stage",
    ]
    assert precisions == ["highest"]


def test_distances_are_announced_once(monkeypatch, capsys):
    """From the second batch on: the first one waited for its program."""
    now = iter([100.0, 102.0, 102.0, 104.0, 106.0])
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(now))
    progress = costs.announced("fid")
    for done in (64, 128, 192, 256):
        progress(done, 20_000)
    assert (
        capsys.readouterr().out == "  fid: 20,000 images, about 10 min\n"
    )  # 19,872 images at 64 in 2 s
    progress = costs.announced("fid")
    progress(64, 64)
    assert capsys.readouterr().out == ""


def test_weights_are_asked_for_before_anything_is_trained(folder, monkeypatch, capsys):
    monkeypatch.setenv("JAXVAE_WEIGHTS_DIR", str(folder / "nothing"))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("JAXVAE_DATA_DIR", raising=False)
    with pytest.raises(SystemExit) as stopped:
        runner.main(folder, cells.cells, ["--smoke", "--cell", "mnist/two_stage"], command.OPTIONS)
    assert stopped.value.code == 2
    assert "pt_inception-2015-12-05-6726825d.pth" in capsys.readouterr().err
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_reconstructions_are_drawn_in_the_mode_of_the_protocol(folder):
    case = train.Case("mnist", 0, Budget(), True)
    stage, seen = train.stage_one(case, "learned_gamma"), []

    def noted(function):
        return lambda *args, stats: seen.append(stats) or function(*args, stats=stats)

    model = stage.model._replace(encode=noted(stage.model.encode), decode=noted(stage.model.decode))
    draw = cells._reconstructions(case, stage._replace(model=model))
    for stats in ("batch", "running"):
        assert draw(jax.random.key(0), 4, stats).shape == (4, 8, 8, 1)
    assert seen == ["batch", "batch", "running", "running"]


@pytest.mark.parametrize("what", ["weights", "images"])
def test_what_is_needed_after_training_is_looked_at_before(folder, monkeypatch, capsys, what):
    """Weights that are truncated, test images that are not there."""
    if what == "weights":
        path = folder / "weights" / "squeezenet1_1_features.npz"
        path.write_bytes(path.read_bytes()[:-1000])
        message = "squeezenet1_1_features.npz is not a whole file of weights"
    else:
        load, message = train.data.load, "no test images"

        def missing(name, split):
            if split == "test":
                raise UserError(message)
            return load(name, split)

        monkeypatch.setattr(train.data, "load", missing)
    argv = ["--smoke", "--cell", "mnist/learned_gamma", "--protocol", "squeezenet"]
    with pytest.raises(SystemExit) as stopped:
        runner.main(folder, cells.cells, argv, command.OPTIONS)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--protocol", "fid"], "unknown protocol 'fid'"),
        (["--budget", "2"], "--budget must be at most 1"),
        (["--budget", "much"], "invalid float value"),
        (["--budgets", "1"], "Did you mean '--budget'"),
    ],
)
def test_options_that_do_not_exist(folder, argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        runner.main(folder, cells.cells, argv, command.OPTIONS)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_nothing_trained_is_said(folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        figures.main(["--data", "fashion_mnist"])
    assert capsys.readouterr().err.startswith("nothing is trained in")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "minst"], "unknown data set 'minst'. Did you mean 'mnist'"),
        (["--budget", "2"], "--budget must be at most 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
    ],
)
def test_mistakes_of_the_figures_are_one_line(folder, argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        figures.main(argv)
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


@pytest.mark.slow
def test_figures_say_which_net_and_budget_they_are_of(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda path, figure: drawn.append(figure) or path)
    case = train.Case("mnist", 0, Budget(0.05), True)
    figures.variances(case, folder / "variances.png")
    [axes] = drawn[0].axes
    assert axes.get_title() == "mnist, InfoGAN net, 5 % of the schedule: learned gamma"


def test_nothing_trained_ends_the_command_with_2(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["figures", "--data", "fashion_mnist"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(figures.__file__, run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("nothing is trained in")


# ---- the toy ---------------------------------------------------------------------------------


def test_points_of_the_curve_have_the_density():
    t = toy.draw(40_000, 0)
    counts, _ = np.histogram(t, toy.EDGES)
    np.testing.assert_allclose(counts / len(t), toy.SHARES, atol=0.01)
    assert toy.ks(t) < 0.01
    back, distance = toy.project(toy.curve(t))
    assert toy.ks(back) < 0.01
    assert distance.max() < 2e-3


def test_ks_by_hand():
    """All mass at t = 0.6, where the true distribution function is 0.6: from below 0.6, from above
    0.4."""
    assert toy.ks(np.full(10, 0.6)) == pytest.approx(0.6)
    assert toy.ks(np.full(10, 1.0)) == pytest.approx(1.0)


def test_distance_from_the_curve():
    t = np.linspace(0.1, 0.9, 9)
    off = toy.curve(t) * np.array([1.1, 1.1, 1.0])  # moved outwards
    found, distance = toy.project(off)
    np.testing.assert_allclose(distance, 0.1, rtol=0.02)
    np.testing.assert_allclose(found, t, atol=2e-3)


@pytest.mark.slow
def test_the_toy_runs_and_is_drawn(tmp_path):
    for method in toy.METHODS:
        ks, distance = toy.run(method, 0, True)
        assert 0.0 < ks.value < 1.0
        assert distance.value > 0.0
    toy.figure(tmp_path / "toy.png", 0, smoke=True)
    assert (tmp_path / "toy.png").stat().st_size > 10_000
