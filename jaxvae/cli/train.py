"""`jaxvae train PRESET`."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

import jax

from jaxvae import data as data_sets
from jaxvae import parallel, processes
from jaxvae.data import Source, prepare, sets
from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, record, run
from jaxvae.presets.config import QUICK, Data, Options, System
from jaxvae.presets.finish import finish
from jaxvae.presets.splits import described, held_out, training
from jaxvae.train import NonFinite, folder

# How JAX says that a process no longer answers.
UNREACHABLE = ("Gloo", "Connection", "UNAVAILABLE", "DEADLINE_EXCEEDED")


def run_train(config: Options) -> int:
    """Trains, evaluates on the test split, draws, and prints a table; returns the exit code."""
    for name in ("absl", "asyncio"):  # Orbax logs tracebacks of what it also raises
        logging.getLogger(name).setLevel(logging.CRITICAL)
    jax.config.update("jax_default_matmul_precision", config.matmul_precision)
    processes.join(config.coordinator, config.num_processes, config.process_id)
    try:
        with processes.together(), _speaking():
            return _train(config)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not any(words in str(error) for words in UNREACHABLE):
            raise
        raise UserError(
            f"the processes of this run no longer reach each other ({str(error).splitlines()[0]}): one "
            "has ended. Start the same command again for all of them."
        ) from error


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    """Lets the first process print for all; errors are each one's own."""
    if jax.process_index() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _train(config: Options) -> int:
    preset, data = PRESETS[record.name_of(config)], _data(config)
    config, system = _checked(config, data.train)
    lengths = config.lengths(data.train.size)
    hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    print(
        f"{config.data}: {data.train.size:,} training images {data.train.shape}, "
        f"{' + '.join(f'{n:,}' for n in lengths)} steps of {config.batches}, "
        f"{jax.device_count()} {jax.devices()[0].platform} device(s){hosts}, {config.precision}, "
        f"{config.workdir}"
    )
    if config.quick:
        print(f"{QUICK.upper()}: THESE NUMBERS COMPARE WITH NOTHING")
    print(f"data: {data.train.origin}, {_placed(data.train)}")
    try:
        fit = (preset.train or run.train)(config, system, data, lengths)
    except NonFinite as error:
        print(f"jaxvae: {error}", file=sys.stderr)
        return 3
    finish(config, system, preset.stages, fit, data)
    return 0


def _placed(source: Source) -> str:
    """Returns in words where the examples are while a run trains on them."""
    if source.arrays is None:
        return "streamed"
    if parallel.is_cut(source.arrays, parallel.make_mesh()):
        return "a part on each device"
    return "on the device" if jax.device_count() == 1 else "whole on each device"


def _checked(config: Options, train: Source) -> tuple[Options, System]:
    """Returns the options and the system of a run on `train`; raises `UserError` where they do not
    fit, or its folder cannot take it."""
    config = config.resolved(train.size)
    system = PRESETS[record.name_of(config)].build(config, train.shape, train.num_classes)
    run.check_accumulate(config, system)
    folder.check(config.workdir, run.identity(config, train))
    return config, system


def _data(config: Options) -> Data:
    """Returns the three splits, fetched where they are not here; raises `UserError` where the first
    shares examples with another."""
    if config.download:
        processes.first_alone(lambda: _obtain(config))
    _check_split(config)
    return Data(training(config), held_out(config, "valid"), held_out(config, "test"))


def _obtain(config: Options) -> None:
    """Fetches data that are not here; raises `UserError` before that for a run that would be refused
    after it."""
    if sets.is_here(config.data, config.data_dir):
        return
    train = described(config)
    if train is not None:
        _check_split(config)
        _checked(config, train)
    prepare.obtain(config.data, data_dir=config.data_dir)


def _check_split(config: Options) -> None:
    """Raises `UserError` where the training split shares examples with another."""
    splits = data_sets.splits(config.data, config.data_dir)
    for part, split in (("test", splits.test), ("validation", splits.valid)):
        if config.split and data_sets.overlap(config.data, config.split, split, config.data_dir):
            raise UserError(
                f"--split {config.split} shares examples with the {part} split {split}: leave "
                "those out."
            )
