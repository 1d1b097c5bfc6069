"""The table of an evaluation: its step, its type, its rows and their numbers as arrays."""

import json

import numpy as np
import pytest

from commands import TINY, refused
from jaxvae.cli import evaluate as evaluating
from jaxvae.cli import main
from jaxvae.presets import detect, options, splits


def train(folder, *more):
    words = ["--data", "digits", "--workdir", str(folder), "--steps", "20", *TINY, *more]
    assert main(["train", "vae", *words]) == 0
    return folder


@pytest.mark.long
def test_evaluate_says_which_step_and_type_and_has_the_same_pixels_for_all(tmp_path, capsys):
    """ "latest" is another step tomorrow; and a bound on other pixels is no bound."""
    folder = train(tmp_path / "run", "--pixels", "binarised", "--precision", "bfloat16")
    capsys.readouterr()
    assert main(["export", str(folder), "--out", str(tmp_path / "out")]) == 0
    values = []
    for place, metrics in (
        (folder, ["elbo", "iw_nll"]),
        (folder, ["iw_nll"]),
        (tmp_path / "out", ["elbo"]),
    ):
        assert (
            main(["evaluate", str(place), "--metrics", *metrics, "--k", "1", "--batch-size", "32"])
            == 0
        )
        page = json.loads((place / "evaluation.json").read_text())
        assert (page["step"], page["precision"], page["batch_size"]) == (
            20,
            "bfloat16, highest",
            32,
        )
        assert "budget" not in page
        values.append({row["metric"]: row["value"] for row in page["metrics"]})
    assert values[0]["iw_nll"] == values[1]["iw_nll"] and values[0]["elbo"] == values[2]["elbo"]
    assert "step 20" in capsys.readouterr().out


def test_grey_pixels_have_no_bits_per_dimension(tmp_path, capsys):
    train(tmp_path / "run")
    capsys.readouterr()
    assert "have no bits per dimension" in refused(
        capsys, "evaluate", tmp_path / "run", "--metrics", "bpd"
    )


def test_a_quick_run_is_called_one_and_scores_what_it_was_trained_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(splits, "QUICK_TRAIN", 64)
    monkeypatch.setattr(options, "QUICK_STEPS", 4)
    folder, scored = tmp_path / "run", []
    words = ["--data", "digits", "--workdir", str(folder), "--quick", *TINY]
    assert main(["train", "vae", *words]) == 0

    def detected(system, params, state, sets, **_):
        scored.append(sets.train)
        return detect.Found([], {}, [])

    monkeypatch.setattr(detect, "detect", detected)
    monkeypatch.setattr(detect, "draw", lambda *_: None)
    capsys.readouterr()
    words = ["--metrics", "elbo", "auroc", "--out-data", "fake_digits", "--draws", "2"]
    assert main(["evaluate", str(folder), *words]) == 0
    assert (scored[0].size, scored[0].split) == (64, "train[:1293], the first 64")
    assert "--quick: these numbers compare with nothing" in capsys.readouterr().out
    assert json.loads((folder / "evaluation.json").read_text())["budget"] == "quick"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-1234.56789, 0.0123, "-1,234.5679 +- 0.012"),
        (0.5, None, "0.5000"),
        (7, None, "7"),
        (np.array([0.1234, 20.0]), None, "0.123 20"),
    ],
)
def test_a_number_is_shown_with_its_error(value, error, text):
    assert evaluating._shown({"value": value, "error": error}) == text


def test_numbers_of_several_statistics_are_stacked_by_metric():
    rows = [{"metric": name, "value": value} for name, value in (("kl", 1.0), ("kl", 2.0))]
    rows.append({"metric": "kl_per_dim", "value": np.array([0.5, 0.5])})
    one, two = (detect.Found([], {"elbo inside": np.full(3, v)}, []) for v in (1.0, 2.0))
    arrays = evaluating._numbers(rows, [one, two])
    np.testing.assert_array_equal(arrays["kl"], [1.0, 2.0])
    np.testing.assert_array_equal(arrays["kl_per_dim"], [0.5, 0.5])
    np.testing.assert_array_equal(arrays["elbo_inside"], [[1.0] * 3, [2.0] * 3])
    np.testing.assert_array_equal(evaluating._numbers([], [one])["elbo_inside"], [1.0] * 3)
