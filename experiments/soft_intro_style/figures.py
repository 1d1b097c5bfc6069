"""python -m experiments.soft_intro_style.figures [--seed S] [--smoke]: draws what has been trained
here (in `runs/`); nothing is trained.

    figures/<run>.<side>.samples.png           samples of the model as the run left this resolution
    figures/<run>.<side>.reconstructions.png   test images, each above its reconstruction
    figures/<run>.curves.png                   errors and KLs in training; lines are where it grew
    figures/<run>.truncation.png               rows: latents; columns: truncations 0, 0.25, ..., 1
    figures/<run>.mixing.png                   rows: whose coarse styles; columns: whose fine ones; first
                                               of all each by itself
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runs
from experiments.soft_intro_style import setting, train
from experiments.soft_intro_style.train import Case, Trained
from jaxvae import nets, plots, writers
from jaxvae.models import verbs

FOLDER = Path(__file__).parent
TRUNCATIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
CURVES = ("squared_error", "kl", "kl_rec", "kl_fake", "exp_elbo_rec", "exp_elbo_fake")
SHOWN, CROSSED = 32, 5  # images of a picture; latents that are crossed with as many


def cases(seed: int, smoke: bool) -> list[Case]:
    """Returns the cases whose runs are whole."""
    every = [Case(name, seed, smoke) for name in setting.SETTINGS]
    return [case for case in every if runs.finished(case)]


def draw(case: Case, folder: Path) -> list[Path]:
    """Draws all of a case, and returns the files."""
    made = []
    for i, side in enumerate(case.config.resolutions):
        found = train.trained_level(case, i)
        if found is not None:
            made += level(case, found, side, folder)
    made.append(curves(case, folder / f"{case.label}.curves.png"))
    end = train.trained(case)
    rng = jax.random.key(case.seed)
    made.append(folder / f"{case.label}.truncation.png")
    plots.interpolation(made[-1], truncations(end, jax.random.normal(rng, (6, width(end)))))
    made.append(folder / f"{case.label}.mixing.png")
    z = jax.random.normal(jax.random.fold_in(rng, 1), (2, CROSSED, width(end)))
    plots.interpolation(made[-1], crossed(end, z[0], z[1], case.config.resolutions[-1]))
    return made


def width(found: Trained) -> int:
    """Returns the size of a model's latents."""
    return found.state["decoder"]["styles"]["average"].size


def level(case: Case, found: Trained, side: int, folder: Path) -> list[Path]:
    """Draws samples and reconstructions of one resolution."""
    source, rng = train.source(case, "test"), jax.random.key(case.seed)
    examples = source.read(np.arange(min(SHOWN, source.size)))
    x = np.asarray(train.at_level(case, side)(rng, examples).x)
    encode, decode = verbs.both_ways(found.model)
    sample = found.model.sample
    assert sample is not None  # every level has it

    @jax.jit
    def images(params, state, rng, x):
        mean = encode(params, state, x).mean
        return sample(params, state, rng, 2 * SHOWN), decode(params, state, mean).mean

    sampled, x_hat = images(found.params, found.state, rng, x)
    stem = f"{case.label}.{side}"
    made = [folder / f"{stem}.samples.png", folder / f"{stem}.reconstructions.png"]
    plots.samples(made[0], np.asarray(sampled))
    plots.reconstructions(made[1], x, np.asarray(x_hat))
    return made


def truncations(found: Trained, z: jax.Array) -> np.ndarray:
    """Returns images [rows, truncations, H, W, C] of each latent."""
    _, decode = verbs.both_ways(found.model)
    run = jax.jit(lambda state: decode(found.params, state, z).mean)
    images = [run(nets.truncated(found.state, psi)) for psi in TRUNCATIONS]
    return np.stack([np.asarray(x) for x in images], axis=1)


def crossed(found: Trained, coarse: jax.Array, fine: jax.Array, side: int) -> np.ndarray:
    """Returns images [1 + rows, 1 + columns, H, W, C]: the coarse half of styles of each row's latent
    with the fine half of each column's; in front of each row and column its own image."""
    _, decode = verbs.both_ways(found.model)
    n, rows = len(coarse), nets.style_rows(side)
    run = jax.jit(lambda z: decode(found.params, found.state, z).mean)
    pairs = nets.mixed(jnp.repeat(coarse, n, axis=0), jnp.tile(fine, (n, 1)), rows // 2, rows)
    middle = np.asarray(run(pairs))
    middle = middle.reshape(n, n, *middle.shape[1:])
    left, top = np.asarray(run(coarse)), np.asarray(run(fine))
    above = np.concatenate([np.ones_like(top[:1]), top])[None]
    return np.concatenate([above, np.concatenate([left[:, None], middle], axis=1)])


def curves(case: Case, path: Path) -> Path:
    """Draws the errors (for each value of an image), the KLs and the exponentials of a training."""
    from matplotlib.figure import Figure

    lines = [e for e in writers.read(case.folder / "metrics.jsonl") if e["split"] == "train"]
    config, size = case.config, train.source(case, "train").size
    ends = np.cumsum(config.level_lengths(size))[:-1]
    colours = train.shape_at(case, 0)[1]
    figure = Figure(figsize=(12, 3), dpi=120, layout="constrained")
    groups = {"squared error of a value": CURVES[:1], "KL, nats": CURVES[1:4], "exp": CURVES[4:]}
    for axes, (title, names) in zip(figure.subplots(1, 3), groups.items(), strict=True):
        for name in names:
            points = [(e["step"], e[name]) for e in lines if name in e]
            if name == "squared_error":
                points = [(n, v / values(config.resolutions, ends, n, colours)) for n, v in points]
            axes.plot(*zip(*points, strict=True), label=name)
        for end in ends:
            axes.axvline(end, color="0.7", linewidth=1)
        axes.set(title=title, xlabel="step", yscale="log")
        axes.legend(fontsize=8)
        plots.plain_axes(axes)
    plots.save_figure(path, figure)
    return path


def values(resolutions: Sequence[int], ends: np.ndarray, step: int, colours: int) -> int:
    """Returns the values of an image of the resolution that is trained at a step."""
    side = resolutions[int(np.searchsorted(ends, step))]
    return side * side * colours


def main(argv: Sequence[str] | None = None) -> None:
    """Draws what can be drawn."""
    runs.draw("soft_intro_style", FOLDER, cases, draw, "fashion_mnist/narrow", argv)


if __name__ == "__main__":
    main()
