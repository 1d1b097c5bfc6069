"""Charts of numbers, as PNG files: curves of one run or of several, histograms of scores.

As in `plots`, nothing here touches pyplot or any other global state.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from jaxvae.errors import UserError
from jaxvae.plots import BLUE, grid, plain_axes, save_figure
from jaxvae.writers import Curves, PathLike

Line = tuple[np.ndarray, np.ndarray]  # steps [n], values [n]

# Okabe & Ito's colours, which stay apart for colour-blind readers; lines differ in style too.
_STYLES = {"train": (BLUE, "-"), "valid": ("#D55E00", "--"), "test": ("#009E73", "-.")}
_MORE_STYLES = (("#CC79A7", ":"), ("#000000", (0, (5, 1))), ("#56B4E9", (0, (3, 1, 1, 1))))
_MORE_STYLES += (("#E69F00", (0, (1, 1))), ("#009E73", "-"), ("#D55E00", (0, (5, 2, 1, 2))))
_PANELS = {  # metric -> title, unit, direction
    "elbo": ("ELBO", "nats per example", "up is better"),
    "log_prob": ("log p(x)", "nats per example", "up is better"),
    "rec": ("rec = -log p(x|z)", "nats per example", "down is better"),
    "kl": ("KL(q(z|x) || p(z))", "nats per example", "down is better at equal rec"),
}


def curves(path: PathLike, values: Curves) -> None:
    """Draws each metric of a bound over training steps, one panel per metric, one line per split.

    Panels: elbo, rec and kl (and log_prob), where they were logged; without an elbo the losses.
    Where the first tenth of the steps would flatten all the rest it runs off the scale, and the
    axis says so.

    Args:
        path: the PNG file.
        values: what `writers.read_curves` returns.

    Raises:
        UserError: where none of these metrics was logged.
    """
    from matplotlib.figure import Figure

    figure = Figure(dpi=150, layout="constrained")
    figure.set_size_inches(_draw_curves(figure, values, _curve_names(values)))
    save_figure(path, figure)


def comparison(path: PathLike, values: Curves, pictures: dict[str, np.ndarray]) -> None:
    """Draws the curves of several runs in the same panels, and a picture of each below.

    Args:
        path: the PNG file.
        values: run -> metric -> line, as `writers.read_curves` has them by split; none of models that
            have no log. Without a finite number there are pictures alone.
        pictures: run -> image [H, W, C], such as its samples, where it has one.

    Raises:
        UserError: where none of these metrics was logged, and where there is nothing at all.
    """
    from matplotlib.figure import Figure

    names = _curve_names(values) if _finite(values) or not pictures else []
    figure = Figure(dpi=150, layout="constrained")
    both = bool(names and pictures)
    parts: Any = figure.subfigures(2, 1) if both else (figure, figure)
    upper, lower = parts
    wide, tall = _draw_curves(upper, values, names) if names else (0.0, 0.0)
    for i, (name, picture) in enumerate(pictures.items(), start=1):
        axes = lower.add_subplot(1, len(pictures), i)
        axes.imshow(grid(picture[None], columns=1, pad=0, scale=1), interpolation="none")
        axes.set_title(name, fontsize="medium")
        axes.axis("off")
    tall = (tall or 3.3) * (1 + both)
    figure.set_size_inches(max(wide, 3.7 * min(len(pictures), 6)), tall)
    save_figure(path, figure)


def _curve_names(values: Curves) -> list[str]:
    """Returns the metrics that have a panel; raises `UserError` where there is none."""
    logged = list(dict.fromkeys(name for metrics in _finite(values).values() for name in metrics))
    names = [name for name in _PANELS if name in logged]
    if "elbo" not in logged:
        names = [name for name in logged if "loss" in name.split("_")] + names
    if not names:
        raise UserError(f"no curve to draw: the log has neither a loss nor {', '.join(_PANELS)}.")
    return names


def _draw_curves(figure: Any, values: Curves, names: list[str]) -> tuple[float, float]:
    """Draws a panel for each metric, a line for each split (or run); returns its size in inches."""
    values = _finite(values)
    splits = [
        *(split for split in _STYLES if split in values),
        *(split for split in values if split not in _STYLES),
    ]
    more = itertools.cycle(_MORE_STYLES)
    styles = {split: _STYLES.get(split) or next(more) for split in splits}

    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    handles = {}
    for i, name in enumerate(names, start=1):
        lines = {split: values[split][name] for split in styles if name in values[split]}
        handles |= _panel(figure.add_subplot(rows, columns, i), name, lines, styles)
    handles = {split: handles[split] for split in styles if split in handles}
    options = {"loc": "outside lower center", "ncols": len(handles), "frameon": False}
    figure.legend(handles.values(), handles.keys(), **options)
    return 3.7 * columns, 3.3 * rows


class Panel(NamedTuple):
    """Densities over the same bins, for `histograms`."""

    title: str
    about: str  # under the title
    edges: np.ndarray  # [bins + 1]
    densities: dict[str, np.ndarray]  # name -> [bins]
    left_out: dict[str, int]  # values outside the range


def histograms(path: PathLike, rows: list[list[Panel]]) -> None:
    """Draws densities of scores, a panel beside the other, each set in a colour of its own.

    Args:
        path: the PNG file.
        rows: panels, of rows of one length.
    """
    from matplotlib.figure import Figure

    height, width = len(rows), len(rows[0])
    figure = Figure(figsize=(5.2 * width, 3.4 * height), dpi=150, layout="constrained")
    styles = (*_STYLES.values(), *_MORE_STYLES)
    for i, panel in enumerate(itertools.chain(*rows), start=1):
        axes = figure.add_subplot(height, width, i)
        for (name, density), (color, line) in zip(panel.densities.items(), styles, strict=False):
            beyond = panel.left_out[name]
            label = f"{name} ({beyond:,} outside)" if beyond else name
            axes.stairs(density, panel.edges, color=color, linestyle=line, label=label)
        axes.set_title(f"{panel.title}\n{panel.about}", fontsize=9)
        axes.set_xlabel("nats per example")
        axes.set_ylabel("density")
        axes.legend(fontsize=7, frameon=False)
        plain_axes(axes)
    save_figure(path, figure)


def _panel(axes: Any, name: str, lines: dict[str, Line], styles: dict[str, Any]) -> dict[str, Any]:
    """Draws one metric of each split. Returns split -> line, for the legend."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    title, unit, direction = _PANELS.get(name, (name, "per example", "down is better"))
    axes.set_title(f"{title}\n", fontsize=11)
    axes.text(
        0.5,
        1.03,
        f"{unit}, {direction}",
        transform=axes.transAxes,
        ha="center",
        fontsize=9,
        color="0.35",
    )
    handles = {}
    for split, (steps, y) in lines.items():
        color, style = styles[split]
        marker = "o" if len(steps) <= 20 else None
        [handles[split]] = axes.plot(
            steps, y, color=color, ls=style, lw=1.6, marker=marker, markersize=3.5
        )
    limits = _limits(list(lines.values()))
    axes.set_xlabel("step (the first values are off the scale)" if limits else "step")
    if limits:
        axes.set_ylim(*limits)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    plain_axes(axes)
    return handles


def _finite(values: Curves) -> Curves:
    """Returns the curves without values that are not finite, and without empty ones."""
    kept: Curves = {}
    for split, metrics in values.items():
        for name, (steps, y) in metrics.items():
            finite = np.isfinite(y)
            if finite.any():
                line = np.asarray(steps)[finite], np.asarray(y)[finite]
                kept.setdefault(split, {})[name] = line
    return kept


def _limits(lines: list[Line]) -> tuple[float, float] | None:
    """Returns the range of the values after the first tenth of the steps, if all span 4 times it."""
    first = min(steps.min() for steps, _ in lines)
    last = max(steps.max() for steps, _ in lines)
    late = np.concatenate([y[steps >= first + 0.1 * (last - first)] for steps, y in lines])
    full = np.concatenate([y for _, y in lines])
    low, high = late.min(), late.max()
    if high <= low or np.ptp(full) <= 4 * (high - low):
        return None
    return low - 0.15 * (high - low), high + 0.15 * (high - low)
