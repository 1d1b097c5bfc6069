"""With which statistics a run is used: what somebody asked for, or what its model says."""

from pathlib import Path
from typing import NamedTuple

from jaxvae import nets
from jaxvae.data import Source
from jaxvae.errors import UserError, unknown
from jaxvae.presets.config import Options, System
from jaxvae.presets.splits import training
from jaxvae.train import statistics
from jaxvae.train.statistics import OVER, STATS
from jaxvae.types import Params, State


class Chosen(NamedTuple):
    """What a model is called with, and how that is said."""

    name: str  # one of `STATS`
    state: State
    stats: str  # "running" or "batch": how the model's functions are called
    about: str  # in words; "" for running averages where they are the usual ones


def choose(
    system: System,
    params: Params,
    state: State,
    stats: str | None,
    train: Source | None,
    *,
    seed: int,
    samples: bool = False,
) -> Chosen:
    """Returns the state and mode of `stats`.

    Args:
        stats: one of `STATS`; None: as the model says.
        train: training data, for statistics that are to be re-estimated.
        seed: of the run: the statistics are the same wherever it is used.
        samples: whether None is for drawing samples.

    Raises:
        UserError: for unknown statistics, those of a model whose nets have none, and as
            `make_reestimator`.
    """
    model, is_default = system.model, stats is None
    if stats is None:
        stats = statistics.default_stats(model, state, samples=samples)
    elif stats not in STATS:
        raise unknown("stats", stats, STATS)
    elif not nets.has_averages(state):
        raise UserError("this model's nets have no batch statistics: leave out --stats.")
    if stats == "running":
        usual = model.stats == "running" or is_default
        return Chosen(stats, state, stats, "" if usual else "running statistics")
    if stats != "batch" and model.moments is None:
        raise UserError(
            "this model does not tell the moments of its batches: choose --stats running or batch."
        )
    if stats == "batch":
        return Chosen(stats, state, stats, "statistics of each batch")
    assert train is not None  # whoever chooses these has loaded them
    new = statistics.reestimate(
        model, params, state, train, over=OVER[stats], preprocess=system.preprocess, seed=seed
    )
    return Chosen(stats, new, "running", described(stats, train))


def described(stats: str, train: Source) -> str:
    """Returns in words which statistics re-estimated ones are."""
    count, size = statistics.size_of(train)
    about = f"statistics re-estimated over {count * size:,} training examples"
    if OVER[stats] == "samples":
        about += f", the decoder's over {count * size:,} samples"
    return about


def needs_data(system: System, state: State, stats: str | None, *, samples: bool = False) -> bool:
    """Returns whether `choose` needs training data for `stats`."""
    default = statistics.default_stats(system.model, state, samples=samples)
    return (default if stats is None else stats) in OVER


def training_data(config: Options, data_dir: Path | None = None) -> Source:
    """Returns the data that a run was trained on; raises `UserError` where they are not here."""
    try:
        return training(config, data_dir)
    except UserError as error:
        raise UserError(
            f"the statistics of this model are re-estimated over its training data: {error} Or "
            "choose --stats running or batch."
        ) from None
