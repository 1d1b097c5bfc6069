"""Many cells as one compiled program for each method: what a GPU is for.

    python -m experiments.soft_intro_2d.sweep table_2 [--seeds 0:5]     all 60 runs of Table 2
    python -m experiments.soft_intro_2d.sweep readings [--seeds 0:5]    IntroVAE's rows again, as its own code has them
    python -m experiments.soft_intro_2d.sweep figure_3 [--seeds 0:5]    the margin m of IntroVAE, 55 runs
    python -m experiments.soft_intro_2d.sweep figure_21 [--seeds 0:1]   posterior collapse
    python -m experiments.soft_intro_2d.sweep search [--data 8gaussians] [--method vae]   the grid search: 81 + 1260 + 210

All but the search add lines to results/ and leave checkpoints, and films of the first seed, in
runs/, as cells do alone. A cell and seed that have their numbers are not trained again (a cell
alone is: `python -m experiments.soft_intro_2d --cell C --seeds S`); of a sweep that was stopped,
what it trained then goes on first, with the seeds that it had. The search writes
search/<data>.<method>.jsonl, one line per setting, and prints the best by the released KL + JSD;
settings that the file has are not trained again (delete it to search anew). `--smoke` runs a few
steps of small nets into smoke/, finished or not.
"""

import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments import runner
from experiments.needs import Part, batch, work
from experiments.runner import Option
from experiments.soft_intro_2d import cells, measure, setting
from experiments.soft_intro_2d.cells import FOLDER, SWEEPS
from jaxvae import table, writers
from jaxvae.data import toy2d
from jaxvae.errors import UserError, check_count, unknown
from jaxvae.train import folder as folders
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.ensemble import Ensemble, member, train_ensemble

OPTIONS = (
    Option("sweep", None, str, f"{', '.join(SWEEPS)} or search", word=True),
    Option("seeds", None, str, "A:B; by default 0:5, as in the paper, and 0:1 for figure_21"),
    Option("data", None, str, "of the search; all four by default", repeatable=True),
    Option("method", None, str, "of the search; all three by default", repeatable=True),
    Option("at-once", 210, int, "settings of the search in one program"),
    runner.SMOKE,
)


def width(smoke: bool) -> int:
    """Returns the width of the hidden layers."""
    return 16 if smoke else 256


def train(
    name: str, method: str, runs: list[setting.Run], seeds: Sequence[int], smoke: bool
) -> tuple[Ensemble, float]:
    """Returns the ensemble of all runs of one method with every seed, and the seconds it took,
    compilation included."""
    steps, num_vae = cells.length(smoke)
    hidden = width(smoke)
    names = list(dict.fromkeys(r.data for r in runs))
    hyper = {key: [r.hyper[key] for r in runs] for key in runs[0].hyper}
    folder = cells.sweep_folder(name, method, smoke)
    clock = folder / "seconds.json"  # of a run that is gone on with
    shoot = cells.camera(
        setting.build(method, hidden, **runs[0].hyper)
    )  # the weights of the loss do not enter samples

    def on_log(step, state):
        writers.write_json(clock, time.perf_counter() - start)
        for i in range(0, 0 if name.startswith("search") else len(runs) * len(seeds), len(seeds)):
            shoot(
                folder / "films" / str(i),
                step,
                jax.tree.map(lambda x, i=i: x[i], state.params),
                seeds[0],
            )

    start = time.perf_counter() - (writers.read_json(clock) if clock.exists() else 0.0)
    with jax.default_matmul_precision("highest"):
        ensemble = train_ensemble(
            lambda **h: setting.phases(method, steps, num_vae, hidden, **h),
            setting.optimiser(),
            [toy2d.toy(n).draw for n in names],
            seeds=seeds,
            hyper={**hyper, "data": [names.index(r.data) for r in runs]},
            batch_size=setting.BATCH_SIZE,
            workdir=folder,
            log_every=max(1, steps // 30),
            save_every=max(1, steps // 6),
            config={"sweep": name, "method": method, "data": names},
            on_log=on_log,
        )
        jax.block_until_ready(ensemble.train_state)
    seconds = time.perf_counter() - start
    model, points = setting.build(method, hidden, **runs[0].hyper), batch(setting.BATCH_SIZE, 2)
    flops = work([Part(model, setting.optimiser(), points, steps)]).flops * len(ensemble.settings)
    print(
        f"{method}: {len(ensemble.settings)} members, {seconds:.1f} s, "
        f"{flops / seconds / 1e12:.3f} TFLOP/s, "
        f"{len(ensemble.frozen)} frozen",
        file=sys.stderr,
        flush=True,
    )
    for i, (step, what) in ensemble.frozen.items():
        print(
            f"  not finite at step {step}: {ensemble.settings[i]}, {', '.join(what)}",
            file=sys.stderr,
        )
    return ensemble, seconds


def measured(
    ensemble: Ensemble, method: str, runs: list[setting.Run], seeds: Sequence[int], smoke: bool
):
    """Yields (number of the run, seed, state, its numbers) of each member."""
    steps, meters = cells.length(smoke)[0], {}
    with jax.default_matmul_precision("highest"):
        for i, found in enumerate(ensemble.settings):
            data = runs[i // len(seeds)].data
            if data not in meters:
                model = setting.build(method, width(smoke), **runs[0].hyper)
                meters[data] = measure.meter(data, model, smoke)
            state = member(ensemble, i)
            numbers = (
                measure.not_finite(steps)
                if i in ensemble.frozen
                else meters[data](state.params, state.state, found["seed"], steps)
            )
            yield i // len(seeds), found["seed"], state, numbers


def finished() -> set[tuple[str, int]]:
    """Returns (cell, seed) of what has all of its numbers."""
    found: dict[tuple[str, int], set[tuple[str, str]]] = {}
    for line in table.load(FOLDER)[0]:
        found.setdefault((line["cell"], line["seed"]), set()).add(
            (line["metric"], line["protocol"])
        )
    return {at for at, numbers in found.items() if numbers.issuperset(measure.NAMES)}


def lacking(
    names: Sequence[str], seeds: Sequence[int], done: set[tuple[str, int]]
) -> list[tuple[list[str], list[int]]]:
    """Returns (cells, seeds) of what is not in `done`: cells that lack the same seeds together."""
    found: dict[tuple[int, ...], list[str]] = {}
    for cell in names:
        found.setdefault(tuple(s for s in seeds if (cell, s) not in done), []).append(cell)
    return [(group, list(left)) for left, group in found.items() if left]


def sweep(name: str, seeds: Sequence[int], smoke: bool) -> None:
    """Trains and measures the cells of one table or figure that have no numbers yet, and adds their
    lines to the results; what was stopped first."""
    code, runs = runner.code_facts(FOLDER), SWEEPS[name]
    writers.make_folder(runner.target(FOLDER, smoke))
    methods = dict.fromkeys(run.method for run in runs.values())
    stopped = {method: cells.begun(name, method, smoke) for method in methods}  # refused here
    done = set() if smoke else finished()
    for method, group in stopped.items():
        if group is not None:
            held = f"{len(group[0])} cells, seeds {', '.join(map(str, group[1]))}"
            print(f"{method}: going on with what was stopped, {held}", file=sys.stderr, flush=True)
            settle(name, method, *group, done, code, smoke)
    for method in methods:
        mine = [cell for cell, run in runs.items() if run.method == method]
        for group in lacking(mine, seeds, done):
            settle(name, method, *group, done, code, smoke)


def stretch(seeds: Sequence[int], seed: int) -> str:
    """Returns the seeds around `seed` that have no gap between them, as `--seeds` takes them."""
    first = last = seed
    while first - 1 in seeds:
        first -= 1
    while last + 1 in seeds:
        last += 1
    return f"{first}:{last + 1}"


def settle(
    name: str,
    method: str,
    names: list[str],
    seeds: list[int],
    done: set[tuple[str, int]],
    code: dict[str, Any],
    smoke: bool,
) -> None:
    """Trains these cells of one method with these seeds, and adds the lines of those that are not
    in `done`, where they then are."""
    folder, runs = cells.sweep_folder(name, method, smoke), [SWEEPS[name][cell] for cell in names]
    command_line = f"python -m experiments.soft_intro_2d.sweep {name} --seeds "
    if any((cell, seed) not in done for cell in names for seed in seeds):
        ensemble, seconds = train(name, method, runs, seeds, smoke)
        seconds /= len(ensemble.settings)
        for i, seed, state, numbers in measured(ensemble, method, runs, seeds, smoke):
            cell = names[i]
            if (cell, seed) not in done:
                film = folder / "films" / str(i * len(seeds)) if seed == seeds[0] else None
                keep(cell, runs[i], seed, state, film, smoke)
                said = command_line + stretch(seeds, seed) + (" --smoke" if smoke else "")
                runner.record(FOLDER, cell, seed, numbers, code, seconds, said, smoke=smoke)
                done.add((cell, seed))
    runner.remove(folder)


def keep(cell: str, chosen: setting.Run, seed: int, state, film: Path | None, smoke: bool) -> None:
    """Leaves one member's checkpoint and film where a run of its cell would have left them."""
    folder = cells.workdir(cell, seed, smoke)
    shutil.rmtree(folder, ignore_errors=True)
    config = cells.config(chosen, seed, smoke)
    with folders.hold(folder, config):
        checkpoints = Checkpoints(folder / "checkpoints", best=None)
        checkpoints.save(state, {}, config=config)
        checkpoints.wait()
        checkpoints.close()
        if film is not None:
            shutil.copytree(film, folder / "film")
    writers.write_json(folder / "finished.json", config)


def check_search(data: str, method: str, at_once: int, smoke: bool) -> None:
    """Raises `UserError` for a part of the search that was stopped, and is none of `at_once`
    settings."""
    count = len(settings_of(method, smoke))
    pattern = cells.sweep_folder(f"search.{data}.*", method, smoke)
    for folder in pattern.parent.glob(pattern.name):
        if not (folder / "config.json").exists():
            continue
        first, held = int(folder.name.split(".")[2]), folders.read_config(folder)["members"]
        if first % at_once or len(held) != min(at_once, count - first):
            raise UserError(
                f"{folder} holds {len(held)} settings of a search that was stopped, with another "
                "--at-once: go on with that one, or delete the folder."
            )


def settings_of(method: str, smoke: bool) -> list[dict[str, float]]:
    """Returns the settings of the search of one method; a few of them in a smoke run."""
    return setting.search(method)[: 4 if smoke else None]


def search(names: Sequence[str], methods: Sequence[str], at_once: int, smoke: bool) -> None:
    """Runs what the files lack of the grid search, `at_once` settings in a program, and prints the
    best of each file."""
    folder = writers.make_folder(FOLDER / ("smoke" if smoke else "search"))
    facts = {"device": runner.device(), "commit": runner.commit(FOLDER)}
    for data in names:
        for method in methods:
            check_search(data, method, at_once, smoke)
    for data in names:
        for method in methods:
            settings = settings_of(method, smoke)
            path, lines = folder / f"{data}.{method}.jsonl", []
            if path.exists() and not smoke:
                lines = [line for line in writers.read(path) if _hyper(line) in settings]
            done = [_hyper(line) for line in lines]
            for first in range(0, len(settings), at_once):
                runs = [setting.Run(data, method, h) for h in settings[first : first + at_once]]
                name = f"search.{data}.{first}"
                if all(r.hyper in done for r in runs):  # was it killed after its last line?
                    runner.remove(cells.sweep_folder(name, method, smoke))
                    continue
                ensemble, _ = train(name, method, runs, range(1), smoke)
                for i, seed, _, numbers in measured(ensemble, method, runs, range(1), smoke):
                    if runs[i].hyper in done:
                        continue
                    values = {f"{n.metric}_{n.protocol}": n.value for n in numbers}
                    found = {"data": data, "method": method, **runs[i].hyper, "seed": seed}
                    lines.append({**found, **values, **facts})
                    writers.append(path, lines[-1])
                runner.remove(cells.sweep_folder(name, method, smoke))
            best = min(lines, key=_score)
            print(
                f"{data}, {method}: best of {len(settings)}: {_hyper(best)}, released KL + JSD = "
                f"{_score(best):.3f}"
            )


def _hyper(line: dict) -> dict[str, float]:
    """Returns the setting of a line of the search."""
    return {name: line[name] for name in ("beta_rec", "beta_kl", "beta_neg", "m") if name in line}


def _score(line: dict) -> float:
    """Returns the released KL + JSD, infinite for a run that stopped being finite."""
    score = line["histogram_kl_released"] + line["histogram_jsd_released"]
    return score if math.isfinite(score) else math.inf


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for. A user's mistake is one line on stderr and exit code
    2."""
    about = "Trains many cells as one compiled program for each method."
    args = runner.parse("experiments.soft_intro_2d.sweep", about, OPTIONS, argv)
    if args.sweep not in (*SWEEPS, "search"):
        raise unknown("sweep", args.sweep, (*SWEEPS, "search"))
    if args.sweep != "search":
        seeds = args.seeds or ("0:1" if args.sweep == "figure_21" else "0:5")
        sweep(args.sweep, runner.parse_seeds(seeds), args.smoke)
        runner.print_table(FOLDER, smoke=args.smoke)
        return
    for given, known, what in (
        (args.data, setting.DATA, "2-D data set"),
        (args.method, setting.METHODS, "method"),
    ):
        for name in given or ():
            if name not in known:
                raise unknown(what, name, known)
    check_count("--at-once", args.at_once)
    search(args.data or setting.DATA, args.method or setting.METHODS, args.at_once, args.smoke)


if __name__ == "__main__":
    main()
