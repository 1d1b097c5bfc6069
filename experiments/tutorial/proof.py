"""The tutorial's proof in one dimension, in numbers: with f = F^-1 o G and q as it is there, both
the posterior's and the model's error vanish with sigma.

    f(z) = F^-1(G(z)),   g = f^-1,   p(x | z) = N(x; f(z), sigma^2),   z ~ N(0, 1)
    q(z | x) = N(z; g(x), (g'(x) sigma)^2)

    kl_posterior = E KL(q(z | x) || p(z | x)),   kl_fit = KL(p_gt || p),   x ~ p_gt

in nats, where F is the distribution function of p_gt and G that of N(0, 1). The model's density is
p_gt convolved with N(0, sigma^2), as f(z) is distributed as p_gt. The sum of both is how far the
mean ELBO is below the best that there is. Everything is quadrature in float64: x = f(z) on an even
grid of z, whose weights are N(z; 0, 1), and Gauss-Hermite nodes for q and for the convolution.

Source: Doersch 2016 (arXiv 1606.05908), appendix A.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from experiments.needs import Needs
from experiments.runner import Cell, Measure

SIGMAS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
POINTS, REACH, NODES = 2001, 8.0, 80
PRECISION = "float64"
WEIGHTS, MEANS, SDS = np.array([0.4, 0.6]), np.array([-1.5, 1.0]), np.array([0.5, 0.8])


class Density(NamedTuple):
    """A density on the line, above 0 and smooth everywhere."""

    log_pdf: Callable[[np.ndarray], np.ndarray]
    f: Callable[[np.ndarray], np.ndarray]  # F^-1(G(z))


def log_normal(x: np.ndarray) -> np.ndarray:
    """Returns log N(x; 0, 1)."""
    return -0.5 * np.square(x) - 0.5 * np.log(2.0 * np.pi)


def _logistic_log_pdf(x: np.ndarray) -> np.ndarray:
    return special.log_expit(x) + special.log_expit(-x)


def _logistic_f(z: np.ndarray) -> np.ndarray:
    return special.log_ndtr(z) - special.log_ndtr(-z)


def _mixture_log_pdf(x: np.ndarray) -> np.ndarray:
    each = log_normal((x[..., None] - MEANS) / SDS) + np.log(WEIGHTS / SDS)
    return special.logsumexp(each, axis=-1)


def _mixture_f(z: np.ndarray) -> np.ndarray:
    """Bisects log F(y) = log G(z), or the same of the upper tails, where they are small."""
    sign = np.where(z < 0.0, 1.0, -1.0)
    target = special.log_ndtr(-np.abs(z))
    low, high = np.full(z.shape, -50.0), np.full(z.shape, 50.0)
    for _ in range(70):
        y = 0.5 * (low + high)
        of = (sign[..., None] * (y[..., None] - MEANS)) / SDS
        tail = special.logsumexp(special.log_ndtr(of) + np.log(WEIGHTS), axis=-1)
        below = np.where(z < 0.0, tail < target, tail > target)
        low, high = np.where(below, y, low), np.where(below, high, y)
    return 0.5 * (low + high)


DENSITIES = {
    "logistic": Density(_logistic_log_pdf, _logistic_f),
    "two_normals": Density(_mixture_log_pdf, _mixture_f),
}


def nodes() -> tuple[np.ndarray, np.ndarray]:
    """Returns t and weights [NODES] of means over N(0, 1)."""
    t, weight = np.polynomial.hermite_e.hermegauss(NODES)
    return t, weight / weight.sum()


def model_log_pdf(density: Density, sigma: float, x: np.ndarray) -> np.ndarray:
    """Returns log p(x) = log E p_gt(x + sigma t), t ~ N(0, 1)."""
    t, weight = nodes()
    here = density.log_pdf(x)
    ratio = np.exp(density.log_pdf(x[..., None] + sigma * t) - here[..., None])
    return here + np.log(ratio @ weight)


def posterior_kl(density: Density, sigma: float, z: np.ndarray) -> np.ndarray:
    """Returns KL(q(z | x) || p(z | x)) at x = f(z), for which g(x) = z and g'(x) = p_gt(x) / N(z; 0,
    1)."""
    x = density.f(z)
    log_slope = density.log_pdf(x) - log_normal(z)
    t, weight = nodes()
    drawn = z[..., None] + np.exp(log_slope)[..., None] * sigma * t
    log_q = log_normal(t) - log_slope[..., None] - np.log(sigma)
    log_joint = (
        log_normal((x[..., None] - density.f(drawn)) / sigma) - np.log(sigma) + log_normal(drawn)
    )
    return (log_q - log_joint) @ weight + model_log_pdf(density, sigma, x)


def errors(density: Density, sigma: float, points: int = POINTS) -> dict[str, float]:
    """Returns kl_posterior and kl_fit."""
    z = np.linspace(-REACH, REACH, points)
    weight = np.exp(log_normal(z))
    weight /= weight.sum()
    x = density.f(z)
    fit = density.log_pdf(x) - model_log_pdf(density, sigma, x)
    return {
        "kl_posterior": float(weight @ posterior_kl(density, sigma, z)),
        "kl_fit": float(weight @ fit),
    }


def _cell(name: str, sigma: float) -> Cell:
    def about(points: int) -> str:
        return f"quadrature, {points} points, {NODES} nodes"

    def run(seed: int, smoke: bool) -> list[Measure]:
        points = 101 if smoke else POINTS
        found = errors(DENSITIES[name], sigma, points)
        return [
            Measure(m, about(points), value, points, 0, PRECISION) for m, value in found.items()
        ]

    return Cell(f"proof/{name}/sigma_{sigma:g}", run, needs=Needs(protocols=(about(POINTS),)))


CELLS = [_cell(name, sigma) for name in DENSITIES for sigma in SIGMAS]
