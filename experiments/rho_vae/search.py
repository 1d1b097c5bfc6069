"""Does correlation help? Cases in which the AR(1) posterior might, with what separates correlation
from the rest.

    mnist/vanilla_d{D}        the vanilla net with other latent dimensions
    mnist/vanilla_small       D = 10, with 1,000 training images
    toy_ar1/frozen            a linear-Gaussian model whose true posterior *is* AR(1), decoder given
    toy_ar1/learned           the same data, decoder learned
    toy_any/learned           a linear-Gaussian model with any spectrum, decoder learned

Methods: `normal` (a variance for each dimension), `isotropic` (one variance: AR(1) without the
correlation) and `ar1-paper`. For the toys log p(x) is known, and `gap` = log p(x) - ELBO is the
price of the posterior's family.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.needs import Needs, Part, batch
from experiments.runner import Cell, Measure
from experiments.vae.setting import BATCH_SIZE, PRECISION
from jaxvae import data, models, nets
from jaxvae.distributions import Normal
from jaxvae.train import evaluate, fit
from jaxvae.types import Model, Posterior

DIMS, STEPS, SMALL = (2, 5, 10, 20, 50), 7035, 1000
TOY_DIM, TOY_X, TOY_RHO, TOY_VAR, TOY_STEPS = 8, 16, 0.6, 0.2, 6000

ISOTROPIC = Posterior(
    size=lambda latent_dim: latent_dim + 1, build=lambda y: Normal(y[:, :-1], y[:, -1:])
)
METHODS = {"normal": "normal", "isotropic": ISOTROPIC, "ar1-paper": "ar1"}


def heads(method: str, latent_dim: int) -> tuple[int, ...]:
    """Returns the widths of the encoder's heads."""
    return {
        "normal": (latent_dim, latent_dim),
        "isotropic": (latent_dim, 1),
        "ar1-paper": (latent_dim, 1, 1),
    }[method]


def vanilla_model(latent_dim: int, method: str, shape: tuple[int, ...]) -> Model:
    """Returns the vanilla net of the paper with another posterior or latent dimension."""
    out = heads(method, latent_dim)
    encoder = nets.mlp((400,), sum(out), heads=out, init="xavier")
    decoder = nets.mlp((400,), shape, init="xavier")
    return models.vae(encoder, decoder, latent_dim=latent_dim, posterior=METHODS[method])


@cache
def vanilla(latent_dim: int, split: str, method: str, seed: int, smoke: bool) -> list[Measure]:
    """Trains the vanilla net of the paper on `split` of MNIST, with another posterior or latent
    dimension."""
    train = data.load("digits" if smoke else "mnist", "train" if smoke else split)
    test = data.load("digits" if smoke else "mnist", "test")
    steps, model = 4 if smoke else STEPS, vanilla_model(latent_dim, method, train.shape)
    with jax.default_matmul_precision("highest"):
        state = fit(
            model, optax.adam(1e-3), train, steps=steps, batch_size=BATCH_SIZE, seed=seed
        ).train_state
        found = evaluate(model, state.params, state.state, test, seed=seed)
    fixed = (test.size, steps, PRECISION)
    return [
        Measure("test_loss", "nats", -found["elbo"], *fixed),
        *(Measure(metric, "nats", found[metric], *fixed) for metric in ("rec", "kl")),
    ]


class Toy(NamedTuple):
    """x = W z + noise, z ~ N(0, I), noise ~ N(0, I): W [X, D]; the posterior's covariance is (I +
    W^T W)^-1 for every x."""

    weights: np.ndarray

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Returns x [n, X]."""
        z, noise = rng.normal(size=(n, TOY_DIM)), rng.normal(size=(n, TOY_X))
        return (z @ self.weights.T + noise).astype(np.float32)


@cache
def toy(kind: str) -> Toy:
    """Returns "toy_ar1", whose posterior covariance is s rho^|i-j|, or "toy_any": eigenvalues 0.05
    to 0.95, any basis."""
    rng = np.random.default_rng(0)
    i = np.arange(TOY_DIM)
    if kind == "toy_ar1":
        covariance = TOY_VAR * TOY_RHO ** np.abs(i[:, None] - i)
    else:
        basis = np.linalg.qr(rng.normal(size=(TOY_DIM, TOY_DIM)))[0]
        covariance = basis @ np.diag(np.geomspace(0.05, 0.95, TOY_DIM)) @ basis.T
    root = np.linalg.cholesky(
        np.linalg.inv(covariance) - np.eye(TOY_DIM)
    )  # W^T W = covariance^-1 - I
    frame = np.linalg.qr(rng.normal(size=(TOY_X, TOY_DIM)))[0]
    return Toy(frame @ root.T)


def log_likelihood(x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> float:
    """Returns the mean of log N(x; bias, W W^T + I), exactly: the model's log p(x) in nats."""
    covariance = weights @ weights.T + np.eye(len(bias))
    e = np.asarray(x, np.float64) - bias
    quadratic = np.mean(np.sum(e * np.linalg.solve(covariance, e.T).T, axis=1))
    return float(
        -0.5 * (quadratic + np.linalg.slogdet(covariance)[1] + len(bias) * np.log(2.0 * np.pi))
    )


def linear(method: str, weights: np.ndarray | None) -> Model:
    """Returns the linear VAE with unit decoder variance; given `weights` its decoder is that, and
    does not learn."""
    out = heads(method, TOY_DIM)
    encoder, decoder = nets.mlp((), sum(out), heads=out), nets.mlp((), TOY_X)
    model = models.vae(
        encoder, decoder, latent_dim=TOY_DIM, posterior=METHODS[method], likelihood="gaussian"
    )
    if weights is None:
        return model

    def init(rng, batch):
        params, state = model.init(rng, batch)
        given = {
            "Dense_0": {"kernel": jnp.asarray(weights.T, jnp.float32), "bias": jnp.zeros(TOY_X)}
        }
        return {**params, "decoder": given}, state

    return model._replace(
        init=init, objectives=tuple(o._replace(wrt=("encoder",)) for o in model.objectives)
    )


@cache
def linear_gaussian(kind: str, decoder: str, method: str, seed: int, smoke: bool) -> list[Measure]:
    """Trains on 50,000 points and measures on 10,000."""
    truth, rng = toy(kind), np.random.default_rng([seed, 1])
    train, test = (data.from_arrays(truth.draw(rng, n)) for n in (50_000, 10_000))
    steps = 4 if smoke else TOY_STEPS
    model = linear(method, truth.weights if decoder == "frozen" else None)
    tx = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    with jax.default_matmul_precision("highest"):
        state = fit(model, tx, train, steps=steps, batch_size=BATCH_SIZE, seed=seed).train_state
        found = evaluate(model, state.params, state.state, test, seed=seed)
    last = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params["decoder"]["Dense_0"])
    exact = log_likelihood(test.read(np.arange(test.size))["x"], last["kernel"].T, last["bias"])
    fixed = (test.size, steps, PRECISION)
    return [
        Measure("gap", "exact", exact - found["elbo"], *fixed),
        Measure("test_loss", "nats", -found["elbo"], *fixed),
    ]


def diagonal_gap() -> float:
    """Returns the least gap that a Normal posterior can have on toy_ar1 with its own decoder: 1.15
    nats.

    With precision P = Sigma^-1 the best diagonal q has variances 1 / P_jj, and KL = 1/2 (sum log
    P_jj + log det Sigma) = 1/2 ((D - 2) log(1 + rho^2) - log(1 - rho^2)).
    """
    return 0.5 * float((TOY_DIM - 2) * np.log1p(TOY_RHO**2) - np.log1p(-(TOY_RHO**2)))


def distance_to_normals(rho: float, d: int) -> float:
    """Returns the least KL(AR(1) || q) in nats over all q that are diagonal in one fixed basis,
    that of the cosine transform.

    The basis does not depend on rho, so a net that can rotate its latents (any with a learned
    linear layer on either side of z) has these q with an ordinary Normal posterior. 0 for d = 2.
    """
    i = np.arange(d)
    covariance = rho ** np.abs(i[:, None] - i)
    basis = np.cos(np.pi * i[:, None] * (i + 0.5) / d)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    spectrum = np.diag(basis @ covariance @ basis.T)
    return 0.5 * float(np.log(spectrum).sum() - np.linalg.slogdet(covariance)[1])


def _vanilla(latent_dim: int, split: str, method: str):
    def run(
        seed: int, smoke: bool
    ) -> list[Measure]:  # one smoke run stands for all dimensions and sizes
        return (
            vanilla(4, "train", method, seed, True)
            if smoke
            else vanilla(latent_dim, split, method, seed, False)
        )

    return run


def _toy(kind: str, decoder: str, method: str):
    def run(seed: int, smoke: bool) -> list[Measure]:
        return linear_gaussian("toy_ar1" if smoke else kind, decoder, method, seed, smoke)

    return run


def _vanilla_needs(latent_dim: int, method: str) -> Needs:
    def parts() -> list[Part]:
        shape = 28, 28, 1
        model = vanilla_model(latent_dim, method, shape)
        return [Part(model, optax.adam(1e-3), batch(BATCH_SIZE, *shape), STEPS)]

    return Needs(("mnist",), steps=STEPS, net="vanilla", parts=parts, protocols=("nats",))


def _toy_needs(kind: str, decoder: str, method: str) -> Needs:
    def parts() -> list[Part]:
        model = linear(method, toy(kind).weights if decoder == "frozen" else None)
        return [Part(model, optax.adam(1e-2), batch(BATCH_SIZE, TOY_X), TOY_STEPS)]

    return Needs(steps=TOY_STEPS, net="toy", parts=parts, protocols=("exact", "nats"))


CELLS = [
    *(
        Cell(f"mnist/vanilla_d{d}/{m}", _vanilla(d, "train", m), needs=_vanilla_needs(d, m))
        for d in DIMS
        for m in METHODS
        if d != 10 or m == "isotropic"
    ),
    *(
        Cell(
            f"mnist/vanilla_small/{m}",
            _vanilla(10, f"train[:{SMALL}]", m),
            needs=_vanilla_needs(10, m),
        )
        for m in METHODS
    ),
    *(
        Cell(f"{kind}/{decoder}/{m}", _toy(kind, decoder, m), needs=_toy_needs(kind, decoder, m))
        for kind, decoder in (("toy_ar1", "frozen"), ("toy_ar1", "learned"), ("toy_any", "learned"))
        for m in METHODS
    ),
]
