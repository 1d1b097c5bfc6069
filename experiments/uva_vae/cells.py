"""The VAE of the UvA course report: MNIST drawn once as zeros and ones, and its likelihood on the
test split.

784-500-(20, 20) and 20-500-784, tanh, Bernoulli, Adam 1e-3, batch 128, 40 epochs, 815,824
parameters. The report trains on Larochelle's binarisation and leaves the test split aside; the bits
here are drawn from a fixed seed (`data.binarised`), which is a protocol of its own.
"""

import math

import jax
import numpy as np
import optax

from experiments.runner import Cell, Measure
from jaxvae import data, models, nets
from jaxvae.metrics import likelihood
from jaxvae.train import fit
from jaxvae.types import Model

BATCH_SIZE, EPOCHS, K = 128, 40, 5000
PRECISION = "float32, highest"
PROTOCOL = "binarised once, seed 0"


def tanh_vae(shape: tuple[int, ...], latent_dim: int) -> Model:
    """Returns the report's VAE: 815,824 parameters for 28x28 images and 20 latent dimensions."""
    encoder = nets.mlp((500,), 2 * latent_dim, heads=2, act="tanh")
    return models.vae(encoder, nets.mlp((500,), shape, act="tanh"), latent_dim=latent_dim)


def run(latent_dim: int, seed: int, smoke: bool) -> list[Measure]:
    """Trains on 50,000 images; measures the ELBO on the other 10,000, and the likelihood on the
    test split, once."""
    name, splits = (
        ("digits", ("train[:1293]", "train[1293:]", "test"))
        if smoke
        else ("mnist", ("train[:50000]", "train[50000:]", "test"))
    )
    train, valid, test = (data.binarised(data.load(name, split)) for split in splits)
    steps, k = (20, 10) if smoke else (EPOCHS * math.ceil(train.size / BATCH_SIZE), K)
    model = tanh_vae(train.shape, latent_dim)
    with jax.default_matmul_precision("highest"):
        state = fit(
            model, optax.adam(1e-3), train, steps=steps, batch_size=BATCH_SIZE, seed=seed
        ).train_state
    measures, where = [], (state.params, state.state)
    for split, source in (("valid", valid), ("test", test)):
        found = likelihood.per_example(
            likelihood.make_terms(model), *where, source, seed=seed, batch_size=500
        )
        protocol = f"{PROTOCOL}; {split}"
        for metric in ("elbo", "rec", "kl"):
            measures.append(
                Measure(
                    metric,
                    protocol,
                    np.mean(found[metric], dtype=np.float64),
                    source.size,
                    steps,
                    PRECISION,
                )
            )
    bound = likelihood.estimate(
        likelihood.iw_bound(model, *where, test, k=k, seed=seed), f"{PROTOCOL}; test; K={k}"
    )
    return [*measures, Measure("iw_nll", bound.protocol, -bound.value, bound.n, steps, PRECISION)]


CELLS = [Cell(f"mnist/z{d}", lambda seed, smoke, d=d: run(d, seed, smoke)) for d in (20, 2)]
