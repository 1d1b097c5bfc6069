"""Draws the paper's figures from what has been run: the checkpoints in runs/ and the lines in
results/.

    python -m experiments.soft_intro_2d.figures [--seed 0]

    figures/figure_2_<data>_samples.png, ..._density.png   the data, and each method; exp(ELBO) on a grid
    figures/film_<data>.<method>.png                     a film strip of one training
    figures/figure_3.png                                 KL and JSD against the margin m, and Soft-IntroVAE without one
    figures/figure_21.png                                posterior collapse

What has not been run is left out, and a figure of which nothing has been run is not drawn.
"""

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxvae
from experiments import runner
from experiments.runner import Option
from experiments.soft_intro_2d import cells, measure, setting
from jaxvae import Batch, table, writers
from jaxvae.data import toy2d
from jaxvae.errors import check_count
from jaxvae.metrics import grid2d

FIGURES = cells.FOLDER / "figures"
TITLES = {"vae": "VAE", "intro_vae": "IntroVAE", "soft_intro_vae": "Soft-IntroVAE", "data": "data"}
BLUE, ORANGE = "#0072B2", "#D55E00"
POINTS, SIDE = 4_000, 200
FRAMES = 8


def trained(cell: str, seed: int):
    """Returns (model, params, state) of the newest finished run of a cell, or None where there is
    none."""
    folder = cells.workdir(cell, seed)
    if not (folder / "finished.json").exists():
        return None
    chosen = cells.ALL[cell]
    model = setting.build(chosen.method, **chosen.hyper)
    return jaxvae.load(folder, model=model, example=Batch(jnp.zeros((2, 2))))


def panels(rows: int, columns: int, size: float = 1.9):
    """Returns a figure and its empty square panels [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size * columns, size * rows + 0.3), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    return figure, grid


def scatter(axes, x, half_range: float) -> None:
    """Draws points [n, 2] in [-R, R]^2."""
    axes.scatter(x[:, 0], x[:, 1], s=1.0, color=BLUE, alpha=0.5, linewidths=0)
    axes.set(xlim=(-half_range, half_range), ylim=(-half_range, half_range), aspect="equal")


def save(name: str, figure) -> Path:
    """Writes figures/<name>.png with few colours, so that it stays small, and returns the path."""
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    small = io.BytesIO()
    Image.open(file).convert("RGB").quantize(128).save(small, "PNG", optimize=True)
    path = FIGURES / f"{name}.png"
    writers.write_bytes(path, small.getvalue())
    return path


def figure_2(seed: int) -> list[Path]:
    """Draws samples and densities of what has been trained for Table 2: two pictures for each data
    set, as their runs may be on several machines."""
    paths = []
    for name in setting.DATA:
        runs = {method: trained(f"{name}/{method}", seed) for method in setting.METHODS}
        if found := {method: run for method, run in runs.items() if run is not None}:
            paths += rows_of_figure_2(name, found, jax.random.key(seed))
    return paths


def rows_of_figure_2(name: str, found: Mapping[str, Any], rng: jax.Array) -> list[Path]:
    """Draws one data set: itself and samples of each method, and the densities of the methods.

    Args:
        name: of the data.
        found: (model, params, state) of each method that has been run.
        rng: of the points.
    """
    toy = toy2d.toy(name)
    (samples, [points]), (density, [images]) = panels(1, 1 + len(found)), panels(1, len(found))
    points[0].set_title(TITLES["data"], fontsize=9)
    scatter(points[0], np.asarray(toy.draw(rng, POINTS)), toy.half_range)
    for axes, image_axes, method in zip(points[1:], images, found, strict=True):
        axes.set_title(TITLES[method], fontsize=9)
        image_axes.set_title(TITLES[method], fontsize=9)
        model, params, state = found[method]
        scatter(axes, np.asarray(model.sample(params, state, rng, POINTS)), toy.half_range)
        energy = jax.jit(measure.energy(model))
        value = grid2d.on_points(
            lambda x, e=energy, p=params, s=state: e(p, s, x), grid2d.grid(toy.half_range, SIDE)
        )
        image = np.exp(value.min() - value).reshape(SIDE, SIDE)
        r = toy.half_range
        image_axes.imshow(image, origin="lower", extent=(-r, r, -r, r), cmap="magma")
    points[0].set_ylabel(name, fontsize=9)
    images[0].set_ylabel(name, fontsize=9)
    return [save(f"figure_2_{name}_samples", samples), save(f"figure_2_{name}_density", density)]


def films(seed: int) -> list[Path]:
    """Draws a strip of frames of each training that left a film."""
    paths = []
    for cell, chosen in {**setting.TABLE_2, **setting.READINGS}.items():
        frames = sorted((cells.workdir(cell, seed) / "film").glob("*.npy"))
        if len(frames) < 2:
            continue
        picked = sorted({round(i) for i in np.geomspace(1, len(frames), FRAMES)})
        figure, grid = panels(1, len(picked), 1.5)
        for axes, i in zip(grid[0], picked, strict=True):
            scatter(axes, np.load(frames[i - 1]), toy2d.toy(chosen.data).half_range)
            axes.set_title(f"{int(frames[i - 1].stem):,}", fontsize=8)
        paths.append(save(f"film_{cell.replace('/', '.')}", figure))
    return paths


def figure_3() -> list[Path]:
    """Draws released KL and JSD against m: mean over seeds, with one standard deviation either
    way."""
    results, _ = table.load(cells.FOLDER)
    lines = [
        line
        for line in results
        if line["cell"] in setting.FIGURE_3 and line["protocol"] == "released"
    ]
    if not any("/m_" in line["cell"] for line in lines):
        return []
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), dpi=110, layout="constrained")
    for axes, metric, title in zip(
        figure.subplots(1, 2), ("histogram_kl", "histogram_jsd"), ("KL", "JSD"), strict=True
    ):
        newest: dict = {}
        for line in lines:
            if line["metric"] == metric:
                newest.setdefault(line["cell"], {})[line["seed"]] = line["value"]
        points = [
            (run.hyper["m"], list(newest[cell].values()))
            for cell, run in setting.FIGURE_3.items()
            if cell in newest and "m" in run.hyper
        ]
        m, mean = [p[0] for p in points], [statistics.fmean(p[1]) for p in points]
        spread = [statistics.stdev(p[1]) if len(p[1]) > 1 else 0.0 for p in points]
        axes.errorbar(m, mean, spread, color=ORANGE, marker="o", markersize=4, label="IntroVAE")
        for cell in set(newest) - {c for c in newest if "/m_" in c}:
            axes.axhline(statistics.fmean(newest[cell].values()), color=BLUE, label="Soft-IntroVAE")
        axes.set(xlabel="m", ylabel=f"{title} (released)")
        axes.legend(fontsize=8)
    return [save("figure_3", figure)]


def figure_21(seed: int) -> list[Path]:
    """Draws samples of both models trained with beta_kl = 1 and beta_rec = 0.5."""
    found = {run.method: trained(cell, seed) for cell, run in setting.FIGURE_21.items()}
    if None in found.values():
        return []
    figure, grid = panels(1, 2, 2.6)
    for axes, (method, (model, params, state)) in zip(grid[0], found.items(), strict=True):
        scatter(
            axes,
            np.asarray(model.sample(params, state, jax.random.key(seed), POINTS)),
            toy2d.toy("8gaussians").half_range,
        )
        axes.set_title(TITLES[method], fontsize=9)
    return [save("figure_21", figure)]


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Draws what can be drawn. A user's mistake is one line on stderr and exit code 2."""
    name, about = "experiments.soft_intro_2d.figures", "Draws what has been run."
    seed = runner.parse(name, about, [Option("seed", 0, int, "of the runs to draw")], argv).seed
    check_count("--seed", seed, least=0)
    paths = [*figure_2(seed), *films(seed), *figure_3(), *figure_21(seed)]
    print(
        "\n".join(str(path.relative_to(cells.FOLDER)) for path in paths)
        or "nothing has been run yet: python -m experiments.soft_intro_2d --cell 8gaussians/vae"
    )


if __name__ == "__main__":
    main()
