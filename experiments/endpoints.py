"""Draws published numbers and ours beside them, where a paper's figures end in one number each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments import runner
from jaxvae import plots, table, writers
from jaxvae.errors import UserError

OURS, PUBLISHED = "#0072B2", "#D55E00"


def draw(folder: Path, path: Path, metric: str, unit: str) -> bool:
    """Draws one panel for each cell with a published value of `metric`: a dot for each seed of
    ours, in a line for each protocol, and a cross for the paper, with a bar of twice its spread (or
    of the tolerance that stands in for it).

    Args:
        folder: the experiment's folder.
        path: of the picture.
        metric: one that the paper prints.
        unit: of the axis.

    Returns:
        Whether there was anything of ours to draw.
    """
    from matplotlib.figure import Figure

    results, expected = table.load(folder)
    published = {c["cell"]: c for c in expected["cells"] if c["metric"] == metric}
    values: dict[str, dict[str, dict[int, float]]] = {cell: {} for cell in published}
    for line in results:
        if line["metric"] == metric and line["cell"] in values:
            seeds = values[line["cell"]].setdefault(line["protocol"], {})
            seeds[line["seed"]] = line["value"]  # the newest line of a seed
    values = {cell: protocols for cell, protocols in values.items() if protocols}
    if not values:
        return False
    rows = max(len(protocols) for protocols in values.values()) + 1
    figure = Figure(figsize=(8, len(values) * (0.8 + 0.3 * rows)), dpi=120, layout="constrained")
    for i, (cell, protocols) in enumerate(values.items()):
        axes = figure.add_subplot(len(values), 1, i + 1)
        _panel(axes, published[cell], protocols)
        axes.set(title=cell, xlabel=f"{metric}, {unit}")
        plots.plain_axes(axes)
        axes.locator_params(axis="x", nbins=6)
    plots.save_figure(path, figure)
    return True


def _panel(axes, published: Mapping, protocols: Mapping[str, Mapping[int, float]]) -> None:
    """Draws the paper's number and a line of dots for each protocol."""
    spread = published.get("sd", published.get("tolerance", 0.0))
    axes.errorbar(
        published["value"], 0, xerr=2 * spread, fmt="x", color=PUBLISHED, capsize=3, markersize=8
    )
    for y, seeds in enumerate(protocols.values(), start=1):
        axes.plot(list(seeds.values()), [y] * len(seeds), "o", color=OURS, mfc="none")
    labels = [f"paper: {published['protocol']}", *(f"ours: {protocol}" for protocol in protocols)]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def main(folder: Path, metric: str, unit: str, argv: Sequence[str] | None = None) -> None:
    """Draws `figures/<metric>.png`: what a figures command does. Raises `UserError` where nothing
    has been run."""
    runner.parse(f"experiments.{folder.name}.figures", "Draws what has been run.", (), argv)
    path = writers.make_folder(folder / "figures") / f"{metric}.png"
    if not draw(folder, path, metric, unit):
        raise UserError(f"nothing has been run: python -m experiments.{folder.name} first.")
    print(path.relative_to(folder))
