"""python -m experiments.tutorial.figures [--budget SHARE] [--seed S]: draws the tutorial's figures.

    ring.png         Figure 2: draws of N(0, I), and what g(z) = z / 10 + z / |z| makes of them
    proof.png        appendix A: both errors against sigma, from the results; densities of the model
    column.png       Figure 8: completions of a column, of test images, where both runs are kept
    left.png         the same of a half, as section 4.2 begins

Figure 7, samples of the VAE, is drawn by its cells. Rows of completions: the given part; the
regressor; six draws of the conditional VAE; the whole digit.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from experiments.budgets import Budget, check_budget
from experiments.runner import Option
from experiments.tutorial import cells, proof, setting
from jaxvae import plots, table, writers
from jaxvae.presets.load import load
from jaxvae.types import Batch

FOLDER = cells.FOLDER
SHOWN, DRAWS = 16, 6
BLUE, RED, GREY = "#0072B2", "#D55E00", "0.6"


def ring(path: Path, n: int = 1000, seed: int = 0) -> None:
    """Draws Figure 2."""
    from matplotlib.figure import Figure

    z = np.random.default_rng(seed).standard_normal((n, 2))
    figure = Figure(figsize=(7, 3.4), dpi=120, layout="constrained")
    g = z / 10.0 + z / np.linalg.norm(z, axis=1, keepdims=True)
    for i, (points, title) in enumerate(((z, "z"), (g, "g(z) = z / 10 + z / |z|"))):
        axes = figure.add_subplot(1, 2, i + 1)
        axes.scatter(*points.T, s=4, color=BLUE, alpha=0.6, linewidths=0)
        axes.set(title=title, aspect="equal")
        plots.plain_axes(axes)
    plots.save_figure(path, figure)


def errors(results: str) -> dict[str, dict[str, dict[float, float]]]:
    """Returns density -> metric -> sigma -> value of what has been run."""
    found: dict[str, dict[str, dict[float, float]]] = {}
    for line in table.load(FOLDER, results)[0]:
        kind, _, rest = line["cell"].partition("/")
        if kind == "proof":
            name, _, sigma = rest.partition("/sigma_")
            values = found.setdefault(name, {}).setdefault(line["metric"], {})
            values[float(sigma)] = line["value"]
    return found


def proof_figure(path: Path, results: str = "results") -> bool:
    """Draws the errors against sigma, and densities. Returns whether there was anything to draw."""
    from matplotlib.figure import Figure

    found = errors(results)
    if not found:
        return False
    figure = Figure(figsize=(10, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot(1, 3, 1)
    styles = {"kl_posterior": ("E KL(q(z|x) || p(z|x))", BLUE), "kl_fit": ("KL(p_gt || p)", RED)}
    for name, mark in zip(found, ("o-", "s--"), strict=False):
        for metric, (label, colour) in styles.items():
            points = sorted(found[name][metric].items())
            axes.loglog(
                *zip(*points, strict=True), mark, color=colour, ms=4, label=f"{label}, {name}"
            )
    axes.set(xlabel="sigma", ylabel="nats")
    axes.legend(fontsize=6, frameon=False)
    plots.plain_axes(axes)
    x = np.linspace(-6.0, 6.0, 400)
    for i, name in enumerate(found):
        density = proof.DENSITIES[name]
        axes = figure.add_subplot(1, 3, i + 2)
        axes.plot(x, np.exp(density.log_pdf(x)), color="black", label="p_gt")
        for sigma, style in ((1.0, ":"), (0.3, "--"), (0.1, "-")):
            y = np.exp(proof.model_log_pdf(density, sigma, x))
            axes.plot(x, y, style, color=BLUE, lw=1.2, label=f"model, sigma {sigma:g}")
        axes.set(title=name, xlabel="x")
        axes.legend(fontsize=6, frameon=False)
        plots.plain_axes(axes)
    plots.save_figure(path, figure)
    return True


def completions(path: Path, part: str, seed: int, budget: Budget) -> bool:
    """Draws what both methods make of the given part of test images. Returns whether both runs are
    kept."""
    names = {method: f"mnist/{part}/{method}" for method in setting.METHODS}
    folders = {method: cells.folder_of(name, seed, budget) for method, name in names.items()}
    if not all((folder / "config.json").is_file() for folder in folders.values()):
        return False
    test = cells.source("test", smoke=False)
    rows = []
    for method in ("regressor", "cvae"):
        task = cells.task_of(names[method], smoke=False)
        batch = task.preprocess(jax.random.key(seed), test.read(np.arange(SHOWN)))
        model, params, state = load(folders[method], model=task.model, example=batch)
        rows += [batch.cond] if not rows else []
        rows += drawn(model, params, state, batch, 1 if method == "regressor" else DRAWS)
    images_of_data = jnp.asarray(test.read(np.arange(SHOWN))["x"], jnp.float32) / 255.0
    images = np.asarray(jnp.concatenate([*rows, images_of_data]))
    plots.save_png(path, plots.grid(images, columns=SHOWN))
    return True


def drawn(model, params, state, batch: Batch, n: int) -> list[jax.Array]:
    """Returns n completions of each condition, as n arrays [B, H, W, C]."""
    sample = jax.jit(model.sample, static_argnums=3)
    keys = jax.random.split(jax.random.key(1), n)
    with jax.default_matmul_precision("highest"):
        return [sample(params, state, key, len(batch.x), batch.cond) for key in keys]


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Draws what can be drawn. A user's mistake is one line on stderr and exit code 2."""
    options = (
        Option("budget", 1.0, float, "share of the published steps that the runs had"),
        Option("seed", 0, int, "of the runs"),
        runner.SMOKE,
    )
    args = runner.parse("experiments.tutorial.figures", "Draws the figures.", options, argv)
    budget = check_budget(args.budget, "steps")
    where = writers.make_folder(FOLDER / ("smoke" if args.smoke else "figures"))
    ring(where / "ring.png")
    made = ["ring.png"]
    if proof_figure(where / "proof.png", runner.target(FOLDER, args.smoke).name):
        made.append("proof.png")
    if not args.smoke:
        for part in setting.PARTS:
            if completions(where / f"{part}.png", part, args.seed, budget):
                made.append(f"{part}.png")
    for name in made:
        print((where / name).relative_to(FOLDER))


if __name__ == "__main__":
    main()
