"""python -m experiments: how many published numbers have ours beside them, by experiment."""

from collections.abc import Sequence
from pathlib import Path

from experiments import runner
from jaxvae import table

FOLDER = Path(__file__).parent
HEAD = ("experiment", "published numbers", "run", "with 3 seeds or more", "reproduced", "differ")


def counts() -> dict[str, tuple[int, ...]]:
    """Returns for each experiment the numbers below the columns of `HEAD`."""
    found = {}
    for folder in sorted(path.parent for path in FOLDER.glob("*/expected.json")):
        rows = [row for row in table.join(*table.load(folder)) if row.paper is not None]
        statuses = [row.status for row in rows]
        known = [statuses.count(status) for status in ("reproduced", "differs")]
        run = len(rows) - statuses.count("not run")
        found[folder.name] = len(rows), run, sum(known), *known
    return found


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints the counts in Markdown. A user's mistake is one line on stderr and exit code 2."""
    runner.parse(
        "experiments", "Counts the published numbers that have ours beside them.", (), argv
    )
    found = counts()
    found["all"] = tuple(map(sum, zip(*found.values(), strict=True)))
    print(f"| {' | '.join(HEAD)} |\n| --- |{' ---: |' * (len(HEAD) - 1)}")
    for name, numbers in found.items():
        linked = name if name == "all" else f"[{name}](experiments/{name}/README.md)"
        print(f"| {linked} | {' | '.join(map(str, numbers))} |")


if __name__ == "__main__":
    main()
