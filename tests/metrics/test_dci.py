"""Disentanglement, completeness and informativeness of codes whose importances are known by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest

from jaxvae.data.shapes import World
from jaxvae.errors import UserError
from jaxvae.metrics import dci
from jaxvae.metrics.disentangle import DEAD

SIZES = (3, 6, 4)
WORLD = World(("a", "b", "c"), SIZES, lambda factors: factors)
FEW = {"n": 2000, "held_out": 1000}


def units(factors):
    """Factors of mean 0 and variance 1: of k values, the variance is (k^2 - 1) / 12."""
    sizes = np.asarray(SIZES)
    return (factors - (sizes - 1) / 2) / np.sqrt((sizes**2 - 1) / 12)


def perfect(factors):
    return (units(factors) * (2.0, -1.0, 0.1) + 5.0)[:, [2, 0, 1]]


def noise(rows, columns, seed=0):
    return np.random.default_rng([seed, rows]).normal(size=(rows, columns))


def values(codes, world=WORLD, **options):
    return tuple(score.value for score in dci.dci(codes, world, **{**FEW, **options}))


def test_scores_of_importances_are_those_by_hand():
    """Shares 1/2 1/2; 0 0 1; none; 3/4 1/4 of three factors, weights 2/8 2/8 0 4/8; and of four
    dimensions 1/4 0 0 3/4; 1/2 0 0 1/2; 0 1 0 0."""
    importance = np.asarray([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0], [3.0, 1.0, 0.0]])
    half, quarter = math.log(2), math.log(4) - 0.75 * math.log(3)  # entropies in nats
    rows = [1 - half / math.log(3), 1.0, 0.0, 1 - quarter / math.log(3)]
    columns = [1 - quarter / math.log(4), 0.5, 1.0]
    np.testing.assert_allclose(dci.focus(importance), rows, atol=1e-12)
    np.testing.assert_allclose(dci.focus(importance.T), columns, atol=1e-12)
    assert dci.disentanglement(importance) == pytest.approx(0.5863378080, abs=1e-9)
    assert dci.completeness(importance) == pytest.approx(0.6981203126, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_importances_and_none_have_no_focus(value):
    importance = np.full((4, 3), value)
    assert dci.disentanglement(importance) == pytest.approx(0.0, abs=1e-12)
    assert dci.completeness(importance) == pytest.approx(0.0, abs=1e-12)


def test_factors_in_another_order_and_scale_are_perfect():
    assert values(perfect) == pytest.approx((1.0, 1.0, 1.0), abs=1e-9)
    found = dci.regress(perfect, WORLD, **FEW)
    np.testing.assert_allclose(found.importance, np.eye(3)[[2, 0, 1]], atol=1e-9)
    np.testing.assert_allclose(found.error, 0.0, atol=1e-9)


def test_importances_of_a_rotation_are_its_entries():
    """z = s T of factors s in units of their spread is s = z T': |T| transposed predicts s, exactly."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    found = dci.regress(lambda f: units(f) @ turn, WORLD, n=20_000)
    np.testing.assert_allclose(found.importance, np.abs(turn).T, atol=0.02)
    want = 0.0
    for row in np.abs(turn).T:
        shares = [entry / sum(row) for entry in row]
        entropy = -sum(share * math.log(share, 3) for share in shares)
        want += sum(row) / np.abs(turn).sum() * (1 - entropy)
    assert dci.disentanglement(found.importance) == pytest.approx(want, abs=0.01)
    assert want < 0.5
    np.testing.assert_allclose(found.error, 0.0, atol=1e-9)


def test_a_rotation_by_45_degrees_is_neither_disentangled_nor_complete():
    world = World(("a", "b"), (8, 8), lambda factors: factors)
    scores = values(lambda f: f @ np.asarray([[1.0, 1.0], [1.0, -1.0]]), world)
    assert scores == pytest.approx((0.0, 0.0, 1.0), abs=0.01)


def test_two_dimensions_of_one_factor_are_disentangled_and_not_complete():
    """v = 2 a + b of bits a, b: importances 2 to 1, so C = 1 - H(2/3, 1/3) / log 3 for this factor."""
    world = World(("v", "w"), (4, 5), lambda factors: factors)
    entropy = math.log(3) - 2 / 3 * math.log(2)
    want = (1 - entropy / math.log(3) + 1) / 2
    assert want == pytest.approx(0.7103099179, abs=1e-9)
    bits = lambda f: np.stack([f[:, 0] // 2, f[:, 0] % 2, f[:, 1]], axis=1).astype(float)  # noqa: E731
    assert values(bits, world) == pytest.approx((1.0, want, 1.0), abs=1e-3)


def test_noisy_copies_share_their_factor_and_exact_ones_do_not():
    def codes(f, spread):
        copies = np.repeat(units(f)[:, :1], 2, axis=1) + spread * noise(len(f), 2)
        return np.concatenate([copies, units(f)[:, 1:]], axis=1)

    d, c, _ = values(lambda f: codes(f, 0.5), n=20_000)
    assert d == pytest.approx(1.0, abs=0.02)
    assert c == pytest.approx((0.5 + 1 + 1) / 3, abs=0.02)  # 1 - log 2 / log 4
    assert values(lambda f: codes(f, 0.0)) == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)


def test_error_is_that_of_the_best_line():
    """Of z = v + e, both of variance 1: v = z / 2 misses by sqrt(1 / 2)."""
    found = dci.regress(lambda f: units(f) + noise(len(f), 3), WORLD, n=20_000, held_out=20_000)
    np.testing.assert_allclose(found.error, math.sqrt(0.5), atol=0.01)
    np.testing.assert_allclose(np.diag(found.importance), math.sqrt(0.5), atol=0.02)


def test_coefficients_are_those_of_a_lasso():
    """What every minimum of |y - x c|^2 / 2n + a |c|_1 has: residuals whose product with x is a sign(c)
    where c is not 0, and smaller elsewhere."""
    x = noise(500, 6) @ noise(6, 6, seed=1)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = x[:, 0] - 0.5 * x[:, 1] + 3.0 * noise(500, 1, seed=2)[:, 0]
    y = (y - y.mean()) / y.std()
    c = dci._lasso(x, y)
    slope = x.T @ (y - x @ c) / len(x)
    alive = np.abs(c) > 1e-9
    strength = np.abs(slope[alive]).max()
    assert 0 < alive.sum() < 6 and strength > 1e-3
    np.testing.assert_allclose(slope[alive], strength * np.sign(c[alive]), rtol=1e-6)
    assert (np.abs(slope[~alive]) <= strength).all()


@pytest.mark.parametrize("spread", [0.0, 0.5 * math.sqrt(DEAD)])
def test_a_dead_dimension_predicts_nothing(spread):
    def codes(factors):
        hardly = 7.0 + spread * units(factors)[:, :1]
        return np.concatenate([hardly, perfect(factors)], axis=1)

    assert values(codes) == pytest.approx((1.0, 1.0, 1.0), abs=1e-9)
    assert (dci.regress(codes, WORLD, **FEW).importance[0] == 0.0).all()


def test_a_factor_that_is_nowhere_counts_as_not_complete():
    def codes(factors):
        return np.concatenate([units(factors)[:, :2], noise(len(factors), 2)], axis=1)

    found = dci.regress(codes, WORLD, **FEW)
    assert (found.importance[:, 2] == 0.0).all()
    np.testing.assert_allclose(found.error, [0.0, 0.0, 1.0], atol=0.01)
    assert values(codes) == pytest.approx((1.0, 2 / 3, 2 / 3), abs=0.01)


def test_what_is_not_on_a_line_is_not_seen():
    """(v - 2)^2 of v in 0 ... 4 tells v up to a sign, and no line does."""
    world = World(("v", "w"), (5, 5), lambda factors: factors)
    found = dci.regress(lambda f: (f - np.asarray([2.0, 0.0])) ** [2, 1], world, **FEW)
    np.testing.assert_allclose(found.importance, [[0.0, 0.0], [0.0, 1.0]], atol=1e-9)
    np.testing.assert_allclose(found.error, [1.0, 0.0], atol=0.01)


def chance(sure, monkeypatch):
    """Returns how many of 60 factors noise is said to predict."""
    monkeypatch.setattr(dci, "SURE", sure)
    found = [
        dci.regress(lambda f, s=s: noise(len(f), 8, s), WORLD, seed=s, n=500) for s in range(20)
    ]
    assert max(abs(1.0 - each.error.mean()) for each in found) < 0.02
    return sum(int((each.importance > 1e-9).any(axis=0).sum()) for each in found)


def test_noise_predicts_nothing_where_the_least_error_alone_says_that_it_does(monkeypatch):
    sure = dci.SURE
    assert chance(-1e9, monkeypatch) > 10
    assert chance(sure, monkeypatch) <= 4


def test_order_scale_and_sign_of_dimensions_do_not_matter():
    mix = np.random.default_rng(4).normal(size=(3, 5))
    plain = lambda f: units(f) @ mix + 0.3 * noise(len(f), 5)  # noqa: E731
    order = [3, 0, 4, 1, 2]
    other = lambda f: plain(f)[:, order] * (1.0, -20.0, 0.5, 3.0, -1.0) + 2.0  # noqa: E731
    found, same = (dci.regress(codes, WORLD, **FEW) for codes in (plain, other))
    np.testing.assert_allclose(same.importance, found.importance[order], atol=1e-9)
    assert values(other) == pytest.approx(values(plain), abs=1e-9)
    assert 0.0 < values(plain)[0] < 0.9


def test_protocol_says_what_was_learned_from_and_measured_on():
    seen = []

    def codes(factors):
        seen.append(factors)
        return perfect(factors)

    scores = dci.dci(codes, WORLD, n=2000, held_out=1000, seed=3)
    assert [len(factors) for factors in seen] == [2000, 1000]
    assert (seen[0][:1000] != seen[1]).any()
    assert [score.n for score in scores] == [2000, 2000, 1000]
    how = "lasso, strength by 10 folds (0 within 2 standard errors of the mean)"
    assert scores.disentanglement.protocol == f"{how}, 2,000 examples to learn, seed 3"
    assert scores.completeness.protocol == (
        f"mean over factors, {how}, 2,000 examples to learn, seed 3"
    )
    assert scores.informativeness.protocol == (
        f"1 - NRMSE, mean over factors, {how}, 2,000 examples to learn and 1,000 to measure, seed 3"
    )
    dci.dci(codes, WORLD, n=2000, held_out=1000, seed=3)
    np.testing.assert_array_equal(seen[2], seen[0])


def test_what_is_refused():
    with pytest.raises(UserError, match="larger latent_dim"):
        dci.dci(lambda f: perfect(f)[:, :1], WORLD, **FEW)
    with pytest.raises(UserError, match="the posterior has collapsed"):
        dci.dci(lambda f: np.ones((len(f), 3)), WORLD, **FEW)
    with pytest.raises(UserError, match="the training has diverged"):
        dci.dci(lambda f: np.full((len(f), 3), np.nan), WORLD, **FEW)
    with pytest.raises(UserError, match="these data have one only"):
        dci.dci(perfect, World(("a",), (3,), lambda f: f), **FEW)
    with pytest.raises(UserError, match="has one value only"):
        dci.dci(perfect, World(("a", "b"), (3, 1), lambda f: f), **FEW)
    with pytest.raises(UserError, match="n must be at least 20, not 19"):
        dci.dci(perfect, WORLD, n=19)
    with pytest.raises(UserError, match="held_out must be at least 2, not 1"):
        dci.dci(perfect, WORLD, held_out=1)
    with pytest.raises(UserError, match=r"needs two of them, not shape \(3, 1\)"):
        dci.focus(np.ones((3, 1)))


def test_scikit_learn_comes_with_the_first_score():
    script = "import sys, jaxvae.presets.measure\nassert 'sklearn' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
