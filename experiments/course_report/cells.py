"""The report's two latent sizes: ELBO on both splits that are not trained on, and the likelihood
of the test split."""

import functools
import math
from pathlib import Path

import jax
import numpy as np

from experiments.course_report import setting
from experiments.needs import Needs, Part, batch
from experiments.runner import Cell, Measure
from jaxvae import data
from jaxvae.metrics import likelihood
from jaxvae.train import fit

FOLDER = Path(__file__).parent
PRECISION = "float32, highest"
PROTOCOL = "binarised by split and index, seed 0"


def run(latent_dim: int, seed: int, smoke: bool) -> list[Measure]:
    """Trains on 50,000 images; measures the ELBO on the other 10,000, and the likelihood on the
    test split, once."""
    name, splits = ("digits", data.splits("digits")) if smoke else ("mnist", setting.SPLITS)
    train, valid, test = (data.binarised(data.load(name, split)) for split in splits)
    epoch = math.ceil(train.size / setting.BATCH_SIZE)
    steps, k = (20, 10) if smoke else (setting.EPOCHS * epoch, setting.K)
    model = setting.build(train.shape, latent_dim)
    with jax.default_matmul_precision("highest"):
        state = fit(
            model, setting.optimiser(), train, steps=steps, batch_size=setting.BATCH_SIZE, seed=seed
        ).train_state
    measures, trees = [], (state.params, state.state)
    terms = likelihood.make_terms(model)
    for split, source in (("valid", valid), ("test", test)):
        found = likelihood.per_example(terms, *trees, source, seed=seed, batch_size=500)
        for metric in ("elbo", "rec", "kl"):
            value = np.mean(found[metric], dtype=np.float64)
            protocol = f"{PROTOCOL}; {split}"
            measures.append(Measure(metric, protocol, value, source.size, steps, PRECISION))
    bound = likelihood.estimate(
        likelihood.iw_bound(model, *trees, test, k=k, seed=seed), f"{PROTOCOL}; test; K={k}"
    )
    return [*measures, Measure("iw_nll", bound.protocol, -bound.value, bound.n, steps, PRECISION)]


def needs(latent_dim: int) -> Needs:
    """Returns what a cell needs; most of its time is the likelihood, much the same for both."""
    shape, size = (28, 28, 1), setting.BATCH_SIZE
    steps = setting.EPOCHS * math.ceil(50_000 / size)

    def parts() -> list[Part]:
        model = setting.build(shape, latent_dim)
        return [Part(model, setting.optimiser(), batch(size, *shape), steps)]

    ends = ("valid", "test", f"test; K={setting.K}")
    protocols = tuple(f"{PROTOCOL}; {end}" for end in ends)
    return Needs(("mnist",), steps=steps, net="mlp", parts=parts, protocols=protocols)


CELLS = [
    Cell(f"mnist/z{latent_dim}", functools.partial(run, latent_dim), needs=needs(latent_dim))
    for latent_dim in setting.LATENT_DIMS
]
