"""The two data sets of the paper's Figure 1, measured as its code does and in nats."""

import functools
import math
from pathlib import Path

import jax

from experiments.needs import Needs, Part, batch
from experiments.runner import Cell, Measure
from experiments.vae import setting
from experiments.vae.setting import BATCH_SIZE, EPOCHS, PRECISION
from jaxvae import data
from jaxvae.data.preprocess import make_preprocess
from jaxvae.train import evaluate, fit

FOLDER = Path(__file__).parent


def run(name: str, seed: int, smoke: bool) -> list[Measure]:
    """Trains on all of "train" and measures on "test", as the paper does; nothing is chosen by the
    result."""
    train = data.load("digits" if smoke else name, "train")
    test = data.load("digits" if smoke else name, "test")
    steps = 20 if smoke else EPOCHS * math.ceil(train.size / BATCH_SIZE)
    model, preprocess = setting.build(train.shape), make_preprocess("grey")
    with jax.default_matmul_precision("highest"):
        result = fit(
            model,
            setting.optimiser(),
            train,
            steps=steps,
            batch_size=BATCH_SIZE,
            seed=seed,
            preprocess=preprocess,
        )
        state = result.train_state
        found = evaluate(model, state.params, state.state, test, preprocess=preprocess, seed=seed)
    value = setting.released_loss(-found["elbo"], test.size, BATCH_SIZE)
    nats = [
        Measure(m, "nats", found[m], test.size, steps, PRECISION) for m in ("elbo", "rec", "kl")
    ]
    return [Measure("test_loss", "rho-vae-released", value, test.size, steps, PRECISION), *nats]


def parts() -> list[Part]:
    """Returns what is trained, the same for both data sets: 60,000 images of 28x28."""
    shape, steps = (28, 28, 1), EPOCHS * math.ceil(60_000 / BATCH_SIZE)
    return [Part(setting.build(shape), setting.optimiser(), batch(BATCH_SIZE, *shape), steps)]


def needs(name: str) -> Needs:
    """Returns what a cell needs."""
    steps, protocols = EPOCHS * math.ceil(60_000 / BATCH_SIZE), ("rho-vae-released", "nats")
    return Needs((name,), steps=steps, net="vanilla", parts=parts, protocols=protocols)


CELLS = [
    Cell(f"{name}/vanilla", functools.partial(run, name), needs=needs(name))
    for name in setting.DATA
]
