"""What the commands of the command line do."""

import dataclasses
import logging
import math
import sys
from pathlib import Path

import jax

from jaxvae import config as configs
from jaxvae import data, inference, plots, run, stages, writers
from jaxvae import train as training
from jaxvae.data import Source
from jaxvae.errors import UserError
from jaxvae.types import Model


def train(config: configs.VAE) -> int:
    """Trains, evaluates on the test split, draws the pictures and prints a table; returns the exit
    code."""
    for name in (
        "absl",
        "asyncio",
    ):  # Orbax logs tracebacks of what it also raises; here one line is said
        logging.getLogger(name).setLevel(logging.CRITICAL)
    jax.config.update("jax_default_matmul_precision", config.precision)
    splits = data.splits(config.data, config.data_dir)
    for part, split in (("test", splits.test), ("validation", splits.valid)):
        if config.split and data.overlap(config.data, config.split, split, config.data_dir):
            raise UserError(
                f"--split {config.split} shares examples with the {part} split {split}: leave "
                "those out."
            )
    source, valid, test = (
        configs.source(config, split) for split in (config.split or "train", "valid", "test")
    )
    model, tx, preprocess = configs.build(config, source.shape, source.num_classes)
    record = configs.as_dict(config, source.shape, source.num_classes)
    run.check(config.workdir, record)
    steps = config.steps or math.ceil((config.epochs or 20) * source.size / config.batch_size)
    lengths = (
        [steps, stages.second_steps(config, steps, source.size)]
        if isinstance(config, configs.TwoStageVAE)
        else [steps]
    )
    print(
        f"{config.data}: {source.size:,} training images {source.shape}, "
        f"{' + '.join(f'{n:,}' for n in lengths)} steps of "
        f"{config.batch_size}, {jax.device_count()} {jax.devices()[0].platform} device(s), "
        f"{config.workdir}"
    )
    print(f"data: {source.origin}{'' if source.arrays else ', streamed'}")
    try:
        if isinstance(config, configs.TwoStageVAE):
            fit = stages.fit(config, source, valid, test, *lengths, record)
        else:
            fit = fit_run(
                config,
                configs.Parts(model, tx, preprocess),
                source,
                valid,
                steps,
                config.workdir,
                record,
            )
    except training.NonFinite as error:
        print(f"jaxvae: {error}", file=sys.stderr)
        return 3
    finish(config, model, preprocess, fit, test)
    return 0


def fit_run(
    config: configs.VAE,
    parts: configs.Parts,
    source: Source,
    valid: Source,
    steps: int,
    workdir: Path,
    record: dict,
) -> training.Fit:
    """Trains for `steps` steps as the options say."""
    model, tx, preprocess = parts
    return training.fit(
        model,
        tx,
        source,
        steps=steps,
        batch_size=config.batch_size,
        seed=config.seed,
        workdir=workdir,
        preprocess=preprocess,
        valid=valid,
        log_every=config.log_every,
        eval_every=config.eval_every or max(1, steps // 10),
        save_every=config.save_every,
        keep=config.keep,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        max_grad_norm=config.max_grad_norm,
        config=record,
        progress=config.progress,
        on_log=writers.tensorboard(Path(workdir) / "tensorboard") if config.tensorboard else None,
    )


def finish(config: configs.VAE, model: Model, preprocess, fit: training.Fit, test: Source) -> None:
    """Evaluates a finished run on the test split and draws its pictures, unless both are there;
    prints the table."""
    line, names = complete(config, model, preprocess, fit, test)
    report(config, line, fit, names)


def complete(
    config: configs.VAE, model: Model, preprocess, fit: training.Fit, test: Source
) -> tuple[dict, list[str]]:
    """Evaluates and draws what is not there yet; returns the test split's line and the names of the
    pictures."""
    workdir, step = Path(config.workdir), int(fit.train_state.step)
    log = workdir / "metrics.jsonl"
    lines = writers.read(log) if log.exists() else []
    lines = [line for line in lines if line.get("split") == "test" and line["step"] == step]
    params = fit.train_state.params if fit.train_state.ema is None else fit.train_state.ema
    names = pictures(test.shape, config.latent_dim)
    if isinstance(config, configs.TwoStageVAE):  # each stage has its own curves
        names.remove("curves")
    missing = [name for name in names if not (workdir / f"{name}.png").exists()]
    if not lines or missing:
        metrics = training.evaluate(
            model, params, fit.train_state.state, test, preprocess=preprocess, seed=config.seed
        )
        if not lines:
            lines = [{"step": step, "split": "test", **metrics}]
            writers.append(log, lines[0])
        draw(workdir, model, params, fit.train_state.state, test, preprocess, config, names)
        if isinstance(
            config, configs.TwoStageVAE
        ):  # the first stage has been completed as a run of its own
            draw_curves(workdir / "second")
    return lines[-1], names


def pictures(shape: tuple[int, ...], latent_dim: int) -> list[str]:
    """Returns the names of the pictures that can be drawn of data of `shape`: images have all,
    points in the plane few."""
    if len(shape) == 3 and shape[-1] in (1, 3):
        return ["samples", "reconstructions", "interpolation", "curves"] + (
            ["manifold"] if latent_dim == 2 else []
        )
    return ["samples", "curves"] if shape == (2,) else ["curves"]


def draw(
    workdir: Path,
    model: Model,
    params,
    state,
    source: Source,
    preprocess,
    config: configs.VAE,
    names: list[str],
) -> None:
    """Draws the pictures of a run into its folder."""
    import jax.numpy as jnp
    import numpy as np

    rng = jax.random.key(config.seed)
    count = min(64, source.size)
    batch = preprocess(rng, source.read(np.arange(count)))
    cond = None
    if config.conditional:  # samples walk through the classes
        classes = batch.cond.shape[-1]
        cond = jax.nn.one_hot(jnp.arange(64) % classes, classes)
    if "samples" in names:
        plots.samples(
            workdir / "samples.png", np.asarray(model.sample(params, state, rng, 64, cond))
        )
    if "reconstructions" in names:
        x_hat = inference.reconstruct(model, params, state, batch)
        plots.reconstructions(
            workdir / "reconstructions.png", np.asarray(batch.x[:32]), np.asarray(x_hat[:32])
        )
    if "interpolation" in names:
        rows = max(1, min(8, count // 2))
        first = min(rows, count - rows)  # a single example is both ends
        start, end = (
            jax.tree.map(lambda v, part=part: v[part], batch)
            for part in (slice(rows), slice(first, first + rows))
        )
        path = inference.interpolate(model, params, state, start, end)
        plots.interpolation(workdir / "interpolation.png", np.asarray(path))
    if "manifold" in names:
        side = 20
        z = jnp.asarray(plots.manifold_z(side), jnp.float32)
        fixed = (
            None
            if batch.cond is None
            else jnp.broadcast_to(batch.cond[:1], (side * side, batch.cond.shape[-1]))
        )
        plots.manifold(
            workdir / "manifold.png", np.asarray(model.decode(params, state, z, fixed).mean)
        )
    if "curves" in names:
        draw_curves(workdir)


def draw_curves(workdir: Path) -> None:
    """Draws what a run's log holds of training and validation, where there is any."""
    log = workdir / "metrics.jsonl"
    curves = writers.read_curves(log) if log.exists() else {}
    curves = {split: curves[split] for split in ("train", "valid") if split in curves}
    if curves:
        plots.curves(workdir / "curves.png", curves)


def report(config: configs.VAE, test: dict, fit: training.Fit, names: list[str]) -> None:
    """Prints the held-out numbers of a run and what to try next."""
    rate = fit.metrics.get("train", {}).get("images_per_s")
    rows = [
        ("elbo", test["elbo"], "up is better"),
        ("rec", test["rec"], "down is better"),
        ("kl", test["kl"], ""),
    ]
    print(f"\n{config.data}, test split, step {test['step']:,}, nats per image")
    for name, value, note in rows:
        print(f"  {name:<9} {value:>10.2f}   {note}".rstrip())
    if rate is not None:
        print(f"  {'images/s':<9} {rate:>10,.0f}   in training")
    print(f"\npictures in {config.workdir}: {', '.join(f'{name}.png' for name in names)}")
    longer = dataclasses.replace(config, steps=2 * test["step"], epochs=None)
    if isinstance(config, configs.TwoStageVAE):  # only the second stage goes on
        second = test["step"] - stages.first_step(config.workdir)
        longer = dataclasses.replace(config, second_steps=2 * second, second_epochs=None)
    program = sys.argv[0] if Path(sys.argv[0]).name == "jaxvae" else "jaxvae"
    print(
        "\nnext, go on with this run, train on MNIST (from its four official files), or see every "
        "option:"
    )
    for line in (
        configs.command(longer),
        "train vae --data mnist --data-dir DIR --workdir runs/mnist",
        "train vae --help",
    ):
        print(f"  {program} {line}")
