"""python -m experiments.vae.figures: the last points of the baseline curves of the paper's
Figure 1, and ours, into `figures/test_loss.png`. The whole curves are in `experiments.rho_vae`."""

from collections.abc import Sequence

from experiments import endpoints, runner
from experiments.vae.cells import FOLDER


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Draws what has been run. A user's mistake is one line on stderr and exit code 2."""
    endpoints.main(FOLDER, "test_loss", "as the released code prints it, down is better", argv)


if __name__ == "__main__":
    main()
