"""A run of a preset: what identifies it, and its training."""

from pathlib import Path

import jax

from jaxvae import parallel, paths, writers
from jaxvae.data import Source
from jaxvae.errors import UserError
from jaxvae.presets import record
from jaxvae.presets.config import Data, Options, System
from jaxvae.train import Fit, fit
from jaxvae.train.folder import LENGTH, Identity
from jaxvae.train.step import is_measurable


def identity(config: Options, source: Source) -> Identity:
    """Returns what makes a run of these options on `source` the same run when it starts again."""
    return Identity(
        record.as_dict(config, source.shape, source.num_classes),
        (*LENGTH, *config.may_differ),
        record.defaults(config),
        record.renewed,
    )


def check_accumulate(config: Options, system: System) -> None:
    """Raises `UserError` for options that cut a batch of which a loss needs the whole."""
    coupled_losses = [each.name for each in system.model.objectives if each.coupled]
    if config.accumulate > 1 and coupled_losses:
        raise UserError(
            f"--accumulate {config.accumulate} cuts each batch into parts, and this model's "
            f"{coupled_losses[0]} is of the whole batch: leave it out."
        )


def train(config: Options, system: System, data: Data, lengths: tuple[int, ...]) -> Fit:
    """Trains `system` in the run's folder: what a preset does that says nothing else."""
    mark = identity(config, data.train)
    return fit_run(config, system, data.train, data.valid, lengths[0], config.workdir, mark)


def fit_run(
    config: Options,
    system: System,
    source: Source,
    valid: Source,
    steps: int,
    workdir: Path,
    identity: Identity,
) -> Fit:
    """Trains for `steps` steps in `workdir` as the options say; the state that it returns is this
    process's own.

    A model that has nothing to measure of an example, such as a GAN, is trained without validation.
    """
    phases = None if system.phases is None else system.phases(steps, source.size)
    found = fit(
        system.model if phases is None else phases,
        system.tx,
        source,
        steps=steps if phases is None else None,
        batch_size=config.batch_size,
        seed=config.seed,
        workdir=workdir,
        preprocess=system.preprocess,
        augment=system.augment,
        valid=valid if is_measurable(system.model) else None,
        log_every=config.log_every,
        eval_every=eval_every(config, steps),
        save_every=config.save_every,
        keep=config.keep,
        patience=config.patience,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        max_grad_norm=config.max_grad_norm,
        config=identity,
        progress=config.progress,
        on_log=writers.tensorboard(paths.path(workdir) / "tensorboard")
        if config.tensorboard
        else None,
    )
    if jax.process_count() == 1:
        return found
    return found._replace(train_state=parallel.local(found.train_state))


def eval_every(config: Options, steps: int) -> int:
    """Returns the steps between evaluations: those asked for, or ten a run."""
    return config.eval_every or max(1, steps // 10)
