"""python -m experiments.two_stage.figures [--data NAME] [--budget SHARE] [--seed S]: draws the
paper's figures from runs.

What is trained (in `runs/`) is drawn into `figures/`; nothing is trained. The
nets are those of Table 1 (`setting`), at the budget in the titles; the paper's Figures 1, 9 and 10
are of a residual net with a second stage of 2,048, after the whole schedule.

    gamma.png          Figure 1 left: log gamma and the squared error per pixel in training, gamma learned and fixed
    directions.png     Figure 1 centre: image variance against posterior variance of each latent direction
    rows.png           Figure 9: what noise on one direction does, a row each, by posterior variance
    singular.png       Figure 1 right: singular values of both stages' latents, and of a Gaussian's draws
    variances.png      Figure 10: posterior variances of all images and directions
    reconstructions.png
    ../toy_curve.png   the toy's samples (trained anew: a minute)
"""

import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import runner
from experiments.budgets import check_budget
from experiments.runner import Option
from experiments.two_stage import setting, toy, train
from experiments.two_stage.train import Case
from jaxvae import distributions, plots, writers
from jaxvae.errors import UserError, check_count, unknown
from jaxvae.metrics import latent

FOLDER = Path(__file__).parent
LEARNED, FIXED, GREY = "#0072B2", "#D55E00", "0.5"
NOISY = 15  # images of a row, as in the paper


def draw(case: Case, target: Path) -> list[Path]:
    """Draws what the runs of one data set, budget and seed allow, and returns the files."""
    there = {
        name
        for name in (*setting.STAGE_ONE, "two_stage")
        if (case.folder / name / "finished").exists()
    }
    made = (
        [gamma(case, target / "gamma.png", there)]
        if there & {"learned_gamma", "fixed_gamma"}
        else []
    )
    if "learned_gamma" in there:
        made += [
            directions(case, target / "directions.png", target / "rows.png"),
            target / "rows.png",
            variances(case, target / "variances.png"),
            reconstructions(case, target / "reconstructions.png"),
        ]
    if "two_stage" in there:
        made.append(singular(case, target / "singular.png"))
    return made


def label(case: Case) -> str:
    """Returns data, net and budget: the paper's figures are of a residual net, after the whole
    schedule."""
    return f"{case.name}, InfoGAN net{case.budget.suffix}"


def gamma(case: Case, path: Path, there: set[str]) -> Path:
    """Draws the decoder's variance and the error over training."""
    figure, axes = _figure(2)
    pixels = math.prod(train.source(case, "test").shape)
    for name, colour in (("learned_gamma", LEARNED), ("fixed_gamma", FIXED)):
        if name not in there:
            continue
        lines = [
            line
            for line in writers.read(case.folder / name / "metrics.jsonl")
            if line["split"] == "train"
        ]
        steps = np.array([line["step"] for line in lines])
        value = np.array([line.get("gamma", 1.0) for line in lines])
        rec = np.array([line["rec"] for line in lines])
        error = value * (
            2 * rec / pixels - np.log(2 * np.pi * value)
        )  # of rec = 1/2 sum [e / gamma + log 2 pi gamma]
        axes[0].plot(steps, np.log(value), color=colour, label=name.replace("_", " "))
        axes[1].plot(steps, error, color=colour, label=name.replace("_", " "))
    axes[0].set(xlabel="step", title=f"{label(case)}:\nlog gamma (means between log lines)")
    axes[1].set(xlabel="step", title="squared error per pixel", yscale="log")
    axes[0].legend(frameon=False)
    return _save(path, figure)


def directions(case: Case, path: Path, rows_path: Path) -> Path:
    """Draws image variance against posterior variance, and the rows of pictures."""
    stage, test = train.stage_one(case, "learned_gamma"), train.source(case, "test")
    where = stage.model, stage.params, stage.state
    x = train.PREPROCESS(jax.random.key(0), test.read(np.arange(min(64, test.size)))).x
    found = latent.directions(*where, x, rng=jax.random.key(case.seed))
    figure, axes = _figure(1)
    axes[0].scatter(found.posterior_variance, found.image_variance, s=14, color=LEARNED)
    axes[0].set(
        xlabel="posterior variance of the direction",
        ylabel="image variance, sum over pixels",
        yscale="symlog",
        title=f"{label(case)}:\nwhat N(0, 1) on one coordinate of z does",
    )
    axes[0].set_yscale("symlog", linthresh=0.01)
    # five directions from the smallest posterior variance to the largest
    size = len(found.index)
    chosen = [0, 1, 2, size // 2, size - 1] if size >= 5 else list(range(size))
    z = stage.model.encode(stage.params, stage.state, x[:1]).mean
    offsets = jax.random.normal(jax.random.key(case.seed + 1), (NOISY,))
    images = [np.asarray(latent.along(*where, z, int(found.index[i]), offsets)[0]) for i in chosen]
    writers.make_folder(rows_path.parent)
    plots.save_png(rows_path, plots.grid(np.clip(np.concatenate(images), 0.0, 1.0), columns=NOISY))
    for i in chosen:
        print(
            f"  direction {found.index[i]}: posterior variance {found.posterior_variance[i]:.3f}, "
            f"image variance {found.image_variance[i]:.4g}"
        )
    return _save(path, figure)


def variances(case: Case, path: Path) -> Path:
    """Draws the histogram of all posterior variances."""
    logvar = train.first_latents(case).source.arrays["logvar"]
    figure, axes = _figure(1)
    axes[0].hist(np.exp(logvar).ravel(), bins=np.linspace(0.0, 1.2, 61), color=LEARNED)
    axes[0].set(
        xlabel="posterior variance",
        ylabel="images x directions",
        title=f"{label(case)}: learned gamma",
    )
    return _save(path, figure)


def singular(case: Case, path: Path) -> Path:
    """Draws the singular values of z and u drawn from the posteriors of the training images, and of
    a Gaussian."""
    z_source, second = train.first_latents(case), train.stage_two(case, "two_stage")
    examples = z_source.source.read(np.arange(z_source.source.size))
    z = z_source.preprocess(jax.random.key(case.seed), examples).x
    u = distributions.sample(
        jax.random.key(case.seed + 1), second.model.encode(second.params, second.state, z)
    )
    ideal = np.random.default_rng(case.seed).normal(size=z.shape)
    figure, axes = _figure(1)
    lines = (
        ("first stage, z", z, LEARNED),
        ("second stage, u", u, FIXED),
        ("Gaussian draws", ideal, GREY),
    )
    for name, values, colour in lines:
        axes[0].plot(latent.singular_values(np.asarray(values)), color=colour, label=name)
    axes[0].set(xlabel="index", title=f"{label(case)}:\nsingular values of {len(z):,} latents")
    axes[0].legend(frameon=False)
    return _save(path, figure)


def reconstructions(case: Case, path: Path) -> Path:
    """Draws test images above their reconstructions."""
    stage, test = train.stage_one(case, "learned_gamma"), train.source(case, "test")
    x = train.PREPROCESS(jax.random.key(0), test.read(np.arange(min(32, test.size)))).x
    x_hat = stage.model.decode(
        stage.params, stage.state, stage.model.encode(stage.params, stage.state, x).mean
    ).mean
    writers.make_folder(path.parent)
    plots.reconstructions(path, np.asarray(x), np.asarray(x_hat))
    return path


def _figure(columns: int):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 4), dpi=120, layout="constrained")
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for each in axes:
        plots.plain_axes(each)
    return figure, axes


def _save(path: Path, figure) -> Path:
    writers.make_folder(path.parent)
    plots.save_figure(path, figure)
    return path


OPTIONS = (
    Option("data", "mnist", str, f"{', '.join(setting.DATA)} or toy_curve"),
    Option("budget", 1.0, float, "share of the published schedule, as it was run"),
    Option("seed", 0, int, "of the runs to draw"),
    runner.SMOKE,
)


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Draws what has been run. A user's mistake is one line on stderr and exit code 2."""
    args = runner.parse("experiments.two_stage.figures", "Draws what has been run.", OPTIONS, argv)
    check_count("--seed", args.seed, least=0)
    if args.data not in (*setting.DATA, "toy_curve"):
        raise unknown("data set", args.data, (*setting.DATA, "toy_curve"))
    target = FOLDER / ("smoke" if args.smoke else "figures")
    if args.data == "toy_curve":
        writers.make_folder(target)
        toy.figure(target / "toy_curve.png", args.seed, args.smoke)
        print(target / "toy_curve.png")
        return
    budget = check_budget(args.budget)
    case = Case(args.data, args.seed, budget, args.smoke)
    made = draw(case, target / budget.folder / args.data)
    if not made:
        raise UserError(
            f"nothing is trained in {case.folder}: run python -m experiments.two_stage --cell "
            f"'{args.data}/*' first, with the same --budget."
        )
    for path in made:
        print(path)


if __name__ == "__main__":
    main()
