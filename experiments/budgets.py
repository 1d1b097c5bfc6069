"""The share of a published schedule that is run: what a whole one costs is often more than a CPU has."""

from typing import NamedTuple

from jaxvae.errors import check_number


class Budget(NamedTuple):
    """A share of what was published, in (0, 1]; another budget is another protocol."""

    share: float = 1.0
    unit: str = "schedule"  # of which it is a share

    @property
    def suffix(self) -> str:
        """What it adds to the name of a protocol: nothing for all of it."""
        return "" if self.share == 1.0 else f", {100 * self.share:g} % of the {self.unit}"

    @property
    def folder(self) -> str:
        """Name of the folder of its runs and figures."""
        return "full" if self.share == 1.0 else f"budget_{self.share:g}"

    def of(self, n: int) -> int:
        """Returns how many of `n` epochs or steps are run, at least one."""
        return max(1, round(self.share * n))


def check_budget(share: float, unit: str = "schedule") -> Budget:
    """Returns the budget; raises `UserError` for a share outside (0, 1]."""
    check_number("--budget", share, above=0.0, at_most=1.0)
    return Budget(share, unit)
