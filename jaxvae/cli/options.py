"""Options of the commands that use a trained run, and of those about data; nothing heavy is
imported here."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Positional, arg

from jaxvae.errors import UserError, check_count, check_number
from jaxvae.presets.config import Count, Folder, Text, optional

File = Annotated[Path | None, optional("FILE")]
Run = Annotated[Positional[Path], arg(metavar="RUN")]
Metric = Literal[
    "elbo",
    "kl_per_dim",
    "active_units",
    "log_prob",
    "completions",
    "iw_nll",
    "bpd",
    "lpips",
    "fid",
    "kid",
]
METRICS = get_args(Metric)


@dataclasses.dataclass(frozen=True)
class _OnRun:
    run: Run
    """Folder of a run, or of an exported model."""
    step: str = "latest"
    """Checkpoint: latest, best, or a step that was kept."""
    seed: int = 0
    """Seed of the noise."""
    out: File = None
    """File to write (default: in RUN, named after the command)."""
    npz: File = None
    """Also write the numbers to this .npz file."""


@dataclasses.dataclass(frozen=True)
class _OnData(_OnRun):
    split: Text = None
    """Examples to use (default: the data set's test split)."""
    data_dir: Folder = None
    """Where the files of data sets are (default: as for train)."""


@dataclasses.dataclass(frozen=True)
class Sample(_OnData):
    """Draw new examples from a trained model."""

    n: int = 64
    """How many."""
    label: Count = None
    """Class of all of them, for a conditional model (default: one class after the other)."""
    example: Count = None
    """Example of the split that all of them complete, for a model that completes images (default:
    the first eight, one after the other)."""


@dataclasses.dataclass(frozen=True)
class Reconstruct(_OnData):
    """Encode and decode examples, each original above its reconstruction."""

    n: int = 32
    """How many."""


@dataclasses.dataclass(frozen=True)
class Interpolate(_OnData):
    """Decode the way from one latent to another, of examples or of draws, a row for each pair."""

    n: int = 8
    """How many pairs."""
    points: int = 11
    """Images in a row, both ends included."""


@dataclasses.dataclass(frozen=True)
class Traverse(_OnData):
    """Decode an example's latent with one dimension after the other moved through its range."""

    n: int = 10
    """How many dimensions: those with the largest KL."""
    points: int = 11
    """Images in a row."""
    width: float = 3.0
    """The range is from -width to width."""
    example: int = 0
    """Which example of the split."""


@dataclasses.dataclass(frozen=True)
class Evaluate(_OnData):
    """Measure a trained model: a table, and the same as JSON."""

    metrics: Annotated[tuple[Metric, ...] | None, optional(f"{{{','.join(METRICS)}}} ...")] = None
    """What to measure (default: elbo with rec and kl, and active_units; an exact log_prob;
    completions, where images are completed)."""
    draws: Count = None
    """Completions of each example (completions; default: 10)."""
    k: int = 5000
    """Draws for each example of the importance-weighted bound (iw_nll, bpd)."""
    batch_size: int = 100
    """Examples at a time."""
    protocol: Text = None
    """Of fid, kid: standard, two-stage-released, lucic-2018, soft-intro-released, squeezenet."""
    samples: Count = None
    """Generated images for fid and kid, and real ones at most (default: the protocol's)."""
    weights: File = None
    """File or folder of the weights of fid and kid, or folder of those of lpips (default: as
    `jaxvae weights list` shows)."""
    lpips_net: Literal["squeeze", "alex", "vgg"] = "squeeze"
    """Net of lpips, which compares reconstructions with the images."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a trained model as safetensors and JSON; jaxvae.load reads the folder back."""

    run: Run
    """Folder of a run."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder to write: model.safetensors and config.json."""
    step: str = "latest"
    """Checkpoint: latest, best, or a step that was kept."""


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Show versions, devices, memory, data and weights; what is missing and how to get it."""

    data_dir: Folder = None
    """Where the files of data sets are (default: as for train)."""


@dataclasses.dataclass(frozen=True)
class DataPrepare:
    """Prepare a data set from the net or from its official files, without TensorFlow."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """mnist, fashion_mnist, cifar10, svhn_cropped or celeb_a."""
    from_: Annotated[Path | None, optional("DIR", name="from")] = None
    """Folder with the official archives or the files in them (default: download them)."""
    data_dir: Folder = None
    """Where to (default: $TFDS_DATA_DIR, then $JAXVAE_DATA_DIR, then ~/tensorflow_datasets)."""


@dataclasses.dataclass(frozen=True)
class DataList:
    """List the data sets: what is there, how many examples, how large, and where."""

    data_dir: Folder = None
    """Folder of data sets (default: $JAXVAE_DATA_DIR, $TFDS_DATA_DIR, and two below your home)."""


@dataclasses.dataclass(frozen=True)
class WeightsFetch:
    """Download the weights that a metric needs, checked."""

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """inception (FID) or squeezenet (LPIPS, the offline distance)."""
    out: Folder = None
    """Where to (default: $JAXVAE_WEIGHTS_DIR, then ~/.cache/jaxvae/weights)."""


@dataclasses.dataclass(frozen=True)
class WeightsList:
    """List the weights of metrics: where they are, or how to get them."""

    data_dir: Folder = None
    """Where to look as well (default: as for train)."""


COMMANDS = {  # words of the command -> options, module and function
    "sample": (Sample, "use"),
    "reconstruct": (Reconstruct, "use"),
    "interpolate": (Interpolate, "use"),
    "traverse": (Traverse, "use"),
    "evaluate": (Evaluate, "use"),
    "export": (Export, "export"),
    "doctor": (Doctor, "doctor"),
    "data prepare": (DataPrepare, "doctor"),
    "data list": (DataList, "doctor"),
    "weights fetch": (WeightsFetch, "doctor"),
    "weights list": (WeightsList, "doctor"),
}


LEAST = {  # option -> its smallest value
    "n": 1,
    "points": 2,
    "draws": 2,
    "k": 1,
    "batch_size": 1,
    "seed": 0,
    "label": 0,
    "example": 0,
    "samples": 2,
}


def check(options: Any) -> None:
    """Raises `UserError` for numbers that no command can use."""
    for name, least in LEAST.items():
        if getattr(options, name, None) is not None:
            check_count(f"--{name.replace('_', '-')}", getattr(options, name), least)
    if hasattr(options, "width"):
        check_number("--width", options.width, above=0.0)
    if getattr(options, "metrics", None) == ():
        raise UserError(f"--metrics needs at least one of {', '.join(METRICS)}.")
