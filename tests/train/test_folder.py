import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxvae import writers
from jaxvae.errors import UserError
from jaxvae.train import checkpoint, folder, lease
from small import go

HERE = Path(__file__).parent

# A run of 2,100 steps that takes a few seconds: it sleeps at each of its 70 evaluations.
SCRIPT = """
import sys, time
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[3])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
import numpy as np
from small import go, source
result = go(2100, workdir=sys.argv[1], log_every=7, eval_every=30, save_every=17, valid=source(1),
            on_eval=lambda step, state: time.sleep(float(sys.argv[4])))
np.savez(sys.argv[2], *[np.asarray(x) for x in jax.tree.leaves((result.train_state.params, result.train_state.opt_state))])
"""


def start(folder, out, sleep):
    path = os.pathsep.join(
        [str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    args = [
        sys.executable,
        "-c",
        SCRIPT,
        str(folder),
        str(out),
        str(HERE.parents[1] / ".jax_cache"),
        str(sleep),
    ]
    return subprocess.Popen(args, env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"})


def lines_of(folder):
    return [
        {k: v for k, v in line.items() if k != "images_per_s"}
        for line in writers.read(folder / "metrics.jsonl")
    ]


def size(folder):
    log = folder / "metrics.jsonl"
    return log.stat().st_size if log.exists() else 0


@pytest.mark.long
@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_run_killed_many_times_ends_as_one_never_killed(tmp_path, times):
    """kill -9 at random moments: the parameters are bitwise equal, and the log has no gap and no
    repeat."""
    rng = np.random.default_rng(time.time_ns())
    kills = 0
    while kills < times:
        process = start(tmp_path / "killed", tmp_path / "killed.npz", 0.08)
        before = size(tmp_path / "killed")
        while size(tmp_path / "killed") == before and process.poll() is None:  # until it trains
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, "the run ended before it could be killed so often"
        process.kill()
        process.wait()
        kills += 1
    assert start(tmp_path / "killed", tmp_path / "killed.npz", 0).wait() == 0
    assert start(tmp_path / "whole", tmp_path / "whole.npz", 0).wait() == 0
    killed, unstopped = np.load(tmp_path / "killed.npz"), np.load(tmp_path / "whole.npz")
    assert len(unstopped.files) > 10
    for name in unstopped.files:
        np.testing.assert_array_equal(killed[name], unstopped[name])
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "whole")
    steps = [line["step"] for line in lines_of(tmp_path / "killed") if line["split"] == "train"]
    assert steps == [*range(7, 2101, 7)]


def test_sigterm_saves_and_exits_with_75(tmp_path):
    process = start(tmp_path / "run", tmp_path / "out.npz", 0.05)
    while size(tmp_path / "run") == 0 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    saved = checkpoint.Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).steps()[-1]
    assert saved >= max(line["step"] for line in lines_of(tmp_path / "run"))


def test_second_writer_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    with (
        lease.lock(tmp_path),
        pytest.raises(UserError, match=f"in use by another run \\(process {os.getpid()}\\)"),
    ):
        go(5, workdir=tmp_path)
    go(5, workdir=tmp_path)


def test_other_config_is_refused_field_by_field_and_length_is_not(tmp_path):
    go(5, workdir=tmp_path, config={"seed": 0, "beta": 1.0, "steps": 5})
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(
        UserError,
        match="another config: seed is 0 there and 1 here, beta is 1.0 there and 2.0 here",
    ):
        go(5, workdir=tmp_path, config={"seed": 1, "beta": 2.0, "steps": 5})
    go(10, workdir=tmp_path, config={"seed": 0, "beta": 1.0, "steps": 10, "log_every": 3})
    assert (tmp_path / "config.json").read_bytes() == before


def test_folder_of_someone_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(
        UserError, match="holds files but no run of jaxvae: choose an empty or new folder"
    ):
        go(5, workdir=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file: choose a folder"):
        go(5, workdir=tmp_path / "thesis.tex")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"name": "another tool"}')
    with pytest.raises(UserError, match="is not the config of a run of jaxvae"):
        go(5, workdir=tmp_path / "other")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("/proc/run", "cannot write to /proc/run|cannot create"),
        ("s3://bucket/run", "must be on a local or mounted disk"),
    ],
)
def test_folder_that_cannot_be_written(where, message):
    with pytest.raises(UserError, match=message):
        go(5, workdir=where)


def test_read_config_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="there is no config.json in it"):
        folder.read_config(tmp_path)
    with pytest.raises(UserError, match="holds no run of jaxvae: there is no such folder"):
        folder.read_config(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="holds no run of jaxvae: it is a file, not a folder"):
        folder.read_config(tmp_path / "file")
