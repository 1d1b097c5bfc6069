"""A run in a bucket: config, log, checkpoints, pictures, lock and resume, over the protocol of Google Cloud
Storage (`bucket`), with the clients that speak to Google. They come with `pip install 'jaxvae[gcs]'`."""

import importlib.util

import jax
import numpy as np
import pytest

import bucket as buckets
import jaxvae
from jaxvae import writers
from jaxvae.cli import main
from jaxvae.errors import UserError
from jaxvae.train import lease
from jaxvae.train.checkpoint import Checkpoints
from small import EXAMPLE, go, small

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is None, reason="needs pip install 'jaxvae[gcs]'"
)
SHELF = f"gs://{buckets.NAME}"


@pytest.fixture(scope="module")
def bucket():
    with buckets.serve() as (opened, address), pytest.MonkeyPatch.context() as patch:
        for name, value in buckets.settings(address).items():
            patch.setenv(name, value)
        patch.setattr(lease, "SETTLE", 0.01)
        yield opened


def without_rates(path):
    lines = writers.read(path)
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


@pytest.mark.slow
# Orbax leaves futures behind whose event loop is closed when a write is refused
@pytest.mark.usefixtures("swept")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_whose_bucket_refuses_half_of_a_checkpoint_goes_on_from_the_one_before(
    bucket, tmp_path
):
    run = f"{SHELF}/runs/half"
    bucket.refuses = lambda name: "/checkpoints/12/training/" in name
    with pytest.raises(UserError) as refused:
        go(18, workdir=run, save_every=6)
    bucket.refuses = lambda name: False
    assert "\n" not in str(refused.value) and f"cannot write to {run}" in str(refused.value)
    assert any(name.startswith("runs/half/checkpoints/12/model/") for name in bucket.objects)
    assert "runs/half/checkpoints/12/commit_success.txt" not in bucket.objects
    assert "runs/half/.lock" not in bucket.objects
    assert Checkpoints(f"{run}/checkpoints", read_only=True).steps() == [6]

    ended = go(18, workdir=run, save_every=6)
    unstopped = go(18, workdir=tmp_path, save_every=6)
    for found, wanted in zip(*map(jax.tree.leaves, (ended, unstopped)), strict=True):
        if isinstance(found, jax.Array):
            if jax.dtypes.issubdtype(found.dtype, jax.dtypes.prng_key):
                found, wanted = jax.random.key_data(found), jax.random.key_data(wanted)
            np.testing.assert_array_equal(found, wanted)
    assert without_rates(f"{run}/metrics.jsonl") == without_rates(tmp_path / "metrics.jsonl")
    assert Checkpoints(f"{run}/checkpoints", read_only=True).steps() == [12, 18]
    # the log once for each checkpoint, not for each line
    assert bucket.written.count("runs/half/metrics.jsonl") <= 6

    (name,) = [n for n in bucket.objects if n.startswith("runs/half/checkpoints/18/model/d/")]
    content = bytearray(bucket.objects[name][1])
    content[len(content) // 2] ^= 1
    bucket.put(name, bytes(content))
    with pytest.raises(UserError, match="checkpoint 18 in .* choose another step of"):
        jaxvae.load(run, model=small(), example=EXAMPLE)
    assert jaxvae.load(run, model=small(), example=EXAMPLE, step=12).params.keys()


@pytest.mark.long
def test_commands_on_a_run_in_a_bucket(bucket, capfd):
    run = f"{SHELF}/runs/digits"
    train = ["train", "vae", "--hidden", "8", "--latent-dim", "2", "--batch-size", "64"]
    train += ["--no-progress", "--workdir", run]
    assert main([*train, "--steps", "3"]) == 0
    names = {name.removeprefix("runs/digits/") for name in bucket.objects if "/digits/" in name}
    pictures = {"samples.png", "reconstructions.png", "interpolation.png", "manifold.png"}
    assert {"config.json", "metrics.jsonl", "curves.png"} | pictures <= names
    assert main([*train, "--steps", "5"]) == 0
    assert Checkpoints(f"{run}/checkpoints", read_only=True).steps()[-1] == 5
    assert run in capfd.readouterr().out

    assert main(["sample", run, "--n", "4", "--npz", f"{SHELF}/x.npz"]) == 0
    assert main(["evaluate", run, "--metrics", "elbo"]) == 0
    assert writers.read_json(f"{run}/evaluation.json")["step"] == 5
    assert main(["export", run, "--out", f"{SHELF}/exported"]) == 0
    for found, wanted in zip(
        jax.tree.leaves(jaxvae.load(f"{SHELF}/exported").params),
        jax.tree.leaves(jaxvae.load(run).params),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)

    for name in [name for name in bucket.objects if name.startswith("runs/digits/")]:
        bucket.put(name.replace("digits", "copy"), bucket.objects[name][1])
    capfd.readouterr()
    assert main(["compare", run, f"{SHELF}/runs/copy", "--out", f"{SHELF}/both.png"]) == 0
    head, *_, last = capfd.readouterr().out.splitlines()
    assert head.split() == ["digits", "copy"] and last == f"{SHELF}/both.png"
    assert bucket.objects["both.png"][1].startswith(b"\x89PNG")

    before = dict(bucket.objects)
    for words, message in (
        ([*train, "--steps", "9", "--seed", "1"], "another config: seed is 0 there and 1 here"),
        ([*train, "--tensorboard"], "--tensorboard writes to a disk"),
        ([*train[:-1], SHELF], "holds files but no run of jaxvae"),
        (["sample", f"{SHELF}/nothing"], "holds no run of jaxvae"),
        (["compare", run, f"{SHELF}/nothing"], f"{SHELF}/nothing holds no run of jaxvae"),
        (["compare", run, run], f"{run} is given twice"),
    ):
        capfd.readouterr()
        assert main(words) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line
    assert bucket.objects == before


def test_a_bucket_that_is_not_there_is_said_in_one_line(bucket, capfd):
    where = "gs://nowhere/run"
    assert main(["train", "vae", "--steps", "2", "--no-progress", "--workdir", where]) == 2
    errors = [e for e in capfd.readouterr().err.splitlines() if e.startswith("jaxvae: ")]
    assert len(errors) == 1 and "nowhere" in errors[0] and "Check the address" in errors[0]
