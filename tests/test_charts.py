import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from jaxvae import charts, writers
from jaxvae.errors import UserError


def image(path):
    with Image.open(path) as file:
        return np.asarray(file)


def bound(steps):
    steps = np.asarray(steps)
    rec = 80.0 + 400.0 * np.exp(-steps / 300.0)
    values = {"rec": rec, "kl": 0.0 * rec + 25.0, "elbo": -rec - 25.0, "loss": rec + 25.0}
    return {name: (steps, value) for name, value in values.items()}


@pytest.fixture
def drawn(monkeypatch):
    """Returns the figures that get saved."""
    figures = []
    save = charts.save_figure
    monkeypatch.setattr(
        charts, "save_figure", lambda path, figure: (figures.append(figure), save(path, figure))
    )
    return figures


def words(figure):
    return [
        " ".join([axes.get_title().strip(), *(text.get_text() for text in axes.texts)])
        for axes in figure.axes
    ]


def test_curves_say_what_they_show(tmp_path, drawn):
    values = {"valid": bound(range(500, 5001, 500)), "train": bound(range(50, 5001, 50))}
    charts.curves(tmp_path / "curves.png", values)
    [figure] = drawn
    assert words(figure) == [
        "ELBO nats per example, up is better",
        "rec = -log p(x|z) nats per example, down is better",
        "KL(q(z|x) || p(z)) nats per example, down is better at equal rec",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "valid"]
    train, validation = figure.axes[0].lines
    np.testing.assert_array_equal(train.get_xydata().T, values["train"]["elbo"])
    np.testing.assert_array_equal(validation.get_xydata().T, values["valid"]["elbo"])
    assert train.get_color() != validation.get_color()
    assert train.get_linestyle() != validation.get_linestyle()
    assert image(tmp_path / "curves.png").shape == (495, 1665, 4)


def test_curves_stay_legible_and_admit_it(tmp_path, drawn):
    charts.curves(tmp_path / "curves.png", {"train": bound(range(50, 5001, 50))})
    elbo, _, kl = drawn[0].axes
    low, high = elbo.get_ylim()
    assert -200 < low < -105 < high < -90  # the first value is -443
    assert "first values are off the scale" in elbo.get_xlabel()
    assert kl.get_xlabel() == "step"


def test_curves_without_an_elbo_show_the_losses(tmp_path, drawn):
    line = (np.array([1, 2]), np.array([3.0, 2.0]))
    charts.curves(
        tmp_path / "a.png",
        {"train": {"encoder_loss": line, "loss": line, "grad_norm": line, "kl": line}},
    )
    assert [text.split()[0] for text in words(drawn[0])] == ["encoder_loss", "loss", "KL(q(z|x)"]
    assert words(drawn[0])[1] == "loss per example, down is better"
    charts.curves(tmp_path / "b.png", {"train": {"log_prob": line}, "mine": {"log_prob": line}})
    assert words(drawn[1]) == ["log p(x) nats per example, up is better"]


def test_curves_of_odd_logs(tmp_path, drawn):
    nan = np.array([np.nan, np.nan])
    steps = np.array([1, 2])
    charts.curves(
        tmp_path / "a.png",
        {"train": {"elbo": (steps, nan), "rec": (steps, np.array([np.inf, 1.0]))}},
    )
    np.testing.assert_array_equal(
        drawn[0].axes[0].lines[0].get_xydata(), [[2.0, 1.0]]
    )  # one point is a picture too
    for metrics in ({}, {"grad_norm": (steps, 1.0 * steps)}, {"elbo": (steps, nan)}):
        with pytest.raises(UserError, match="no curve to draw"):
            charts.curves(tmp_path / "b.png", {"train": metrics})
    with pytest.raises(UserError, match="no curve to draw"):
        charts.curves(tmp_path / "b.png", {})


def test_from_a_log_to_a_picture_twice_the_same(tmp_path):
    for step in range(1, 30):
        writers.append(
            tmp_path / "metrics.jsonl",
            {"step": step, "split": "train", "elbo": -100.0 / step, "rec": 1.0},
        )
    curves = writers.read_curves(tmp_path / "metrics.jsonl")
    before = dict(matplotlib.rcParams)
    charts.curves(tmp_path / "a.png", curves)
    charts.curves(tmp_path / "b.png", curves)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_a_comparison_without_a_finite_number_has_the_pictures_alone(tmp_path, drawn):
    nothing = {"a": {"elbo": (np.arange(2), np.full(2, np.nan))}}
    picture = np.zeros((8, 8, 3), np.uint8)
    charts.comparison(tmp_path / "c.png", nothing, {"a": picture, "b": picture})
    assert [axes.get_title() for axes in drawn[0].axes] == ["a", "b"]
    for values in (nothing, {}):
        with pytest.raises(UserError, match="no curve to draw"):
            charts.comparison(tmp_path / "d.png", values, {})


def test_pyplot_is_never_imported(tmp_path):
    code = (
        "import sys, numpy as np\nfrom jaxvae import charts, plots\n"
        "assert 'matplotlib' not in sys.modules and 'jax' not in sys.modules\n"
        "plots.samples(sys.argv[1], np.eye(2))\n"
        "charts.curves(sys.argv[1], {'train': {'loss': (np.arange(2), np.ones(2))}})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(charts.__file__).parents[1]
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "x.png")], cwd=root, check=True
    )
