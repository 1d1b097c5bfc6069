"""python -m experiments.course_report.figures: the last points of the report's VAE curves, and ours, into
`figures/elbo.png`."""

from collections.abc import Sequence

from experiments import endpoints, runner
from experiments.course_report.cells import FOLDER


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Draws what has been run. A user's mistake is one line on stderr and exit code 2."""
    endpoints.main(FOLDER, "elbo", "nats per image, up is better", argv)


if __name__ == "__main__":
    main()
