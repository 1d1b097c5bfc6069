"""Fréchet distances with known answers, moments in parts, and the kernel distance."""

import numpy as np
import pytest
import scipy.linalg

from jaxvae.errors import UserError
from jaxvae.metrics import frechet
from jaxvae.metrics.fid import Moments, frechet_distance

D = 12


def spd(rng, rank: int = D, d: int = D) -> np.ndarray:
    a = rng.standard_normal((d, rank))
    return a @ a.T


def close(found: float, want: float) -> None:
    assert found == pytest.approx(want, rel=1e-8, abs=1e-8)


def test_diagonal():
    """sum (m1 - m2)^2 + sum (s1 - s2)^2, with zeros among the standard deviations."""
    rng = np.random.default_rng(0)
    m1, m2, s1, s2 = rng.standard_normal((4, D))
    s1, s2 = np.abs(s1), np.abs(s2)
    s1[:3], s2[2:5] = 0.0, 0.0
    close(
        frechet_distance(m1, np.diag(s1**2), m2, np.diag(s2**2)),
        ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum(),
    )


@pytest.mark.parametrize("zeros", [0, 4])
def test_commuting(zeros):
    """The same in a turned basis."""
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((D, D)))[0]
    s1, s2 = np.abs(rng.standard_normal((2, D)))
    s1[:zeros], s2[D - zeros :] = 0.0, 0.0
    c1, c2 = ((turn * s**2) @ turn.T for s in (s1, s2))
    close(frechet_distance(np.zeros(D), c1, np.ones(D), c2), D + ((s1 - s2) ** 2).sum())


def test_random_against_the_matrix_square_root():
    rng = np.random.default_rng(2)
    for _ in range(5):
        (m1, m2), c1, c2 = rng.standard_normal((2, D)), spd(rng), spd(rng)
        root = np.real(scipy.linalg.sqrtm(c1 @ c2))
        want = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
        close(frechet_distance(m1, c1, m2, c2), want)
        close(frechet_distance(m2, c2, m1, c1), want)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_rank_one(scale):
    """Covariances aa' and bb': |a|^2 + |b|^2 - 2 |a.b|, however far from full rank, at any
    scale."""
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, D)) * scale
    want = a @ a + b @ b - 2 * abs(a @ b)
    found, *ranks = frechet.distance_and_ranks(
        np.zeros(D), np.outer(a, a), np.zeros(D), np.outer(b, b)
    )
    assert found == pytest.approx(want, rel=1e-8) and ranks == [1, 1]


@pytest.mark.parametrize("d", [64, 256])
def test_rank_deficient_against_their_factors(d):
    """Fewer samples than dimensions: tr (C1 C2)^(1/2) is the sum of the singular values of A'B."""
    rng = np.random.default_rng(d)
    a, b = rng.standard_normal((d, d // 4)), rng.standard_normal((d, d // 3))
    want = (a**2).sum() + (b**2).sum() - 2 * np.linalg.svd(a.T @ b, compute_uv=False).sum()
    found, *ranks = frechet.distance_and_ranks(np.zeros(d), a @ a.T, np.zeros(d), b @ b.T)
    assert found == pytest.approx(want, rel=1e-12) and ranks == [d // 4, d // 3]


def test_identical_is_zero():
    rng = np.random.default_rng(4)
    for cov in (spd(rng), spd(rng, 3), np.zeros((D, D)), np.eye(D)):
        found = frechet_distance(np.ones(D), cov, np.ones(D), cov)
        assert 0.0 <= found <= 1e-12 * max(np.trace(cov), 1)
    close(frechet_distance(np.zeros(D), np.zeros((D, D)), np.ones(D), np.zeros((D, D))), D)
    close(frechet_distance(0.0, 4.0, 3.0, 1.0), 10.0)  # one dimension


@pytest.mark.parametrize(
    ("c1", "message"),
    [
        (np.zeros((D, D - 1)), "do not fit"),
        (np.full((D, D), np.nan), "not finite"),
        (-np.eye(D), "negative eigenvalue"),
        (np.triu(np.ones((D, D))), "symmetric"),
    ],
)
def test_what_is_not_a_covariance(c1, message):
    with pytest.raises(UserError, match=message):
        frechet_distance(np.zeros(D), c1, np.zeros(D), np.eye(D))
    with pytest.raises(UserError, match="a mean holds values that are not finite"):
        frechet_distance(np.full(D, np.inf), np.eye(D), np.zeros(D), np.eye(D))


@pytest.mark.parametrize("seed", range(4))
def test_moments_in_parts_are_those_of_the_whole(seed):
    """Any split, some parts of one example and some empty, far from the origin where naive sums
    would lose all digits."""
    rng = np.random.default_rng(seed)
    x = 1e5 + rng.standard_normal((501, 7)) * [1, 2, 3, 4, 5, 6, 0.1]
    cuts = np.sort(rng.integers(0, len(x), 9))
    parts = [Moments.of(part) for part in np.split(x, [1, *cuts])]
    rng.shuffle(parts)
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    found = total.statistics()
    assert found.n == 501
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.cov, np.cov(x, rowvar=False), rtol=1e-8, atol=1e-9)


def test_moments_of_one_example_have_no_covariance():
    with pytest.raises(UserError, match="at least two examples, not 1"):
        Moments.of(np.ones((1, 3))).statistics()


def test_polynomial_mmd_by_hand():
    x, y = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 0.0]])

    def k(a, b):
        return (a @ b / 2 + 1) ** 3

    xx = np.mean([k(x[i], x[j]) for i in range(3) for j in range(3) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(2) for j in range(2) if i != j])
    assert frechet.polynomial_mmd(x, y) == pytest.approx(
        xx + yy - 2 * np.mean([k(a, b) for a in x for b in y]), rel=1e-14
    )


def test_kernel_distance_is_unbiased():
    """Two samples of one distribution: the mean over many subsets is zero within its error; of two,
    it is not."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((2, 4000, 8))
    options = {"subsets": 60, "size": 200, "seed": 0}
    same, other = (frechet.kernel_distances(x, z, **options) for z in (y, y + 0.3))
    assert abs(same.mean()) < 4 * same.std() / 60**0.5 and (same < 0).any()
    assert other.mean() > 10 * abs(same.mean()) and other.min() > 0
    np.testing.assert_array_equal(same, frechet.kernel_distances(x, y, **options))
