import dataclasses
import gzip
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import jaxvae
from jaxvae import data, writers
from jaxvae.cli.main import main, parse
from jaxvae.presets import record
from jaxvae.presets.config import VAE
from jaxvae.train.checkpoint import Checkpoints

TINY = [
    "--hidden",
    "16",
    "--latent-dim",
    "2",
    "--batch-size",
    "32",
    "--log-every",
    "10",
    "--no-progress",
]
PICTURES = ["samples", "reconstructions", "interpolation", "curves", "manifold"]


def refused(capsys, *argv):
    """Returns the one line that `jaxvae argv` ends with."""
    assert main([str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxvae: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


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
            "--dtype",
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


def test_a_learning_rate_that_blows_up_ends_with_3_and_one_line(tmp_path, capsys):
    assert (
        train(tmp_path / "run", "--learning-rate", "1e30", "--likelihood", "gaussian", steps=30)
        == 3
    )
    assert "not finite at step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'. Did you mean 'train'?"),
        (["train"], "train needs a preset: vae"),
        (["train", "vea"], "unknown preset 'vea'. Did you mean 'vae'?"),
        (
            ["train", "vae", "--data", "mnits", "--workdir", "x"],
            "unknown data set 'mnits'. Did you mean 'mnist'?",
        ),
        (
            ["train", "vae", "--workdir", "x", "--latent-dmi", "3"],
            "unknown option '--latent-dmi'. Did you mean '--latent-dim'?",
        ),
        (["train", "vae"], "--workdir DIR is required"),
        (
            ["train", "vae", "--workdir", "x", "--epochs"],
            "--epochs needs a value. `jaxvae train vae --help` explains it.",
        ),
        (
            ["evaluate"],
            "RUN is required, as in `jaxvae evaluate RUN`. `jaxvae evaluate --help` explains it.",
        ),
        (["evaluate", "--run", "x"], "RUN is required, as in `jaxvae evaluate RUN`."),
        (["export", "x"], "--out DIR is required. `jaxvae export --help` lists the options."),
        (["train", "vae", "--workdir", "x", "--steps", "many"], "--steps takes INT, not 'many'"),
        (["train", "vae", "--workdir", "gs://bucket/x"], "must be on a local or mounted disk"),
        (["train", "vae", "--workdir", "x", "--seed", str(2**32)], "--seed must be below 2**32"),
        (
            ["train", "vae", "--workdir", "x", "--split", "test"],
            "--split test shares examples with the test split test",
        ),
        (
            ["train", "vae", "--workdir", "x", "--split", "train"],
            "shares examples with the validation split train[1293:]",
        ),
        (["train", "vae", "--workdir", "x", "--steps", "0"], "--steps must be at least 1, not 0"),
        (
            ["train", "vae", "--workdir", "x", "--batch-size", "-3"],
            "--batch-size must be at least 1, not -3",
        ),
        (
            ["train", "vae", "--workdir", "x", "--steps", "3", "--epochs", "2"],
            "give --steps or --epochs, not both",
        ),
        (
            ["train", "vae", "--workdir", "x", "--net", "cnv"],
            "unknown --net 'cnv'. Did you mean 'conv'?",
        ),
        (
            ["train", "vae", "--workdir", "x", "--hidden", "0"],
            "a layer's width must be at least 1, not 0",
        ),
        (
            ["train", "vae", "--workdir", "x", "--init", "xaver"],
            "unknown initialiser 'xaver'. Did you mean 'xavier'?",
        ),
        (
            ["train", "vae", "--workdir", "x", "--activation", "rulu"],
            "unknown activation 'rulu'. Did you mean 'relu'?",
        ),
        (
            ["train", "vae", "--workdir", "x", "--posterior", "nomal"],
            "unknown posterior 'nomal'. Did you mean 'normal'?",
        ),
        (["train", "vae", "--workdir", "x", "--gamma", "0.5"], "use likelihood='gaussian'"),
        (["train", "vae", "--workdir", "x", "--beta", "-1"], "--beta must be at least 0, not -1"),
        (
            ["train", "vae", "--workdir", "x", "--learning-rate", "0"],
            "--learning-rate must be greater than 0",
        ),
        (
            ["train", "vae", "--workdir", "x", "--split", "validation"],
            "digits has no split 'validation'",
        ),
        (["train", "vae", "--workdir", "x", "--split", "train[:0]"], "is empty"),
    ],
)
def test_mistake_ends_with_one_line_and_nothing_written(
    tmp_path, monkeypatch, capsys, argv, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *argv)
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "vae", "--help"],
        ["train", "vae", "--stepz", "3"],
        ["sample", "--help"],
        ["evaluate", "--help"],
        ["data", "prepare", "--help"],
        ["data", "list", "--whre", "x"],
    ],
)
def test_help_and_usage_errors_import_nothing_heavy(argv):
    """What makes them answer at once; no clock is looked at."""
    script = (
        "import sys\nfrom jaxvae.cli import main\n"
        f"try: main({argv!r})\nexcept SystemExit: pass\n"
        "heavy = {'jax', 'flax', 'optax', 'orbax', 'matplotlib', 'sklearn', 'scipy', "
        "'tensorflow_datasets', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


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


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "vae", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(VAE):
        assert f"--{field.name.replace('_', '-')}" in text


def test_command_and_record_of_a_config_are_inverse(tmp_path):
    made = VAE(
        workdir=tmp_path,
        steps=5,
        hidden=(3, 4),
        gamma="learned",
        likelihood="gaussian",
        conditional=True,
        progress=False,
    )
    assert parse(VAE, record.command(made).split()[2:], "x") == made
    _, again, shape, classes = record.from_dict(
        json.loads(json.dumps(record.as_dict(made, (8, 8, 1), 10)))
    )
    assert (again, shape, classes) == (
        VAE(**{**vars(made), "workdir": again.workdir}),
        (8, 8, 1),
        10,
    )


# ---- introspective presets ---------------------------------------------------------------------


def test_soft_intro_vae_trains_loads_and_samples(tmp_path):
    import jaxvae

    assert (
        main(
            [
                "train",
                "soft_intro_vae",
                "--data",
                "digits",
                "--workdir",
                str(tmp_path / "run"),
                "--steps",
                "4",
                *TINY,
            ]
        )
        == 0
    )
    model, params, state = jaxvae.load(tmp_path / "run")
    assert [objective.name for objective in model.objectives] == ["encoder_loss", "decoder_loss"]
    assert model.sample(params, state, jax.random.key(0), 3).shape == (3, 8, 8, 1)
    train = [
        line
        for line in writers.read(tmp_path / "run" / "metrics.jsonl")
        if line["split"] == "train"
    ]
    assert {"kl", "kl_rec", "kl_fake", "squared_error"} <= set(train[0])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["intro_vae"], "intro_vae needs m, the margin"),
        (["intro_vae", "--m", "-1"], "m must be at least 0, not -1"),
        (
            ["soft_intro_vae", "--beta", "2"],
            "no --beta, --beta-warmup and --free-bits: use --beta-rec",
        ),
        (["soft_intro_vae", "--beta-neg", "-2"], "beta_neg must be at least 0"),
        (["soft_intro_vae", "--likelihood", "bernoulli"], "likelihood"),
        (["soft_intro_vae", "--convention", "relased"], "convention"),
    ],
)
def test_introspective_presets_refuse(argv, message, tmp_path, capsys):
    assert message in refused(
        capsys, "train", *argv, "--data", "digits", "--workdir", tmp_path / "run", "--no-progress"
    )
