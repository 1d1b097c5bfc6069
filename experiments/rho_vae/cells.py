"""The rho-VAE paper's figures, as numbers: four nets with a Normal and with an AR(1) posterior, on
two data sets.

| method       | posterior | quirks of the released code                                                      |
| ------------ | --------- | -------------------------------------------------------------------------------- |
| normal       | Normal    | yes: the paper's baseline curves (only the info net has a quirk there)           |
| normal-paper | Normal    | no (for the vanilla and cnn nets the same as "normal", and left out)             |
| ar1-paper    | AR(1), as the mathematics has it | no                                                        |
| ar1-readme   | AR(1), as the paper prints the recursion | no                                                |
| ar1-released | AR(1), as the code computes it | yes: the paper's rho curves                                 |

The net "info_uniform" is "info" as PyTorch before 1.2 started it, BatchNorm's scales drawn from
U(0, 1): its first epoch alone, for the published curves' starts.

Without the quirks "beta" has a beta and "info" an MMD; the paper gives neither's weight, and the
released code has neither term. Adam 1e-3, batch 128, 15 passes over the 60,000 training images.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.rho_vae import search
from experiments.runner import Cell, Measure
from experiments.vae.cells import BATCH_SIZE, EPOCHS, LATENT_DIM, PRECISION, released_loss
from jaxvae import data, distributions, models, nets, plots, writers
from jaxvae.data.preprocess import Preprocess, make_preprocess
from jaxvae.errors import UserError
from jaxvae.models.rho_vae import net_posterior, released_posterior
from jaxvae.train import fit
from jaxvae.types import Batch, Model, Terms

FOLDER = Path(__file__).parent
DATA = ("mnist", "fashion_mnist")
POSTERIORS = {"normal-paper": "normal", "ar1-paper": "ar1", "ar1-readme": "ar1-readme"}
BETA = 4.0  # ours: the paper names no value
ALPHA, LAMBDA = 0.0, 1000.0  # ours: the paper names no values
LEARNING_RATE = 1e-3
UNIFORM = "info_uniform"  # "info" with BatchNorm's scales from U(0, 1), its first epoch
SMOKE_STEPS, SMOKE_SHRINK = 4, 16


def methods(net: str) -> list[str]:
    """Returns the methods of a net's cells."""
    if net == UNIFORM:
        return ["normal", "ar1-released"]
    return [
        "normal",
        *(["normal-paper"] if net in ("beta", "info") else []),
        "ar1-paper",
        "ar1-readme",
        "ar1-released",
    ]


def build(net: str, method: str, *, shrink: int = 1) -> Model:
    """Returns the model of one cell."""
    correlated, released = method.startswith("ar1"), method in ("normal", "ar1-released")
    uniform, net = net == UNIFORM, "info" if net == UNIFORM else net
    pair = nets.rho_nets(
        net, latent_dim=LATENT_DIM, correlated=correlated, shrink=shrink, uniform_scale=uniform
    )
    options = {"latent_dim": LATENT_DIM}
    if released:
        return models.vae(
            *pair, posterior=released_posterior(net, correlated=correlated), **options
        )
    options["posterior"] = net_posterior(net, POSTERIORS[method])
    if net == "info":
        return models.info_vae(*pair, alpha=ALPHA, lambda_=LAMBDA, **options)
    return models.vae(*pair, beta=BETA if net == "beta" else 1.0, **options)


def preprocess_for(side: int) -> Preprocess:
    """Returns grey pixels in [0, 1], resized to `side` x `side` (bilinear, rounded to bytes) where
    they are not."""
    grey = make_preprocess("grey")

    def preprocess(rng, examples) -> Batch:
        x = grey(rng, examples).x
        if x.shape[1:3] != (side, side):
            x = jax.image.resize(x, (x.shape[0], side, side, x.shape[3]), "bilinear")
            x = jnp.clip(jnp.round(255.0 * x), 0.0, 255.0) / 255.0
        return Batch(x)

    return preprocess


def with_released_loss(model: Model) -> Model:
    """Returns `model` whose terms also have the `released_loss` [B] of each example: rec + what its
    convention pays.

    The released code's batch of 128 divides the AR(1) part; beta and MMD, which that code lacks,
    are left out.
    """

    def terms(params, state, rng, batch: Batch, *, stats="running") -> Terms:
        q = model.encode(params, state, batch.x, stats=stats)
        z = distributions.sample(rng, q)
        rec = -distributions.log_prob(model.decode(params, state, z, stats=stats), batch.x)
        paid = distributions.penalty(q, z, BATCH_SIZE)
        return Terms(
            rec, distributions.kl(q), {"released_loss": rec + paid, **distributions.metrics(q)}
        )

    return model._replace(terms=terms)


def run(name: str, net: str, method: str, seed: int, smoke: bool) -> list[Measure]:
    """Trains on all of "train"; after each pass over it the loss on "test" goes into the curve.

    Started again after it was killed, it goes on from the last pass that was whole (`folder_of`,
    not in git).
    """
    where, cell = FOLDER / ("smoke" if smoke else "results"), f"{name}.{net}.{method}"
    if smoke:
        measures, curve, images = _smoke(net, method, seed)
    else:
        measures, curve, images = _measure(
            name, net, method, seed, folder_of(name, net, method, seed)
        )
    for line in curve:
        writers.append(where / "curves" / f"{cell}.jsonl", {"seed": seed, **line})
    if seed == 0:
        writers.make_folder(where / "samples")
        plots.samples(where / "samples" / f"{cell}.png", images)
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
    """Removes what was kept of a run that is measured; moved away first, so that no half of it is
    ever gone on with."""
    if smoke:
        return
    folder = folder_of(name, net, method, seed)
    old = folder.with_name(f".{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    with writers.disk("remove", folder):
        if folder.exists():
            os.rename(folder, old)
    shutil.rmtree(old, ignore_errors=True)


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
    model = build(net, method, shrink=SMOKE_SHRINK if smoke else 1)
    config = {
        "cell": f"{name}/{net}/{method}",
        "seed": seed,
        "size": train.size,
        "shape": train.shape,
        "total_steps": steps,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "beta": BETA,
        "alpha": ALPHA,
        "lambda": LAMBDA,
        "precision": PRECISION,
    }
    with jax.default_matmul_precision("highest"):
        state = fit(
            with_released_loss(model),
            optax.adam(LEARNING_RATE),
            train,
            steps=steps,
            batch_size=BATCH_SIZE,
            seed=seed,
            preprocess=preprocess_for(64 if net == "beta" else 28),
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


def _cells() -> Iterator[Cell]:
    for net in ("vanilla", "beta", "info", UNIFORM, "cnn"):
        for name in DATA:
            for method in methods(net):
                at = name, net, method
                yield Cell(
                    "/".join(at), partial(run, *at), partial(clear, *at), partial(check, net)
                )
        if net == "vanilla":
            yield from search.CELLS


CELLS = list(_cells())
