"""python -m experiments.family.gallery: the family as tables in Markdown for a page of docs/, pictures and
numbers, one for each data set.

Numbers are the means over seeds of the result lines; cost is what training and measuring the
quickest seed took, and on what. A model that has no picture yet is left out.
"""

from collections.abc import Sequence

from PIL import Image

from experiments import runner
from experiments.family import setting
from experiments.family.cells import FOLDER
from experiments.family.figures import picture_of
from experiments.needs import duration
from experiments.runner import Option
from experiments.zoo import Wanted, size_of
from jaxvae import table
from jaxvae.presets import zoo
from jaxvae.table import Record, Row

METRICS = ("elbo", "iw_nll", "log_prob", "bpd", "best_of_k", "mean_error", "lpips", "fid")
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
SCALE = 0.75  # of a picture on the page
HEAD = ("model, numbers, cost", "samples; images above reconstructions; interpolations")
OPTIONS = (Option("only", None, str, "only NAME, or a glob of it", repeatable=True),)


def numbers(rows: Sequence[Row]) -> str:
    """Returns the numbers of a model, those of `METRICS` that it has."""
    found = sorted((r for r in rows if r.metric in METRICS), key=lambda r: METRICS.index(r.metric))
    return "<br>".join(f"{row.metric} {table.ours(row)}" for row in found).replace("+-", "±")


def cost(lines: Sequence[Record]) -> str:
    """Returns what the quickest seed took, trained and measured; nothing without result lines. Others may
    have run in company."""
    seconds: dict[int, float] = {}
    for line in lines:
        seconds[line["seed"]] = max(seconds.get(line["seed"], 0.0), line["seconds"])
    return duration(min(seconds.values())) if seconds else ""


def row(each: Wanted, rows: Sequence[Row], lines: Sequence[Record]) -> tuple[str, ...]:
    """Returns the row of a model that is in the zoo."""
    cell = setting.name(each)
    mine = [r for r in rows if r.cell == cell]
    with Image.open(picture_of(each)) as picture:
        width = round(SCALE * picture.width)
    place = f"../experiments/{FOLDER.name}/figures/{picture_of(each).name}"
    there = each.name in zoo.names()
    size = f"{size_of(zoo.folder_of(each.name)) / 1e6:.1f} MB" if there else ""
    spent = cost([line for line in lines if line["cell"] == cell])
    about = (
        f"`{'zoo:' if there else ''}{each.name}`",
        numbers(mine),
        ", ".join(text for text in (spent, size) if text),
    )
    image = f'<img src="{place}" alt="pictures of {each.name}" width="{width}">'
    return "<br>".join(text for text in about if text), image


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table of the models that are in the zoo."""
    about = "Prints the family as tables in Markdown."
    args = runner.parse("experiments.family.gallery", about, OPTIONS, argv)
    lines, expected = table.load(FOLDER)
    rows = table.join(lines, expected)
    shown = [each for each in setting.models(args.only) if picture_of(each).exists()]
    for of in dict.fromkeys(each.name.split("/")[1] for each in shown):
        mine = [row(each, rows, lines) for each in shown if each.name.split("/")[1] == of]
        print(f"### {TITLES[of]}\n\n{table.grid([HEAD, *mine], (), True)}\n")
    kinds = sorted({line["device"] for line in lines})
    if kinds:
        about = "Means over seeds ± their standard deviation (number of seeds). Cost: the quickest seed's"
        print(f"{about}, on {'; '.join(kinds)}.")


if __name__ == "__main__":
    main()
