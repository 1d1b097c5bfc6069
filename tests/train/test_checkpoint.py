import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvae
from jaxvae import parallel, types, writers
from jaxvae.errors import UserError
from jaxvae.train import checkpoint
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.step import init_state
from small import EXAMPLE, go, small

pytestmark = pytest.mark.smoke


def flip_a_byte(folder, step):
    """Changes one byte in the largest file of a checkpoint: its arrays."""
    files = [p for p in (folder / "checkpoints" / str(step) / "model").rglob("*") if p.is_file()]
    path = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def test_fingerprint_sees_any_bit_of_any_type_and_no_device():
    tree = {
        "f": jnp.arange(6.0),
        "h": jnp.ones(3, jnp.bfloat16),
        "i": jnp.arange(3),
        "b": jnp.array([True, False]),
        "k": jax.random.key(0),
        "s": jnp.zeros(()),
    }
    marks, finite = checkpoint.fingerprint(tree)
    assert finite
    assert len(marks) == 6
    changes = {
        "f": tree["f"].at[4].set(np.nextafter(np.float32(4), np.float32(5))),
        "h": tree["h"].at[0].set(1.0078125),
        "i": tree["i"].at[2].set(1),
        "b": tree["b"].at[1].set(True),
        "k": jax.random.key(1),
        "s": jnp.full((), -0.0),
    }
    for name, value in changes.items():
        other, _ = checkpoint.fingerprint({**tree, name: value})
        assert sum(a != b for a, b in zip(marks, other, strict=True)) == 1, name
    swapped, _ = checkpoint.fingerprint({**tree, "f": tree["f"][::-1]})
    assert swapped != marks
    spread = parallel.put({"x": jnp.arange(16.0)}, parallel.batch_sharded(parallel.make_mesh()))
    assert checkpoint.fingerprint(spread) == checkpoint.fingerprint({"x": jnp.arange(16.0)})
    assert not checkpoint.fingerprint({"x": jnp.array([1.0, jnp.inf])})[1]


WAITS = """
import sys
import jax, jaxvae.train, jaxvae.cli.train
from jaxvae.train.checkpoint import Checkpoints

new = Checkpoints(sys.argv[1])
assert new.steps() == [] and new.best_step() is None and not new.is_open
new.wait()
new.close()
assert not {"orbax.checkpoint", "tensorstore"} & set(sys.modules)
print("fine")
"""


def test_a_start_does_not_wait_for_orbax(tmp_path):
    argv = [sys.executable, "-c", WAITS, str(tmp_path / "runs" / "new")]
    options = {"capture_output": True, "text": True, "check": True}
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(argv, env=env, **options).stdout == "fine\n"
    assert (tmp_path / "runs" / "new").is_dir()


def test_what_cannot_be_saved_is_known_after_the_first_steps(tmp_path, monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'tensorstore'")

    monkeypatch.setattr(checkpoint, "_orbax", missing)
    with pytest.raises(ModuleNotFoundError, match="tensorstore"):
        go(40, workdir=tmp_path)
    steps = [line["step"] for line in writers.read(tmp_path / "metrics.jsonl")]
    assert steps == [5]  # that is when the log has its first line


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path):
    left = tmp_path / "c" / "7.orbax-checkpoint-tmp"
    (left / "model.orbax-checkpoint-tmp").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.steps() == []
    checkpoints.close()


def test_damaged_checkpoint_is_reported_and_the_one_before_it_used(tmp_path, capsys):
    options = {"model": small(200), "save_every": 5}  # arrays large enough for a file of their own
    unstopped = go(workdir=tmp_path / "whole", **options)
    go(10, workdir=tmp_path / "run", **options)
    flip_a_byte(tmp_path / "run", 10)
    result = go(workdir=tmp_path / "run", **options)
    assert "checkpoint 10 in" in capsys.readouterr().out
    for a, b in zip(
        jax.tree.leaves(unstopped.train_state.params),
        jax.tree.leaves(result.train_state.params),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_truncated_checkpoint_too(tmp_path, capsys):
    go(10, workdir=tmp_path, save_every=5)
    for path in (tmp_path / "checkpoints" / "10" / "model").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    go(workdir=tmp_path, save_every=5)
    assert "going back to the checkpoint before it" in capsys.readouterr().out


def test_where_all_are_damaged_nothing_is_overwritten(tmp_path):
    options = {"model": small(200), "keep": 1}
    go(10, workdir=tmp_path, **options)
    flip_a_byte(tmp_path, 10)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(
        UserError, match="checkpoint 10 in .* has changed since it was saved, and there is no other"
    ):
        go(workdir=tmp_path, **options)
    with pytest.raises(
        UserError, match="checkpoint 10 in .* has changed since it was saved, and there is no other"
    ):
        jaxvae.load(tmp_path, model=small(200), example=EXAMPLE)
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps() == [10]


def test_checkpoint_of_another_model_is_refused_with_what_differs(tmp_path):
    go(5, workdir=tmp_path, save_every=5)
    message = r"is of another model: .*Dense_0.*is \(8,\) float32 there, \(9,\) float32 here"
    with pytest.raises(UserError, match=message):
        go(workdir=tmp_path, model=small(9))
    with pytest.raises(UserError, match=message):
        jaxvae.load(tmp_path, model=small(9), example=EXAMPLE)


def test_load_needs_a_run_a_checkpoint_and_a_step_that_is_there(tmp_path):
    with pytest.raises(UserError, match="holds no run of jaxvae"):
        jaxvae.load(tmp_path)
    go(5, workdir=tmp_path, save_every=5)
    with pytest.raises(UserError, match="made by fit, not by a preset"):
        jaxvae.load(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint 7: choose latest, best or one of \[5\]"):
        jaxvae.load(tmp_path, step=7, model=small(), example=EXAMPLE)
    with pytest.raises(UserError, match="no checkpoint 'best'"):
        jaxvae.load(tmp_path, step="best", model=small(), example=EXAMPLE)


def test_full_disk_is_one_line_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        UserError,
        match=r"cannot write to .*: a checkpoint takes up to 1.0 MiB, and 0.0 MiB are free",
    ):
        go(10, workdir=tmp_path, save_every=5)
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps() == []


@pytest.mark.parametrize("why", ["File too large [os_error_code='27']", "Disk quota exceeded"])
def test_what_a_limit_refuses_is_one_line(tmp_path, why):
    """As tensorstore says it: of `ulimit -f`, and of a quota."""
    with (
        pytest.raises(
            UserError, match=rf"cannot write to {tmp_path}: {why.partition(' [')[0]}. Free"
        ),
        checkpoint.disk(tmp_path),
    ):
        raise ValueError(f'OUT_OF_RANGE: Error writing "a/0": Failed to write: {why}\nmore')
    with pytest.raises(ValueError, match="unknown format"), checkpoint.disk(tmp_path):
        raise ValueError("unknown format")


def test_checkpoint_restores_every_bit_of_the_state(tmp_path):
    state = init_state(small(), optax.adam(1e-2), jax.random.key(3), EXAMPLE, ema=True)
    sums = {"loss": types.Mean(jnp.float32(3), jnp.float32(2))}
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state, sums, config={"a": 1}, metrics={"elbo": -1.0})
    checkpoints.wait()
    other = init_state(small(), optax.adam(1e-2), jax.random.key(4), EXAMPLE, ema=True)
    again = checkpoints.restore(0, other, sums)
    assert jax.tree.structure(again.train_state) == jax.tree.structure(state)
    assert checkpoint.fingerprint(again.train_state) == checkpoint.fingerprint(state)
    assert again.meta["config"] == {"a": 1}
    assert again.meta["metrics"] == {"elbo": -1.0}
    assert again.meta["versions"]["jax"] == jax.__version__
    checkpoints.close()
