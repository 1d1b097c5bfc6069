"""The runs of cells: each in a folder of its own, trained once, and the command that draws them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import jax

from experiments import runner
from experiments.costs import cost
from experiments.runner import Option
from jaxvae import parallel, writers
from jaxvae.data import Source
from jaxvae.errors import UserError, check_seed
from jaxvae.train import Phase, fit
from jaxvae.types import Model

OPTIONS = (
    Option("seed", 0, int, "of the runs to draw"),
    Option("smoke", False, bool, "draw the tiny runs, apart in smoke/"),
)


class Trained(NamedTuple):
    """A trained model."""

    model: Model
    params: Any
    state: Any
    steps: int


class Case(Protocol):
    """What a cell is run for."""

    @property
    def label(self) -> str:
        """Name of its folder and pictures."""
        ...

    @property
    def kind(self) -> str:
        """Name of the folder of its likes, or "" where there is one kind."""
        ...

    @property
    def seed(self) -> int:
        """Of the run."""
        ...

    @property
    def smoke(self) -> bool:
        """Whether it is tiny, and kept apart."""
        ...

    @property
    def suffix(self) -> str:
        """What it adds to the name of a protocol."""
        ...

    @property
    def folder(self) -> Path:
        """Where its run is kept, not in git."""
        ...


C = TypeVar("C", bound=Case)


def kind_of(*, narrow: bool) -> str:
    """Returns the name of the folder of narrow nets, or of those of the published size."""
    return "narrow" if narrow else "full"


def folder_of(home: Path, case: Case) -> Path:
    """Returns where the run of a case is kept: home/runs/KIND/LABEL.seedN."""
    kind = f"smoke_{case.kind}".rstrip("_") if case.smoke else case.kind or "full"
    return home / "runs" / kind / f"{case.label}.seed{case.seed}"


def finished(case: Case) -> bool:
    """Returns whether the run of a case is whole."""
    return (case.folder / "finished").exists()


def finish(case: Case) -> None:
    """Marks the run of a case as whole."""
    (case.folder / "finished").touch()


def train(
    case: Case,
    phases: Sequence[Phase],
    tx: Any,
    source: Source,
    preprocess: Any,
    *,
    batch_size: int,
    config: dict[str, Any],
    augment: Any = None,
) -> Trained:
    """Returns the model of the last of `phases`, trained on all of `source` in the folder of a case, or
    as it was; what each phase will cost is printed first."""
    steps = sum(phase.steps for phase in phases)
    if not case.smoke and not (case.folder / "config.json").exists():
        for number, phase in enumerate(phases, 1):
            said = cost(phase.model, tx, source, preprocess, phase.steps, batch_size)
            which = f", phase {number} of {len(phases)}" if len(phases) > 1 else ""
            print(f"  {case.label}{case.suffix}{which}: {said}", flush=True)
    with jax.default_matmul_precision("highest"):
        found = fit(
            phases,
            tx,
            source,
            batch_size=batch_size,
            seed=case.seed,
            workdir=case.folder,
            preprocess=preprocess,
            augment=augment,
            log_every=max(1, steps // 200),
            save_every=max(1, steps // 40),
            keep=1,
            mesh=parallel.mesh_for(batch_size),
            config=config,
        )
    finish(case)
    state = found.train_state
    return Trained(phases[-1].model, state.params, state.state, steps)


@runner.command
def draw(
    name: str,
    home: Path,
    cases: Callable[[int, bool], list[C]],
    draw_case: Callable[[C, Path], list[Path]],
    first: str,
    argv: Sequence[str] | None = None,
) -> None:
    """Draws the cases of an experiment whose runs are whole, and prints the files. A user's mistake is
    one line on stderr and exit code 2.

    Args:
        name: of the experiment.
        home: its folder.
        cases: (seed, smoke) -> those cases.
        draw_case: (case, folder) -> the files that it drew.
        first: the cell to train where there is none.
    """
    about = "Draws what has been trained here."
    args = runner.parse(f"experiments.{name}.figures", about, OPTIONS, argv)
    check_seed("--seed", args.seed)
    found = cases(args.seed, args.smoke)
    if not found:
        raise UserError(
            f"nothing has been trained here: python -m experiments.{name} --cell {first}"
        )
    for case in found:
        folder = writers.make_folder(home / ("smoke" if args.smoke else "figures") / case.kind)
        for path in draw_case(case, folder):
            print(path.relative_to(home))
