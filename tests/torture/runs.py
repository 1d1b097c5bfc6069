"""Runs as processes of their own, which are forked from one that has imported everything, and how a
run has ended."""

import contextlib
import functools
import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from jaxvae import models, nets, writers
from jaxvae.cli import evaluate, train, use  # noqa: F401 - forked processes have them
from jaxvae.cli.main import main
from jaxvae.data import images, load
from jaxvae.errors import UserError
from jaxvae.train.ensemble import train_ensemble

SOAKED = 32  # images of a batch of the run that never ends
PATIENCE = 600.0  # seconds, after which a run hangs
COMMON = ("--data", "digits", "--batch-size", "32", "--latent-dim", "2", "--no-progress")
OFTEN = ("--log-every", "10", "--eval-every", "20", "--save-every", "7", "--steps", "60")


def _words(*words: str) -> Callable[..., int]:
    always = ("train", *words, *COMMON, *OFTEN, "--workdir")
    return lambda folder, *more: main([*always, str(folder), *more])


def _ensemble(folder: Path) -> int:
    source = load("digits", "train[:256]")

    def build(beta):
        pair = nets.mlp((8,), 4), nets.mlp((8,), source.shape)
        return models.vae(*pair, latent_dim=2, beta=beta)

    train_ensemble(
        build,
        optax.adam(1e-3),
        source,
        seeds=[0, 1],
        hyper={"beta": [0.5, 1.0]},
        steps=60,
        batch_size=32,
        members="vmap",
        workdir=folder,
        log_every=10,
        save_every=7,
        steps_per_call=4,
    )
    return 0


def _soaked(save_every: int, folder: Path) -> int:
    """Reads images from the disk at every step, until it is stopped."""
    images.RESIDENT_BYTES = 0
    data = ("--data", f"folder:{folder.parent / 'images'}", "--batch-size", str(SOAKED))
    often = {"log": 50, "eval": 2 * save_every, "save": save_every}
    every = [word for what, n in often.items() for word in (f"--{what}-every", str(n))]
    words = ("--hidden", "64", "--latent-dim", "2", "--no-progress", "--workdir", str(folder))
    return main(["train", "vae", *data, *every, "--steps", str(10**9), *words])


TWO = ("--net", "mlp", "--hidden", "16", "--second-width", "16", "--second-depth", "1")
RUNS: dict[str, Callable[..., int]] = {
    "dense": _words("vae", "--hidden", "16"),
    "conv": _words("vae", "--net", "conv", "--hidden", "16", "--channels", "4"),
    "two_stage": _words("two_stage_vae", *TWO),
    "ensemble": _ensemble,
}
SAVE_EVERY = (1000, 100)  # steps between the checkpoints of a run that never ends by itself
ALL = {**RUNS, **{f"soaked_{n}": functools.partial(_soaked, n) for n in SAVE_EVERY}}


def _child(
    name: str, folder: Path, said: Path, devices: int, limit: int | None, words: tuple[str, ...]
) -> None:
    """Runs in the forked process: what it says goes into a file."""
    with open(said, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    jax.config.update("jax_num_cpu_devices", devices)
    try:
        code = ALL[name](folder, *words)
    except UserError as error:  # of what is not a command
        print(f"jaxvae: {error}", file=sys.stderr)
        code = 2
    with contextlib.suppress(OSError):  # of a full disk, too
        sys.stdout.flush()
    if jax.distributed.is_initialized():  # what Python does at its end, but not for such a process
        jax.distributed.shutdown()
    sys.exit(code)


def start(
    name: str, folder: Path, *words: str, said: Path, devices: int = 1, limit: int | None = None
) -> multiprocessing.process.BaseProcess:
    """Returns the process of a run of `ALL` in `folder`.

    Args:
        words: that a run of a command is given besides.
        said: gets what it says.
        devices: simulated ones.
        limit: bytes that a file may have, which stands for a full disk.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torture.runs"])
    process = context.Process(target=_child, args=(name, folder, said, devices, limit, words))
    process.start()
    return process


def ended(process: multiprocessing.process.BaseProcess) -> int | None:
    """Returns the exit code of a process, or None after `PATIENCE`; it is then killed."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None
    return process.exitcode


def saved(folder: Path) -> dict[str, int]:
    """Returns the newest whole checkpoint of each run in a folder, by where it is."""
    return {
        str(at.parent.relative_to(folder)): max(int(p.name) for p in at.iterdir() if _is_step(p))
        for at in folder.rglob("checkpoints")
        if any(map(_is_step, at.iterdir()))
    }


def _is_step(path: Path) -> bool:
    return path.name.isdigit()


def log_of(folder: Path) -> list[str]:
    """Returns the lines of a log, of what does not depend on the clock."""
    path = folder / "metrics.jsonl"
    lines = writers.read(path) if path.exists() else []
    return [
        json.dumps({k: v for k, v in line.items() if k != "images_per_s"}, sort_keys=True)
        for line in lines
    ]


def arrays_of(checkpoint: Path) -> dict[str, np.ndarray]:
    """Returns every array of a checkpoint, by its path, on the host."""
    found = {}
    for name in ("model", "training"):
        with ocp.StandardCheckpointer() as reader:
            tree = reader.restore(checkpoint / name)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            found[f"{name}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return found


def ending(folder: Path) -> dict[str, Any]:
    """Returns all that a run has come to: the arrays of its last checkpoints, its logs, its pictures
    without the curves, which show the clock."""
    found: dict[str, Any] = {}
    for at, step in saved(folder).items():
        found[f"{at} log"] = log_of(folder / at)
        arrays = arrays_of(folder / at / "checkpoints" / str(step))
        found |= {f"{at} {step} {name}": value for name, value in arrays.items()}
    for path in folder.rglob("*.png"):
        if path.name != "curves.png":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def differences(have: dict[str, Any], want: dict[str, Any]) -> list[str]:
    """Returns what is not the same, bit by bit, in two endings."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        return type(a) is type(b) and a == b

    names = dict.fromkeys((*want, *have))
    return [name for name in names if not same(have.get(name), want.get(name))]
