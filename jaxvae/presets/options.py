"""The options that every preset has, as plain data.

Options are a frozen dataclass, from which the command line makes its help; nothing heavy is imported.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from tyro.conf import arg

from jaxvae import paths
from jaxvae.errors import UserError, check_count, check_number, check_seed


def optional(metavar: str, name: str | None = None) -> Any:
    """Returns the annotation of an option that may be left out: its text says what then happens."""
    return arg(
        name=name,
        metavar=metavar,
        help_behavior_hint=lambda default: "" if default == "None" else f"(default: {default})",
    )


Count = Annotated[int | None, optional("N")]
Text = Annotated[str | None, optional("STR")]
Folder = Annotated[Path | None, optional("DIR")]
Number = Annotated[float | None, optional("FLOAT")]

# options that say how large nets are (`held`): of so many layers, so wide
LAYERS, WIDTH = "layers", "width"
Layers = Annotated[int, LAYERS]
Width = Annotated[int, WIDTH]
WidthOrNone = Annotated[int | None, optional("N"), WIDTH]

# where things lie and who computes does not describe a run
PLACES = (
    "workdir",
    "data_dir",
    "download",
    "compilation_cache",
    "coordinator",
    "num_processes",
    "process_id",
)

# names of --optimizer; "adam" and its kin have Adam's decays
Optimizer = Literal["adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "sgd"]
WITH_BETA1 = ("adam", "adamw", "adamax", "nadam", "radam")
WITH_MOMENTUM = ("rmsprop", "sgd")

QUICK_STEPS, QUICK_TRAIN, QUICK_HELD_OUT = 200, 2_000, 500  # steps and examples of --quick
QUICK = (
    f"quick: {QUICK_STEPS} steps a stage, on the first {QUICK_TRAIN:,} training examples at most, "
    f"measured on {QUICK_HELD_OUT} held-out ones at most"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options that every preset has."""

    workdir: Annotated[Path, arg(metavar="DIR")]
    """Folder of the run, or gs://BUCKET/FOLDER; a run in it with the same settings is resumed."""
    data: str = "digits"
    """Data set: a name of `jaxvae data list`, folder:PATH (images), npz:FILE, or tfds:NAME."""
    data_dir: Folder = None
    """Folder of data sets (default: $JAXVAE_DATA_DIR, $TFDS_DATA_DIR, and two below your home)."""
    download: bool = True
    """Fetch a data set of `jaxvae data prepare` that is not here; JAXVAE_OFFLINE=1 forbids it, too."""
    size: Count = None
    """Height and width to which the images of a folder are resized."""
    crop: Count = None
    """Height and width of the centre of them that is kept, before that."""
    split: Text = None
    """Training split, e.g. "train[:1000]" (default: all but the validation and test parts, which it
    must leave out)."""

    flip: bool = False
    """Mirror training images left to right, each with probability 1/2 at every visit."""

    # length and order
    steps: Count = None
    """Length of the run in steps."""
    epochs: Count = None
    """Length of the run in passes over the training split (default: 20)."""
    quick: bool = False
    """Show the whole path in about a minute: 200 steps on 2000 examples, measured on 500. Its
    numbers compare with nothing."""
    batch_size: int = 128
    """Examples per step, over all devices."""
    seed: int = 0
    """Seed of parameters, noise and data order."""

    # optimisation
    optimizer: Optimizer = "adam"
    """What turns gradients into updates."""
    learning_rate: float = 1e-3
    """Of the optimiser, before --warmup and --lr-schedule."""
    momentum: Number = None
    """Of sgd and rmsprop (default: none)."""
    weight_decay: Number = None
    """Times the weights, added to their gradient, or with adamw apart from it; biases have none
    (default: none; of adamw 0.01)."""
    lr_schedule: Literal["constant", "cosine", "linear", "exponential"] = "constant"
    """How learning rates go down after --warmup."""
    lr_steps: Count = None
    """Steps at which they are down (default: the length of the run)."""
    lr_final: Number = None
    """What is left of them then, as a share (default: 0; of exponential 0.01)."""
    lr_halve_every: Count = None
    """Steps after which learning rates are halved, again and again (default: never)."""
    warmup: int = 0
    """Steps over which learning rates rise from 0."""
    patience: Count = None
    """Evaluations without a better ELBO (or density) of the validation split after which the run
    ends (default: it never ends early)."""
    max_grad_norm: Number = None
    """Clip gradients to this norm."""
    ema_decay: Number = None
    """Decay of a moving average of the parameters, used in evaluation."""
    accumulate: int = 1
    """Cut each batch into so many parts to save memory."""
    precision: Literal["float32", "high", "default", "bfloat16"] = "float32"
    """Of the nets' computation: all of float32; its matrix products as the chip does them by default
    (TF32 on NVIDIA GPUs, bfloat16 on TPUs) or, high, in three passes of that; or all in bfloat16.
    Parameters, statistics and losses are float32 with each."""

    # what is kept
    log_every: int = 100
    """Steps between lines of metrics.jsonl."""
    eval_every: Count = None
    """Steps between evaluations on the validation split, with checkpoints (default: ten a run)."""
    save_every: Count = None
    """Steps between further checkpoints."""
    keep: int = 2
    """Newest checkpoints to keep, beside the best one."""
    progress: bool = True
    """Show the progress bar."""
    tensorboard: bool = False
    """Also write the log for TensorBoard, into RUN/tensorboard."""

    compilation_cache: Text = None
    """Folder where compiled programs are kept for the next start, or none (default:
    $JAXVAE_CACHE_DIR, $XDG_CACHE_HOME/jaxvae, ~/.cache/jaxvae)."""

    # several processes: found by themselves on Cloud TPU and SLURM
    coordinator: Text = None
    """HOST:PORT of process 0, where several processes train together and are not found (default: those
    of a TPU slice, a SLURM step or an MPI job)."""
    num_processes: Count = None
    """How many they are; 1: this one trains alone."""
    process_id: Count = None
    """Number of this one, from 0."""

    own_lengths: ClassVar[tuple[str, ...]] = ()  # options beside these two that say how long it is
    may_differ: ClassVar[tuple[str, ...]] = ()  # options of its own that a resumed run may change

    @property
    def dtype(self) -> str:
        """Type of the nets' computation: float32 or bfloat16."""
        return "bfloat16" if self.precision == "bfloat16" else "float32"

    @property
    def matmul_precision(self) -> str:
        """Precision of float32 matrix products, as JAX calls it."""
        return self.precision if self.precision in ("high", "default") else "highest"

    @property
    def convolves(self) -> bool:
        """Whether the nets convolve, which needs another memory allocator on CPU (`host`)."""
        return False

    @property
    def batches(self) -> str:
        """The sizes of batches, in words."""
        return str(self.batch_size)

    def lengths(self, size: int) -> tuple[int, ...]:
        """Returns the steps of each stage, for `size` training examples."""
        if self.quick:
            return (QUICK_STEPS,)
        return (self.steps or math.ceil((self.epochs or 20) * size / self.batch_size),)

    def resolved(self, size: int) -> Self:
        """Returns options with the length of the learning rate's schedule, for `size` training
        examples: a run of another length would be another run."""
        if self.lr_schedule == "constant" or self.lr_steps is not None:
            return self
        return dataclasses.replace(self, lr_steps=self.lengths(size)[0])

    def longer(self, step: int) -> Self:
        """Returns options that go on with a run that has ended at `step`, for as long again; of a
        quick one, those of a full run beside it, and of one whose learning rate is down to 0 those of
        a run twice as long beside it."""
        if self.quick:
            workdir = self.workdir.with_name(f"{self.workdir.name}-full")
            return dataclasses.replace(self, quick=False, workdir=workdir, lr_steps=None)
        found = dataclasses.replace(self, steps=2 * step, epochs=None, patience=None)
        ends_at = 0.01 if self.lr_schedule == "exponential" else self.lr_final or 0.0
        if self.lr_schedule == "constant" or ends_at > 0.0 or step < (self.lr_steps or 0):
            return found
        workdir = self.workdir.with_name(f"{self.workdir.name}-longer")  # here the rate is 0
        return dataclasses.replace(found, workdir=workdir, lr_steps=None)

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        if self.steps is not None and self.epochs is not None:
            raise UserError("give --steps or --epochs, not both.")
        self._check_processes()
        for name in ("steps", "epochs", *self.own_lengths):
            if self.quick and getattr(self, name) is not None:
                option = name.replace("_", "-")
                raise UserError(
                    f"--quick has a length of its own: leave out --{option}, or --quick."
                )
        names = ("steps", "epochs", "batch_size", "accumulate", "log_every", "eval_every")
        self.check_counts(*names, "save_every", "keep", "size", "crop", "lr_halve_every")
        self.check_numbers("ema_decay", above=0.0, below=1.0)
        self.check_numbers("max_grad_norm", above=0.0)
        self._check_images()
        if self.tensorboard and paths.address(self.workdir):
            raise UserError(
                "--tensorboard writes to a disk: leave it out, metrics.jsonl in the bucket has it all."
            )
        check_seed("--seed", self.seed)
        self._check_optimizer()
        self._check_schedule()

    def _check_images(self) -> None:
        """Raises `UserError` for sizes of images that have one already."""
        given = [f"--{name}" for name in ("size", "crop") if getattr(self, name) is not None]
        if given and not self.data.startswith("folder:"):
            raise UserError(
                f"{' and '.join(given)}: only for a folder of images, --data folder:PATH, not for "
                f"{self.data}."
            )

    def _check_optimizer(self) -> None:
        """Raises `UserError` for options that the optimiser does not have."""
        check_number("--learning-rate", self.learning_rate, above=0.0)
        if self.weight_decay is not None:
            check_number("--weight-decay", self.weight_decay, least=0.0)
        if self.momentum is not None:
            check_number("--momentum", self.momentum, above=0.0, below=1.0)
            if self.optimizer not in WITH_MOMENTUM:
                raise UserError(
                    f"--momentum is of --optimizer {' or '.join(WITH_MOMENTUM)}: leave it out with "
                    f"{self.optimizer}."
                )

    def check_beta1(self, beta1: float, default: float) -> None:
        """Raises `UserError` for a first decay, of presets that have the option, that no optimiser
        has, or this one has not."""
        check_number("--beta1", beta1, least=0.0, below=1.0)
        if beta1 != default and self.optimizer not in WITH_BETA1:
            raise UserError(
                f"--beta1 is of --optimizer {', '.join(WITH_BETA1)}: leave it out with "
                f"{self.optimizer}."
            )

    def _check_schedule(self) -> None:
        """Raises `UserError` for schedules of the learning rate that do not go together."""
        self.check_counts("warmup", least=0)
        self.check_counts("lr_steps", "patience")
        if self.lr_schedule == "constant":
            for name in ("lr_steps", "lr_final"):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--{name.replace('_', '-')} is of a --lr-schedule other than constant: "
                        "give one, or leave it out."
                    )
            return
        if self.lr_halve_every is not None:
            raise UserError(
                f"give --lr-halve-every or --lr-schedule {self.lr_schedule}, not both: each says "
                "how learning rates go down."
            )
        if self.lr_final is not None:
            least = {"above": 0.0} if self.lr_schedule == "exponential" else {"least": 0.0}
            check_number("--lr-final", self.lr_final, **least, below=1.0)
        if self.lr_steps is not None:
            self.check_warmup("--lr-steps", self.lr_steps)

    def check_warmup(self, name: str, steps: int) -> None:
        """Raises `UserError` unless a schedule of so many steps goes on after the warm-up."""
        if self.warmup >= steps:
            raise UserError(
                f"--warmup {self.warmup} leaves nothing of a --lr-schedule that ends at step "
                f"{steps}: give a shorter one, or more {name}."
            )

    def _check_processes(self) -> None:
        """Raises `UserError` for processes that are described in part."""
        self.check_counts("num_processes")
        self.check_counts("process_id", least=0)
        count, number = self.num_processes, self.process_id
        if self.coordinator is None and number is None and count in (None, 1):
            return
        if self.coordinator is None or count is None or number is None:
            raise UserError(
                "--coordinator, --num-processes and --process-id belong together: give all three."
            )
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise UserError(f"--coordinator is HOST:PORT of process 0, not {self.coordinator!r}.")
        if number >= count:
            raise UserError(
                f"--process-id {number}: of {count} processes it runs from 0 to {count - 1}."
            )

    def check_default(self, why: str, *names: str) -> None:
        """Raises `UserError` unless the options of these names, which would have no effect, are left
        alone; `why` says so in words."""
        given = [n for n in names if getattr(self, n) != getattr(type(self), n)]
        if given:
            raise UserError(f"{why}: leave out --{', --'.join(given).replace('_', '-')}.")

    def check_counts(self, *names: str, least: int = 1) -> None:
        """Raises `UserError` unless the options of these names are whole numbers or not given."""
        for name in names:
            if getattr(self, name) is not None:
                check_count(f"--{name.replace('_', '-')}", getattr(self, name), least)

    def check_numbers(self, *names: str, **bounds: float) -> None:
        """Raises `UserError` unless the options of these names are inside the bounds of
        `check_number`, or not given."""
        for name in names:
            if getattr(self, name) is not None:
                check_number(f"--{name.replace('_', '-')}", getattr(self, name), **bounds)
