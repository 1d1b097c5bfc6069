"""`jaxvae train`: the folder of a run, what a second call does, what it refuses."""

import gzip
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import jaxvae
from commands import TINY, refused
from jaxvae import data, writers
from jaxvae.cli.main import main
from jaxvae.data import prepare
from jaxvae.presets import options, splits
from jaxvae.train.checkpoint import Checkpoints

PICTURES = ["samples", "reconstructions", "interpolation", "curves", "manifold"]


def train(folder, *options, steps=20):
    return main(
        [
            "train",
            "vae",
            "--data",
            "digits",
            "--workdir",
            str(folder),
            "--steps",
            str(steps),
            *TINY,
            *options,
        ]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(folder) == 0
    return folder


def test_train_leaves_a_whole_run_folder(trained, capsys):
    assert json.loads((trained / "config.json").read_text())["config"]["latent_dim"] == 2
    lines = writers.read(trained / "metrics.jsonl")
    assert {line["split"] for line in lines} == {"train", "valid", "test"}
    assert lines[-1]["elbo"] == pytest.approx(-lines[-1]["rec"] - lines[-1]["kl"], rel=1e-6)
    for name in PICTURES:
        with Image.open(trained / f"{name}.png") as picture:
            assert min(picture.size) > 100
    assert Checkpoints(trained / "checkpoints", read_only=True).steps()[-1] == 20


def test_second_call_repeats_no_work_and_prints_the_same_table(trained, capsys):
    before = {
        path: path.stat().st_mtime_ns
        for path in trained.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    assert train(trained) == 0
    assert "digits, test split, step 20, nats per image" in capsys.readouterr().out
    assert before == {
        path: path.stat().st_mtime_ns
        for path in trained.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_next_command_of_the_report_goes_on_with_the_run(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    assert train(tmp_path / "run") == 0
    command = next(
        line.split() for line in capsys.readouterr().out.splitlines() if "--steps 40" in line
    )
    assert command[0] == "jaxvae"
    assert main(command[1:]) == 0
    assert writers.read(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 40


def test_loaded_model_gives_the_numbers_of_the_run(trained):
    import jaxvae
    from jaxvae.train import evaluate

    model, params, state = jaxvae.load(trained)
    found = evaluate(model, params, state, data.load("digits", "test"))
    assert found["elbo"] == pytest.approx(
        writers.read(trained / "metrics.jsonl")[-1]["elbo"], rel=1e-5
    )
    assert model.sample(params, state, jax.random.key(0), 3).shape == (3, 8, 8, 1)
    assert (
        int(np.sum(jaxvae.load(trained, step="best").params["encoder"]["Dense_0"]["bias"].shape))
        == 16
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "celeb_a", "--conditional"], "labels"),
        (["--data", "mnist", "--split", "train[:100%]"], "shares examples with the validation"),
        (["--data", "mnist"], "taken holds files but no run of jaxvae"),
        (["--data", "mnist", "--size", "8"], "--size: only for a folder of images"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_its_data_are_fetched(
    tmp_path, capsys, monkeypatch, words, message
):
    monkeypatch.setattr(prepare, "obtain", lambda *_, **__: pytest.fail("fetched"))
    folder = tmp_path / ("taken" if "taken" in message else "run")
    if "taken" in message:
        folder.mkdir()
        (folder / "file").touch()
    words = [*words, "--data-dir", tmp_path / "data", "--workdir", folder]
    assert message in refused(capsys, "train", "vae", *words, *TINY)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        ("--likelihood", "gaussian", "--gamma", "learned", "--conditional"),
        (
            "--net",
            "conv",
            "--channels",
            "4",
            "8",
            "--beta-warmup",
            "10",
            "--free-bits",
            "0.1",
            "--ema-decay",
            "0.9",
        ),
        (
            "--pixels",
            "binarised",
            "--accumulate",
            "2",
            "--max-grad-norm",
            "1.0",
            "--precision",
            "bfloat16",
            "--init",
            "glorot",
        ),
    ],
)
def test_options_train_and_load(tmp_path, options):
    assert train(tmp_path / "run", *options, steps=4) == 0
    model, params, state = jaxvae.load(tmp_path / "run")
    cond = jax.nn.one_hot(np.arange(3), 10) if "--conditional" in options else None
    assert np.isfinite(model.sample(params, state, jax.random.key(0), 3, cond)).all()


def test_a_schedule_is_recorded_with_its_length_which_is_part_of_the_run(tmp_path, capsys):
    words = ["--optimizer", "adamw", "--lr-schedule", "cosine", "--warmup", "2", "--patience", "4"]
    words += ["--beta-cycle", "4", "--eval-every", "1"]
    assert train(tmp_path / "run", *words, steps=6) == 0
    out = capsys.readouterr().out
    page = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    names = ("optimizer", "lr_schedule", "lr_steps", "warmup", "beta_cycle", "patience")
    assert [page[name] for name in names] == ["adamw", "cosine", 6, 2, 4, 4]
    rows = [line for line in writers.read(tmp_path / "run" / "metrics.jsonl") if "beta" in line]
    assert rows[-1]["beta"] == pytest.approx((0 + 0.5 + 1 + 1 + 0 + 0.5) / 6)
    argv = ["train", "vae", "--data", "digits", "--workdir", tmp_path / "run", *TINY, *words]
    err = refused(capsys, *argv, "--steps", 12, silent=False)
    assert "lr_steps is 6 there and 12 here" in err
    next_one = next(line for line in out.splitlines() if "--steps 12" in line)
    assert f"{tmp_path}/run-longer" in next_one  # in this folder the rate is down to 0
    assert "--lr-steps" not in next_one and "--patience" not in next_one


def test_a_quick_run_says_that_it_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(options, "QUICK_STEPS", 4)
    monkeypatch.setattr(splits, "QUICK_TRAIN", 64)
    words = ["train", "vae", "--quick", "--workdir", str(tmp_path / "run"), *TINY]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "64 training images (8, 8, 1), 4 steps of 32" in out
    assert "QUICK: 200 STEPS A STAGE" in out and "THESE NUMBERS COMPARE WITH NOTHING" in out
    assert f"jaxvae train vae --workdir {tmp_path / 'run-full'} --batch-size 32" in out
    page = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert page["quick"] is True
    test = writers.read(tmp_path / "run" / "metrics.jsonl")[-1]
    assert test["split"] == "test" and test["budget"] == "quick"
    jaxvae.load(tmp_path / "run")
    words.remove("--quick")
    assert "quick is True there and False here" in refused(capsys, *words, silent=False)


def test_a_learning_rate_that_blows_up_ends_with_3_and_one_line(tmp_path, capsys):
    assert (
        train(tmp_path / "run", "--learning-rate", "1e30", "--likelihood", "gaussian", steps=30)
        == 3
    )
    assert "not finite at step" in capsys.readouterr().err


def test_damaged_data_ends_with_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(b"\0\0\x08\x03" + bytes(40))[:-5]
    )
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    err = refused(
        capsys,
        "train",
        "vae",
        "--data",
        "mnist",
        "--data-dir",
        tmp_path,
        "--workdir",
        tmp_path / "run",
    )
    assert "damaged" in err
    assert not (tmp_path / "run").exists()


def test_other_settings_on_a_run_are_refused_before_anything_is_written(trained, capsys):
    before = (trained / "metrics.jsonl").read_bytes()
    options = ("--data", "digits", "--workdir", trained, "--steps", "20", *TINY, "--beta", "2")
    err = refused(capsys, "train", "vae", *options)
    assert "holds a run with another config: beta is 1.0 there and 2.0 here" in err
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_run_of_a_version_without_an_option_is_taken_at_its_default(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    page = json.loads((tmp_path / "run" / "config.json").read_text())
    del page["config"]["free_bits"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(page))
    assert train(tmp_path / "run") == 0
    assert train(tmp_path / "run", "--free-bits", "1") == 2


def test_shorter_run_than_was_made_says_so(trained, capsys):
    assert train(trained, steps=10) == 0
    assert "is already at step 20, beyond the 10 asked for" in capsys.readouterr().out


def test_pictures_and_log_that_were_deleted_come_back_once(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "samples.png").unlink()
    assert train(tmp_path / "run") == 0
    lines = writers.read(tmp_path / "run" / "metrics.jsonl")
    assert [line["split"] for line in lines].count("test") == 1
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert train(tmp_path / "run") == 0
    assert [line["split"] for line in writers.read(tmp_path / "run" / "metrics.jsonl")] == ["test"]


@pytest.mark.long
def test_own_images_train_from_the_command_line(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(40):
        (tmp_path / "p" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(
            tmp_path / "p" / str(i % 2) / f"{i}.png"
        )
    argv = [
        "train",
        "vae",
        "--data",
        f"folder:{tmp_path / 'p'}",
        "--crop",
        "10",
        "--size",
        "8",
        "--workdir",
        str(tmp_path / "run"),
        *TINY,
        "--steps",
        "20",
        "--batch-size",
        "8",
        "--conditional",
    ]
    assert main(argv) == 0
    assert f"data: {tmp_path / 'p'}" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--split", "all[50%:]"]) == 0
    assert (
        jaxvae.load(tmp_path / "run").params["decoder"]["Dense_1"]["kernel"].shape[-1] == 8 * 8 * 3
    )


def test_a_test_part_of_one_image_will_do_and_none_is_said_before_training(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for count, code in ((12, 0), (3, 2)):
        folder = tmp_path / f"p{count}"
        folder.mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).save(folder / f"{i}.png")
        places = ["--data", f"folder:{folder}", "--workdir", str(tmp_path / f"run{count}")]
        assert main(["train", "vae", *places, *TINY, "--steps", "20", "--batch-size", "8"]) == code
    assert "split 'all[90%:]' of p3 is empty" in capsys.readouterr().err
    assert not (tmp_path / "run3").exists() and (tmp_path / "run12" / "interpolation.png").exists()
