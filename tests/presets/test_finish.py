"""What a finished run gets: the pictures that its model and its data allow, and a table."""

from types import SimpleNamespace

import numpy as np
import pytest

import systems
from commands import TINY
from jaxvae import writers
from jaxvae.cli.main import main
from jaxvae.presets import finish
from jaxvae.presets.config import VAE, System
from small import small

VAES = ["samples", "reconstructions", "interpolation", "curves"]
IMAGE = (4, 4, 1)


@pytest.mark.parametrize(
    ("model", "latent_dim", "shape", "names"),
    [
        (small(), 3, IMAGE, VAES),
        (small(), 2, IMAGE, [*VAES, "manifold"]),
        (small(), 2, (4, 4, 2), ["curves"]),  # no colours
        (small(), 2, (2,), ["samples", "curves"]),
        (small(), 2, (5,), ["curves"]),
        (small()._replace(encode=None), 2, IMAGE, ["samples", "curves"]),
        (
            small()._replace(encode=None, prior=lambda rng, n: None),
            2,
            IMAGE,
            ["samples", "interpolation", "curves"],
        ),
        (systems.flow(2), None, (2,), ["samples", "curves"]),
        (systems.gan(), 2, IMAGE, ["samples", "curves"]),
    ],
    ids=["vae", "plane", "planes", "points", "rows", "decoder", "prior", "flow", "gan"],
)
def test_pictures_that_can_be_drawn(model, latent_dim, shape, names):
    assert finish.pictures(System(model, latent_dim=latent_dim), shape) == names


def test_the_report_has_what_was_measured_and_the_command_that_goes_on(tmp_path, capsys):
    fit = SimpleNamespace(metrics={"train": {"images_per_s": 1234.0}})
    config = VAE(tmp_path, steps=20)
    line = {"step": 20, "elbo": -3.14159, "rec": 2.0, "kl": 1.14159, "statistics": "of a kind"}
    finish.report(config, line, fit, ["samples", "curves"])
    out = capsys.readouterr().out
    for text in ("digits, test split, step 20, nats per image", "-3.14   up is better", "1,234"):
        assert text in out
    assert "of a kind" in out and "samples.png, curves.png" in out
    assert f"train vae --workdir {tmp_path} --steps 40" in out
    finish.report(config, {"step": 20}, SimpleNamespace(metrics={}), [])
    out = capsys.readouterr().out
    assert "digits, step 20\n" in out and "elbo" not in out and "images/s" not in out


def test_curves_are_of_what_the_log_holds(tmp_path):
    finish.draw_curves(tmp_path)
    assert not (tmp_path / "curves.png").exists()
    for step in (1, 2):
        writers.append(tmp_path / "metrics.jsonl", {"step": step, "split": "train", "loss": 1.0})
    finish.draw_curves(tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.long
def test_data_that_are_no_images_lose_no_numbers_to_the_pictures(tmp_path, capsys):
    for name, shape, drawn in (
        ("points", (2,), ["curves", "samples"]),
        ("planes", (2, 4, 4), ["curves"]),
    ):
        np.savez(
            tmp_path / f"{name}.npz", x=np.random.default_rng(0).random((40, *shape), np.float32)
        )
        folder = tmp_path / name
        places = ["--data", f"npz:{folder}.npz", "--workdir", str(folder)]
        words = [*places, *TINY, "--batch-size", "8", "--steps", "20", "--likelihood", "gaussian"]
        assert main(["train", "vae", *words]) == 0
        assert sorted(path.stem for path in folder.glob("*.png")) == drawn
        assert writers.read(folder / "metrics.jsonl")[-1]["split"] == "test"
        capsys.readouterr()
        assert main(["reconstruct", str(folder), "--n", "3", "--npz", str(tmp_path / "r.npz")]) == 2
        assert "no picture can be drawn" in capsys.readouterr().err
        with np.load(tmp_path / "r.npz") as arrays:
            assert arrays["x_hat"].shape == (3, *shape)
        (tmp_path / "r.npz").unlink()
