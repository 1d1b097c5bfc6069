"""What can be run, what it costs here and what it lacks: every cell of every experiment.

    python -m experiments.plan             the survey, as JSON: what `python -m experiments` plans with
    python -m experiments.plan --time KEY  seconds of a step of one seed of a cell, from its first steps

Both are processes of their own, so that whoever plans holds no accelerator while cells train. Every
folder with `cells.py` and `__main__.py` is an experiment; what is known of a cell is what it says
itself (`experiments.needs`), what lines of results say, and what its folder holds.
"""

import importlib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from experiments import needs, runner
from experiments.needs import Needs, Work
from experiments.runner import Cell, Option
from jaxvae import table, writers
from jaxvae.data import idx, prepared, sets
from jaxvae.errors import UserError
from jaxvae.metrics import weights

ROOT = Path(__file__).parent
WORK = "work.json"  # in the folder of experiments: what a step of each net computes and holds
SEEDS = 3  # that a number is to have
LONGEST = 200  # characters of an error in a list
PUBLISHED, OTHER_PROTOCOL, EXTRA = range(3)  # ranks of a cell


class Planned(NamedTuple):
    """A cell of an experiment, with the options it is run with."""

    experiment: str
    words: tuple[str, ...]  # options of the experiment
    cell: Cell

    @property
    def key(self) -> str:
        """A name that no other has."""
        return " ".join((self.experiment, self.cell.name, *self.words))


class Timing(NamedTuple):
    """What one seed of a cell has taken."""

    cell: str
    device: str
    steps: int
    seconds: float


class Candidate(NamedTuple):
    """What is known of a cell on this machine, in types that JSON has."""

    key: str
    experiment: str
    words: tuple[str, ...]
    cell: str
    net: str
    steps: int
    rank: int
    have: tuple[int, ...]  # seeds with numbers
    stopped: tuple[int, ...]  # seeds that were stopped on their way
    ensemble_stopped: tuple[int, ...]  # those that were in an ensemble
    seconds: float | None  # expected for one seed; None: not known
    basis: str  # where that comes from
    memory: int | None  # bytes of parameters and optimiser; None: not counted
    can_time: bool  # can its first steps be timed?
    lacks: tuple[str, ...]
    shares: str
    ensemble: tuple[str, ...]


def names(root: Path) -> list[str]:
    """Returns the experiments in a folder."""
    return sorted(path.parent.name for path in root.glob("*/cells.py") if _runs(path.parent))


def _runs(folder: Path) -> bool:
    return (folder / "__main__.py").is_file()


def cells_of(root: Path, name: str) -> list[Planned]:
    """Returns the cells of an experiment, each once for each protocol that it can be measured by.

    Raises:
        UserError: for an experiment that cannot be loaded.
    """
    if str(root.parent) not in sys.path:
        sys.path.insert(0, str(root.parent))
    try:
        module = importlib.import_module(f"{root.name}.{name}.cells")
        variants = getattr(module, "VARIANTS", ({},))
        listed = [(v, module.cells(**v) if v else module.CELLS) for v in variants]
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"{root.name}/{name}/cells.py cannot be planned: {error}.") from None
    found: dict[tuple, Planned] = {}
    for variant, cells in listed:
        words = tuple(w for k, v in variant.items() for w in (f"--{k.replace('_', '-')}", f"{v}"))
        for cell in cells:
            found.setdefault((cell.name, cell.needs.protocols), Planned(name, words, cell))
    return list(found.values())


def platform(device: str) -> str:
    """Returns "cpu" of "AMD EPYC, 2 cores (cpu)", "gpu" of "NVIDIA H100 x1 (gpu)"."""
    match = re.search(r"\((\w+)\)$", device)
    return match[1] if match else "unknown"


# ---- what is there ----------------------------------------------------------------------------


def seeds_of(cell: str, protocols: Sequence[str], lines: Sequence[Mapping]) -> tuple[int, ...]:
    """Returns the seeds that have a number of each protocol; of any, where none is named."""
    found: dict[int, set[str]] = {}
    for line in lines:
        if line["cell"] == cell:
            found.setdefault(line["seed"], set()).add(line["protocol"])
    return tuple(sorted(seed for seed, under in found.items() if under.issuperset(protocols)))


def rank(cell: str, protocols: Sequence[str], expected: Mapping[str, Any]) -> int:
    """Returns whether the paper has a number of a cell under these protocols, under others, or
    none."""
    published = [e["protocol"] for e in expected["cells"] if e["cell"] == cell]
    if not published:
        return EXTRA
    same = not protocols or not set(published).isdisjoint(protocols)
    return PUBLISHED if same else OTHER_PROTOCOL


@cache
def missing_data(name: str) -> str:
    """Returns what to say of a data set that is not here, or ""."""
    known = sets.DATA_SETS.get(name)
    if known is None or known.files is None:
        return ""
    if name in idx.ADDRESSES and all(idx.find(name, split, None)[0] for split in known.counts):
        return ""
    return "" if prepared.find(known.files) else f"data: {name}"


def lacks(cell: Cell, device: str) -> tuple[str, ...]:
    """Returns what a cell lacks on this machine; nothing is loaded."""
    found = [missing_data(name) for name in cell.needs.data]
    found += [f"weights: {w}" for w in cell.needs.weights if weights.find(w) is None]
    if cell.needs.accelerator and platform(device) == "cpu":
        found.append("a GPU or TPU")
    found = [text for text in found if text]
    if not found:
        try:
            cell.check(False)
        except UserError as error:
            found.append(str(error))
    return tuple(found)


# ---- what it takes ----------------------------------------------------------------------------


def timings(cell: str, protocols: Sequence[str], lines: Sequence[Mapping]) -> list[Timing]:
    """Returns what each seed of a cell has taken under these protocols."""
    found = {}
    for line in lines:
        under = not protocols or line["protocol"] in protocols
        if line["cell"] == cell and under and line.get("seconds") and line.get("device"):
            timing = Timing(cell, line["device"], line.get("steps") or 0, line["seconds"])
            found[line["seed"], line["device"], line["seconds"]] = timing
    return list(found.values())


def pick(known: Sequence[Timing], steps: int, device: str, jobs: int) -> tuple[float, str] | None:
    """Returns (seconds, which device) that timings let expect of so many steps here, or None.

    The longest counts, as a run that went on after a kill says only what the rest took. Timings of
    this device come first; on a CPU those of another will do, times `jobs`, as a process then has
    that share of the cores.
    """
    for same in (True, False):
        if not same and platform(device) != "cpu":
            return None
        found = [
            (t.seconds * (steps / t.steps if steps and t.steps else 1), t.device)
            for t in known
            if (t.device == device if same else platform(t.device) == "cpu")
        ]
        if found:
            seconds, where = max(found)
            return (seconds, "") if same else (seconds * jobs, f" on {where}")
    return None


class Costs:
    """Counts the work of cells: once for each net of an experiment, when first asked.

    Args:
        known: what was counted before, {experiment: {net: [operations of a step, bytes]}}.
    """

    def __init__(self, known: Mapping[str, Mapping[str, Sequence]] | None = None):
        self._known = {
            (name, net): Work(*work)
            for name, nets in (known or {}).items()
            for net, work in nets.items()
        }
        self.failed: dict[str, str] = {}  # key of a cell -> why it could not be built

    def of(self, planned: Planned) -> Work | None:
        """Returns the work of one seed, or None where the cell does not say what it trains, or what
        it says cannot be built (`why_not`)."""
        said, key = planned.cell.needs, _net_of(planned)
        if said.parts is None or not said.steps or planned.key in self.failed:
            return None
        if key not in self._known:
            try:
                found = needs.work(said.parts())
                flops = found.flops + said.measuring()
            except (MemoryError, OSError):  # of the machine
                raise
            except Exception as error:  # of one cell: the others go on
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                self.failed[planned.key] = f"{kind}{error}".strip().splitlines()[0][:LONGEST]
                return None
            self._known[key] = found._replace(flops=flops / said.steps)
        found = self._known[key]
        return found._replace(flops=found.flops * said.steps)

    def why_not(self, planned: Planned) -> tuple[str, ...]:
        """Returns why a cell could not be built when its work was to be counted; nothing where it
        could."""
        told = self.failed.get(planned.key)
        return () if told is None else (f"cannot be built: {told}",)


def _net_of(planned: Planned) -> tuple[str, str]:
    return planned.experiment, planned.cell.needs.net or planned.key


def kept_costs(root: Path) -> Costs:
    """Returns costs that know what `keep_costs` has written, as counting takes seconds for each net.

    Raises:
        UserError: for a damaged file.
    """
    path = root / WORK
    return Costs(writers.read_json(path) if path.exists() else None)


def keep_costs(root: Path, planned: Sequence[Planned], costs: Costs) -> None:
    """Writes the work of a step of every net of these cells: what `costs` knows, the rest counted, but
    not of those that cannot be built (`costs.why_not`)."""
    found: dict[str, dict[str, list]] = {}
    for each in planned:
        (name, net), work = _net_of(each), costs.of(each)
        if work is not None:
            steps = each.cell.needs.steps
            found.setdefault(name, {}).setdefault(net, [work.flops / steps, work.memory])
    writers.write_json(root / WORK, found)


class Speed(NamedTuple):
    """How fast this device computed a cell."""

    flops: float  # a second
    of: str


def speed(
    planned: Sequence[Planned],
    known: Mapping[str, Sequence[Timing]],
    device: str,
    jobs: int,
    costs: Costs,
) -> Speed | None:
    """Returns the speed at which the longest timed cell was computed, or None where none was."""
    timed = [
        (found[0], p)
        for p in planned
        if p.cell.needs.parts and (found := pick(known[p.key], p.cell.needs.steps, device, jobs))
    ]
    if not timed:
        return None
    seconds, reference = max(timed, key=lambda pair: pair[0])
    counted = costs.of(reference)
    return Speed(counted.flops / seconds, reference.cell.name) if counted else None


def estimates(
    planned: Sequence[Planned],
    known: Mapping[str, Sequence[Timing]],
    device: str,
    jobs: int,
    costs: Costs,
    wanted: Sequence[Planned] | None = None,
) -> dict[str, tuple[float | None, str]]:
    """Returns for each key (seconds of one seed, or None, and where that comes from), of all cells
    or of those that are wanted.

    A cell that shares work may have been timed after another had done it: what its whole work
    takes at the speed of the longest cell counts then, if that is more.
    """

    @cache
    def speed_of(experiment: str) -> Speed | None:
        mine = [p for p in planned if not experiment or p.experiment == experiment]
        return speed(mine, known, device, jobs, costs) or (speed_of("") if experiment else None)

    found: dict[str, tuple[float | None, str]] = {}
    for each in planned if wanted is None else wanted:
        said: Needs = each.cell.needs
        alike = [t for p in planned if _alike(p, each) for t in known[p.key]]
        measured = pick(known[each.key], said.steps, device, jobs)
        taken = measured or pick(alike, said.steps, device, jobs)
        as_of = "measured" if measured else f"as other cells of {said.net}"
        if taken and not said.shares:
            found[each.key] = taken[0], as_of + taken[1]
            continue
        # on an accelerator one net's speed says little of another's: it is timed
        rate = speed_of(each.experiment) if platform(device) == "cpu" else None
        counted = costs.of(each) if rate else None
        if counted and rate and counted.flops / rate.flops > (taken[0] if taken else 0.0):
            per_second = f"{rate.flops / 1e9:.0f} GFLOP/s"
            basis = f"estimate: {counted.flops:.2g} FLOP at the {per_second} of {rate.of}"
            found[each.key] = counted.flops / rate.flops, basis
        elif taken:
            found[each.key] = taken[0], as_of + taken[1]
        else:
            found[each.key] = None, "timed before it starts" if said.parts else "not known"
    return found


def _alike(one: Planned, other: Planned) -> bool:
    """Returns whether two cells are of one net of one experiment."""
    net = other.cell.needs.net
    return bool(net) and (one.experiment, one.cell.needs.net) == (other.experiment, net)


# ---- the survey -------------------------------------------------------------------------------


def survey(root: Path, device: str, jobs: int = 1, memory: bool = False) -> list[Candidate]:
    """Returns all that is known of every cell, without running any.

    Args:
        root: the folder of the experiments.
        device: `runner.device()` of a process that runs a cell.
        jobs: how many run side by side.
        memory: whether to count the memory of each, which takes seconds for each net that is not in
            `WORK`.

    Raises:
        UserError: for a damaged file of results, with the file and the line.
    """
    planned, costs = [p for name in names(root) for p in cells_of(root, name)], kept_costs(root)
    loaded = {name: table.load(root / name) for name in names(root)}
    known = {
        p.key: timings(p.cell.name, p.cell.needs.protocols, loaded[p.experiment][0])
        for p in planned
    }
    expected = estimates(planned, known, device, jobs, costs)
    found = []
    for each in planned:
        lines, published = loaded[each.experiment]
        name, said = each.cell.name, each.cell.needs
        seconds, basis = expected[each.key]
        counted = costs.of(each) if memory else None
        why_not = costs.why_not(each)
        found.append(
            Candidate(
                each.key,
                each.experiment,
                each.words,
                name,
                said.net or name,
                said.steps,
                rank(name, said.protocols, published),
                seeds_of(name, said.protocols, lines),
                tuple(seed for seed in range(SEEDS) if said.stopped(seed)),
                tuple(seed for seed in range(SEEDS) if said.ensemble_stopped(seed)),
                seconds,
                basis,
                None if counted is None else counted.memory,
                said.parts is not None and not why_not,
                lacks(each.cell, device) + why_not,
                said.shares,
                said.ensemble,
            )
        )
    return found


def first_steps(root: Path, key: str, members: int, within: float = math.inf) -> float:
    """Returns the seconds that one seed of a cell takes, from its first steps; the share of one of
    `members` that are trained at once. After `within` seconds what is not timed is estimated, as
    what is measured beside the training always is.

    Raises:
        UserError: for an unknown key, or a cell whose steps cannot be timed.
    """
    for name in names(root):
        for each in cells_of(root, name):
            said = each.cell.needs
            if each.key == key and said.parts is not None:
                parts, beside = said.parts(), said.measuring()
                share = beside / needs.work(parts).flops if beside else 0.0
                return needs.seconds(parts, members, within) * (1.0 + share)
    raise UserError(f"there is no cell {key!r} whose steps can be timed.")


OPTIONS = (
    Option("root", str(ROOT), str, "folder of the experiments"),
    Option("jobs", 1, int, "cells that run side by side"),
    Option("time", None, str, "key of a cell whose first steps to time"),
    Option("members", 1, int, "models that are trained at once"),
    Option("within", math.inf, float, "seconds after which no more steps are timed"),
)


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line of JSON."""
    about = "Says what is known of every cell, as JSON."
    args = runner.parse("experiments.plan", about, OPTIONS, argv)
    root = Path(args.root)
    if args.time is not None:
        found = first_steps(root, args.time, args.members, args.within)
        print(json.dumps({"seconds": found}))
        return
    device = runner.device()
    found = [c._asdict() for c in survey(root, device, args.jobs)]
    print(json.dumps({"device": device, "platform": platform(device), "candidates": found}))


if __name__ == "__main__":
    main()
