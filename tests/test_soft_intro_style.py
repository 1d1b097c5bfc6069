"""The style-based experiment of Soft-IntroVAE: its settings against paper and released configurations, and
its commands on a tiny run that grows."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import runner
from experiments.soft_intro_style import cells, figures, setting, train
from experiments.soft_intro_style.train import Case
from jaxvae.errors import UserError

ROOT = Path(__file__).parents[1] / "experiments" / "soft_intro_style"


def test_settings_are_the_published_ones():
    celeba, ffhq = (setting.PUBLISHED[f"{name}/released"].options for name in ("celeba_hq", "ffhq"))
    assert [(o["beta_rec"], o["beta_kl"], o["gamma_r"]) for o in (celeba, ffhq)] == [
        (0.05, 0.2, 1e-8),
        (0.1, 0.2, 1e-8),
    ]
    assert celeba["beta_neg"] == ffhq["beta_neg"] == (2048, 2048, 2048, 1024, 512, 512, 512)
    assert celeba["batch_sizes"] == (512, 256, 128, 64, 32, 32, 16)
    assert celeba["learning_rates"] == (1.5e-3,) * 7
    assert ffhq["learning_rates"] == (*(1.5e-3,) * 6, 2e-3)
    assert [(o["level_epochs"], o["epochs"]) for o in (celeba, ffhq)] == [(30, 230), (16, 270)]
    for name, epochs in (("celeba_hq", 230), ("ffhq", 270)):
        paper = setting.PUBLISHED[f"{name}/paper"].options
        assert (paper["beta_neg"], paper["level_epochs"], paper["epochs"]) == ((512,), 30, epochs)
        assert set(paper["learning_rates"]) == {1.5e-3} and paper["convention"] == "paper"
        # 256 pixels are reached at epoch 180 (appendix 9.2.3)
        assert paper["level_epochs"] * (len(paper["resolutions"]) - 1) == 180
    bedroom = setting.PUBLISHED["lsun_bedroom/released"]
    assert (bedroom.side, bedroom.images) == (128, 3_033_042)


def test_every_setting_is_a_run_of_its_preset_and_trains_what_it_says():
    for name in setting.SETTINGS:
        case = Case(name)
        parts = train.parts(case)
        assert sum(part.steps for part in parts) == train.steps_of(case)
        sides = [part.batch.x.shape[1] for part in parts]
        assert sides[-1] == case.setting.side and sides == sorted(sides)
        assert list(dict.fromkeys(sides)) == list(case.config.resolutions)
    assert train.steps_of(Case("fashion_mnist/narrow")) == 3 * setting.STEPS


def test_published_numbers_have_their_cells():
    expected = json.loads((ROOT / "expected.json").read_text())["cells"]
    assert {e["cell"] for e in expected} == set(setting.PUBLISHED)
    found = {e["cell"]: e["value"] for e in expected}
    assert found["celeba_hq/released"] == 18.63 and found["ffhq/released"] == 17.55
    assert found["lsun_bedroom/released"] == 15.88
    assert {e["protocol"] for e in expected} == {setting.STYLE.label}


def test_a_folder_of_images_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXVAE_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="ffhq is a folder of images, and not in"):
        train.source(Case("ffhq/released"), "train")


def test_images_of_fashion_mnist_are_padded():
    source = train.source(Case("fashion_mnist/narrow", smoke=True), "test")
    assert source.shape == (32, 32, 1)
    x = source.read(np.arange(2))["x"]
    assert x.any() and not x[:, :2].any() and not x[:, :, -2:].any()


@pytest.mark.slow
def test_a_tiny_run_grows_is_measured_and_drawn(tmp_path, monkeypatch, capsys):
    for module in (cells, figures, train):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setenv("JAXVAE_WEIGHTS_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for function in (train.trained, train.system):
        function.cache_clear()
    runner.main(tmp_path, cells.CELLS, ["--smoke", "--cell", "fashion_mnist/narrow"])
    files = list((tmp_path / "smoke").rglob("*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert {line["metric"] for line in lines} == {"elbo", "rec", "kl"}
    assert all(np.isfinite(line["value"]) and line["steps"] == 4 for line in lines)
    figures.main(["--smoke"])
    drawn = {path.name for path in (tmp_path / "smoke").rglob("*.png")}
    stem = "fashion_mnist.narrow"
    kinds = [f"{side}.{what}" for side in (4, 8) for what in ("samples", "reconstructions")]
    assert drawn == {f"{stem}.{k}.png" for k in (*kinds, "curves", "truncation", "mixing")}
