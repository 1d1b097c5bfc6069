"""`jaxvae compare`: what two runs differ in, their last numbers, and one picture of both."""

import json
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from commands import refused
from jaxvae import plots, writers
from jaxvae.cli import compare
from jaxvae.cli.main import main
from jaxvae.presets import record
from jaxvae.presets.config import VAE


def make_run(folder, elbo=-3.0, colour=0.5, **options):
    """Writes a run's folder as train leaves it, without its checkpoints."""
    folder.mkdir(parents=True)
    config = record.as_dict(VAE(workdir=folder, **options), (8, 8, 1), 10)
    (folder / "config.json").write_text(json.dumps({"config": config}))
    for step in (5, 10):
        kl = 0.5 * step / 10
        line = {"step": step, "split": "valid", "elbo": elbo * 10 / step, "rec": 2.0, "kl": kl}
        writers.append(folder / "metrics.jsonl", {**line, "split": "train", "loss": 9.0})
        writers.append(folder / "metrics.jsonl", line)
    writers.append(folder / "metrics.jsonl", {"step": 10, "split": "test", "elbo": elbo - 1.0})
    plots.samples(folder / "samples.png", np.full((4, 8, 8, 1), colour, np.float32))
    return folder


@pytest.fixture
def runs(tmp_path):
    return (
        make_run(tmp_path / "a" / "run", beta=1.0),
        make_run(tmp_path / "b" / "run", elbo=-4.0, colour=0.25, beta=2.0, hidden=(8, 4), keep=9),
    )


def test_two_runs_side_by_side(runs, tmp_path, capsys):
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "both.png")]) == 0
    rows = [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["a/run", "b/run"]  # the shortest names that differ
    assert ["beta", "1", "2"] in rows and ["hidden", "400", "8 4"] in rows
    assert ["valid elbo", "-3", "-4"] in rows and ["test elbo", "-4", "-5"] in rows
    assert ["test step", "10", "10"] in rows and ["train loss", "9", "9"] in rows
    assert not [row for row in rows if row[0] in ("latent_dim", "keep")]  # the same, or no matter
    assert rows[-1] == [str(tmp_path / "both.png")]
    with Image.open(tmp_path / "both.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    for grey in (127, 64):  # both samples are in it
        assert (np.abs(pixels.astype(int) - grey).max(axis=-1) <= 1).sum() > 5000, grey


def test_a_run_without_samples_or_validation_has_its_numbers_all_the_same(runs, tmp_path, capsys):
    (runs[0] / "samples.png").unlink()
    lines = [line for line in writers.read(runs[0] / "metrics.jsonl") if line["split"] == "train"]
    (runs[0] / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    name, curves = compare.curves_of("a", compare.read_run(runs[0]))
    assert name == "a (training)" and curves["loss"][1].tolist() == [9.0, 9.0]
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "both.png")]) == 0
    rows = [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert ["valid elbo", "-", "-4"] in rows


def test_runs_of_the_same_settings_say_so(runs, capsys, tmp_path):
    shutil.copytree(runs[0], tmp_path / "copy")
    assert (
        main(["compare", str(runs[0]), str(tmp_path / "copy"), "--out", str(tmp_path / "x.png")])
        == 0
    )
    assert re.search(r"settings +the same +the same", capsys.readouterr().out)


def test_a_run_of_an_older_version_differs_in_nothing_that_it_did_not_choose(runs, tmp_path):
    older = shutil.copytree(runs[0], tmp_path / "older")
    page = json.loads((older / "config.json").read_text())
    del page["config"]["hidden"], page["config"]["optimizer"], page["config"]["patience"]
    page["config"] |= {"dtype": "float32", "precision": "highest"}
    (older / "config.json").write_text(json.dumps(page))
    found = {name: compare.read_run(folder) for name, folder in (("a", runs[0]), ("b", older))}
    rows = compare.rows_of(found)
    assert rows[:2] == [("", "a", "b"), ("settings", "the same", "the same")]
    page["config"]["dtype"] = "bfloat16"
    (older / "config.json").write_text(json.dumps(page))
    rows = compare.rows_of({**found, "b": compare.read_run(older)})
    assert rows[1] == ("precision", "float32", "bfloat16") and rows[2][0].startswith("train ")


def test_what_cannot_be_compared(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = runs
    assert "compare needs two runs or more" in refused(capsys, "compare", one)
    assert "RUN" in refused(capsys, "compare") or "RUNS" in refused(capsys, "compare")
    assert f"{one} is given twice" in refused(capsys, "compare", one, two, one)
    (tmp_path / "empty").mkdir()
    err = refused(capsys, "compare", one, "empty")
    assert "empty holds no run of jaxvae: there is no config.json in it" in err
    assert "nowhere holds no run of jaxvae" in refused(capsys, "compare", one, "nowhere")
    (two / "metrics.jsonl").unlink()
    assert f"{two} has no log of a training" in refused(capsys, "compare", one, two)
    (one / "samples.png").write_bytes(b"no picture")
    assert "samples.png cannot be read" in refused(capsys, "compare", one, two)
    size = struct.pack(">4sIIBBBBB", b"IHDR", 60_000, 60_000, 8, 2, 0, 0, 0)  # 10 GB of pixels
    chunks = (
        struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
        for content in (size, b"IDAT")
    )
    (one / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert "samples.png cannot be read (Decompression" in refused(capsys, "compare", one, two)
    assert not (tmp_path / "compare.png").exists()


def test_a_run_of_stages_has_the_curves_of_its_last(tmp_path):
    folder = make_run(tmp_path / "run")
    page = json.loads((folder / "config.json").read_text())
    page["config"]["preset"] = "two_stage_vae"
    (folder / "config.json").write_text(json.dumps(page))
    writers.append(folder / "second" / "metrics.jsonl", {"step": 3, "split": "valid", "elbo": 1.5})
    run = compare.read_run(folder)
    assert run.curves["valid"]["elbo"][1].tolist() == [1.5]
    assert run.last["test"]["elbo"] == -4.0
