"""The parts of experiments.rho_vae: cells, the released test loss, and the toys whose likelihood is
known."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments import runner
from experiments.rho_vae import cells, figures, search, setting
from jaxvae import distributions, writers
from jaxvae.errors import UserError
from jaxvae.types import Batch
from jaxvae.writers import read_json

NAMES = [cell.name for cell in cells.CELLS]


def test_there_is_a_cell_for_every_published_number():
    assert len(set(NAMES)) == len(NAMES)
    assert {c["cell"] for c in read_json(cells.FOLDER / "expected.json")["cells"]} <= set(NAMES)
    for method in ("normal", "ar1-paper", "ar1-readme", "ar1-released"):
        for net in ("vanilla", "cnn", "beta", "info"):
            assert {f"mnist/{net}/{method}", f"fashion_mnist/{net}/{method}"} <= set(NAMES)


@pytest.mark.parametrize("net", ["vanilla", "cnn", "beta", "info"])
def test_every_cells_model_has_its_parameters(net):
    counts = {
        "vanilla": (640_804, 637_596),
        "cnn": (212_247_957, 315_001_229),
        "beta": (763_285, 761_229),
        "info": (13_403_157, 13_394_957),
    }[net]
    side = 64 if net == "beta" else 28
    for method in setting.methods(net):
        params, _ = jax.eval_shape(
            setting.build(net, method).init, jax.random.key(0), Batch(jnp.zeros((2, side, side, 1)))
        )
        assert (
            sum(leaf.size for leaf in jax.tree.leaves(params)) == counts[method.startswith("ar1")]
        ), method


@pytest.mark.slow
def test_the_published_starts_have_cells_of_one_epoch():
    measures = cells._smoke("info_uniform", "ar1-released", 0)[0]
    assert [m.protocol for m in measures] == ["rho-vae-released, epoch 1", *["nats, epoch 1"] * 3]
    params = {
        name: setting.build(name, "normal", shrink=16).init(
            jax.random.key(0), Batch(jnp.zeros((2, 28, 28, 1)))
        )[0]
        for name in ("info", "info_uniform")
    }
    assert jax.tree.structure(params["info"]) == jax.tree.structure(params["info_uniform"])
    other = jax.tree.map(lambda a, b: not np.array_equal(a, b), *params.values())
    assert {
        path[-1].key for path, differs in jax.tree_util.tree_leaves_with_path(other) if differs
    } == {"scale"}


def test_the_released_loss_of_a_split_divides_by_128_whatever_the_batch():
    model = setting.build("vanilla", "ar1-released", shrink=50)
    x = jnp.asarray(np.random.default_rng(0).random((6, 28, 28, 1)), jnp.float32)
    params, state = model.init(jax.random.key(0), Batch(x))
    rng = jax.random.key(1)
    terms = setting.with_released_loss(model).terms(params, state, rng, Batch(x))
    q = model.encode(params, state, x)
    rest = distributions.AR1Normal(jnp.zeros_like(q.mean), q.rho, q.logvar).kl()
    want = terms.rec + 0.5 * jnp.sum(jnp.square(q.mean), axis=1) + rest / 128
    np.testing.assert_allclose(terms.extra["released_loss"], want, rtol=1e-6)
    np.testing.assert_array_equal(
        terms.rec, model.terms(params, state, rng, Batch(x)).rec
    )  # the same noise


def test_images_are_resized_to_bytes():
    x = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)
    same = setting.preprocess_for(28)(jax.random.key(0), {"x": x}).x
    np.testing.assert_allclose(same, x / 255, rtol=1e-6)
    big = np.asarray(setting.preprocess_for(64)(jax.random.key(0), {"x": x}).x)
    assert big.shape == (2, 64, 64, 1)
    np.testing.assert_allclose(255 * big, np.round(255 * big), atol=1e-3)


def test_the_large_net_is_refused_on_a_cpu():
    cell = next(cell for cell in cells.CELLS if cell.name == "mnist/cnn/normal")
    with pytest.raises(
        UserError, match="run its cells on a GPU or TPU, and others here with --cell"
    ):
        cell.check(False)
    cell.check(True)
    names = {
        c.name for c in runner.select(cells.CELLS, ["*/vanilla*", "*/beta/*", "*/info*", "toy_*"])
    }  # as it advises
    assert set(NAMES) - names == {name for name in NAMES if "/cnn/" in name}


# ---- toys ------------------------------------------------------------------------------------


def test_the_toys_posteriors_are_what_they_say():
    i = np.arange(search.TOY_DIM)
    for kind, want in (
        ("toy_ar1", search.TOY_VAR * search.TOY_RHO ** np.abs(i[:, None] - i)),
        ("toy_any", None),
    ):
        weights = search.toy(kind).weights
        posterior = np.linalg.inv(np.eye(search.TOY_DIM) + weights.T @ weights)
        if want is None:
            np.testing.assert_allclose(
                np.linalg.eigvalsh(posterior), np.geomspace(0.05, 0.95, search.TOY_DIM), rtol=1e-6
            )
        else:
            np.testing.assert_allclose(posterior, want, atol=1e-10)


def test_the_exact_likelihood_is_scipys():
    rng = np.random.default_rng(3)
    weights, bias, x = rng.normal(size=(4, 2)), rng.normal(size=4), rng.normal(size=(7, 4))
    want = scipy.stats.multivariate_normal(bias, weights @ weights.T + np.eye(4)).logpdf(x).mean()
    np.testing.assert_allclose(search.log_likelihood(x, weights, bias), want, rtol=1e-10)


def test_the_price_of_a_normal_posterior_is_the_least_kl():
    """KL(diagonal q || true posterior), minimised by hand: variances 1 / P_jj."""
    i = np.arange(search.TOY_DIM)
    cov = search.TOY_VAR * search.TOY_RHO ** np.abs(i[:, None] - i)
    p = np.linalg.inv(cov)
    q = 1.0 / np.diag(p)
    kl = 0.5 * (np.trace(p @ np.diag(q)) - len(q) + np.linalg.slogdet(cov)[1] - np.log(q).sum())
    np.testing.assert_allclose(search.diagonal_gap(), kl, rtol=1e-9)


def test_ar1_is_nearly_a_rotated_normal():
    """In a fixed basis D = 10 loses 0.062 nats at most, where the given one loses 1.3 and more: the
    correlation buys little."""
    for rho in (0.3, 0.9, -0.9):
        assert abs(search.distance_to_normals(rho, 2)) < 1e-9
    assert 0.0 < search.distance_to_normals(0.5, 10) < 0.05
    lost = [
        search.distance_to_normals(rho, 10) for rho in (*np.arange(0.05, 1.0, 0.05), 0.99, 0.999)
    ]
    assert min(lost) > 0.0 and 0.06 < max(lost) < 0.062
    np.testing.assert_allclose(-4.5 * np.log(1 - 0.5**2), 1.29, atol=0.01)


def test_a_frozen_decoder_stays():
    model = search.linear("ar1-paper", search.toy("toy_ar1").weights)
    assert model.objectives[0].wrt == ("encoder",)
    params, _ = model.init(jax.random.key(0), Batch(jnp.zeros((2, search.TOY_X))))
    np.testing.assert_allclose(
        params["decoder"]["Dense_0"]["kernel"], search.toy("toy_ar1").weights.T, rtol=1e-6
    )


@pytest.mark.slow
def test_a_killed_cell_goes_on_and_ends_as_if_it_never_was(tmp_path, monkeypatch):
    cell = "digits", "info", "ar1-released", 0
    unstopped = cells._measure(*cell, tmp_path / "whole", smoke=True)
    appended, trained = writers.append, []

    def killed(path, record):
        if record["split"] == "train" and record["step"] == cells.SMOKE_STEPS:
            raise KeyboardInterrupt
        appended(path, record)

    def counted(path, record):
        trained.extend([record["step"]] if record["split"] == "train" else [])
        appended(path, record)

    monkeypatch.setattr(writers, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        cells._measure(*cell, tmp_path / "killed", smoke=True)
    monkeypatch.setattr(writers, "append", counted)
    measures, curve, images = cells._measure(*cell, tmp_path / "killed", smoke=True)
    assert trained == [cells.SMOKE_STEPS]  # the first half was not trained again
    assert (measures, curve) == unstopped[:2]
    np.testing.assert_array_equal(images, unstopped[2])
    monkeypatch.setattr(setting, "BETA", 2.0)
    with pytest.raises(UserError, match=r"beta is 4\.0 there and 2\.0 here"):
        cells._measure(*cell, tmp_path / "killed", smoke=True)


def test_a_run_is_kept_until_its_numbers_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "FOLDER", tmp_path)
    cell = next(cell for cell in cells.CELLS if cell.name == "mnist/vanilla/ar1-paper")
    folder = cells.folder_of("mnist", "vanilla", "ar1-paper", 0)

    def measured(seed, smoke):
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        return cell.run(seed, True)

    appended = writers.append

    def full(path, record):
        if path.parent.name == "results":
            raise UserError("the disk is full")
        appended(path, record)

    monkeypatch.setattr(writers, "append", full)
    with pytest.raises(UserError, match="the disk is full"):
        runner.run(tmp_path, cell._replace(run=measured), 0, {})
    assert (folder / "checkpoints").is_dir()
    monkeypatch.setattr(writers, "append", appended)
    runner.run(tmp_path, cell._replace(run=measured), 0, {})
    assert not list(folder.parent.iterdir())
    curve = writers.read(tmp_path / "smoke" / "curves" / "mnist.vanilla.ar1-paper.jsonl")
    assert [line["steps"] for line in curve] == [2, 4, 2, 4]


def test_figure_5_has_every_method_the_starts_and_no_jump(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    shutil.copy(cells.FOLDER / "expected.json", tmp_path)
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda path, figure: drawn.append(figure))

    def write(cell, losses):
        for i, loss in enumerate(losses):
            line = {"seed": 0, "steps": 2 * (i + 1), "test_loss": loss, "elbo": -loss - 1.0}
            writers.append(tmp_path / "results" / "curves" / f"{cell}.jsonl", line)

    write("fashion_mnist.info.ar1-paper", [260.0, 9e9, 240.0])
    assert figures.draw("info", tmp_path)
    assert drawn[-1].axes[0].get_legend().get_title().get_text() == "crosses: published"
    write("mnist.info.normal", [120.0, 90.0])
    write("mnist.info_uniform.normal", [110.0])
    assert figures.draw("info", tmp_path)
    printed, true, fashion, _ = drawn[-1].axes
    legend = printed.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["normal", "ar1-paper"]
    assert "circles" in legend.get_title().get_text()
    assert [list(line.get_ydata()) for line in true.lines] == [[121.0, 91.0], [111.0]]
    assert 260.0 < fashion.get_ylim()[1] < 270.0  # the jump runs off the top
    crosses = [line.get_xdata()[1] for line in fashion.lines if line.get_marker() == "x"]
    assert crosses == [14, 15]


def test_figures_of_nothing_are_one_line(tmp_path):
    with pytest.raises(UserError, match="nothing has been run"):
        figures.draw_all("no_such_results", tmp_path)
