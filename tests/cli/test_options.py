"""Options of the commands on a run: numbers that no command can use, and options in vain."""

import importlib
import re
from pathlib import Path

import pytest

from jaxvae.cli import main, options
from jaxvae.errors import UserError


def test_help_lists_every_command(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    for name, (cls, _) in options.COMMANDS.items():
        assert name in text and cls.__doc__ in text


RUN = Path("run")


def evaluation(**given):
    return options.Evaluate(run=RUN, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (options.Sample(RUN, n=0), "--n must be at least 1, not 0"),
        (options.Sample(RUN, label=-1), "--label must be at least 0, not -1"),
        (options.Sample(RUN, seed=-1), "--seed must be at least 0"),
        (options.Interpolate(RUN, points=1), "--points must be at least 2"),
        (options.Interpolate(RUN, n=3, square=True), "a --square has four corners, leave it out"),
        (options.Traverse(RUN, width=0.0), "--width must be greater than 0"),
        (options.Traverse(RUN, example=-1), "--example must be at least 0"),
        (
            options.Sample(RUN, out=Path("a/b.jpg")),
            "--out a/b.jpg: what is written is PNG, so call it b.png.",
        ),
        (
            options.Sample(RUN, npz=Path("x.npy")),
            "--npz x.npy: what is written is NPZ, so call it x.npz",
        ),
        (options.Compare((RUN, Path("b")), out=Path("c.pdf")), "written is PNG, so call it c.png"),
        (evaluation(out=Path("e.csv")), "--out e.csv: what is written is JSON, so call it e.json"),
        (evaluation(k=0), "--k must be at least 1"),
        (evaluation(batch_size=0), "--batch-size must be at least 1"),
        (evaluation(samples=1), "--samples must be at least 2"),
        (evaluation(metrics=()), "--metrics needs at least one of elbo, kl_per_dim"),
        (evaluation(stats=()), "--stats needs one or more of running, batch"),
        (evaluation(stats=("batch", "batch")), "each once"),
        (evaluation(gamma=0.0), "--gamma must be greater than 0"),
        (evaluation(metrics=("auroc",)), "--out-data NAME"),
        (evaluation(metrics=("elbo",), out_data="mnist"), "--out-data: only for --metrics auroc"),
        (evaluation(convert=True, gamma=1.0), "--convert and --gamma: only for --metrics auroc"),
    ],
)
def test_what_no_command_can_use(given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        options.check(given)


def test_defaults_and_what_goes_together_pass():
    for cls in (options.Sample, options.Reconstruct, options.Interpolate, options.Traverse):
        options.check(cls(RUN))
    options.check(options.Interpolate(RUN, square=True, out=Path("X.PNG"), npz=Path("x.npz")))
    for name in ("picture", "samples_beta0.5", "v1.2", "gs://bucket/x.png.tmp"):
        options.check(options.Sample(RUN, out=Path(name), npz=Path(name)))
    options.check(evaluation(stats=("running", "batch")))
    options.check(evaluation(metrics=("auroc", "elbo"), out_data="mnist", convert=True, gamma=0.5))


def test_every_command_has_the_function_that_runs_it():
    for name, (_, module) in options.COMMANDS.items():
        found = importlib.import_module(f"jaxvae.cli.{module}")
        assert callable(getattr(found, f"run_{name.replace(' ', '_')}"))
