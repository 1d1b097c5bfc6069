"""Out-of-distribution detection: is an example of the data that a model was trained on?

    elbo(x) = log p(x|z) - KL(q(z|x) || p(z)),                       z ~ q(z|x)
    iw(x)   = log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x),              z_k ~ q(z|x)

are scores in nats that should be high for examples of the training data's kind ("inside") and low
for others ("outside"). How well they part the two is the area under the ROC curve: the probability
that an example from inside scores above one from outside, ties counted half. 1: always; 0.5: as a
coin; below: the outside is found the likelier.

A score depends on the variance of the decoder, which weighs the error of a reconstruction against
its KL, and on BatchNorm's moments (`stats`): with "batch", each batch is all inside or all outside,
which may tell them apart by itself. Both are stated in the protocol; measure both modes.

Source: Daniel & Tamar 2021 (arXiv 2012.13253), section 6.5 (K = 5, without the 1/K, which moves all
scores alike), appendix 9.7 and Table 7 (the ELBO), Figure 8. The decoder's variance is not stated
there. The setting is that of Nalisnick et al. 2019 (arXiv 1810.09136).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from jaxvae import distributions
from jaxvae.data.images import resized
from jaxvae.data.preprocess import Preprocess, make_preprocess
from jaxvae.data.source import Source, read_checked
from jaxvae.errors import UserError, check_count, check_number, unknown
from jaxvae.metrics import likelihood
from jaxvae.models.verbs import both_ways
from jaxvae.types import HasMean, Model, Params, State, Terms

DRAWS = 5  # of the paper, for each example
SCORES = ("elbo", "iw")


class Scores(NamedTuple):
    """The scores of a source's examples, in nats, and how they were measured."""

    values: np.ndarray  # [n]
    source: str  # "mnist test"
    protocol: str


class Auroc(NamedTuple):
    """The area under the ROC curve, from 0 to 1, with its standard error and confidence
    interval."""

    value: float
    error: float
    low: float
    high: float
    level: float  # of the interval
    inside: int  # examples
    outside: int


class Detection(NamedTuple):
    """How well a model parts two sources."""

    auroc: Auroc
    inside: Scores
    outside: Scores
    protocol: str


class Histograms(NamedTuple):
    """Densities over the same bins, for a picture such as Figure 8."""

    edges: np.ndarray  # [bins + 1], nats
    densities: dict[str, np.ndarray]  # name -> [bins], per nat
    left_out: dict[str, int]  # values outside the range, infinite ones among them


# ---- scores --------------------------------------------------------------------------------------


def scores(model: Model, params: Params, state: State, source: Source, **options: Any) -> Scores:
    """Returns the score of every example of a source.

    Options are those of `make_scores`; use that for more than one source.
    """
    return make_scores(model, params, state, **options)(source)


def make_scores(
    model: Model,
    params: Params,
    state: State,
    *,
    score: Literal["elbo", "iw"] = "elbo",
    k: int = DRAWS,
    gamma: float | None = None,
    stats: str = "running",
    statistics: str = "",
    batch_size: int = 100,
    preprocess: Preprocess | None = None,
    **options: Any,
) -> Callable[[Source], Scores]:
    """Returns `(source) -> Scores`, the score of every example; compiled once for all sources of
    one shape that fill a batch.

    Args:
        score: "elbo" (one draw of z) or "iw" (k draws).
        k: draws for each example of "iw".
        gamma: variance of a Gaussian decoder to score with, around the model's own mean; default:
            the model's own likelihood (a Soft-IntroVAE's has the variance 1/2).
        stats: "running" or "batch" (see above; no batch is padded then).
        statistics: what the protocol says of a state whose averages are not those of training.
        batch_size: examples at a time.
        preprocess: (rng, examples) -> Batch, inside jit; default: bytes to [0, 1].
        options: of `likelihood.make_per_example`: seed, mesh, progress.

    Raises:
        UserError: for a model that does not encode and decode, an unknown score, and a gamma of a
            model that it does not fit.
    """
    if score not in SCORES:
        raise unknown("score", score, SCORES)
    check_count("k", k)
    if model.encode is None or model.decode is None:
        raise UserError("out-of-distribution scores need a model that encodes and decodes.")
    if gamma is not None:
        model = with_variance(model, gamma)
    preprocess = make_preprocess() if preprocess is None else preprocess
    options |= {"batch_size": batch_size, "preprocess": preprocess}
    if score == "iw":
        about = f"importance-weighted log-likelihood, K={k}"
        values_of: Callable[[Source], np.ndarray]
        values_of = likelihood.make_iw_bounds(model, params, state, k=k, stats=stats, **options)
    else:
        about, terms = "ELBO, one draw of z", likelihood.make_terms(model, stats=stats)
        each = likelihood.make_per_example(terms, params, state, **options)
        values_of = lambda source: each(source)["elbo"]  # noqa: E731

    described = _make_decoder(model, params, state, preprocess)

    def measure(source: Source) -> Scores:
        values = np.asarray(values_of(source), np.float64)
        said = f"nats per example, {about}, {described(source)}, "
        protocol = said + (statistics or f"{stats} statistics")
        if stats == "batch":
            protocol += f" of {min(batch_size, source.size)} examples"
        return Scores(values, f"{source.name} {source.split}", protocol)

    return measure


def with_variance(model: Model, gamma: float) -> Model:
    """Returns a model whose decoder is N(mean, gamma I), with the mean of `model`'s own.

    Raises:
        UserError: for a gamma of 0 or less, and a model with weights of its own (`log_weight`).
    """
    check_number("gamma", gamma, above=0.0)
    encode, given_decode = model.encode, model.decode
    if model.log_weight is not None or encode is None or given_decode is None:
        raise UserError(
            "gamma is the variance of one decoder, and this model is not one encoder and one "
            "decoder: leave gamma out."
        )

    def decode(params, state, z, cond=None, *, stats="running"):
        p = given_decode(params, state, z, cond, stats=stats)
        if not isinstance(p, HasMean):
            raise UserError(f"gamma needs a decoder with a mean, which {type(p).__name__} lacks.")
        return distributions.Normal(p.mean, jnp.log(jnp.asarray(gamma, jnp.float32)))

    def terms(params, state, rng, batch, *, stats="running"):
        q = encode(params, state, batch.x, batch.cond, stats=stats)
        z = distributions.sample(rng, q)
        p = decode(params, state, z, batch.cond, stats=stats)
        return Terms(-distributions.log_prob(p, batch.x), distributions.kl_at(q, z))

    return model._replace(decode=decode, terms=terms)


def _make_decoder(
    model: Model, params: Params, state: State, preprocess: Preprocess
) -> Callable[[Source], str]:
    """Returns `(source) -> what p(x|z) is`, in words, with its variance where all pixels have the
    same."""
    encode, decode = both_ways(model)

    def likelihood_of(params, state, examples):
        rng = jax.random.key(0)
        x, cond = preprocess(rng, examples)
        q = encode(params, state, x, cond)
        return decode(params, state, distributions.sample(rng, q), cond)

    logvar_of = jax.jit(lambda *args: likelihood_of(*args).logvar)

    def describe(source: Source) -> str:
        args = (params, state, source.read(np.arange(1)))
        p = jax.eval_shape(likelihood_of, *args)
        if not isinstance(p, distributions.Normal):
            return f"decoder {type(p).__name__}"
        if math.prod(p.logvar.shape) != 1:
            return "a decoder variance for each pixel"
        return f"decoder variance {math.exp(float(logvar_of(*args).reshape(()))):.4g}"

    return describe


# ---- how well they part two sources --------------------------------------------------------------


def auroc(inside: Any, outside: Any, *, level: float = 0.95) -> Auroc:
    """Returns the area under the ROC curve of scores that should be high inside, with DeLong's
    interval.

        A = 1/(m n) sum_i sum_j psi(x_i, y_j),   psi = 1 where x_i > y_j, 1/2 where equal, else 0
        V_i = 1/n sum_j psi(x_i, y_j),  W_j = 1/m sum_i psi(x_i, y_j),  Var A = var(V)/m + var(W)/n

    with the unbiased variances of V and W, from midranks (Sun & Xu 2014). The interval is A +- z
    sqrt(Var A), cut to [0, 1]; where the two are parted without a single exception Var A is 0 and
    the interval a point. It is over examples; that of another training run needs other seeds.

    Args:
        inside, outside: `Scores`, or values [m] and [n], at least two of each; infinite ones have
            their place.
        level: of the interval, inside (0, 1).

    Raises:
        UserError: for fewer than two values, values that are not numbers, and a level out of range.

    Source: DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44), for one curve.
    """
    check_number("level", level, above=0.0, below=1.0)
    x, y = _values("inside", inside), _values("outside", outside)
    m, n = len(x), len(y)
    if min(m, n) < 2:
        raise UserError(f"an AUROC needs two examples or more on each side, not {m} and {n}.")
    ranks = rankdata(np.concatenate([x, y]))
    v = (ranks[:m] - rankdata(x)) / n
    w = 1.0 - (ranks[m:] - rankdata(y)) / m
    value = float(v.mean())
    error = math.sqrt(v.var(ddof=1) / m + w.var(ddof=1) / n)
    reach = float(ndtri(0.5 + level / 2)) * error
    return Auroc(value, error, max(0.0, value - reach), min(1.0, value + reach), level, m, n)


def detect(
    model: Model,
    params: Params,
    state: State,
    inside: Source,
    outside: Source,
    *,
    level: float = 0.95,
    **options: Any,
) -> Detection:
    """Returns how well a model tells `inside` (the data that it was trained on) from `outside`.

    Args:
        inside, outside: sources of one shape.
        level: of the interval of the area.
        options: of `make_scores`; both sources have the same.

    Raises:
        UserError: for sources of different shapes, and as `make_scores`.
    """
    check_shapes(inside, outside)
    measure = make_scores(model, params, state, **options)
    return detection(measure(inside), measure(outside), level=level)


def detection(inside: Scores, outside: Scores, *, level: float = 0.95) -> Detection:
    """Returns how well scores tell `inside` from `outside`, with an interval of this level."""
    found = auroc(inside, outside, level=level)
    about = f"AUROC of {inside.source} against {outside.source} by {inside.protocol}"
    return Detection(found, inside, outside, f"{about}; DeLong interval of {level:.4g}")


def histograms(
    scores: Mapping[str, Any], *, bins: int = 100, limits: tuple[float, float] | None = None
) -> Histograms:
    """Returns the densities of several sets of scores over the same bins (Figure 8: training, test
    and outside).

    Args:
        scores: name -> `Scores`, or values [n].
        bins: how many, of one width.
        limits: the lowest and the highest edge, in nats; default: of all finite values.

    Returns:
        `Histograms`; a density adds up, times the width, to the share of values inside the limits.

    Raises:
        UserError: for nothing to show, values that are not numbers, and limits that are none.
    """
    check_count("bins", bins)
    values = {name: _values(name, of) for name, of in scores.items()}
    finite = [v[np.isfinite(v)] for v in values.values()]
    if limits is None:
        if not sum(map(len, finite)):
            raise UserError("there are no finite scores to show.")
        every = np.concatenate(finite)
        limits = (float(every.min()), float(every.max()))
        if limits[0] == limits[1]:
            limits = (limits[0] - 0.5, limits[1] + 0.5)
    low, high = limits
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"limits must be two numbers, the lower one first, not {low:g}, {high:g}.")
    edges = np.linspace(low, high, bins + 1)
    densities, left_out = {}, {}
    for name, v in values.items():
        counts = np.histogram(v[np.isfinite(v)], edges)[0]
        densities[name] = counts / (max(len(v), 1) * (edges[1] - edges[0]))
        left_out[name] = len(v) - int(counts.sum())
    return Histograms(edges, densities, left_out)


def _values(name: str, of: Any) -> np.ndarray:
    values = np.asarray(of.values if isinstance(of, Scores) else of, np.float64)
    if values.ndim != 1:
        raise UserError(f"{name}: scores must be [n], not shape {values.shape}.")
    missing = int(np.isnan(values).sum())
    if missing:
        raise UserError(f"{name}: {missing} of {len(values)} scores are not numbers.")
    return values


# ---- sources of one shape ------------------------------------------------------------------------


def check_shapes(inside: Source, outside: Source) -> None:
    """Raises `UserError` for sources whose examples differ in shape; it offers the conversion."""
    if inside.shape != outside.shape:
        want, have = ("x".join(map(str, source.shape)) for source in (inside, outside))
        raise UserError(
            f"{inside.name} has examples of {want}, {outside.name} of {have}: convert the latter "
            f"with ood.converted(source, {inside.shape}), which changes what is measured."
        )


def converted(source: Source, shape: tuple[int, ...]) -> Source:
    """Returns a source of images with another shape (H, W, C), converted as they are read.

    Grey images get three equal channels; colours become the luma 0.299 R + 0.587 G + 0.114 B,
    rounded; sizes change by Pillow's bilinear filter. That smoothes, which a likelihood sees.

    Args:
        source: of images, bytes.
        shape: with 1 or 3 channels.

    Returns:
        The source, whose name says so; itself where it has this shape.

    Raises:
        UserError: for other shapes, and images that are not bytes.
    """
    shape = tuple(shape)
    if source.shape == shape:
        return source
    if any(len(s) != 3 or s[-1] not in (1, 3) for s in (source.shape, shape)):
        raise UserError(
            f"only images (height, width, 1 or 3) can be converted, not {source.shape} to {shape}."
        )
    for side in shape:
        check_count("a side of the image", side)
    if source.read(np.arange(1))["x"].dtype != np.uint8:
        raise UserError(
            f"only images of bytes can be converted, and those of {source.name} are not."
        )

    def read(indices) -> dict[str, np.ndarray]:
        examples = dict(read_checked(source, indices))
        x = examples["x"]
        if x.shape[-1] > shape[-1]:
            x = np.round(x @ np.array([[0.299], [0.587], [0.114]])).astype(np.uint8)
        x = np.stack([resized(image, (shape[0], shape[1])) for image in x]) if len(x) else x
        examples["x"] = np.ascontiguousarray(np.broadcast_to(x, (len(x), *shape)))
        return examples

    name = f"{source.name} as {'x'.join(map(str, shape))}"
    return source._replace(name=name, shape=shape, read=read, arrays=None)
