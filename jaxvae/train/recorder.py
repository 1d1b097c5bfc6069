"""What a run leaves behind: its log, its checkpoints, its warnings, and the progress bar."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from jaxvae import paths, writers
from jaxvae.errors import UserError
from jaxvae.train import folder as folders
from jaxvae.train.checkpoint import Checkpoints, Restored
from jaxvae.train.step import TrainState
from jaxvae.types import Tree


class NonFinite(ArithmeticError):
    """A loss or parameter that is not a number: the run stops, its last good checkpoint stays."""


LIVE = ("loss", "rec", "kl")  # shown first beside the bar, where they are there
SHOWN = 3  # metrics beside the bar


def shown_of(values: dict[str, float]) -> list[tuple[str, float]]:
    """Returns the few metrics of a line that the bar shows: those of `LIVE`, then any others."""
    names = [*(name for name in LIVE if name in values), *(n for n in values if n not in LIVE)]
    return [(name, values[name]) for name in names[:SHOWN]]


class Recorder:
    """Writes the log and the checkpoints of one run; with `folder=None` it keeps nothing.

    Args:
        folder: of the run, held by this process (`folder.hold`).
        check: raises `UserError` where it is no longer held.
        config: goes into every checkpoint.
        total: steps of the run.
        keep, best: as in `Checkpoints`.
        progress: whether to show a bar with loss, images/s and the time left.
    """

    def __init__(
        self,
        folder: Path | None,
        config: dict[str, Any],
        total: int,
        *,
        check: Callable[[], None] = lambda: None,
        keep: int = 2,
        best: tuple[str, str] | None = None,
        progress: bool = False,
    ):
        self.folder, self.config, self.total = folder, config, total
        self.check_held = check
        self.log, self.checkpoints = None, None
        if folder is not None:
            self.log = writers.Log(folder / "metrics.jsonl")
            self.checkpoints = Checkpoints(folder / "checkpoints", keep=keep, best=best)
        self.is_first_process = jax.process_index() == 0
        self.wants_bar = progress and self.is_first_process
        self.bar, self.drawn = None, time.perf_counter()
        self.warned: set[str] = set()
        self.validated: list[str] = []  # of the last evaluation, in words
        self.logged_at, self.clock = 0, time.perf_counter()

    def restore(self, template: Callable[[int], tuple[TrainState, Tree]]) -> Restored | None:
        """Returns the newest intact checkpoint, after cutting the log back to its step; None
        without one.

        Args:
            template: step -> (train_state, sums) of the shape of a checkpoint at that step.
        """
        if self.checkpoints is None:
            return None
        restored = folders.restore_latest(self.checkpoints, template)
        step = 0 if restored is None else restored.meta["step"]
        if self.is_first_process and self.log is not None:
            writers.cut_back(self.log.path, step)
        if step > self.total:
            print(
                f"{self.folder} is already at step {step}, beyond the {self.total} asked for: "
                "nothing to do."
            )
        return restored

    def lines(self) -> list[dict[str, Any]]:
        """Returns the lines of the log so far."""
        if self.log is None:
            return []
        with writers.disk("read", self.log.path):
            missing = not paths.path(self.log.path).exists()
        return [] if missing else [line for line in writers.read(self.log.path) if "split" in line]

    def write(self, line: dict[str, Any]) -> None:
        """Appends a line to the log."""
        if self.log is not None and self.is_first_process:
            self.check_held()
            self.log.write(line)

    def warn(self, about: str, step: int, warning: str | None) -> None:
        """Says `warning` on stderr, once for each thing that it is about; nothing for None."""
        if warning and about not in self.warned and self.is_first_process:
            self.warned.add(about)
            where = "" if self.folder is None else f"{self.folder}, "  # which stage of two, for one
            print(f"jaxvae: {where}step {step}: {warning}", file=sys.stderr)

    def open(self, wait_for: Tree) -> None:
        """Opens the checkpoints, once the first steps are there: beside the clock, and so early that
        no more is lost where they cannot be."""
        if self.checkpoints is not None and not self.checkpoints.is_open:
            jax.block_until_ready(wait_for)
            with self.paused():
                self.checkpoints.open()

    def save(self, step: int, train_state: TrainState, sums: Tree, metrics=None) -> None:
        """Starts to save a checkpoint, behind the log up to there; raises `NonFinite` where its arrays
        are not finite."""
        if self.checkpoints is None:
            return
        self.flush()
        try:
            self.checkpoints.save(train_state, sums, config=self.config, metrics=metrics)
        except FloatingPointError as error:
            raise self.non_finite(step, [str(error)]) from None

    def non_finite(self, step: int, names: list[str]) -> NonFinite:
        """Returns the error that names the step, what was not finite there, and what to do."""
        kept = [] if self.checkpoints is None else self.checkpoints.steps()
        where = f" The last good checkpoint is of step {kept[-1]}." if kept else ""
        return NonFinite(
            f"not finite at step {step}: {', '.join(names)}.{where} Use a smaller learning rate or "
            "clip the gradients (max_grad_norm), in a new folder."
        )

    # ---- time and the bar ----------------------------------------------------------------

    def begin(self, step: int) -> None:
        """Shows the bar, where it is wanted and there are steps to do."""
        if self.wants_bar and step < self.total:
            from tqdm import tqdm

            self.bar = tqdm(
                total=self.total,
                initial=step,
                unit="step",
                dynamic_ncols=True,
                mininterval=0.2,
                smoothing=0.1,
            )

    def start_clock(self, step: int) -> None:
        """Counts steps and seconds from here on."""
        self.logged_at, self.clock = step, time.perf_counter()

    def rate(self, step: int, batch_size: int) -> float:
        """Returns examples per second since the clock began, without pauses; starts it anew."""
        rate = (step - self.logged_at) * batch_size / (time.perf_counter() - self.clock)
        self.start_clock(step)
        return rate

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock inside the block."""
        start = time.perf_counter()
        yield
        self.clock += time.perf_counter() - start

    def show(self, step: int, wait_for: Tree) -> None:
        """Moves the bar, at most five times a second, to a step that has been computed."""
        if self.bar is not None and time.perf_counter() - self.drawn > 0.2:
            jax.block_until_ready(wait_for)
            self.drawn = time.perf_counter()
            self.bar.update(step - self.bar.n)

    def note(self, values: dict[str, float], rate: float) -> None:
        """Shows some of the means, what was last validated, and the rate beside the bar."""
        if self.bar is not None:
            shown = [f"{name} {value:.2f}" for name, value in shown_of(values)]
            line = [*shown, *self.validated, f"{rate:,.0f} images/s"]
            self.bar.set_postfix_str(", ".join(line), refresh=False)

    def note_validated(self, name: str, values: dict[str, float]) -> None:
        """Keeps a metric of the validation split for `note`."""
        if name in values:
            self.validated = [f"valid {name} {values[name]:.2f}"]

    def flush(self) -> None:
        """Writes the log up to here; raises `UserError` where the folder is no longer this run's."""
        if self.log is not None:
            self.check_held()
            self.log.flush()

    def wait(self) -> None:
        """Waits until the log and every checkpoint are on the disk."""
        self.flush()
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def close(self, step: int) -> None:
        """Ends the bar and lets go of the checkpoints."""
        if self.bar is not None:
            with contextlib.suppress(OSError):  # where nobody reads it any more: the rest matters
                self.bar.update(step - self.bar.n)
                self.bar.close()
        # what went wrong before matters more; wait() has told the rest
        with contextlib.suppress(UserError):
            self.flush()
        if self.checkpoints is not None:
            with contextlib.suppress(UserError):
                self.checkpoints.close()
