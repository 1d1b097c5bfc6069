"""A curve in three dimensions whose density along it is known: stage one finds the curve, stage two
the density.

    x(t) = (cos 3 pi t, sin 3 pi t, 2 t - 1),   t in [0, 1] with density 10/3 on [0, 0.15), 2/9 on [0.15, 0.6), 1 on [0.6, 1]

A sample is projected on the curve. Its distance to it says how well the manifold is known; the
Kolmogorov-Smirnov distance of its t to the true distribution function, how well the density on it.
Real points have a KS distance of about 0.87 / sqrt(n) on the average: the floor.
"""

from functools import cache
from pathlib import Path

import jax
import numpy as np
import optax

from experiments.needs import Needs
from experiments.runner import Cell, Measure
from experiments.two_stage import setting
from jaxvae import data, models, nets
from jaxvae.models.two_stage import Latents
from jaxvae.train import fit

EDGES, SHARES = np.array([0.0, 0.15, 0.6, 1.0]), np.array([0.5, 0.1, 0.4])
LATENT_DIM, HIDDEN, BATCH_SIZE = 2, (128, 128), 256
POINTS, STEPS, SAMPLES = 50_000, 20_000, 50_000
METHODS = ("learned_gamma", "gaussian", "gmm", "two_stage")
PRECISION = "float32, highest"
PROTOCOL = "projected on the curve"


def curve(t: np.ndarray) -> np.ndarray:
    """Returns x(t) [n, 3]."""
    return np.stack([np.cos(3 * np.pi * t), np.sin(3 * np.pi * t), 2 * t - 1], axis=-1)


def distribution(t: np.ndarray) -> np.ndarray:
    """Returns P(T <= t)."""
    return np.interp(t, EDGES, np.concatenate([[0.0], np.cumsum(SHARES)]))


def draw(n: int, seed: int) -> np.ndarray:
    """Returns n values of t [n]."""
    u = np.random.default_rng(seed).random(n)
    return np.interp(u, np.concatenate([[0.0], np.cumsum(SHARES)]), EDGES)


def project(x: np.ndarray, points: int = 5001) -> tuple[np.ndarray, np.ndarray]:
    """Returns t [n] of the nearest of so many points of the curve, and the distance to it [n]."""
    from scipy.spatial import cKDTree

    t = np.linspace(0.0, 1.0, points)
    distance, which = cKDTree(curve(t)).query(x)
    return t[which], distance


def ks(t: np.ndarray) -> float:
    """Returns the largest difference between the distribution function of t [n] and the true
    one."""
    t, n = np.sort(t), len(t)
    true = distribution(t)
    return float(max(np.max(np.arange(1, n + 1) / n - true), np.max(true - np.arange(n) / n)))


def stage_steps(smoke: bool) -> int:
    """Returns the steps of each stage."""
    return 50 if smoke else STEPS


def stages_of(method: str) -> int:
    """Returns how many stages a method trains: both of "two_stage" have `STEPS`."""
    return 2 if method == "two_stage" else 1


@cache
def stages(seed: int, smoke: bool):
    """Returns ((model, params, state) of stage one and of stage two, latents)."""
    steps = stage_steps(smoke)
    options = {"steps": steps, "batch_size": BATCH_SIZE, "seed": seed, "log_every": steps}
    tx = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    source = data.from_arrays(
        curve(draw(1000 if smoke else POINTS, seed)).astype(np.float32), name="curve"
    )
    pair = nets.mlp(HIDDEN, 2 * LATENT_DIM, heads=2, act="tanh"), nets.mlp(HIDDEN, (3,), act="tanh")
    first = models.vae(*pair, latent_dim=LATENT_DIM, likelihood="gaussian", gamma="learned")
    one = fit(first, tx, source, **options).train_state
    z: Latents = models.latents(first, one.params, one.state, source, batch_size=5000)
    second = setting.stage_two(LATENT_DIM, width=128)
    two = fit(second, tx, z.source, preprocess=z.preprocess, **options).train_state
    return (first, one), (second, two), z


@cache
def sample(method: str, seed: int, smoke: bool) -> np.ndarray:
    """Returns samples [n, 3] of a method: decoder means."""
    (first, one), (second, two), z = stages(seed, smoke)
    if method == "learned_gamma":
        model, where = first, (one.params, one.state)
    elif method == "two_stage":
        model, where = (
            models.two_stage(first, second, latent_dim=LATENT_DIM),
            models.join_stages(one, two),
        )
    else:
        components = 1 if method == "gaussian" else setting.COMPONENTS
        prior = models.fit_mixture(z, components, seed=seed)
        model = models.with_mixture(first, latent_dim=LATENT_DIM, components=components)
        where = {"first": one.params, "prior": prior}, {"first": one.state}
    return np.asarray(
        jax.jit(model.sample, static_argnums=3)(
            *where, jax.random.key(seed + 1), 500 if smoke else SAMPLES
        )
    )


def run(method: str, seed: int, smoke: bool) -> list[Measure]:
    """Measures one method."""
    with jax.default_matmul_precision("highest"):
        x = sample(method, seed, smoke)
    t, distance = project(x)
    values = {"ks": ks(t), "distance": float(np.mean(distance))}
    steps = stages_of(method) * stage_steps(smoke)
    return [Measure(m, PROTOCOL, value, len(x), steps, PRECISION) for m, value in values.items()]


def floor(seed: int, smoke: bool) -> list[Measure]:
    """Measures real points."""
    n = 500 if smoke else SAMPLES
    t, distance = project(curve(draw(n, seed + 10_000)))
    values = {"ks": ks(t), "distance": float(np.mean(distance))}
    return [Measure(metric, PROTOCOL, value, n, 0, PRECISION) for metric, value in values.items()]


def figure(path: Path, seed: int, smoke: bool = False) -> None:
    """Draws, for each method, its samples in space and the histogram of their t with the true
    density."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = figure_rows(seed, smoke)
    fig = plt.figure(figsize=(2.6 * len(shown), 5.2), layout="constrained")
    for i, (name, x) in enumerate(shown):
        t, _ = project(x)
        ax = fig.add_subplot(2, len(shown), i + 1, projection="3d")
        ax.scatter(*x[:2000].T, s=1, color="tab:blue", alpha=0.5)
        ax.plot(*curve(np.linspace(0, 1, 400)).T, color="black", linewidth=0.5)
        ax.set_title(name)
        ax.set_xticklabels([])
        ax.set_yticklabels([])
        ax.set_zticklabels([])
        ax = fig.add_subplot(2, len(shown), len(shown) + i + 1)
        ax.hist(t, bins=np.linspace(0, 1, 61), density=True, color="tab:blue")
        ax.stairs(SHARES / np.diff(EDGES), EDGES, color="black")
        ax.set_ylim(0, 5)
        ax.set_xlabel(f"t, KS distance {ks(t):.3f}")
    fig.savefig(path, dpi=120)
    plt.close(fig)


def figure_rows(seed: int, smoke: bool) -> list[tuple[str, np.ndarray]]:
    """Returns (name, samples [n, 3]) of what the figure shows."""
    rows = [("real", curve(draw(500 if smoke else SAMPLES, seed + 10_000)))]
    return rows + [(method.replace("_", " "), sample(method, seed, smoke)) for method in METHODS]


def _cell(method: str) -> Cell:
    needs = Needs(
        steps=stages_of(method) * STEPS,
        net="two stages" if method == "two_stage" else "curve",
        protocols=(PROTOCOL,),
    )
    return Cell(f"toy_curve/{method}", lambda seed, smoke: run(method, seed, smoke), needs=needs)


CELLS = [
    *map(_cell, METHODS),
    Cell("toy_curve/real", floor, needs=Needs(net="real", protocols=(PROTOCOL,))),
]
