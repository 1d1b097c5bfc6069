"""python -m experiments.translation.figures [--seed S] [--smoke]: draws what has been trained here (in
`runs/`); nothing is trained.

    figures/<narrow or full>/<run>.translations.png   classes on the left, contents above, translations where they meet
    figures/<narrow or full>/<run>.truth.png          the same table with the truth, where it is known
    figures/<narrow or full>/<run>.kl.png             KL of content and class, and of fakes, in training
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import runs
from experiments.translation import cells, setting, train
from experiments.translation.train import Case
from jaxvae import plots, writers

FOLDER = Path(__file__).parent
SHOWN = 6  # classes and contents; the paper shows 4
KL = {
    "kl_content": ("content", "#0072B2"),
    "kl_class": ("class", "#009E73"),
    "kl_rec": ("both, reconstructions", "#CC79A7"),
    "kl_fake": ("both, samples", "#D55E00"),
}


def cases(seed: int, smoke: bool) -> list[Case]:
    """Returns the cases whose runs are whole."""
    every = [
        Case(name, method, narrow, seed, smoke)
        for narrow in (False, True)
        for name in (setting.NARROW if narrow else setting.PUBLISHED)
        for method in setting.METHODS
    ]
    return [case for case in every if runs.finished(case)]


def draw(case: Case, folder: Path) -> list[Path]:
    """Draws all of a case, and returns the files."""
    test, found = train.of_case(case, "test"), train.trained(case)
    content, of_class = shown(case)
    rows = len(of_class)
    pairs = np.tile(content, rows), np.repeat(of_class, len(content))
    first, last = (test.source.read(indices)["x"] for indices in pairs)
    sides = [test.source.read(indices)["x"] for indices in (content, of_class)]
    tables = {"translations": np.asarray(cells.translator(found)(first, last))}
    if test.truth is not None:
        tables["truth"] = test.truth(*pairs)
    made = []
    for name, x in tables.items():
        made.append(folder / f"{case.label}.{name}.png")
        x = x if x.dtype != np.uint8 else x / 255.0
        top, left = (images / 255.0 for images in sides)
        plots.translations(made[-1], top, left, x.reshape(rows, len(content), *x.shape[1:]))
    return [*made, kl(case, folder / f"{case.label}.kl.png")]


def shown(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns the contents and classes of the table [n] and [k]: the first of those that are measured,
    and one image each of as many classes."""
    content, of_class = cells.chosen_pairs(case)
    label = train.of_case(case, "test").source.read(of_class)["label"]
    _, first = np.unique(label, return_index=True)
    return content[:SHOWN], of_class[np.sort(first)[:SHOWN]]


def kl(case: Case, path: Path) -> Path:
    """Draws the KLs of a training: those of fakes should stay above those of data."""
    from matplotlib.figure import Figure

    lines = [e for e in writers.read(case.folder / "metrics.jsonl") if e["split"] == "train"]
    figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, (words, colour) in KL.items():
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=words)
    axes.set(title=f"{case.label}{case.suffix}", xlabel="step", ylabel="KL, nats")
    axes.legend(fontsize=8)
    plots.plain_axes(axes)
    plots.save_figure(path, figure)
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Draws what can be drawn."""
    runs.draw("translation", FOLDER, cases, draw, "mnist/narrow/soft_intro_vae", argv)


if __name__ == "__main__":
    main()
