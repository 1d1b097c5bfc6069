"""Distances of two sets of features, on the host in float64: Fréchet's, and the kernel distance."""

from typing import NamedTuple

import numpy as np
import scipy.linalg
import threadpoolctl

from jaxvae.errors import UserError


class Statistics(NamedTuple):
    """Mean and covariance of n features."""

    mean: np.ndarray  # [d]
    cov: np.ndarray  # [d, d], with the divisor n - 1
    n: int


class Moments(NamedTuple):
    """What a set of features adds up to; parts merge in any order."""

    n: int
    mean: np.ndarray  # [d] float64
    products: np.ndarray  # [d, d] float64: sum of (x - mean)(x - mean)'

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Returns the moments of features [n, d]."""
        x = np.asarray(features, np.float64)
        if not len(x):
            return cls(0, np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2))
        mean = x.mean(axis=0)
        x = x - mean
        return cls(len(x), mean, x.T @ x)

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of both sets together (Chan, Golub and LeVeque 1983)."""
        if not other.n:
            return self
        n = self.n + other.n
        shift = other.mean - self.mean
        products = self.products + other.products + np.outer(shift, shift) * (self.n * other.n / n)
        return Moments(n, self.mean + shift * (other.n / n), products)

    def statistics(self) -> Statistics:
        """Returns mean and covariance. Raises `UserError` for fewer than two examples."""
        if self.n < 2:
            raise UserError(f"a covariance needs at least two examples, not {self.n}.")
        return Statistics(self.mean, self.products / (self.n - 1), self.n)


def frechet_distance(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> float:
    """Returns the squared Fréchet (2-Wasserstein) distance of two Gaussians, in float64.

        |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)

    The last trace is the sum of the singular values of A'B, where C1 = AA' and C2 = BB' have as
    many columns as the covariances have rank; so singular ones lose no digits (Heusel et al. 2017,
    arXiv 1706.08500, Eq. 6).

    Args:
        mean1, mean2: [d].
        cov1, cov2: [d, d], symmetric, without negative eigenvalues (beyond rounding).

    Raises:
        UserError: for shapes that do not fit, values that are not finite, and what is not a
            covariance.
    """
    return distance_and_ranks(mean1, cov1, mean2, cov2)[0]


def distance_and_ranks(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> tuple[float, int, int]:
    """Returns `frechet_distance`, and the rank of each covariance. Arguments and errors are its."""
    mean1, mean2 = (np.atleast_1d(np.asarray(m, np.float64)) for m in (mean1, mean2))
    cov1, cov2 = (np.atleast_2d(np.asarray(c, np.float64)) for c in (cov1, cov2))
    if (
        mean1.ndim != 1
        or mean1.shape != mean2.shape
        or not cov1.shape == cov2.shape == (mean1.size,) * 2
    ):
        raise UserError(
            f"means of shape {mean1.shape} and {mean2.shape} and covariances of shape "
            f"{cov1.shape} and {cov2.shape} do not fit: give [d], [d, d], [d], [d, d]."
        )
    with _one_thread():
        a, b = _factor(cov1), _factor(cov2)
        common = np.sum(scipy.linalg.svdvals(a.T @ b)) if a.size and b.size else 0.0
    if not (np.isfinite(mean1).all() and np.isfinite(mean2).all()):
        raise UserError("a mean holds values that are not finite.")
    value = np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2.0 * common
    value = max(float(value), 0.0)  # a difference of equals can round below 0
    return value, a.shape[1], b.shape[1]


def _one_thread():
    """Returns a context in which BLAS keeps to one core.

    On a busy machine its threads wait for each other, and a matrix of 512 columns takes many times as
    long; on an idle one little is lost.
    """
    return threadpoolctl.threadpool_limits(1, user_api="blas")


def _factor(cov: np.ndarray) -> np.ndarray:
    """Returns A [d, rank] with AA' = cov."""
    if not np.isfinite(cov).all():
        raise UserError("a covariance holds values that are not finite.")
    if not np.allclose(cov, cov.T, rtol=1e-6, atol=1e-8 * max(np.abs(cov).max(), 1e-300)):
        raise UserError("a covariance must be symmetric.")
    values, vectors = scipy.linalg.eigh((cov + cov.T) / 2)
    largest = max(values.max(), 0.0)
    if values.min() < -1e-6 * max(largest, np.abs(values).max()):
        raise UserError(f"a covariance cannot have a negative eigenvalue ({values.min():g}).")
    kept = values > largest * len(cov) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def polynomial_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased squared MMD of features x [n, d] and y [m, d].

    The kernel is (x.y / d + 1)^3. The value can be negative (Binkowski et al. 2018, arXiv 1801.01401, section 4).
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    def within(a):
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2.0 * kernel(x, y).mean())


def kernel_distances(
    x: np.ndarray, y: np.ndarray, *, subsets: int, size: int, seed: int
) -> np.ndarray:
    """Returns `polynomial_mmd` [subsets] of random subsets of `size` of x [n, d] and of y [m, d].

    No feature is twice in one; `seed` and the number of a subset choose it.
    """

    def choose(n: int, number: int) -> np.ndarray:
        raw = np.random.Philox(key=np.array([seed, number], np.uint64)).random_raw(n)
        return np.argsort(raw, kind="stable")[:size]

    with _one_thread():
        return np.array(
            [
                polynomial_mmd(x[choose(len(x), 2 * i)], y[choose(len(y), 2 * i + 1)])
                for i in range(subsets)
            ]
        )
