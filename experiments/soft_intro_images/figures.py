"""python -m experiments.soft_intro_images.figures [--seed S] [--smoke]: draws what
has been trained here (in `runs/`); nothing is trained.

    figures/<narrow or full>/<run>.samples.png           samples, one class after the other where they have labels
    figures/<narrow or full>/<run>.reconstructions.png   test images, each above its reconstruction
    figures/<narrow or full>/<run>.kl.png                KL of data, of reconstructions and of samples in training
    figures/<narrow or full>/<run>.scores.png            Figure 8: ELBOs of training, test and other images

Samples and reconstructions are drawn with BatchNorm's averages, as `<run>.batch.*.png` with the
moments of the batch that is drawn, and as `<run>.reestimated.*.png` with averages re-estimated over
training data.
"""

from collections.abc import Sequence
from pathlib import Path

import jax

from experiments import runs
from experiments.soft_intro_images import cells, setting, train
from experiments.soft_intro_images.train import Case
from jaxvae import plots, writers
from jaxvae.errors import UserError
from jaxvae.metrics import ood

FOLDER = Path(__file__).parent
COLOURS = {"kl": "#0072B2", "kl_rec": "#009E73", "kl_fake": "#D55E00"}
NAMES = {"kl": "data", "kl_rec": "reconstructions", "kl_fake": "samples"}
SCORED = 1_000  # images of each kind, of the histograms


def cases(seed: int, smoke: bool) -> list[Case]:
    """Returns the cases whose runs are whole."""
    every = [
        Case(name, method, conditional, narrow, seed, smoke)
        for narrow in (False, True)
        for name in (setting.NARROW if narrow else setting.PUBLISHED)
        for method in setting.METHODS
        for conditional in (False, True)
    ]
    return [case for case in every if runs.finished(case)]


def draw(case: Case, folder: Path) -> list[Path]:
    """Draws all of a case, and returns the files."""
    made = []
    for stats in setting.STATS:
        stem = case.label if stats == "running" else f"{case.label}.{stats}"
        sampled, x, x_hat = cells.pictures(case, stats)
        made += [folder / f"{stem}.samples.png", folder / f"{stem}.reconstructions.png"]
        plots.samples(made[-2], sampled)
        plots.reconstructions(made[-1], x[:32], x_hat[:32])
    return [*made, *kl(case, folder / f"{case.label}.kl.png"), *scores(case, folder)]


def kl(case: Case, path: Path) -> list[Path]:
    """Draws the KLs of a training: those of fakes should stay above that of data."""
    from matplotlib.figure import Figure

    lines = [e for e in writers.read(case.folder / "metrics.jsonl") if e["split"] == "train"]
    figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, colour in COLOURS.items():
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=NAMES[name])
    axes.set(title=f"{case.label}{case.suffix}", xlabel="step", ylabel="KL, nats")
    axes.legend()
    plots.plain_axes(axes)
    plots.save_figure(path, figure)
    return [path]


def scores(case: Case, folder: Path) -> list[Path]:
    """Draws the ELBOs of training, test and other images, where those are there."""
    from matplotlib.figure import Figure

    if case.conditional or case.name not in setting.PAIRS:
        return []
    try:
        other = train.source(case._replace(name=setting.PAIRS[case.name], narrow=False), "test")
    except UserError:
        return []
    found = train.trained(case)
    sources = {split: train.source(case, split) for split in ("train", "test")} | {"other": other}
    figure = Figure(figsize=(15, 3), dpi=120, layout="constrained")
    for axes, stats in zip(figure.subplots(1, len(setting.STATS)), setting.STATS, strict=True):
        values = {}
        for name, source in sources.items():
            part = source._replace(size=min(SCORED, source.size), arrays=None)
            state, mode = train.averages(case, stats)
            with jax.default_matmul_precision("highest"):
                scored = ood.scores(
                    found.model, found.params, state, part, stats=mode, seed=case.seed
                )
            values[f"{source.name} {source.split}" if name == "other" else name] = scored
        shown = ood.histograms(values, bins=50)
        for name, density in shown.densities.items():
            axes.stairs(density, shown.edges, label=name)
        axes.set(title=f"{stats} statistics", xlabel="ELBO, nats")
        axes.legend(fontsize=8)
        plots.plain_axes(axes)
    figure.suptitle(f"{case.label}{case.suffix}")
    path = folder / f"{case.label}.scores.png"
    plots.save_figure(path, figure)
    return [path]


def main(argv: Sequence[str] | None = None) -> None:
    """Draws what can be drawn."""
    runs.draw("soft_intro_images", FOLDER, cases, draw, "mnist/narrow/soft_intro_vae", argv)


if __name__ == "__main__":
    main()
