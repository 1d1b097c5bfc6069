"""`jaxvae compare RUN RUN ...`: settings that differ, last numbers, curves and samples of several
runs."""

import io
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae import charts, paths, writers
from jaxvae.cli import options
from jaxvae.cli.doctor import table
from jaxvae.errors import Damaged, UserError, damage, one_line
from jaxvae.presets import load as loading
from jaxvae.presets import record, released
from jaxvae.train import folder as folders
from jaxvae.writers import Curves

SPLITS = ("train", "valid", "test")
ASIDE = ("progress", "tensorboard", "keep")  # settings that change no number
NONE = "-"  # of a run that does not have a setting or a number


class Run(NamedTuple):
    """What a run's folder says of it."""

    folder: Path
    config: dict[str, Any]
    last: dict[str, dict[str, Any]]  # split -> its last line
    curves: Curves
    picture: np.ndarray | None  # its samples, as they were drawn


def run_compare(args: options.Compare) -> int:
    """Prints the table and draws the picture; returns the exit code."""
    found = [read_run(folder) for folder in args.runs]
    runs = dict(zip(names_of(args.runs), found, strict=True))
    print(table(rows_of(runs)))
    curves = dict(curves_of(name, run) for name, run in runs.items())
    pictures = {name: run.picture for name, run in runs.items() if run.picture is not None}
    curves = {name: lines for name, lines in curves.items() if lines}
    if curves or pictures:  # exported models have no curves, and some draw no samples
        charts.comparison(args.out, curves, pictures)
        print(args.out)
    return 0


def read_run(folder: Path) -> Run:
    """Returns the run in `folder`; of one of stages, the curves are those of the last.

    Raises:
        UserError: for a folder without a run, or whose run has not logged anything yet.
    """
    folder = loading.place(folder)
    config, stages = loading.config_of(folder), ()
    if "preset" in config:  # of an older version with today's names and defaults
        with released.readable(folder):
            saved = record.from_dict(config, folder)
        config, stages = folders.as_json(record.as_dict(*saved[1:])), saved.preset.stages
    logs = [folder / stage / "metrics.jsonl" for stage in ("", *stages[-1:])]
    lines = [line for log in logs if log.is_file() for line in writers.read(log)]
    if released.is_released(folder):
        lines = [_measured(folder)]
    last = {line["split"]: line for line in lines if line.get("split") in SPLITS}
    if not last:
        raise UserError(f"{folder} has no log of a training: compare folders that train has made.")
    curves = writers.read_curves(logs[-1]) if logs[-1].is_file() else {}
    image = folder / "samples.png"
    return Run(folder, config, last, curves, _read_png(image) if image.is_file() else None)


def _measured(folder: Path) -> dict[str, Any]:
    """Returns what an exported model has in place of the last line of a log: its step, and the single
    numbers of a split that it was evaluated on."""
    line, page = {"step": loading.step_of(folder)}, released.read_evaluation(folder)
    if page is None or page.get("split") not in SPLITS:
        return {**line, "split": "test"}
    single = {row["metric"]: row["value"] for row in page["metrics"]}
    single = {name: value for name, value in single.items() if not isinstance(value, list)}
    return {**line, "split": page["split"], **single}


def _read_png(path: Path) -> np.ndarray:
    """Returns a picture [H, W, 3] of bytes; raises `UserError` where it cannot be read."""
    from PIL import Image

    with writers.disk("read", path):
        content = path.read_bytes()
    try:
        with (
            damage(),
            warnings.catch_warnings(action="error"),  # of pictures that are too large
            Image.open(io.BytesIO(content)) as image,
        ):
            return np.asarray(image.convert("RGB"))
    except Damaged as error:
        raise UserError(f"{path} cannot be read ({error}): delete it.") from None


def names_of(runs: tuple[Path, ...]) -> list[str]:
    """Returns the shortest ends of these paths that tell all of them apart."""
    parts = [paths.resolved(run).parts for run in runs]
    for length in range(1, max(map(len, parts))):
        ends = ["/".join(each[-length:]) for each in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [str(run) for run in runs]


def rows_of(runs: dict[str, Run]) -> list[tuple[str, ...]]:
    """Returns the table: a column for each run, a row for each setting that differs and for each
    last number of a split."""
    configs = [run.config for run in runs.values()]
    rows = [("", *runs)]
    for name in dict.fromkeys(name for config in configs for name in config):
        if name not in ASIDE and any(
            config.get(name) != configs[0].get(name) for config in configs
        ):
            rows.append((name, *(said(config.get(name)) for config in configs)))
    if len(rows) == 1:
        rows.append(("settings", *("the same" for _ in runs)))
    for split in SPLITS:
        lines = [run.last.get(split, {}) for run in runs.values()]
        names = dict.fromkeys(name for line in lines for name in line if name != "split")
        rows += [(f"{split} {n}", *(said(line.get(n)) for line in lines)) for n in names]
    return rows


def said(value: Any) -> str:
    """Returns a setting or a number as a cell of the table."""
    if value is None:
        return NONE
    if isinstance(value, float):
        return f"{value:.5g}"
    return one_line(" ".join(map(str, value)) if isinstance(value, list) else str(value))


def curves_of(name: str, run: Run) -> tuple[str, dict[str, Any]]:
    """Returns what a run is called in the panels, and metric -> line: of the validation split, or
    where that has none, of training, which its name then says."""
    if "valid" in run.curves:
        return name, run.curves["valid"]
    return f"{name} (training)", run.curves.get("train", {})
