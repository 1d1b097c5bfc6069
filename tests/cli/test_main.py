"""The words of a command: what is not one is said in a line, and help answers at once."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import refused
from jaxvae.cli import options
from jaxvae.cli.main import main, parse
from jaxvae.presets.config import VAE


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
        (["push", "x"], "USER/NAME is required, as in `jaxvae push RUN USER/NAME`."),
        (
            ["sample", "x", "y"],
            "what y is for is not clear: `jaxvae sample RUN` takes no more than options.",
        ),
        (
            ["zoo", "list"],
            "what list is for is not clear: `jaxvae zoo` takes no more than options.",
        ),
        (["sample", "x", "--n", "many"], "--n takes INT, not 'many'. `jaxvae sample --help`"),
        (
            ["train", "vae", "--workdir", "x", "--hidden", "9", "a"],
            "--hidden does not take '9', 'a'. `jaxvae train vae --help` explains it.",
        ),
        (
            ["train", "vae", "--workdir", "x", "--conditional=yes"],
            "--conditional takes no value: give --conditional or --no-conditional.",
        ),
        (
            ["push", "private=1", "me/x"],
            "private=1 holds no run of jaxvae: there is no such folder.",
        ),
        (["sample", "no\nwhere"], "no where holds no run of jaxvae: there is no such folder."),
        (["sample", "vae/mnist"], "the trained model of this name is zoo:vae/mnist."),
        (["sample", __file__], "holds no run of jaxvae: it is a file, not a folder."),
        (["export", "x"], "--out DIR is required. `jaxvae export --help` lists the options."),
        (["train", "vae", "--workdir", "x", "--steps", "many"], "--steps takes INT, not 'many'"),
        (["train", "vae", "--workdir", "s3://bucket/x"], "must be on a local or mounted disk"),
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
        (["train", "vae", "--workdir", "x", "--gamma", "0.5"], "use --likelihood gaussian with it"),
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


SAYS = "import sys\nfrom jaxvae.cli import main\nsys.exit(main(sys.argv[1:]))\n"
FULL = (
    "jaxvae: cannot write what is to be printed: No space left on device. Free some space, or send it "
    "elsewhere.\n"
)
full_disk = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


def said(*argv, script=SAYS, at_once=False, **where):
    """Runs a command whose output goes elsewhere, buffered or not."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1" if at_once else ""}
    where = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **where}
    words = [sys.executable, "-c", script, *argv]
    return subprocess.run(words, **where, text=True, check=False, env=env)


@full_disk
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["train", "vae", "--help"]])
def test_no_room_for_what_it_prints_is_one_line(argv, at_once):
    with open("/dev/full", "w") as full:
        done = said(*argv, at_once=at_once, stdout=full)
        assert (done.returncode, done.stderr) == (2, FULL)
        done = said(*argv, at_once=at_once, stdout=full, stderr=full)
        assert done.returncode == 2


@full_disk
@pytest.mark.parametrize("at_once", [False, True])
def test_no_room_for_what_is_wrong_changes_no_exit_code(at_once):
    with open("/dev/full", "w") as full:
        done = said("train", "vea", at_once=at_once, stderr=full)
        assert (done.returncode, done.stdout) == (2, "")
        done = said("train", "vea", at_once=at_once, stdout=full)
        assert done.returncode == 2 and "unknown preset 'vea'" in done.stderr


@pytest.mark.parametrize("at_once", [False, True])
def test_a_reader_that_has_gone_is_no_mistake(at_once):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as gone:
        done = said("--help", at_once=at_once, stdout=gone)
        assert (done.returncode, done.stderr) == (1, "")
        assert said("train", "vea", at_once=at_once, stderr=gone).returncode == 2


@full_disk
def test_other_exit_codes_and_other_errors_stay_what_they_are():
    """Of a run that has ended otherwise while its output could not be written."""
    script = "import sys\nimport jaxvae.cli\nmain = sys.modules['jaxvae.cli.main']\n"
    script += "def run(argv, alone):\n    print('x')\n    {}\n"
    script += "main._main = run\nsys.exit(main.main([]))\n"
    with open("/dev/full", "w") as full:
        assert said(script=script.format("return 75"), stdout=full).returncode == 75
        done = said(script=script.format("raise OSError(28, 'full', 'a file')"), stdout=full)
        assert "OSError: [Errno 28] full: 'a file'" in done.stderr
    done = said(script=script.format("raise OSError(28, 'of something else')"))
    assert done.returncode == 1 and "OSError: [Errno 28] of something else" in done.stderr


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "vae", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(VAE):
        assert f"--{field.name.replace('_', '-')}" in text


def test_addresses_keep_both_slashes_alone_and_among_others():
    found = parse(options.Compare, ["gs://b/one", "two", "--out", "gs://b/x.png"], "jaxvae compare")
    assert [str(run) for run in found.runs] == ["gs://b/one", "two"]
    assert str(found.out) == "gs://b/x.png"
    found = parse(options.Compare, ["one", "two"], "jaxvae compare")
    assert found.runs == (Path("one"), Path("two"))
