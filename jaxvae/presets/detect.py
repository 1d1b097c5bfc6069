"""How well a run tells its own kind of data from another: both scores, and their histograms."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxvae import charts
from jaxvae.data import Source
from jaxvae.errors import UserError
from jaxvae.metrics import ood
from jaxvae.presets.config import System
from jaxvae.presets.measure import Progress, Record, Setting
from jaxvae.types import Params, State

NAMES: dict[Literal["elbo", "iw"], str]
NAMES = {"elbo": "ELBO", "iw": "importance-weighted log p(x)"}
SHOWN = (0.002, 0.998)  # quantiles of the scores between which a histogram is drawn


class Sets(NamedTuple):
    """What is scored."""

    inside: Source  # of the kind that the model was trained on
    outside: Source
    train: Source  # as many training examples as there are inside, at most


class Found(NamedTuple):
    """What a detection gives."""

    rows: list[Record]  # an AUROC for each score
    scores: dict[str, np.ndarray]  # "elbo inside" and so on -> [n]
    panels: list[charts.Panel]  # of `charts.histograms`


def sets(system: System, inside: Source, outside: Source, train: Source, *, convert: bool) -> Sets:
    """Returns what is to be scored, `outside` converted where that is asked for.

    Raises:
        UserError: for a model that has no such scores, sources of different shapes, and a
            conversion that changes nothing.
    """
    lacking = [verb for verb in ("encode", "decode") if getattr(system.model, verb) is None]
    if lacking:
        raise UserError(
            f"auroc scores examples by their evidence lower bound, and this model does not {lacking[0]}: "
            "use a run of one that encodes and decodes."
        )
    if system.classes is not None:
        raise UserError(
            "auroc is of models without labels: those of --out-data mean something else to this one."
        )
    if (inside.name, inside.split) == (outside.name, outside.split):
        raise UserError(
            f"--out-data {outside.name}, {outside.split}: these are the examples that are to be told "
            "from others; choose another data set."
        )
    shapes = ["x".join(map(str, source.shape)) for source in (inside, outside)]
    if convert and shapes[0] == shapes[1]:
        raise UserError(f"{outside.name} has the shape {shapes[0]} already: leave out --convert.")
    if not convert and shapes[0] != shapes[1]:
        raise UserError(
            f"{inside.name} has examples of {shapes[0]}, {outside.name} of {shapes[1]}: with "
            f"--convert they become {shapes[0]} (grey as three equal channels, colours as their "
            "luma, other sizes by a bilinear filter), which changes what is measured."
        )
    train = train._replace(size=min(train.size, inside.size), arrays=None)
    return Sets(inside, ood.converted(outside, inside.shape), train)


def detect(
    system: System,
    params: Params,
    state: State,
    given: Sets,
    *,
    draws: int,
    gamma: float | None,
    setting: Setting,
    progress: Progress = None,
) -> Found:
    """Returns how well the model parts the two, by its ELBO and by its importance-weighted bound.

    Args:
        draws: for each example of the latter.
        gamma: variance of the decoder to score with; None: the model's own.

    Raises:
        UserError: as `ood.make_scores`.
    """
    options: dict[str, Any] = {
        "k": draws,
        "gamma": gamma,
        "stats": setting.stats,
        "statistics": setting.statistics if setting.stats == "running" else "",
        "batch_size": setting.batch_size,
        "preprocess": system.preprocess,
        "seed": setting.seed,
        "progress": progress,
    }
    rows, kept, panels = [], {}, []
    for score, title in NAMES.items():
        measure = ood.make_scores(system.model, params, state, score=score, **options)
        found = ood.detection(measure(given.inside), measure(given.outside))
        name = f"first {given.train.size:,} of {given.train.name} {given.train.split}"
        values = {
            name: measure(given.train),
            found.inside.source: found.inside,
            found.outside.source: found.outside,
        }
        area = found.auroc
        rows.append(
            {
                "metric": "auroc",
                "value": area.value,
                "error": area.error,
                "low": area.low,
                "high": area.high,
                "n": area.inside + area.outside,
                "protocol": found.protocol,
            }
        )
        names = ("train", "inside", "outside")
        kept |= {f"{score} {n}": v.values for n, v in zip(names, values.values(), strict=True)}
        bins = int(np.clip(min(len(each.values) for each in values.values()) // 20, 20, 100))
        every = np.concatenate([each.values for each in values.values()])
        finite = every[np.isfinite(every)]
        low, high = np.quantile(finite, SHOWN) if finite.size else (0.0, 0.0)
        limits = (float(low), float(high)) if low < high else None
        about = setting.statistics or f"{setting.stats} statistics"
        panels.append(
            charts.Panel(
                f"{title}, AUROC {area.value:.4f}",
                about,
                *ood.histograms(values, bins=bins, limits=limits),
            )
        )
    return Found(rows, kept, panels)


def draw(path: Path, found: list[Found]) -> None:
    """Draws the histograms of Figure 8, a row for each of the statistics."""
    charts.histograms(path, [each.panels for each in found])
