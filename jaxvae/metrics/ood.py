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
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from jaxvae import distributions
from jaxvae.data.images import resized
from jaxvae.data.preprocess import make_preprocess
from jaxvae.data.source import Source
from jaxvae.errors import UserError, check_count, check_number, unknown
from jaxvae.metrics import likelihood
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


def scores(
    model: Model,
    params: Params,
    state: State,
    source: Source,
    *,
    score: Literal["elbo", "iw"] = "elbo",
    k: int = DRAWS,
    gamma: float | None = None,
    stats: str = "running",
    **options: Any,
) -> Scores:
    """Returns the score of every example of a source.

    Args:
        score: "elbo" (one draw of z) or "iw" (k draws).
        k: draws for each example of "iw".
        gamma: variance of a Gaussian decoder to score with, around the model's own mean; default:
            the model's own likelihood (a Soft-IntroVAE's has the variance 1/2).
        stats: "running" or "batch" (see above; no batch is padded then).
        options: of `likelihood.per_example`: preprocess, batch_size, seed, mesh, progress.

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
    if score == "iw":
        values = likelihood.iw_bound(model, params, state, source, k=k, stats=stats, **options)
        about = f"importance-weighted log-likelihood, K={k}"
    else:
        terms = likelihood.make_terms(model, stats=stats)
        values = likelihood.per_example(terms, params, state, source, **options)["elbo"]
        about = "ELBO, one draw of z"
    decoder = _decoder(model, params, state, source, options.get("preprocess"))
    protocol = f"nats per example, {about}, {decoder}, {stats} statistics"
    return Scores(np.asarray(values, np.float64), f"{source.name} {source.split}", protocol)


def with_variance(model: Model, gamma: float) -> Model:
    """Returns a model whose decoder is N(mean, gamma I), with the mean of `model`'s own.

    Raises:
        UserError: for a gamma of 0 or less, and a model with weights of its own (`log_weight`).
    """
    check_number("gamma", gamma, above=0.0)
    if model.log_weight is not None or model.encode is None or model.decode is None:
        raise UserError(
            "gamma is the variance of one decoder, and this model is not one encoder and one "
            "decoder: leave gamma out."
        )

    def decode(params, state, z, cond=None, *, stats="running"):
        p = model.decode(params, state, z, cond, stats=stats)
        if not isinstance(p, HasMean):
            raise UserError(f"gamma needs a decoder with a mean, which {type(p).__name__} lacks.")
        return distributions.Normal(p.mean, jnp.log(jnp.asarray(gamma, jnp.float32)))

    def terms(params, state, rng, batch, *, stats="running"):
        q = model.encode(params, state, batch.x, batch.cond, stats=stats)
        p = decode(params, state, distributions.sample(rng, q), batch.cond, stats=stats)
        return Terms(-distributions.log_prob(p, batch.x), distributions.kl(q))

    return model._replace(decode=decode, terms=terms)


def _decoder(model: Model, params: Params, state: State, source: Source, preprocess: Any) -> str:
    """Returns what p(x|z) is, in words: its variance, where all pixels have one."""
    preprocess = make_preprocess() if preprocess is None else preprocess
    rng = jax.random.key(0)

    @jax.jit
    def logvar(params, state, examples):
        x, cond = preprocess(rng, examples)
        q = model.encode(params, state, x, cond)
        p = model.decode(params, state, distributions.sample(rng, q), cond)
        if not isinstance(p, distributions.Normal):
            return type(p).__name__
        return p.logvar if p.logvar.size == 1 else None
