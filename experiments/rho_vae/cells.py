"""The cells of the rho-VAE paper's figures: nets by posteriors by data sets, and those of
`search`."""

import math
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np

from experiments import runner
from experiments.needs import Needs, Part, batch
from experiments.rho_vae import search, setting
from experiments.rho_vae.setting import DATA, UNIFORM, methods
from experiments.runner import Cell, Measure
from experiments.vae.setting import BATCH_SIZE, EPOCHS, PRECISION, released_loss
from jaxvae import data, plots, writers
from jaxvae.errors import UserError
from jaxvae.train import fit

FOLDER = Path(__file__).parent
SMOKE_STEPS, SMOKE_SHRINK = 4, 16


def run(name: str, net: str, method: str, seed: int, smoke: bool) -> list[Measure]:
    """Trains on all of "train"; after each pass over it the loss on "test" goes into the curve.

    Started again after it was killed, it goes on from the last pass that was whole (`folder_of`,
    not in git).
    """
    cell = f"{name}.{net}.{method}"
    if smoke:
        measures, curve, images = _smoke(net, method, seed)
    else:
        measures, curve, images = _measure(
            name, net, method, seed, folder_of(name, net, method, seed)
        )
    for line in curve:
        path = runner.target(FOLDER, smoke) / "curves" / f"{cell}.jsonl"
        writers.append(path, {"seed": seed, **line})
    if seed == 0:
        folder = writers.make_folder(FOLDER / ("smoke" if smoke else "figures") / "samples")
        plots.samples(folder / f"{cell}.png", images)
    return measures


def check(net: str, smoke: bool) -> None:
    """Raises `UserError` for the cnn net on a CPU."""
    if net == "cnn" and not smoke and jax.default_backend() == "cpu":
        raise UserError(
            "the cnn net has 212 to 315 million parameters: run its cells on a GPU or TPU, and "
            "others here with "
            "--cell '*/vanilla*' --cell '*/beta/*' --cell '*/info*' --cell 'toy_*'."
        )


def clear(name: str, net: str, method: str, seed: int, smoke: bool) -> None:
    """Removes what was kept of a run that is measured."""
    if not smoke:
        runner.remove(folder_of(name, net, method, seed))


def folder_of(name: str, net: str, method: str, seed: int) -> Path:
    """Returns where a run is kept until its results are written."""
    return FOLDER / "runs" / f"{name}.{net}.{method}.seed{seed}"


@cache
def _smoke(net: str, method: str, seed: int):
    """Both data sets' smoke runs are one run on embedded digits."""
    with tempfile.TemporaryDirectory() as folder:
        return _measure("digits", net, method, seed, Path(folder), smoke=True)


def _measure(name: str, net: str, method: str, seed: int, folder: Path, *, smoke: bool = False):
    """Returns measures, curve and 64 samples of one run in `folder`."""
    train, test = data.load(name, "train"), data.load(name, "test")
    epoch = 2 if smoke else math.ceil(train.size / BATCH_SIZE)
    epochs, at = (1, ", epoch 1") if net == UNIFORM else (EPOCHS, "")
    steps = SMOKE_STEPS if smoke else epochs * epoch
    model = setting.build(net, method, shrink=SMOKE_SHRINK if smoke else 1)
    config = {
        "cell": f"{name}/{net}/{method}",
        "seed": seed,
        "size": train.size,
        "shape": train.shape,
        "total_steps": steps,
        "batch_size": BATCH_SIZE,
        "learning_rate": setting.LEARNING_RATE,
        "beta": setting.BETA,
        "alpha": setting.ALPHA,
        "lambda": setting.LAMBDA,
        "precision": PRECISION,
    }
    with jax.default_matmul_precision("highest"):
        state = fit(
            setting.with_released_loss(model),
            setting.optimiser(),
            train,
            steps=steps,
            batch_size=BATCH_SIZE,
            seed=seed,
            preprocess=setting.preprocess_for(setting.side_of(net)),
            valid=test,
            eval_every=epoch,
            log_every=epoch,
            workdir=folder,
            keep=1,
            config=config,
        ).train_state
        images = np.asarray(model.sample(state.params, state.state, jax.random.key(seed), 64))
    curve = []
    for line in writers.read(folder / "metrics.jsonl"):
        if line.pop("split") == "valid":
            loss = released_loss(line.pop("released_loss"), test.size, BATCH_SIZE)
            curve.append({"steps": line.pop("step"), "test_loss": loss, **line})
    last, fixed = curve[-1], (test.size, steps, PRECISION)
    measures = [
        Measure("test_loss", f"rho-vae-released{at}", last["test_loss"], *fixed),
        Measure("test_loss", f"nats{at}", -last["elbo"], *fixed),
        *(Measure(metric, f"nats{at}", last[metric], *fixed) for metric in ("rec", "kl")),
    ]
    return measures, curve, images


def needs(name: str, net: str, method: str) -> Needs:
    """Returns what a cell needs."""
    epochs, at = (1, ", epoch 1") if net == UNIFORM else (EPOCHS, "")
    steps, side = epochs * math.ceil(60_000 / BATCH_SIZE), setting.side_of(net)

    def parts() -> list[Part]:
        examples = batch(BATCH_SIZE, side, side, 1)
        return [Part(setting.build(net, method), setting.optimiser(), examples, steps)]

    return Needs(
        (name,),
        accelerator=net == "cnn",
        steps=steps,
        net="info" if net == UNIFORM else net,
        parts=parts,
        protocols=(f"rho-vae-released{at}", f"nats{at}"),
        stopped=lambda seed: folder_of(name, net, method, seed).exists(),
    )


def _cells() -> Iterator[Cell]:
    for net in ("vanilla", "beta", "info", UNIFORM, "cnn"):
        for name in DATA:
            for method in methods(net):
                at = name, net, method
                yield Cell(
                    "/".join(at),
                    partial(run, *at),
                    partial(clear, *at),
                    partial(check, net),
                    needs(*at),
                )
        if net == "vanilla":
            yield from search.CELLS


CELLS = list(_cells())
