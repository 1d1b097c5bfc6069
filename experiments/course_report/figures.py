"""python -m experiments.course_report.figures [--budget SHARE] [--seed S] [--smoke]: the report's
figures, of what has been run here.

    elbo.png                     the last points of the report's VAE curves, and ours, from the results
    full/, budget_.../           from runs (in `runs/`); nothing is trained:
      z20.curves.png, z2.curves.png   Figure 1: ELBO of training and validation, and its parts
      z2.manifold.png            Figure 3, at the end of training
      gan.losses.png             Figure 5: both losses, and 2 ln 2 and ln 2, where D cannot tell
      gan.interpolation.png      section 2.7, which the report leaves open: lines between draws of z
      flow.bpd.png               Figure 6: bits per dimension of training and validation
      <run>.samples.png          Figures 2 and 4: samples over the epochs, a row each
"""

import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import endpoints, runner
from experiments.budgets import check_budget
from experiments.course_report import cells, setting, train
from experiments.course_report.train import Case
from experiments.runner import Option
from jaxvae import charts, models, plots, writers
from jaxvae.errors import UserError, check_seed

FOLDER = Path(__file__).parent
BLUE, RED = "#0072B2", "#D55E00"
MANIFOLD = 20  # images a side
LOSSES = {"generator_loss": ("G", BLUE, 1), "discriminator_loss": ("D", RED, 2)}  # at ln 2, 2 ln 2


def draw(case: Case, target: Path) -> list[Path]:
    """Draws what the run of a case allows, and returns the files; none where it is not whole."""
    if not (case.folder / "finished").exists():
        return []
    writers.make_folder(target)
    made = [samples(case, target / f"{case.kind}.samples.png")]
    if case.kind == "gan":
        made.append(losses(case, target / "gan.losses.png"))
        made.append(interpolation(case, target / "gan.interpolation.png"))
    elif case.kind == "flow":
        made.append(bpd(case, target / "flow.bpd.png"))
    else:
        made.append(target / f"{case.kind}.curves.png")
        charts.curves(made[-1], train.curves(case))
        if case.kind == "z2":
            made.append(manifold(case, target / "z2.manifold.png"))
    return made


def samples(case: Case, path: Path) -> Path:
    """Draws the rows of samples that the run kept, the first epoch above."""
    from PIL import Image

    files = sorted(case.folder.glob("samples.*.png"))
    rows = [np.asarray(Image.open(file)) for file in files]
    plots.save_png(path, np.concatenate(rows)[..., None])
    return path


def losses(case: Case, path: Path) -> Path:
    """Draws the GAN's losses, epoch by epoch."""
    figure, axes = _axes(f"GAN{case.budget.suffix}", "loss, mean of an epoch, nats")
    for name, (label, colour, times) in LOSSES.items():
        _, values = train.curves(case)["train"][name]  # a point for each epoch
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, label=label)
        axes.axhline(times * math.log(2.0), color=colour, ls=":", lw=1)
    return _save(path, figure, axes)


def bpd(case: Case, path: Path) -> Path:
    """Draws the flow's bits per dimension, epoch by epoch."""
    figure, axes = _axes(f"flow{case.budget.suffix}", "bits per dimension")
    shape = train.source(case, "train").shape
    for split, colour in (("train", BLUE), ("valid", RED)):
        _, values = train.curves(case)[split]["log_prob"]
        shown = [cells.bits(value, shape) for value in values]
        axes.plot(np.arange(1, len(shown) + 1), shown, color=colour, label=f"{split}, moved")
    return _save(path, figure, axes)


def interpolation(case: Case, path: Path) -> Path:
    """Draws G on lines between draws of z."""
    found, rng = train.trained(case), jax.random.key(case.seed + 1)
    rows = jax.jit(
        lambda params, state: models.interpolate_draws(
            found.task.model, params, state, rng, rows=8, points=11
        )
    )(found.params, found.state)
    plots.interpolation(path, rows)
    return path


def manifold(case: Case, path: Path) -> Path:
    """Draws decoder means at the quantiles of N(0, I)."""
    found = train.trained(case)
    decode = found.task.model.decode
    assert decode is not None
    z = jnp.asarray(plots.manifold_z(MANIFOLD))
    plots.manifold(path, jax.jit(lambda p, s: decode(p, s, z).mean)(found.params, found.state))
    return path


def _axes(title: str, ylabel: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="epoch", ylabel=ylabel)
    plots.plain_axes(axes)
    return figure, axes


def _save(path: Path, figure, axes) -> Path:
    axes.legend(frameon=False)
    plots.save_figure(path, figure)
    return path


OPTIONS = (
    Option("budget", 1.0, float, "share of the published epochs that the runs had"),
    Option("seed", 0, int, "of the runs to draw"),
    runner.SMOKE,
)


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Draws what can be drawn. A user's mistake is one line on stderr and exit code 2."""
    name, about = "experiments.course_report.figures", "Draws what has been run."
    args = runner.parse(name, about, OPTIONS, argv)
    check_seed("--seed", args.seed)
    budget = check_budget(args.budget, "epochs")
    where = writers.make_folder(FOLDER / ("smoke" if args.smoke else "figures"))
    made = []
    if not args.smoke and endpoints.draw(
        FOLDER, where / "elbo.png", "elbo", "nats per image, up is better"
    ):
        made.append(where / "elbo.png")
    for kind in (*(f"z{n}" for n in setting.LATENT_DIMS), "gan", "flow"):
        made += draw(Case(kind, args.seed, budget, args.smoke), where / budget.folder)
    if not made:
        raise UserError("nothing has been run: python -m experiments.course_report first.")
    for path in made:
        print(path.relative_to(FOLDER))


if __name__ == "__main__":
    main()
