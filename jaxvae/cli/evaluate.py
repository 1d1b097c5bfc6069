"""The numbers of a trained model: `jaxvae evaluate RUN`."""

import dataclasses
import sys
import time
from typing import Any

import numpy as np

from jaxvae import data, writers
from jaxvae.cli import options
from jaxvae.cli.use import Trained, beside, chosen, open_run, save_npz, source_of
from jaxvae.errors import UserError, check_count
from jaxvae.metrics import fid, ood, protocols
from jaxvae.presets import detect as detecting
from jaxvae.presets import measure as measuring
from jaxvae.presets import splits
from jaxvae.presets.config import System, source


def run_evaluate(args: options.Evaluate) -> int:
    """Measures a model: a table, and the same as JSON; returns the exit code."""
    trained = open_run(args.run, args.step)
    metrics = args.metrics or measuring.available(trained.system)
    if not metrics:
        raise UserError(f"this model has no likelihood to evaluate: {_instead(trained.system)}.")
    if args.draws is not None and not {"auroc", "completions"} & set(metrics):
        raise UserError(
            "--draws is of --metrics auroc and completions: ask for one of them, or leave it out."
        )
    if args.draws is not None and "completions" in metrics:
        check_count("--draws", args.draws, 2)
    split = source_of(args, trained)
    folder = args.weights if args.weights is not None and args.weights.is_dir() else None
    setting = measuring.Setting(
        args.seed,
        args.batch_size,
        args.k,
        draws=args.draws or measuring.DRAWS,
        lpips_net=args.lpips_net,
        weights=folder,
    )
    measuring.check(trained.system, split, metrics, setting)
    sets = _sets(args, trained, split) if "auroc" in metrics else None
    start = time.perf_counter()
    progress = _Progress() if sys.stderr.isatty() else None
    distances, about = [], ""
    if {"fid", "kid"} & set(metrics):  # first: a protocol may be missing
        distances, about = _distances(trained, args, metrics, progress)
    rows, detections = [], []
    for each in (args.stats or (None,)) if set(metrics) - {"fid", "kid"} else ():
        _, state, stats, words = chosen(trained, each, args.data_dir)
        setting = setting._replace(stats=stats, statistics=words)
        arrays = (trained.loaded.params, state)
        rows += measuring.measure(trained.system, *arrays, split, metrics, setting, progress)
        if sets is not None:
            how = {"draws": args.draws or ood.DRAWS, "gamma": args.gamma, "setting": setting}
            detections.append(
                detecting.detect(trained.system, *arrays, sets, progress=progress, **how)
            )
            rows += detections[-1].rows
    rows += distances
    quick = trained.config.quick
    result = {
        "run": args.run,
        "step": trained.step,
        "data": split.name,
        "split": split.split,
        "seed": args.seed,
        "batch_size": args.batch_size,
        "seconds": round(time.perf_counter() - start, 3),
        "precision": f"{trained.config.dtype}, highest",
        **({"budget": "quick"} if quick else {}),
        "metrics": rows,
    }
    path = args.out or beside(args.run, "evaluation.json")
    writers.write_json(path, result)
    print(f"{split.name}, {split.split}, {split.size:,} examples, step {trained.step:,}")
    if quick:
        print("  trained with --quick: these numbers compare with nothing")
    width = max([13, *(len(row["metric"]) for row in rows)])
    for row in rows:
        print(f"  {row['metric']:<{width}} {_shown(row):<24} {row['protocol']}")
    print(*([about] if about else []), path, sep="\n")
    if detections:
        picture = path.with_name("auroc.png")
        detecting.draw(picture, detections)
        print(picture)
    if args.npz is not None:
        save_npz(args.npz, **_numbers(rows, detections))
    return 0


def _instead(system: System) -> str:
    """Returns what to ask for of a model without a likelihood, as far as it can do it."""
    model, able = system.model, []
    if model.sample is not None and system.on_examples is None:
        able.append("--metrics fid or kid, with a --protocol")
    if model.encode is not None and model.decode is not None:
        able.append("--metrics lpips, of its reconstructions of images")
    return f"ask for {', or for '.join(able)}" if able else "there is nothing to ask for"


def _sets(args: options.Evaluate, trained: Trained, split: data.Source) -> detecting.Sets:
    """Returns what auroc compares; raises `UserError` for sets that do not fit."""
    if args.gamma is not None and trained.system.on_examples is not None:
        raise UserError(
            "--gamma is of models of whole images; this one completes images of which a part is "
            "given: leave it out."
        )
    if args.gamma is not None:
        ood.with_variance(trained.system.model, args.gamma)
    name = args.out_data or ""
    size = trained.shape[0] if args.convert and name.startswith("folder:") else None
    config = dataclasses.replace(trained.config, data=name, size=size, crop=None)
    outside = source(config, args.out_split or "test", args.data_dir)
    try:
        train = splits.training(trained.config, args.data_dir)
    except UserError as error:
        raise UserError(f"auroc also scores the training data: {error}") from None
    return detecting.sets(trained.system, split, outside, train, convert=args.convert)


def _numbers(
    rows: list[dict[str, Any]], detections: list[detecting.Found]
) -> dict[str, np.ndarray]:
    """Returns all values by metric, of several statistics one after the other, and all scores."""
    numbers = {name: [] for name in dict.fromkeys(row["metric"] for row in rows)}
    for row in rows:
        numbers[row["metric"]].append(row["value"])
    arrays = {
        name: np.asarray(each[0] if len(each) == 1 else each) for name, each in numbers.items()
    }
    for name in detections[0].scores if detections else ():
        scores = [each.scores[name] for each in detections]
        arrays[name.replace(" ", "_")] = scores[0] if len(scores) == 1 else np.stack(scores)
    return arrays


def _shown(row: dict[str, Any]) -> str:
    """Returns a value with its error, as text."""
    value, error = row["value"], row["error"]
    if isinstance(value, float):
        return f"{value:,.4f}" + ("" if error is None else f" +- {error:.2g}")
    return str(value) if isinstance(value, int) else " ".join(f"{v:.3g}" for v in value)


def _distances(
    trained: Trained, args: options.Evaluate, metrics: tuple[str, ...], progress: measuring.Progress
) -> tuple[list[dict[str, Any]], str]:
    """Returns a record for each of fid and kid in `metrics`, and their protocol in words."""
    if trained.system.on_examples is not None:
        raise UserError(
            "fid and kid are of samples that are drawn without examples; this model completes "
            "them: ask for --metrics completions."
        )
    protocol = protocols.checked(args.protocol)
    if args.samples is not None:
        protocol = protocol.with_samples(args.samples)
    if args.split is not None:
        protocol = protocol._replace(split=args.split)
    rows, abouts = [], []
    for stats in args.stats or (None,):
        found, about = _distance(trained, args, metrics, protocol, stats, progress)
        rows += found
        abouts.append(about)
    return rows, "\n".join(abouts)


def _distance(
    trained: Trained,
    args: options.Evaluate,
    metrics: tuple[str, ...],
    protocol: protocols.Protocol,
    stats: str | None,
    progress: measuring.Progress,
) -> tuple[list[dict[str, Any]], str]:
    """Returns what `_distances` does, with the generator's statistics: those asked for, else the
    protocol's, where running averages are what the model says."""
    config, (model, params, state) = trained.config, trained.loaded
    averages = state
    if stats is not None or protocol.generator == "running":
        found = chosen(trained, stats, args.data_dir, samples=True)
        averages, protocol = found.state, protocol._replace(generator=found.name)

    def real(split: str) -> data.Source:
        if config.data.startswith(("folder:", "npz:")):  # they have no official splits
            return source(config, split, args.data_dir)
        return data.load(config.data, split, data_dir=args.data_dir or config.data_dir)

    found = fid.compare(
        real,
        fid.model_sampler(model, params, state, trained.system.classes, reestimated=averages),
        protocol,
        weights=args.weights,
        seed=args.seed,
        metrics=tuple(name for name in ("fid", "kid") if name in metrics),
        progress=progress,
    )
    about = protocol.describe()
    rows = [{"metric": name, **value._asdict(), "about": about} for name, value in found.items()]
    return rows, about


class _Progress:
    """A bar on the terminal."""

    def __init__(self):
        self.bar = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        self.bar = self.bar or tqdm(total=total, unit="example", dynamic_ncols=True)
        self.bar.update(done - self.bar.n)
        if done == total:  # the next pass has a bar of its own
            self.bar.close()
            self.bar = None
