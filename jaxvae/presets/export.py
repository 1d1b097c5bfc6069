"""A run's model as a folder that anyone can read (`released`): `jaxvae.export`."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvae import paths, plots, safetensors, writers
from jaxvae.errors import UserError
from jaxvae.paths import PathLike
from jaxvae.presets import card, conditions, finish, record, released, statistics
from jaxvae.presets.config import source
from jaxvae.presets.load import (
    FILE,
    Exported,
    Loaded,
    Opened,
    checkpoints_of,
    flatten,
    load,
    open_run,
    place,
    statistics_of,
    step_of,
    with_statistics,
)
from jaxvae.presets.record import Saved
from jaxvae.train import checkpoint


def export(
    workdir: PathLike,
    out: PathLike,
    *,
    step: int | str = "latest",
    stats: str | None = None,
    data_dir: Path | None = None,
    license: str = card.LICENSE,
    name: str | None = None,
) -> tuple[int, Path]:
    """Writes a run's model to `out` in its released form (`released`): weights as safetensors, settings,
    numbers where the run has them, samples of this model, and a model card; returns the step and the
    first file.

    Args:
        stats: "running", "reestimated" or "reestimated-samples": whose averages are written; default:
            as the model says. Re-estimated ones need the training data; config.json names them.
        data_dir: where those are; default: as for training.
        license: under which it is released, as the Hugging Face Hub calls it, such as "apache-2.0".
        name: what the card calls it, such as "hf:USER/NAME"; default: `out`.

    Raises:
        UserError: where there is no run or no such checkpoint, for an `out` that holds something
            else, and as `statistics.choose`.
    """
    if stats == "batch":
        raise UserError(
            "statistics of each batch are in no file: export running or re-estimated ones, and say "
            "--stats batch where the model is used."
        )
    workdir, out = place(workdir), paths.path(out)
    if released.is_released(workdir):
        raise UserError(f"{workdir} is an exported model already: copy the folder.")
    released.check_target(out)
    number = step_of(workdir, step)
    opened, loaded = open_run(workdir, number), load(workdir, step=number)
    loaded, kept = with_statistics(workdir, loaded, stats, data_dir, number)
    arrays = flatten({"params": loaded.params, "state": loaded.state})
    page = {**_page(workdir, number, opened.saved), **_described(arrays)}
    if kept.about:
        page["statistics"] = kept._asdict()
    evaluation, picture = _evaluation(workdir, number), _samples(opened, loaded, kept, data_dir)
    files = {FILE: safetensors.dump(arrays, {"format": "jaxvae", "step": str(number)})}
    if evaluation is not None:
        files[released.EVALUATION] = writers.as_bytes(evaluation)
    if picture is not None:
        files[released.PICTURE] = picture
    about = card.About(name or str(out), license, page, evaluation, released.PICTURE in files)
    files[released.CARD] = card.text(opened.saved, opened.system, about).encode()
    files[released.CONFIG] = writers.as_bytes(page)
    released.write(out, files)
    return number, out / FILE


def renamed(folder: PathLike, name: str) -> dict[str, bytes]:
    """Returns the files of a released model with a card that calls it `name`, samples drawn anew, and no
    word of the folder where it was evaluated; raises `UserError` for one that cannot be loaded."""
    folder = paths.path(folder)
    files = {n: (folder / n).read_bytes() for n in released.FILES if (folder / n).is_file()}
    page = released.read_page(folder)
    evaluation = _evaluation(folder, page.get("step", 0))
    for name_of_file in (released.EVALUATION, released.PICTURE):
        files.pop(name_of_file, None)
    if evaluation is not None:
        files[released.EVALUATION] = writers.as_bytes(evaluation)
    opened = open_run(folder)
    picture = _samples(opened, load(folder), statistics_of(folder))
    if picture is not None:
        files[released.PICTURE] = picture
    license = card.license_of(files.get(released.CARD, b"").decode(errors="replace"))
    made = {"step": 0, "versions": {}, "command": record.made_by(opened.saved.config)}
    page = {**made, **_described(safetensors.read(folder / FILE)), **page}  # of an older version
    about = card.About(name, license, page, evaluation, released.PICTURE in files)
    with released.readable(folder):
        files[released.CARD] = card.text(opened.saved, opened.system, about).encode()
    return files


def _samples(
    opened: Opened, loaded: Loaded, exported: Exported, data_dir: Path | None = None
) -> bytes | None:
    """Returns a picture of samples of this model, with the statistics that it is exported with, or those
    that it says: the one in a run's folder may be of another step, and drawn with any options. None
    where none can be drawn, and where it takes data that are not here."""
    (_, config, shape, _), system, _ = opened
    model, params, state = loaded
    if model.sample is None or "samples" not in finish.pictures(system, shape):
        return None
    stats, batch = "running", None
    try:
        if not exported.about:
            needed = statistics.needs_data(system, state, None, samples=True)
            train = statistics.training_data(config, data_dir) if needed else None
            options: dict[str, Any] = {"seed": config.seed, "samples": True}
            _, state, stats, _ = statistics.choose(system, params, state, None, train, **options)
        if system.on_examples is not None:
            batch = finish.shown(system, source(config, "test", data_dir), config.seed)
    except UserError:
        return None
    cond = conditions.of_samples(system, batch, finish.SAMPLES)
    x = model.sample(params, state, jax.random.key(config.seed), finish.SAMPLES, cond, stats=stats)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / released.PICTURE
        plots.samples(path, np.asarray(x))
        return path.read_bytes()


def _evaluation(folder: Path, step: int) -> dict[str, Any] | None:
    """Returns what was measured of a step, without the folder where it was; None where another was, or
    none."""
    found = released.read_evaluation(folder)
    if found is None or found.get("step") != step:
        return None
    return {key: value for key, value in found.items() if key != "run"}


def _page(workdir: Path, step: int, saved: Saved) -> released.Page:
    """Returns what config.json of an exported model says of its run."""
    metrics, stages = checkpoints_of(workdir).meta(step)["metrics"], saved.preset.stages
    run = writers.read_json(workdir / released.CONFIG)
    return {
        "format": released.FORMAT,
        "config": run["config"],
        "command": record.made_by(saved.config),
        "versions": run.get("versions", {}),
        "exported_by": checkpoint.versions(),
        "step": step,
        "metrics": {stages[-1]: metrics} if stages else metrics,
    }


def _described(arrays: dict[str, Any]) -> dict[str, Any]:
    """Returns what config.json of an exported model says of its arrays."""
    return {
        "parameters": sum(x.size for name, x in arrays.items() if name.startswith("params.")),
        "arrays": {name: [list(x.shape), str(x.dtype)] for name, x in arrays.items()},
    }
