"""Whether single latent dimensions stand for single factors of data whose factors are known.

    mig                 over factors k, mean of (MI(z_1st; v_k) - MI(z_2nd; v_k)) / H(v_k), of the two
                        dimensions that say most of v_k; z in equal bins
    factor_vae_score    accuracy of "which factor was fixed?", answered by the dimension that varies
                        least, relative to its spread over all data; the answers by majority vote
    beta_vae_score      accuracy of the same, answered by logistic regression on the mean |z - z'| of
                        pairs that share the factor

All are in [0, 1], 1 is best; a code that knows nothing has a mig of about 0 and scores of about 1 / F.
They are of posterior means, and none is a property of the model alone: number of examples, bins and
votes are part of the value, which is why each comes with its protocol.

Sources: Chen et al. 2018 (arXiv 1802.04942), section 4 (mig; there by the model's densities, here by
the bins of Locatello et al. 2019, arXiv 1811.12359); Kim & Mnih 2018 (arXiv 1802.05983), section 3;
Higgins et al. 2017 (beta-VAE), section 3, whose linear classifier is trained by another method.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.data.preprocess import Preprocess
from jaxvae.data.shapes import World
from jaxvae.errors import UserError, check_count
from jaxvae.types import Model, Params, State

BINS = 20
DEAD = 1e-4  # variance of a posterior mean over the data below which its dimension has no vote
Codes = Callable[[np.ndarray], np.ndarray]  # (factors [n, F]) -> posterior means [n, D]


class Score(NamedTuple):
    """A score and how it was measured."""

    value: float
    n: int  # examples (mig), votes or points that it was measured on
    protocol: str


def codes_of(
    model: Model,
    params: Params,
    state: State,
    world: World,
    *,
    stats: str = "running",
    batch_size: int = 256,
    preprocess: Preprocess | None = None,
    seed: int = 0,
) -> Codes:
    """Returns `(factors [n, F]) -> posterior means [n, D]` of the images drawn from them.

    With `stats="batch"` BatchNorm has the moments of each `batch_size` images, the last ones of what
    is left over.

    Args:
        preprocess: of training, which gets the images as bytes; None: the encoder takes them as they
            are drawn, in [0, 1].
        seed: of its noise, which depends on the factors of a batch, too: the same ones get the same.

    Raises:
        UserError: for a model that does not encode.
    """
    if (encode := model.encode) is None:
        raise UserError("these scores are of latents, and this model does not encode.")
    check_count("batch_size", batch_size)

    root = jax.random.key(seed)

    @jax.jit
    def means(params, state, rng, factors):
        with jax.default_matmul_precision("highest"):
            x, cond = world.render(factors), None
            if preprocess is not None:
                x, cond = preprocess(rng, {"x": jnp.round(255.0 * x).astype(jnp.uint8)})
            return encode(params, state, x, cond, stats=stats).mean

    def codes(factors: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(factors), batch_size):
            part = factors[start : start + batch_size]
            short = 0 if stats == "batch" else batch_size - len(part)  # padded: one compilation
            padded = np.concatenate([part, np.repeat(part[-1:], short, axis=0)])
            rng = jax.random.fold_in(root, np.uint32(zlib.crc32(padded.tobytes())))
            found = np.asarray(means(params, state, rng, padded), np.float64)
            parts.append(found[: len(part)])
        return np.concatenate(parts)

    return codes


def finite(means: np.ndarray) -> np.ndarray:
    """Returns posterior means as they are; raises `UserError` for values that are not finite."""
    if not np.isfinite(means).all():
        raise UserError("posterior means are not finite: the training has diverged.")
    return means


def draw(rng: np.random.Generator, world: World, n: int) -> np.ndarray:
    """Returns n uniform draws of all factors, [n, F] int32."""
    return rng.integers(0, world.sizes, (n, len(world.sizes)), dtype=np.int32)


def mig(codes: Codes, world: World, *, n: int = 10_000, bins: int = BINS, seed: int = 0) -> Score:
    """Returns the mutual information gap of n draws.

    Raises:
        UserError: for fewer than two latent dimensions, factors of one value, and means that are not
            finite.
    """
    check_count("n", n, least=2)
    factors = draw(np.random.default_rng(seed), world, n)
    value = float(np.mean(gaps(finite(codes(factors)), factors, bins)))
    return Score(value, n, f"posterior means in {bins} equal bins, {n:,} examples, seed {seed}")


def gaps(means: np.ndarray, factors: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Returns the gap of each factor [F], from posterior means [n, D] and factors [n, F]."""
    check_count("bins", bins, least=2)
    information, entropy = mutual_information(means, factors, bins)
    if len(information) < 2:
        raise UserError("a gap needs two latent dimensions: use a larger latent_dim.")
    if np.any(entropy <= 0.0):
        raise UserError("a factor that has one value only has no information: draw more examples.")
    first, second = np.sort(information, axis=0)[::-1][:2]
    return (first - second) / entropy


def mutual_information(
    means: np.ndarray, factors: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray]:
    """Returns MI(bin of z_j; v_k) [D, F] and H(v_k) [F] of the empirical distribution, in nats."""
    low, high = means.min(axis=0), means.max(axis=0)
    width = np.where(high > low, high - low, 1.0)
    binned = np.minimum(((means - low) / width * bins).astype(int), bins - 1)
    entropy = [_entropy(np.bincount(v)) for v in factors.T]
    information = [
        [_entropy(np.bincount(z)) + h - _entropy(np.bincount(z * (v.max() + 1) + v)) for v, h in of]
        for z, of in ((z, list(zip(factors.T, entropy, strict=True))) for z in binned.T)
    ]
    return np.asarray(information), np.asarray(entropy)


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-np.sum(share * np.log(share)))


def factor_vae_score(
    codes: Codes, world: World, *, votes: int = 800, group: int = 64, seed: int = 0
) -> Score:
    """Returns the accuracy of the majority vote, on as many votes as it was taken from.

    A vote is (dimension of the smallest variance, factor that was fixed), of `group` examples whose
    other factors are drawn anew. Dimensions whose means hardly vary over all data (`DEAD`) have none.

    Raises:
        UserError: where no dimension varies, and for means that are not finite.
    """
    check_count("votes", votes)
    check_count("group", group, least=2)
    rng = np.random.default_rng(seed)
    spread = finite(codes(draw(rng, world, 10_000))).var(axis=0)
    alive = spread > DEAD
    if not alive.any():
        raise UserError("no latent dimension varies over the data: the posterior has collapsed.")

    def ballot() -> tuple[np.ndarray, np.ndarray]:
        which, factors = _sharing(rng, world, votes, group)
        z = finite(codes(factors.reshape(votes * group, -1)))
        z = z.reshape(votes, group, -1)[..., alive]
        return np.argmin(z.var(axis=1, ddof=1) / spread[alive], axis=1), which

    table = np.zeros((int(alive.sum()), len(world.sizes)), int)
    np.add.at(table, ballot(), 1)
    dimension, which = ballot()
    value = float(np.mean(table.argmax(axis=1)[dimension] == which))
    about = f"{votes} votes of {group} examples each to learn and to measure, seed {seed}"
    return Score(value, votes, f"majority vote, {about}")


def beta_vae_score(
    codes: Codes, world: World, *, points: int = 800, group: int = 64, seed: int = 0
) -> Score:
    """Returns the accuracy of logistic regression, on as many points as it was trained on.

    A point is the mean of |z - z'| over `group` pairs that share one factor, [D]; the classifier
    sees it divided by its spread over the points that it is trained on.

    Raises:
        UserError: for means that are not finite.
    """
    from sklearn.linear_model import LogisticRegression

    check_count("points", points)
    check_count("group", group)
    rng = np.random.default_rng(seed)

    def draws() -> tuple[np.ndarray, np.ndarray]:
        which, first = _sharing(rng, world, points, group, alike=False)
        second = draw(rng, world, points * group).reshape(first.shape)
        rows = np.arange(points)
        second[rows, :, which] = first[rows, :, which]
        a, b = (finite(codes(v.reshape(points * group, -1))) for v in (first, second))
        return np.abs(a - b).reshape(points, group, -1).mean(axis=1), which

    x, which = draws()
    scale = np.maximum(x.std(axis=0), 1e-12)
    classifier = LogisticRegression(max_iter=1000).fit(x / scale, which)
    x, which = draws()
    value = float(classifier.score(x / scale, which))
    about = f"{points} points of {group} pairs each to learn and to measure, seed {seed}"
    return Score(value, points, f"logistic regression, {about}")


def _sharing(
    rng: np.random.Generator, world: World, count: int, group: int, *, alike: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a factor for each group [count], and the groups' factors [count, group, F]; `alike`:
    that factor is the same in all of a group."""
    which = rng.integers(0, len(world.sizes), count)
    factors = draw(rng, world, count * group).reshape(count, group, -1)
    if alike:
        rows = np.arange(count)
        factors[rows, :, which] = factors[rows, :1, which]
    return which, factors
