"""python -m experiments.rho_vae.figures: draws Figures 1, 3, 4, 5 (loss curves) and 2 (samples)
from what has been run.

One picture per net with curves, and one of samples per data set, in `figures/`. A method that was
not run is not drawn. The published curves are known at their first and last epoch: crosses. Jumps
run off the top of a panel.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import runner
from experiments.rho_vae.cells import FOLDER
from experiments.rho_vae.setting import DATA, UNIFORM, methods
from jaxvae import writers
from jaxvae.errors import UserError
from jaxvae.models.rho_vae import NETS
from jaxvae.plots import plain_axes, save_figure
from jaxvae.writers import read, read_json

FIGURES = {"vanilla": 1, "beta": 3, "cnn": 4, "info": 5}
FIRST = {  # epoch 1 of the published curves, decoded from the vector graphics: (normal, AR(1))
    "mnist.vanilla": (131.5, 123.7),
    "fashion_mnist.vanilla": (257.6, 241.5),
    "mnist.cnn": (117.0, 98.8),
    "fashion_mnist.cnn": (250.1, 233.4),
    "mnist.beta": (595.7, 553.5),
    "fashion_mnist.beta": (1318.9, 1260.8),
}  # those of the info net are in expected.json, as they have cells
LAST = {"fashion_mnist/info/normal": 14}  # where the last published point is not that of epoch 15
COLOURS = {
    "normal": "#0072B2",
    "normal-paper": "#56B4E9",
    "ar1-paper": "#009E73",
    "ar1-readme": "#CC79A7",
    "ar1-released": "#D55E00",
}
PANELS = {"test_loss": "loss as the released code prints it", "elbo": "true negative ELBO"}


def curves(
    name: str, net: str, method: str, results: str = "results"
) -> list[dict[str, np.ndarray]]:
    """Returns a curve for each seed, from its newest run: epochs and metrics."""
    path = FOLDER / results / "curves" / f"{name}.{net}.{method}.jsonl"
    seeds: dict[int, list] = {}
    for line in read(path) if path.exists() else []:
        run = seeds.setdefault(line["seed"], [])
        if run and line["steps"] <= run[-1]["steps"]:
            run.clear()  # a later run of the same seed begins
        run.append(line)
    return [
        {k: np.asarray([line[k] for line in run]) for k in ("steps", *PANELS)}
        for run in seeds.values()
    ]


def draw(net: str, target: Path, results: str = "results") -> bool:
    """Draws the curves of one net. Returns whether there was any."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=120, layout="constrained")
    published = {c["cell"]: c["value"] for c in read_json(FOLDER / "expected.json")["cells"]}
    lines, circles = {}, False
    for i, name in enumerate(DATA):
        for j, (metric, title) in enumerate(PANELS.items()):
            sign = -1 if metric == "elbo" else 1
            axes = figure.add_subplot(2, 2, 2 * i + j + 1)
            for method in methods(net):
                for run in curves(name, net, method, results):
                    epochs = run["steps"] / run["steps"][0]
                    (lines[method],) = axes.plot(
                        epochs, sign * run[metric], color=COLOURS[method], lw=1.3
                    )
                for run in curves(name, UNIFORM, method, results) if net == "info" else ():
                    axes.plot(1, sign * run[metric][0], "o", color=COLOURS[method], mfc="none")
                    circles = True
            if metric == "test_loss":
                for k, method in enumerate(("normal", "ar1-released")):
                    cell = f"{name}/{net}/{method}"
                    first = (
                        published[f"{name}/{UNIFORM}/{method}"]
                        if net == "info"
                        else FIRST[f"{name}.{net}"][k]
                    )
                    axes.plot(
                        [1, LAST.get(cell, 15)],
                        [first, published[cell]],
                        "x",
                        color=COLOURS[method],
                        ms=8,
                        mew=2,
                    )
            _limit(axes)
            axes.set_title(f"{name}: {title}", fontsize=10)
            axes.set_xlabel("epoch")
            axes.set_ylabel("nats per image, down is better")
            plain_axes(axes)
    if lines:
        shown = [method for method in methods(net) if method in lines]
        title = "crosses: published" + ("\ncircles: info_uniform" if circles else "")
        figure.axes[0].legend([lines[m] for m in shown], shown, frameon=False, title=title)
        save_figure(target / f"figure{FIGURES[net]}_{net}.png", figure)
    return bool(lines)


def _limit(axes) -> None:
    """Ends the panel above the highest start of a curve: what jumps higher later runs off its
    top."""
    starts, everything = [], []
    for line in axes.lines:
        y = np.asarray(line.get_ydata())
        starts.append(y[0])
        everything.extend(y)
    if starts and max(everything) > max(starts):
        low, high = min(everything), max(starts)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def samples(name: str, target: Path) -> bool:
    """Draws the samples of every posterior of the vanilla net side by side. Returns whether there
    was any."""
    from matplotlib.figure import Figure
    from PIL import Image

    paths = {m: target / "samples" / f"{name}.vanilla.{m}.png" for m in methods("vanilla")}
    paths = {m: path for m, path in paths.items() if path.exists()}
    if not paths:
        return False
    figure = Figure(figsize=(3.4 * len(paths), 3.7), dpi=120, layout="constrained")
    for i, (method, path) in enumerate(paths.items()):
        axes = figure.add_subplot(1, len(paths), i + 1)
        axes.imshow(np.asarray(Image.open(path)), cmap="gray", vmin=0, vmax=255)
        axes.set_title(method)
        axes.set_axis_off()
    save_figure(target / f"figure2_{name}.png", figure)
    return True


def draw_all(results: str = "results", target: Path = FOLDER / "figures") -> None:
    """Draws everything there is. Raises `UserError` where nothing has been run."""
    writers.make_folder(target)
    drawn = [draw(net, target, results) for net in NETS] + [samples(name, target) for name in DATA]
    if not any(drawn):
        raise UserError(
            "nothing has been run: python -m experiments.rho_vae --cell '*/vanilla/*' first."
        )


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Draws everything there is. A user's mistake is one line on stderr and exit code 2."""
    runner.parse("experiments.rho_vae.figures", "Draws what has been run.", (), argv)
    draw_all()


if __name__ == "__main__":
    main()
