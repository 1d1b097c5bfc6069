"""`jaxvae train PRESET`."""

import contextlib
import logging
import os
import sys

import jax

from jaxvae import data as data_sets
from jaxvae import parallel
from jaxvae.data import Source, prepare
from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, record, run
from jaxvae.presets.config import QUICK, Data, Options
from jaxvae.presets.finish import finish
from jaxvae.presets.splits import held_out, training
from jaxvae.train import NonFinite, folder


def run_train(config: Options) -> int:
    """Trains, evaluates on the test split, draws, and prints a table; returns the exit code."""
    for name in ("absl", "asyncio"):  # Orbax logs tracebacks of what it also raises
        logging.getLogger(name).setLevel(logging.CRITICAL)
    jax.config.update("jax_default_matmul_precision", config.matmul_precision)
    parallel.join(config.coordinator, config.num_processes, config.process_id)
    if jax.process_index() == 0:
        return _train(config)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return _train(config)  # the first one speaks for all


def _train(config: Options) -> int:
    preset, data = PRESETS[record.name_of(config)], _data(config)
    config = config.resolved(data.train.size)
    system = preset.build(config, data.train.shape, data.train.num_classes)
    folder.check(config.workdir, run.identity(config, data.train))
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


def _data(config: Options) -> Data:
    """Returns the three splits; raises `UserError` where the first shares examples with another."""
    if config.download:
        prepare.obtain(config.data, data_dir=config.data_dir)
    splits = data_sets.splits(config.data, config.data_dir)
    for part, split in (("test", splits.test), ("validation", splits.valid)):
        if config.split and data_sets.overlap(config.data, config.split, split, config.data_dir):
            raise UserError(
                f"--split {config.split} shares examples with the {part} split {split}: leave "
                "those out."
            )
    return Data(training(config), held_out(config, "valid"), held_out(config, "test"))
