"""Commands on a trained run: pictures and numbers, tables, exports, and what they refuse."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import jaxvae
import seeded
from commands import TINY, refused
from jaxvae import safetensors, writers
from jaxvae.cli import main, options
from jaxvae.errors import UserError
from jaxvae.metrics import lpips, squeezenet
from jaxvae.presets import load as loading
from jaxvae.presets import measure

OPTIONS = [*TINY, "--latent-dim", "3", "--steps", "20"]


def train(folder, *more):
    assert (
        main(["train", "vae", "--data", "digits", "--workdir", str(folder), *OPTIONS, *more]) == 0
    )
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(
        tmp_path_factory.mktemp("trained") / "run", "--pixels", "binarised", "--tensorboard"
    )


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    return train(
        tmp_path_factory.mktemp("trained") / "conditional",
        "--conditional",
        "--likelihood",
        "gaussian",
        "--pixels",
        "dequantised",
        "--ema-decay",
        "0.5",
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "shapes"),
    [
        (["sample", "--n", "5"], {"x": (5, 8, 8, 1)}),
        (["reconstruct", "--n", "4"], {"x": (4, 8, 8, 1), "x_hat": (4, 8, 8, 1)}),
        (["interpolate", "--n", "3", "--points", "4"], {"x": (3, 4, 8, 8, 1)}),
        (["traverse", "--n", "2", "--points", "5"], {"x": (2, 5, 8, 8, 1), "dimensions": (2,)}),
    ],
)
@pytest.mark.parametrize("which", ["trained", "conditional"])
def test_command_draws_a_picture_and_keeps_the_numbers(command, shapes, which, request, tmp_path):
    folder = request.getfixturevalue(which)
    out, npz = tmp_path / "a.png", tmp_path / "a.npz"
    assert (
        main(
            [
                command[0],
                str(folder),
                *command[1:],
                "--out",
                str(out),
                "--npz",
                str(npz),
                "--step",
                "best",
            ]
        )
        == 0
    )
    with Image.open(out) as picture:
        assert min(picture.size) > 50
    with np.load(npz) as arrays:
        assert {name: arrays[name].shape for name in arrays} == shapes
        first = arrays["x"]
    assert (
        main(
            [
                command[0],
                str(folder),
                *command[1:],
                "--out",
                str(out),
                "--npz",
                str(npz),
                "--step",
                "best",
            ]
        )
        == 0
    )
    with np.load(npz) as arrays:
        np.testing.assert_array_equal(arrays["x"], first)


def test_ends_of_an_interpolation_are_reconstructions(trained, tmp_path):
    assert main(["interpolate", str(trained), "--n", "2", "--npz", str(tmp_path / "i.npz")]) == 0
    assert main(["reconstruct", str(trained), "--n", "4", "--npz", str(tmp_path / "r.npz")]) == 0
    with np.load(tmp_path / "i.npz") as i, np.load(tmp_path / "r.npz") as r:
        np.testing.assert_allclose(i["x"][:, 0], r["x_hat"][:2], atol=1e-5)
        np.testing.assert_allclose(i["x"][:, -1], r["x_hat"][2:], atol=1e-5)
    assert (trained / "interpolation.png").exists() and (trained / "reconstructions.png").exists()


def test_evaluate_writes_the_table_as_json(trained, capsys):
    others = ("log_prob", "completions", "lpips", "auroc", "fid", "kid", *measure.SCORES)
    likelihoods = [name for name in options.METRICS if name not in others]
    assert main(["evaluate", str(trained), "--metrics", *likelihoods, "--k", "20"]) == 0
    shown = capsys.readouterr().out
    rows = {
        row["metric"]: row
        for row in json.loads((trained / "evaluation.json").read_text())["metrics"]
    }
    assert set(rows) == {"elbo", "rec", "kl", "kl_per_dim", "active_units", "iw_nll", "bpd"}
    assert all(name in shown for name in rows)
    assert rows["elbo"]["value"] == pytest.approx(
        -rows["rec"]["value"] - rows["kl"]["value"], rel=1e-6
    )
    assert rows["iw_nll"]["value"] < -rows["elbo"]["value"] and "K=20" in rows["iw_nll"]["protocol"]
    assert rows["bpd"]["value"] == pytest.approx(rows["iw_nll"]["value"] / (64 * np.log(2)))
    assert sum(rows["kl_per_dim"]["value"]) == pytest.approx(rows["kl"]["value"], rel=1e-5)
    assert (
        rows["elbo"]["n"] == 360
        and rows["elbo"]["error"] > 0
        and "drawn as 0 or 1 with seed 0" in rows["elbo"]["protocol"]
    )
    assert rows["elbo"]["value"] == pytest.approx(
        writers.read(trained / "metrics.jsonl")[-1]["elbo"], rel=0.02
    )


@pytest.mark.parametrize("which", ["trained", "conditional"])
def test_evaluate_distances_always_with_their_protocol(
    which, request, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))  # and its cache
    folder, weights = request.getfixturevalue(which), tmp_path / "squeezenet.npz"
    np.savez(weights, **seeded.state_dict(squeezenet.shapes()))
    argv = [
        "evaluate",
        str(folder),
        "--metrics",
        "fid",
        "elbo",
        "--out",
        str(tmp_path / "e.json"),
        "--weights",
        str(weights),
    ]
    assert main([*argv, "--protocol", "squeezenet", "--samples", "100"]) == 0
    out, error = capsys.readouterr()
    rows = {row["metric"]: row for row in json.loads((tmp_path / "e.json").read_text())["metrics"]}
    assert (
        {"fid", "elbo"} <= set(rows)
        and rows["fid"]["value"] > 0
        and rows["fid"]["n"] == rows["fid"]["reals"] == 100
    )
    assert (
        rows["fid"]["protocol"] == "squeezenet(samples=100,reals=100)"
        and rows["fid"]["protocol"] in out
    )
    about = rows["fid"]["about"]
    assert (
        about in out
        and "100 samples against first 100 of test" in about
        and "never comparable with a FID" in about
    )
    assert "covariance of rank 99 in 512 dimensions" in error and rows["fid"]["note"] in error
    for more, message in (
        ([], "needs a protocol"),
        (["--protocol", "squeezenet"], "asks for 10,000 real images, digits test"),
        (["--protocol", "squeezent"], "Did you mean 'squeezenet'?"),
        (["--protocol", "standard", "--samples", "100"], "weights of another model"),
    ):
        assert main([*argv, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error


@pytest.mark.long
def test_evaluate_compares_reconstructions_by_their_looks(trained, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.integers(0, 256, (60, 18, 18, 1), np.uint8))
    run = str(tmp_path / "run")
    argv = ["train", "vae", "--data", f"npz:{tmp_path / 'x.npz'}", "--workdir", run, *OPTIONS]
    assert main([*argv, "--batch-size", "8"]) == 0
    files = tmp_path / "weights"
    files.mkdir()
    np.savez(files / "squeezenet1_1-b8a52dc0.npz", **seeded.state_dict(squeezenet.shapes()))
    widths = lpips.BACKBONES["squeeze"].widths
    heads = {f"lin{i}.model.1.weight": np.ones((1, c, 1, 1)) for i, c in enumerate(widths)}
    np.savez(files / "lpips_squeeze_linear_v0.1.npz", **heads)
    argv = ["evaluate", run, "--metrics", "lpips", "elbo"]
    capsys.readouterr()
    assert main([*argv, "--weights", str(files)]) == 0
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]
    row = rows[-1]
    assert row["metric"] == "lpips" and row["value"] > row["error"] > 0
    assert row["protocol"] == (
        "LPIPS(squeeze) 0.1 of images and their reconstructions from posterior means, 18x18 as "
        "three equal channels, grey pixels"
    )
    assert row["protocol"] in capsys.readouterr().out and row["n"] == rows[0]["n"]
    message = refused(capsys, *argv, "--weights", str(files), "--lpips-net", "alex")
    assert "LPIPS(alex) needs images of at least 31 pixels a side, not 18x18" in message
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("JAXVAE_DATA_DIR", "TFDS_DATA_DIR", "JAXVAE_WEIGHTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert "squeezenet1_1-b8a52dc0.pth are not here" in refused(capsys, *argv)
    message = refused(capsys, "evaluate", str(trained), "--metrics", "lpips")
    assert "at least 17 pixels a side, not 8x8: resize them." in message


def test_evaluate_dequantised_states_bits_of_bytes(conditional, tmp_path, capsys):
    assert (
        main(
            [
                "evaluate",
                str(conditional),
                "--metrics",
                "bpd",
                "--k",
                "5",
                "--split",
                "test[:50]",
                "--out",
                str(tmp_path / "e.json"),
            ]
        )
        == 0
    )
    (row,) = json.loads((tmp_path / "e.json").read_text())["metrics"]
    assert "uniform dequantisation" in row["protocol"] and row["n"] == 50


@pytest.mark.parametrize("which", ["trained", "conditional"])
def test_export_and_load_give_the_same_model(which, request, tmp_path, capsys):
    folder, out = request.getfixturevalue(which), tmp_path / "exported"
    assert main(["export", str(folder), "--out", str(out)]) == 0
    assert main(["export", str(folder), "--out", str(out)]) == 0  # again, over itself
    first, second = jaxvae.load(folder), jaxvae.load(out)
    for a, b in zip(jax.tree.leaves(first[1:]), jax.tree.leaves(second[1:]), strict=True):
        np.testing.assert_array_equal(a, b)
    page = json.loads((out / "config.json").read_text())
    assert page["step"] == 20 and page["parameters"] == sum(
        x.size for x in jax.tree.leaves(first.params)
    )
    assert main(["sample", str(out)]) == 0 and (out / "samples.png").exists()
    numpy = pytest.importorskip("safetensors.numpy")
    arrays = numpy.load_file(out / loading.FILE)
    np.testing.assert_array_equal(
        arrays["params.decoder.Dense_0.kernel"], first.params["decoder"]["Dense_0"]["kernel"]
    )
    assert "is an exported model already" in refused_export(out, tmp_path / "more")


def refused_export(folder, out):
    with pytest.raises(UserError) as raised:
        jaxvae.export(folder, out)
    return str(raised.value)


def test_damaged_export_is_refused(trained, tmp_path, capsys):
    out = tmp_path / "exported"
    assert main(["export", str(trained), "--out", str(out)]) == 0
    capsys.readouterr()
    intact = (out / loading.FILE).read_bytes()
    for content in (intact[:-5], intact[:40], b"", intact + b"x"):
        (out / loading.FILE).write_bytes(content)
        assert "is damaged" in refused(capsys, "sample", out)
    shutil.copy(trained / "config.json", out / "config.json")
    (out / loading.FILE).write_bytes(safetensors.dump({"params.x": np.zeros(2)}, {}))
    assert "is of another model" in refused(capsys, "sample", out)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["smaple", "RUN"], "unknown command 'smaple'. Did you mean 'sample'?"),
        (["data", "prepair", "mnist"], "Did you mean 'prepare'?"),
        (["data", "prepare", "mnits"], "unknown data set 'mnits'. Did you mean 'mnist'?"),
        (["data", "prepare"], "NAME"),
        (["data", "prepare", "mnist", "--from", "nowhere"], "nowhere is not a folder"),
        (["sample"], "RUN"),
        (["sample", "nowhere"], "nowhere holds no run of jaxvae"),
        (["sample", "RUN", "--n", "0"], "--n must be at least 1"),
        (["sample", "RUN", "--step", "7"], "has no checkpoint 7: choose latest, best or one of"),
        (["sample", "RUN", "--step", "newest"], "has no checkpoint 'newest'"),
        (["sample", "RUN", "--label", "1"], "--label is for a conditional model"),
        (["reconstruct", "RUN", "--split", "validation"], "digits has no split 'validation'"),
        (["traverse", "RUN", "--example", "1000"], "has 360 examples, numbered from 0"),
        (["traverse", "RUN", "--points", "1"], "--points must be at least 2"),
        (["traverse", "RUN", "--width", "nan"], "--width must be finite"),
        (["evaluate", "RUN", "--metrics"], "--metrics needs at least one of elbo, kl_per_dim"),
        (["interpolate", "RUN", "--split", "test[:1]"], "needs two examples"),
        (["evaluate", "RUN", "--metrics", "fid2"], "unknown --metrics 'fid2'"),
        (["evaluate", "RUN", "--k", "0"], "--k must be at least 1"),
        (["export", "RUN"], "--out"),
        (["export", "RUN", "--out", "RUN"], "holds other files: choose an empty or new folder"),
    ],
)
def test_mistakes_are_one_line(trained, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *[trained if word == "RUN" else word for word in argv])
    assert list(tmp_path.iterdir()) == []


def test_label_out_of_range(conditional, capsys):
    assert "has the classes 0 to 9" in refused(capsys, "sample", conditional, "--label", "10")


def test_tensorboard_files_hold_the_log(trained):
    files = list((trained / "tensorboard").glob("events*"))
    assert files
    content = b"".join(f.read_bytes() for f in files)
    assert b"train/loss" in content and b"valid/elbo" in content
