"""What a finished run gets: its numbers on the test split, its pictures, and a table of both."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import charts, nets, paths, plots, processes, writers
from jaxvae.data import Source
from jaxvae.models import verbs
from jaxvae.presets import record
from jaxvae.presets.conditions import of_samples
from jaxvae.presets.config import QUICK, Data, Options, System
from jaxvae.presets.statistics import Chosen, choose
from jaxvae.train import Fit, evaluate
from jaxvae.train.step import is_measurable
from jaxvae.types import Batch, Params, State

SAMPLES = 64  # in samples.png
NUMBERS = {  # of the test split, and which way is better
    "elbo": "up is better",
    "log_prob": "up is better",
    "rec": "down is better",
    "kl": "",
}


def finish(config: Options, system: System, stages: tuple[str, ...], fit: Fit, data: Data) -> None:
    """Evaluates a finished run on the test split and draws its pictures, unless both are there;
    prints the table."""
    line, names = complete(config, system, stages, fit, data)
    report(config, line, fit, names)


def complete(
    config: Options, system: System, stages: tuple[str, ...], fit: Fit, data: Data
) -> tuple[dict, list[str]]:
    """Evaluates and draws what is not there yet, with the statistics that the model says; returns
    the test split's line (of a model with nothing to measure its step alone) and the names of the
    pictures. Of several processes all evaluate, and the first one writes.

    Args:
        stages: of the preset; they are runs of their own, each with its curves.
    """
    workdir, step, state = paths.path(config.workdir), int(fit.train_state.step), fit.train_state
    test = data.test
    model, params = system.model, state.params if state.ema is None else state.ema
    log = workdir / "metrics.jsonl"
    lines = writers.read(log) if log.exists() else []
    lines = [line for line in lines if line.get("split") == "test" and line["step"] == step]
    is_new, is_first = bool(processes.agreed(not lines)), jax.process_index() == 0

    @functools.cache
    def chosen(samples: bool) -> Chosen:
        options = {"seed": config.seed, "samples": samples}
        return choose(system, params, state.state, None, data.train, **options)

    if is_new and is_measurable(model):
        found = chosen(False)
        options = {"preprocess": system.preprocess, "seed": config.seed, "stats": found.stats}
        metrics = evaluate(model, params, found.state, test, **options)
        about = {"statistics": found.about} if found.about else {}
        about |= {"budget": "quick"} if config.quick else {}
        stats = {"stats": found.name} if nets.has_averages(state.state) else {}
        about = {**about, "precision": f"{config.dtype}, highest"}
        lines = [{"step": step, "split": "test", **stats, **metrics, **about}]
        if is_first:
            writers.append(log, lines[0])
    names = pictures(system, test.shape)
    if stages:
        names.remove("curves")
    missing = any(not (workdir / f"{name}.png").exists() for name in names)
    if is_new or processes.agreed(missing):
        states = (chosen(False).state, chosen(True).state)  # by all processes
        if is_first:
            draw(workdir, system, params, *states, test, config.seed, names)
        if stages and is_first:  # the earlier ones have been completed as runs of their own
            draw_curves(workdir / stages[-1])
    return lines[-1] if lines else {"step": step}, names


def pictures(system: System, shape: tuple[int, ...]) -> list[str]:
    """Returns the names of the pictures that can be drawn of this model and of data of `shape`:
    images have all, points in the plane few."""
    model, is_image = system.model, len(shape) == 3 and shape[-1] in (1, 3)
    decodes = is_image and model.decode is not None
    able = {
        "samples": model.sample is not None and (is_image or shape == (2,)),
        "reconstructions": decodes and model.encode is not None,
        "interpolation": decodes and (model.encode is not None or model.prior is not None),
        "curves": True,
        "manifold": decodes and model.encode is not None and system.latent_dim == 2,
    }
    return [name for name, can in able.items() if can]


def shown(system: System, source: Source, seed: int) -> Batch:
    """Returns the examples that pictures are drawn of."""
    count = min(SAMPLES, source.size)
    return system.preprocess(jax.random.key(seed), source.read(np.arange(count)))


def draw(
    workdir: Path,
    system: System,
    params: Params,
    state: State,
    state_of_samples: State,
    source: Source,
    seed: int,
    names: list[str],
) -> None:
    """Draws the pictures of a run into its folder; samples with a state of their own."""
    model, rng = system.model, jax.random.key(seed)
    batch = shown(system, source, seed)
    count, cond = len(batch.x), of_samples(system, batch, SAMPLES)
    if "samples" in names and model.sample is not None:
        x = model.sample(params, state_of_samples, rng, SAMPLES, cond)
        plots.samples(workdir / "samples.png", np.asarray(x))
    if "reconstructions" in names:
        x_hat = verbs.reconstruct(model, params, state, batch)
        plots.reconstructions(
            workdir / "reconstructions.png", np.asarray(batch.x[:32]), np.asarray(x_hat[:32])
        )
    if "interpolation" in names and model.encode is None:
        cond = of_samples(system, batch, 8)
        path = verbs.interpolate_draws(model, params, state_of_samples, rng, 8, cond=cond)
        plots.interpolation(workdir / "interpolation.png", np.asarray(path))
    elif "interpolation" in names:
        rows = max(1, min(8, count // 2))
        first = min(rows, count - rows)  # a single example is both ends
        start, end = (
            jax.tree.map(lambda v, part=part: v[part], batch)
            for part in (slice(rows), slice(first, first + rows))
        )
        path = verbs.interpolate(model, params, state, start, end)
        plots.interpolation(workdir / "interpolation.png", np.asarray(path))
    if "manifold" in names and model.decode is not None:
        side, fixed = 20, None
        z = jnp.asarray(plots.manifold_z(side), jnp.float32)
        if batch.cond is not None:
            fixed = jnp.broadcast_to(batch.cond[:1], (side * side, *batch.cond.shape[1:]))
        x = model.decode(params, state, z, fixed).mean
        plots.manifold(workdir / "manifold.png", np.asarray(x))
    if "curves" in names:
        draw_curves(workdir)


def draw_curves(workdir: Path) -> None:
    """Draws what a run's log holds of training and validation, where there is any."""
    log = workdir / "metrics.jsonl"
    curves = writers.read_curves(log) if log.exists() else {}
    curves = {split: curves[split] for split in ("train", "valid") if split in curves}
    if curves:
        charts.curves(workdir / "curves.png", curves)


def report(config: Options, test: dict, fit: Fit, names: list[str]) -> None:
    """Prints the held-out numbers of a run and what to try next."""
    rate = fit.metrics.get("train", {}).get("images_per_s")
    measured = any(name in test for name in NUMBERS)
    what = "test split, " if measured else ""
    unit = ", nats per image" if measured else ""
    print(f"\n{config.data}, {what}step {test['step']:,}{unit}")
    for name, note in NUMBERS.items():
        if name in test:
            print(f"  {name:<9} {test[name]:>10.2f}   {note}".rstrip())
    if "statistics" in test:
        print(f"  {test['statistics']}")
    if config.quick:
        print(f"  {QUICK}: these numbers compare with nothing")
    if rate is not None:
        print(f"  {'images/s':<9} {rate:>10,.0f}   in training")
    print(f"\npictures in {config.workdir}: {', '.join(f'{name}.png' for name in names)}")
    program = sys.argv[0] if Path(sys.argv[0]).name == "jaxvae" else "jaxvae"
    name = record.name_of(config)
    longer = config.longer(test["step"])
    go_on = "go on with this run" if longer.workdir == config.workdir else "train for longer"
    go_on = "train in full" if config.quick else go_on
    lines = [record.command(longer), f"train {name} --help"]
    if record.builds(name, "mnist", (28, 28, 1), 10):
        go_on += ", train on MNIST"
        lines.insert(1, f"train {name} --data mnist --workdir runs/mnist")
    print(f"\nnext, {go_on}, or see every option:")
    for line in lines:
        print(f"  {program} {line}")
