"""Three scores of a code of data whose factors are known, from what predicts each factor (DCI).

    R            |coefficient| of dimension i in the prediction of factor j: importance [D, F]
    disentanglement    sum_i rho_i D_i,    D_i = 1 - H_F(R_i. / sum_j R_ij),  rho_i = sum_j R_ij / sum_ij R_ij
    completeness       mean over j of C_j,    C_j = 1 - H_D(R_.j / sum_i R_ij)
    informativeness    1 - mean over j of NRMSE_j,    NRMSE_j = sqrt(mean (v_j - prediction)^2) / std(v_j)

H_K is an entropy with logarithms to base K. A dimension that predicts one factor only is disentangled; a
code is complete for a factor that one dimension alone predicts. All are at most 1, 1 is best; a code that
knows nothing has 0, 0 and an informativeness of about 0. The paper's tables have the NRMSE itself.

Which prediction is part of the value. Here it is the first one of the paper, the lasso, of factors and
dimensions in units of their spread, its strength by ten folds for each factor. It is exact, its coefficients
have a unit in common, and what does not predict has 0. What it cannot see: a factor that is in the code but
not on a line (a rotation that is a circle, three shapes without an order) is predicted in part or not at
all. Low informativeness says so; C_j is 0 where nothing predicts, and D_i is then of the factors that are
left, to base F all the same. Trees see more. But their importances add up to 1 for every factor,
predicted or not, and the boosted ones of Locatello et al. 2019 (arXiv 1811.12359) are a tree for each value
and round: 3,200 for a factor of 32 values in 100 rounds, against a path of linear systems of at most D
unknowns. Numbers of the two do not compare.

Source: Eastwood & Williams 2018 (ICLR, "A framework for the quantitative evaluation of disentangled
representations"), section 2. The folds' rule for a factor that nothing predicts is ours (`regress`).
"""

import warnings
from typing import NamedTuple

import numpy as np

from jaxvae.data.shapes import World
from jaxvae.errors import UserError, check_count
from jaxvae.metrics.disentangle import DEAD, Codes, Score, draw, finite

FOLDS = 10
SURE = 2.0  # standard errors by which a factor's prediction has to be better than its mean


class Scores(NamedTuple):
    """The three scores, each with how it was measured."""

    disentanglement: Score
    completeness: Score
    informativeness: Score


class Regression(NamedTuple):
    """What predicts which factor, and how well."""

    importance: np.ndarray  # R [D, F], at least 0
    error: np.ndarray  # NRMSE of examples held out [F]: 0 is exact, about 1 as good as the mean


def dci(
    codes: Codes, world: World, *, n: int = 10_000, held_out: int = 5_000, seed: int = 0
) -> Scores:
    """Returns the scores of n draws to learn from and `held_out` others to measure the error on.

    Raises:
        UserError: as `regress`.
    """
    found = regress(codes, world, n=n, held_out=held_out, seed=seed)
    how = f"strength by {FOLDS} folds (0 within {SURE:g} standard errors of the mean)"
    about = f"lasso, {how}, {n:,} examples to learn"
    error = f"1 - NRMSE, mean over factors, {about} and {held_out:,} to measure, seed {seed}"
    return Scores(
        Score(disentanglement(found.importance), n, f"{about}, seed {seed}"),
        Score(completeness(found.importance), n, f"mean over factors, {about}, seed {seed}"),
        Score(1.0 - float(found.error.mean()), held_out, error),
    )


def regress(
    codes: Codes, world: World, *, n: int = 10_000, held_out: int = 5_000, seed: int = 0
) -> Regression:
    """Returns importances, from n draws, and errors, of `held_out` others.

    Dimensions whose means hardly vary (variance at most `DEAD`) predict nothing. Neither is a factor
    predicted whose errors over the folds are not below those of its mean by two standard errors of the
    difference: the least error alone would keep coefficients of chance, and one such coefficient makes
    a factor look complete. Of dimensions that are copies of each other the lasso keeps one.

    Raises:
        UserError: for fewer than two latent dimensions or factors, of which there is no entropy; for
            draws in which a factor has one value only; where no dimension varies; for means that are
            not finite.
    """
    check_count("n", n, least=2 * FOLDS)
    check_count("held_out", held_out, least=2)
    if len(world.sizes) < 2:
        raise UserError("these scores tell factors from each other, and these data have one only.")
    rng = np.random.default_rng(seed)
    v, v_test = draw(rng, world, n), draw(rng, world, held_out)
    if np.any(v.std(axis=0) == 0.0) or np.any(v_test.std(axis=0) == 0.0):
        raise UserError("a factor that has one value only has no error: draw more examples.")
    z, z_test = finite(codes(v)), finite(codes(v_test))
    if z.shape[1] < 2:
        raise UserError("completeness needs two latent dimensions: use a larger latent_dim.")
    alive = z.var(axis=0) > DEAD
    if not alive.any():
        raise UserError("no latent dimension varies over the data: the posterior has collapsed.")

    mean, scale = z.mean(axis=0)[alive], z.std(axis=0)[alive]
    x, x_test = ((each[:, alive] - mean) / scale for each in (z, z_test))
    y, y_test = ((each - v.mean(axis=0)) / v.std(axis=0) for each in (v, v_test))
    coefficients = np.zeros((z.shape[1], y.shape[1]))
    coefficients[alive] = np.stack([_lasso(x, each) for each in y.T], axis=1)
    miss = y_test - x_test @ coefficients[alive]
    error = np.sqrt(np.mean(miss**2, axis=0)) / y_test.std(axis=0)
    return Regression(np.abs(coefficients), error)


def _lasso(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns coefficients [D] of y [n] on x [n, D], both of mean 0 and variance 1."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LassoLarsCV

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a copy of a dimension is left out
        model = LassoLarsCV(cv=FOLDS, max_iter=max(500, 8 * x.shape[1])).fit(x, y)
    errors = np.asarray(model.mse_path_)  # [strengths, folds]; of the largest, those of the mean
    gain = errors[np.argmax(model.cv_alphas_)] - errors[np.argmin(errors.mean(axis=1))]
    sure = gain.mean() > SURE * gain.std(ddof=1) / np.sqrt(FOLDS)
    return np.asarray(model.coef_) if sure else np.zeros(x.shape[1])


def disentanglement(importance: np.ndarray) -> float:
    """Returns sum_i rho_i D_i of R [D, F]; 0 where nothing is predicted."""
    weight = importance.sum(axis=1)
    return float(weight @ focus(importance) / max(weight.sum(), np.finfo(float).tiny))


def completeness(importance: np.ndarray) -> float:
    """Returns the mean over factors of C_j, of R [D, F]."""
    return float(focus(importance.T).mean())


def focus(rows: np.ndarray) -> np.ndarray:
    """Returns 1 - entropy, to base K, of the shares of each row [N], of numbers [N, K] not below 0: 1
    where one entry has all, 0 where all have the same or none has any. Of R: D_i; of its transpose: C_j.

    Raises:
        UserError: for rows of fewer than two entries.
    """
    if rows.shape[1] < 2:
        raise UserError(f"an entropy of shares needs two of them, not shape {rows.shape}.")
    total = rows.sum(axis=1, keepdims=True)
    share = np.divide(rows, total, out=np.full(rows.shape, 1.0 / rows.shape[1]), where=total > 0.0)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0.0)
    return 1.0 + np.sum(share * logs, axis=1) / np.log(rows.shape[1])
