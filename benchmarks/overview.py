"""One table of all that is kept, with a row for every benchmark: what ours reached, against what it
is held, and how much faster it is."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks import contest, measure
from benchmarks.start import CASES
from jaxvae.table import grid

RIVALS = {
    "pytorch_eager": "PyTorch, eager",
    "pytorch_eager_fused_adam": "PyTorch, eager, fused Adam",
    "pytorch_compiled": "PyTorch, compiled",
}
HEAD = ("benchmark", "", "jaxvae", "against", "its figure", "ratio", "unit", "device")
LEGEND = "Medians. A ratio above 1: what stands on the left is faster."


class Figure(NamedTuple):
    """What a program reached.

    Attributes:
        name: of the program, as in its result.
        rate: its median, min and max.
        solo: its rate alone, where it was in a contest.
    """

    name: str
    rate: Mapping[str, float]
    solo: float | None = None


class Row(NamedTuple):
    """What is timed, what ours reached, against what that is held, what this reached, and the unit;
    `other` and `theirs` are missing where nothing is compared."""

    what: str
    ours: Figure
    other: str = ""
    theirs: Figure | None = None
    unit: str = "images/s"


Result = Mapping[str, Any]


def figures(result: Result) -> dict[str, Figure]:
    """Returns what each program of a result with rates reached, by name."""
    alone = result.get("alone", {})
    return {name: Figure(name, rate, alone.get(name)) for name, rate in result["rates"].items()}


def against_pytorch(result: Result, what: str, ours: str = "step") -> Iterator[Row]:
    """Yields a row for each of PyTorch's programs."""
    found = figures(result)
    for name in result["speed_ratio"]:
        what_of = f"{what}, batch {result['batch_size']}"
        yield Row(what_of, found[ours], RIVALS[name], found[name], result["unit"])


def step_time(result: Result) -> Iterator[Row]:
    """Yields the step of a VAE, and `fit`."""
    yield from against_pytorch(result, "VAE, MLP")
    found = figures(result)
    if "fit" in found:
        yield Row("the same in `fit`, with data and log", found["fit"], "bare step", found["step"])


def infogan(result: Result) -> Iterator[Row]:
    """Yields the step of the two-stage VAE's first stage."""
    yield from against_pytorch(result, "first stage, InfoGAN net")


def soft_intro(result: Result) -> Iterator[Row]:
    """Yields the step of Soft-IntroVAE on images."""
    small = f" / {result['shrink']}" if result["shrink"] != 1 else ""
    yield from against_pytorch(result, f"Soft-IntroVAE, CIFAR-10's residual nets{small}")


def ensemble(result: Result) -> Iterator[Row]:
    """Yields the step of Soft-IntroVAE in the plane, and those of the largest ensemble."""
    yield from against_pytorch(result, "Soft-IntroVAE in the plane", "one")
    found = figures(result)
    members = {name: int(name.split("/")[0]) for name in found if "/" in name}
    for name, count in members.items():
        if count == max(members.values()):
            what = f"the same, {count} members by `{name.split('/')[1]}`"
            yield Row(what, found[name], "one after the other", found["one"], result["unit"])


def fid(result: Result) -> Iterator[Row]:
    """Yields features, statistics of a data set, and the distance."""
    found = figures(result)
    for net, size in result["batch_size"].items():
        ours, theirs = (found[f"extract/{net}/{library}"] for library in ("jaxvae", "torch"))
        yield Row(f"features of {net}, batch {size}", ours, RIVALS["pytorch_eager"], theirs)
    for net, of_net in result.get("statistics", {}).items():
        what = f"statistics of {of_net['images']:,} images by {net}, with compilation"
        yield Row(what, once(of_net["images_per_s"]))
    for dimensions, seconds in result.get("frechet_distance_seconds", {}).items():
        yield Row(f"Fréchet distance, {dimensions} dimensions", once(seconds), unit="s")


def once(value: float) -> Figure:
    """Returns what was measured once."""
    return Figure("", contest.summary([value]))


def input_routes(result: Result) -> Iterator[Row]:
    """Yields files as they are decoded, streamed training beside resident, and IW-NLL draws."""
    found = figures(result)
    for ending, kind in (("png", "PNG"), ("jpg", "JPEG")):
        yield Row(f"reading {kind} files of 64x64", found[f"read/{ending}_64"])
    yield Row("`fit`, data streamed", found["fit/streamed"], "data resident", found["fit/resident"])
    yield Row("IW-NLL", found["iw/draws"], unit="draws/s")


def ar1(result: Result) -> Iterator[Row]:
    """Yields the step with an AR(1) posterior beside the Normal's, and its sampler beside the
    fastest of the other ways."""
    for size, rates in result["step"].items():
        ours, theirs = (Figure(name, rates[name]) for name in ("ar1", "normal"))
        what = f"VAE, MLP, AR(1) posterior, D = {size}"
        yield Row(what, ours, "Normal posterior", theirs, result["unit"])
    chosen = "scan" if result["platform"] == "cpu" else "doubling"  # as arithmetic.recursion
    for size, rates in result["samplers"].items():
        others = {name: rate for name, rate in rates.items() if name != chosen}
        best = max(others, key=lambda name: others[name]["median"])
        ours, theirs = Figure(chosen, rates[chosen]), Figure(best, rates[best])
        yield Row(f"AR(1) draws by `{chosen}`, D = {size}", ours, f"`{best}`", theirs, "draws/s")


def side_by_side(result: Result) -> Iterator[Row]:
    """Yields two trainings at once beside one after the other."""
    found = figures(result)
    ours, theirs = found["side_by_side"], found["one_after_the_other"]
    cells = ", ".join(dict.fromkeys(result["cells"]))
    what = f"two trainings ({cells}) side by side"
    yield Row(what, ours, "one after the other", theirs, result["unit"])


def start(result: Result) -> Iterator[Row]:
    """Yields the second start of each command beside its first."""
    for name, found in result["seconds"].items():
        ours, theirs = (Figure(f"{name}, {each}", found[each]) for each in ("second", "first"))
        yield Row(f"second start of `train {CASES[name]}`", ours, "first start", theirs, "s")


def scaling(result: Result) -> Iterator[Row]:
    """Yields steps over as many devices as there were beside one."""
    found, count = figures(result), max(result["devices_used"])
    devices = f"{'simulated ' if result['platform'] == 'cpu' else ''}device{'s' * (count > 1)}"
    for name, size in result["batch_sizes"].items():
        for form in ("jit", "pmap"):
            what = f"{name}, batch {size}, {form} over {count} {devices}"
            ours, theirs = found[f"{name}/{count}/{form}"], found[f"{name}/1/jit"]
            yield Row(what, ours, "jit on one", theirs, result["unit"])


BENCHMARKS: dict[str, Callable[[Result], Iterator[Row]]] = {
    "step_time": step_time,
    "infogan": infogan,
    "soft_intro": soft_intro,
    "ensemble": ensemble,
    "fid": fid,
    "input": input_routes,
    "ar1": ar1,
    "side_by_side": side_by_side,
    "start": start,
    "scaling": scaling,
}
CONTESTS = ("step_time", "infogan", "soft_intro", "ensemble", "fid")  # against PyTorch, by turns


def table() -> str:
    """Returns a row for all that is kept of every benchmark, as Markdown; one of which nothing is
    says so."""
    lines, left, notes = [], [], {}
    for name, rows in BENCHMARKS.items():
        kept, before = measure.kept(name), len(lines)
        for result in kept:
            where = measure.where(result)
            if name in CONTESTS and "alone" not in result:  # of one process: nothing to go by
                left.append(f"{name} on {where}")
                continue
            lines += [(name, *line(row, notes), where) for row in rows(result)]
        if len(lines) == before:
            said = "To be measured again: see below." if kept else measure.NOTHING
            lines.append((name, said, *[""] * 6))
    said = LEGEND
    if left:
        said += f" In one process with PyTorch, and to be measured again: {'; '.join(left)}."
    return f"{grid([HEAD, *lines], (2, 4, 5), True)}\n\n{said}{measure.foot(notes)}"


def line(row: Row, notes: dict[str, int]) -> tuple[str, str, str, str, str, str]:
    """Returns the cells of a row but for its benchmark and its device; `notes` as in
    `measure.mark`."""
    ours, theirs, ratio = shown(row.ours, row.unit, notes), "", ""
    if row.theirs is not None:
        theirs = shown(row.theirs, row.unit, notes)
        quotient = row.ours.rate["median"] / row.theirs.rate["median"]
        ratio = f"{1 / quotient if row.unit == 's' else quotient:.2f}"
    return row.what, ours, row.other, theirs, ratio, row.unit


def shown(figure: Figure, unit: str, notes: dict[str, int]) -> str:
    """Returns a median with the number of its note, if there is one to make."""
    value, of = figure.rate["median"], "seconds" if unit == "s" else "rates"
    text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3g}"
    return text + measure.mark(notes, figure.name, figure.rate, figure.solo, of)
