"""A run's model as a folder that anyone can read (`released`): `jaxvae.export`."""

from pathlib import Path
from typing import Any

from jaxvae import paths, safetensors, writers
from jaxvae.errors import UserError
from jaxvae.paths import PathLike
from jaxvae.presets import card, record, released
from jaxvae.presets.load import (
    FILE,
    checkpoints_of,
    flatten,
    load,
    open_run,
    place,
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
    numbers and samples where the run has them, and a model card; returns the step and the first file.

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
    evaluation, picture = _evaluation(workdir, number), workdir / released.PICTURE
    files = {FILE: safetensors.dump(arrays, {"format": "jaxvae", "step": str(number)})}
    if evaluation is not None:
        files[released.EVALUATION] = writers.as_bytes(evaluation)
    if number == step_of(workdir) and picture.is_file():
        files[released.PICTURE] = picture.read_bytes()
    about = card.About(name or str(out), license, page, evaluation, released.PICTURE in files)
    files[released.CARD] = card.text(opened.saved, opened.system, about).encode()
    files[released.CONFIG] = writers.as_bytes(page)
    released.write(out, files)
    return number, out / FILE


def renamed(folder: PathLike, name: str) -> dict[str, bytes]:
    """Returns the files of a released model with a card that calls it `name`, and no word of the folder
    where it was evaluated; raises `UserError` for one that cannot be loaded."""
    folder = paths.path(folder)
    files = {n: (folder / n).read_bytes() for n in released.FILES if (folder / n).is_file()}
    page = released.read_page(folder)
    evaluation = _evaluation(folder, page.get("step", 0))
    files.pop(released.EVALUATION, None)
    if evaluation is not None:
        files[released.EVALUATION] = writers.as_bytes(evaluation)
    opened = open_run(folder)
    license = card.license_of(files.get(released.CARD, b"").decode(errors="replace"))
    made = {"step": 0, "versions": {}, "command": record.made_by(opened.saved.config)}
    page = {**made, **_described(safetensors.read(folder / FILE)), **page}  # of an older version
    about = card.About(name, license, page, evaluation, released.PICTURE in files)
    with released.readable(folder):
        files[released.CARD] = card.text(opened.saved, opened.system, about).encode()
    return files


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
