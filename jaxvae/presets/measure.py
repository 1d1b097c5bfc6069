"""The numbers of a trained model on a split of data, each with its protocol."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae.data import Source
from jaxvae.errors import UserError
from jaxvae.metrics import completion, dci, disentangle, likelihood, lpips
from jaxvae.presets.conditions import example_like
from jaxvae.presets.config import System
from jaxvae.types import Params, State

Record = dict[str, Any]  # metric, value, error, n, protocol
Trained = tuple[Params, State]
Progress = Callable[[int, int], None] | None
DRAWS = 10
SCORES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {  # of data whose factors are known
    "mig": (disentangle.mig, ()),  # and the names of their parts, where there are several
    "factor_vae_score": (disentangle.factor_vae_score, ()),
    "beta_vae_score": (disentangle.beta_vae_score, ()),
    "dci": (dci.dci, dci.Scores._fields),
}


class Setting(NamedTuple):
    """How examples are drawn: the same for every number, so that all are of the same pixels."""

    seed: int = 0
    batch_size: int = 100
    k: int = 5000  # draws for each example of the importance-weighted bound
    draws: int = DRAWS  # completions of each example
    lpips_net: str = "squeeze"
    weights: Path | None = None  # folder of the weights of lpips; None: where they are found
    stats: str = "running"  # or "batch"
    statistics: str = ""  # what protocols say of them


def available(system: System) -> tuple[str, ...]:
    """Returns the metrics that a model is measured by where nobody asks for others; none for a
    model without any likelihood."""
    completions = () if system.on_examples is None else ("completions",)
    if system.model.log_prob is not None:
        return ("log_prob", *completions)
    return ("elbo", "active_units", *completions) if system.model.terms is not None else ()


def check(system: System, source: Source, metrics: tuple[str, ...], setting: Setting) -> None:
    """Raises `UserError` for metrics that this model or its images do not have, before the work."""
    if "bpd" in metrics:
        if not available(system):
            raise UserError("this model has no likelihood, and so no bits per dimension.")
        _bits(system, source, 0.0)
    if "lpips" in metrics:
        lpips.check_source(source, setting.lpips_net)
    if set(SCORES) & set(metrics) and source.world is None:
        raise UserError(
            f"{', '.join(n for n in metrics if n in SCORES)} need data whose factors are known, such "
            f"as --data shapes; {source.name} does not tell."
        )
    if "completions" in metrics and system.on_examples is None:
        raise UserError("completions are of a model that completes examples, which this does not.")
    if "log_prob" in metrics:
        likelihood.make_log_prob(system.model)
    if {"elbo", "kl_per_dim", "active_units"} & set(metrics):
        likelihood.make_terms(system.model)


def measure(
    system: System,
    params: Params,
    state: State,
    source: Source,
    metrics: tuple[str, ...],
    setting: Setting = Setting(),  # noqa: B008 - a value
    progress: Progress = None,
) -> list[Record]:
    """Returns a record {metric, value, error, n, protocol} for each number of a split; `fid` and
    `kid` are not among them.

    Args:
        metrics: of log_prob, elbo (with rec and kl), kl_per_dim, active_units, completions (best_of_k,
            mean_error and diversity), iw_nll, bpd, lpips; mig, factor_vae_score, beta_vae_score and dci
            (disentanglement, completeness and informativeness) of new draws of data whose factors are
            known.
        progress: called as (examples done, examples in all) where it takes long.

    Raises:
        UserError: for a metric that this model or its pixels do not have.
    """
    trained = (params, state)
    check(system, source, metrics, setting)
    looks = _looks(system, trained, source, setting, progress) if "lpips" in metrics else []
    rows = []
    if "log_prob" in metrics:
        rows += _density(system, trained, source, setting)
    if {"elbo", "kl_per_dim", "active_units"} & set(metrics):
        rows += _terms(system, trained, source, metrics, setting)
    if "completions" in metrics:
        rows += _completions(system, trained, source, setting)
    if {"iw_nll", "bpd"} & set(metrics):
        rows += _bound(system, trained, source, metrics, setting, progress)
    if set(SCORES) & set(metrics):
        rows += _scores(system, trained, source, metrics, setting)
    return [_with_statistics(row, setting) for row in rows + looks]


def _with_statistics(row: Record, setting: Setting) -> Record:
    """Returns a record whose protocol also says which statistics BatchNorm had, where it should."""
    if not setting.statistics:
        return row
    of_batch = f" of {min(setting.batch_size, row['n'])}" if setting.stats == "batch" else ""
    return {**row, "protocol": f"{row['protocol']}, {setting.statistics}{of_batch}"}


def _options(system: System, setting: Setting) -> dict[str, Any]:
    batch_size = setting.batch_size
    return {"preprocess": system.preprocess, "seed": setting.seed, "batch_size": batch_size}


def _record(metric: str, value: Any, error: float | None, source: Source, protocol: str) -> Record:
    n = source.size
    return {"metric": metric, "value": value, "error": error, "n": n, "protocol": protocol}


def _pixels(system: System, seed: int) -> str:
    """Returns what the values are of, in words."""
    pixels = {
        "grey": "grey pixels",
        "binarised": f"pixels drawn as 0 or 1 with seed {seed}",
        "dequantised": f"uniform dequantisation with seed {seed}",
    }[system.pixels]
    given = system.on_examples
    return pixels if given is None else f"{pixels}, given {given}, seed {seed}"


def _density(system: System, trained: Trained, source: Source, setting: Setting) -> list[Record]:
    found = likelihood.per_example(
        likelihood.make_log_prob(system.model, stats=setting.stats),
        *trained,
        source,
        **_options(system, setting),
    )
    about = f"nats per example, exact density, {_pixels(system, setting.seed)}"
    mean = likelihood.estimate(found["log_prob"], about)
    return [_record("log_prob", mean.value, mean.error, source, mean.protocol)]


def _terms(
    system: System, trained: Trained, source: Source, metrics: tuple[str, ...], setting: Setting
) -> list[Record]:
    rows = []
    found = likelihood.per_example(
        likelihood.make_terms(system.model, stats=setting.stats),
        *trained,
        source,
        **_options(system, setting),
    )
    for name, key in (("kl_per_dim", "kl_per_dim"), ("active_units", "mean")):
        if name in metrics and key not in found:
            raise UserError(
                f"{name} needs a posterior with a {key}, which this model's does not have."
            )
    if "elbo" in metrics:
        about = f"nats per example, one draw of z, {_pixels(system, setting.seed)}"
        for name in ("elbo", "rec", "kl"):
            mean = likelihood.estimate(found[name], about)
            rows.append(_record(name, mean.value, mean.error, source, mean.protocol))
    if "kl_per_dim" in metrics:
        mean = found["kl_per_dim"].mean(axis=0, dtype=np.float64)
        about = f"nats to N(0, 1), mean over examples, of {system.latent}"
        rows.append(_record("kl_per_dim", mean, None, source, about))
    if "active_units" in metrics:
        count, variance = likelihood.active_units(found["mean"])
        about = (
            f"of {len(variance)} dimensions of {system.latent}, variance of posterior means above "
            f"{likelihood.ACTIVE}"
        )
        rows.append(_record("active_units", count, None, source, about))
    return rows


def _completions(
    system: System, trained: Trained, source: Source, setting: Setting
) -> list[Record]:
    found = likelihood.per_example(
        completion.make_completions(system.model, setting.draws, stats=setting.stats),
        *trained,
        source,
        **_options(system, setting),
    )
    about = (
        f"squared distance per example, K={setting.draws} means, {_pixels(system, setting.seed)}"
    )
    rows = []
    for name in completion.NAMES:
        mean = likelihood.estimate(found[name], about)
        rows.append(_record(name, mean.value, mean.error, source, mean.protocol))
    return rows


def _bound(
    system: System,
    trained: Trained,
    source: Source,
    metrics: tuple[str, ...],
    setting: Setting,
    progress: Progress,
) -> list[Record]:
    """Returns the negative log-likelihood and the bits of it: exact where the model has a density,
    else of the importance-weighted bound."""
    rows, pixels = [], _pixels(system, setting.seed)
    if system.model.log_prob is not None:
        (density,) = _density(system, trained, source, setting)
        nll, error, how = -density["value"], density["error"], "exact density"
    else:
        options, k = _options(system, setting), setting.k
        values = likelihood.iw_bound(
            system.model, *trained, source, k=k, stats=setting.stats, progress=progress, **options
        )
        nll, error, _, _ = likelihood.estimate(-values, "")
        how = f"importance-weighted bound, K={k}"
    if "iw_nll" in metrics:
        about = f"K={setting.k}" if system.model.log_prob is None else how
        about = f"nats per example, {about}, {pixels}"
        rows.append(_record("iw_nll", nll, error, source, about))
    if "bpd" in metrics:
        bits, what = _bits(system, source, nll)
        error /= math.prod(_dims(system, source)) * math.log(2.0)
        rows.append(_record("bpd", bits, error, source, f"{what}, from the {how}"))
    return rows


def _scores(
    system: System, trained: Trained, source: Source, metrics: tuple[str, ...], setting: Setting
) -> list[Record]:
    """Returns how well single latents stand for single factors; errors are not known."""
    if system.classes is not None:
        raise UserError("the scores are of models without a condition, and this one has labels.")
    options = {"stats": setting.stats, **_options(system, setting)}
    codes = disentangle.codes_of(system.model, *trained, source.world, **options)
    pixels = "" if system.pixels == "grey" else f", {_pixels(system, setting.seed)}"
    rows = []
    for name in (name for name in SCORES if name in metrics):
        score_of, parts = SCORES[name]
        found = score_of(codes, source.world, seed=setting.seed)
        for metric, score in zip(parts or (name,), found if parts else (found,), strict=True):
            record = _record(metric, score.value, None, source, f"{score.protocol}{pixels}")
            rows.append(record | {"n": score.n})
    return rows


def _looks(
    system: System, trained: Trained, source: Source, setting: Setting, progress: Progress
) -> list[Record]:
    """Returns how different reconstructions look from the images."""
    (params, state), net = trained, setting.lpips_net
    values = lpips.of_reconstructions(
        system.model,
        params,
        state,
        source,
        lpips.load(net, weights=setting.weights, heads=setting.weights),
        net=net,
        stats=setting.stats,
        progress=progress,
        **_options(system, setting),
    )
    seen = example_like(system.preprocess, source.shape, source.num_classes)
    height, width, channels = seen.x.shape[1:]
    about = (
        f"LPIPS({net}) 0.1 of images and their reconstructions from posterior means, {height}x{width}"
        f"{' as three equal channels' if channels == 1 else ''}, {_pixels(system, setting.seed)}"
    )
    mean = likelihood.estimate(values, about)
    return [_record("lpips", mean.value, mean.error, source, mean.protocol)]


def _bits(system: System, source: Source, nll: float) -> tuple[float, str]:
    """Returns bits per dimension of `nll`, and what they are bits of."""
    unnamed = "bernoulli" if system.model.log_prob is None else "exact"
    family = unnamed if system.likelihood is None else system.likelihood
    dims = _dims(system, source)
    return likelihood.bits_per_dim(nll, dims, pixels=system.pixels, likelihood=family)


def _dims(system: System, source: Source) -> tuple[int, ...]:
    """Returns the shape of what a likelihood is of."""
    return source.shape if system.dims is None else (system.dims,)
