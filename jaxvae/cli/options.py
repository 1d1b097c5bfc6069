"""Options of the commands that use a trained run, and of those about data; nothing heavy is
imported here."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from tyro.conf import Positional, arg

from jaxvae import paths
from jaxvae.errors import UserError, check_count, check_number
from jaxvae.presets.config import Count, Folder, Number, Text, optional

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
    "mig",
    "factor_vae_score",
    "beta_vae_score",
    "dci",
    "auroc",
    "fid",
    "kid",
]
METRICS = get_args(Metric)
Stats = Literal["running", "batch", "reestimated", "reestimated-samples"]


@dataclasses.dataclass(frozen=True)
class _OnRun:
    writes: ClassVar[str] = ".png"  # the format of --out

    run: Run
    """Folder of a run, or of an exported model; or one by its name, zoo:NAME or hf:USER/NAME."""
    step: str = "latest"
    """Checkpoint: latest, best, or a step that was kept."""
    seed: int = 0
    """Seed of the noise."""
    out: File = None
    """File to write (default: in RUN, named after the command; of a model by its name in a folder of
    that name here)."""
    npz: File = None
    """Also write the numbers to this .npz file."""
    data_dir: Folder = None
    """Where the files of data sets are (default: as for train)."""
    compilation_cache: Text = None
    """Folder of compiled programs, or none (default: as for train)."""


@dataclasses.dataclass(frozen=True)
class _Stats:
    stats: Annotated[Stats | None, optional("|".join(get_args(Stats)))] = None
    """Statistics of BatchNorm: averages of training, each batch's own, or re-estimated over training
    data or (in the decoder) over samples (default: running; of introspective models re-estimated)."""


@dataclasses.dataclass(frozen=True)
class _Truncation:
    truncation: Number = None
    """Of a style-based model: draw styles nearer to their average, 1 not at all, 0 all the way."""


@dataclasses.dataclass(frozen=True)
class _OnData(_OnRun):
    split: Text = None
    """Examples to use (default: the data set's test split)."""


@dataclasses.dataclass(frozen=True)
class Sample(_Truncation, _Stats, _OnData):
    """Draw new examples from a trained model."""

    n: int = 64
    """How many."""
    label: Count = None
    """Class of all of them, for a conditional model (default: one class after the other)."""
    example: Count = None
    """Example of the split that all of them complete, for a model that completes images (default:
    the first eight, one after the other)."""


@dataclasses.dataclass(frozen=True)
class Reconstruct(_Truncation, _Stats, _OnData):
    """Encode and decode examples, each original above its reconstruction."""

    n: int = 32
    """How many."""


@dataclasses.dataclass(frozen=True)
class Interpolate(_Truncation, _Stats, _OnData):
    """Decode the way from one latent to another, of examples or of draws, a row for each pair."""

    n: Count = None
    """How many pairs (default: 8)."""
    points: Count = None
    """Images in a row, both ends included (default: 11; of a square 8)."""
    square: bool = False
    """Between the first four examples instead, as the corners of a square."""


@dataclasses.dataclass(frozen=True)
class Traverse(_Stats, _OnData):
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
class Translate(_Stats, _OnData):
    """Exchange content and class of examples: a row for each class, a column for each content."""

    n: int = 4
    """How many of each: the first n examples are the classes, the next n the contents."""


@dataclasses.dataclass(frozen=True)
class Evaluate(_OnData):
    """Measure a trained model: a table, and the same as JSON."""

    writes: ClassVar[str] = ".json"

    metrics: Annotated[tuple[Metric, ...] | None, optional(f"{{{','.join(METRICS)}}} ...")] = None
    """What to measure (default: elbo with rec and kl, and active_units; an exact log_prob;
    completions, where images are completed)."""
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
    stats: Annotated[tuple[Stats, ...] | None, optional(f"{{{','.join(get_args(Stats))}}} ...")] = (
        None
    )
    """As for the other commands; of several, everything is measured with each."""
    out_data: Text = None
    """Of auroc: the data set that the model is to tell from its own, as --data of train."""
    out_split: Text = None
    """Of auroc: its examples (default: the data set's test split)."""
    convert: bool = False
    """Of auroc: give those images the size and the channels of the model's own."""
    draws: Count = None
    """For each example: of auroc, those of the importance-weighted score (default: 5); of
    completions, how many (default: 10)."""
    gamma: Number = None
    """Of auroc: variance of the decoder to score with (default: the model's own)."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Put runs side by side: settings that differ, last numbers, curves and samples."""

    writes: ClassVar[str] = ".png"

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN ...")]
    """Folders of two or more runs, or of exported models; or models by their names, zoo:NAME."""
    out: Path = Path("compare.png")
    """File to draw."""


Averages = Annotated[
    Literal["running", "reestimated", "reestimated-samples"] | None,
    optional("running|reestimated|reestimated-samples"),
]


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a trained model as safetensors and JSON with a card; jaxvae.load reads the folder back."""

    run: Run
    """Folder of a run."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder to write: model.safetensors, config.json, README.md, samples.png, and of the run
    evaluation.json."""
    step: str = "latest"
    """Checkpoint: latest, best, or a step that was kept."""
    stats: Averages = None
    """Averages of BatchNorm to write: those of training, or re-estimated over training data or (in
    the decoder) over samples (default: running; of introspective models reestimated)."""
    license: Text = None
    """Under which you release it, as the Hugging Face Hub calls it, such as apache-2.0 (default:
    unknown)."""
    data_dir: Folder = None
    """Where the files of data sets are (default: as for train)."""
    compilation_cache: Text = None
    """Folder of compiled programs, or none (default: as for train)."""


@dataclasses.dataclass(frozen=True)
class Push:
    """Put a trained model on the Hugging Face Hub, exported first where it is a run."""

    run: Run
    """Folder of a run, or of an exported model, which gets a card with its new name."""
    name: Annotated[Positional[str], arg(metavar="USER/NAME")]
    """Repository; made where there is none."""
    private: bool = False
    """Make a new repository private."""
    message: Text = None
    """Of the commit."""
    step: Text = None
    """As for export (default: latest)."""
    stats: Averages = None
    """As for export."""
    license: Text = None
    """As for export."""
    data_dir: Folder = None
    """Where the files of data sets are (default: as for train)."""
    compilation_cache: Text = None
    """Folder of compiled programs, or none (default: as for train)."""


@dataclasses.dataclass(frozen=True)
class Pull:
    """Fetch a model from the Hugging Face Hub, checked."""

    name: Annotated[Positional[str], arg(metavar="USER/NAME")]
    """Repository."""
    out: Folder = None
    """Folder to write (default: NAME)."""


@dataclasses.dataclass(frozen=True)
class Zoo:
    """List the trained models that come with jaxvae: zoo:NAME in place of RUN uses one."""


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
    "translate": (Translate, "use"),
    "evaluate": (Evaluate, "evaluate"),
    "compare": (Compare, "compare"),
    "export": (Export, "export"),
    "push": (Push, "hub"),
    "pull": (Pull, "hub"),
    "zoo": (Zoo, "zoo"),
    "doctor": (Doctor, "doctor"),
    "data prepare": (DataPrepare, "doctor"),
    "data list": (DataList, "doctor"),
    "weights fetch": (WeightsFetch, "doctor"),
    "weights list": (WeightsList, "doctor"),
}


LEAST = {  # option -> its smallest value
    "n": 1,
    "points": 2,
    "k": 1,
    "batch_size": 1,
    "seed": 0,
    "label": 0,
    "example": 0,
    "samples": 2,
    "draws": 1,
}
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".webp"}
FORMATS = PICTURES | {".npz", ".npy", ".json", ".csv"}  # of files; a name may have other dots in it
OF_AUROC = ("out_data", "out_split", "convert", "gamma")


def check(options: Any) -> None:
    """Raises `UserError` for numbers that no command can use."""
    for name, least in LEAST.items():
        if getattr(options, name, None) is not None:
            check_count(f"--{name.replace('_', '-')}", getattr(options, name), least)
    if hasattr(options, "width"):
        check_number("--width", options.width, above=0.0)
    if getattr(options, "truncation", None) is not None:
        check_number("--truncation", options.truncation, least=0.0)
    if hasattr(options, "writes"):
        _check_format("--out", options.out, options.writes)
    if hasattr(options, "npz"):
        _check_format("--npz", options.npz, ".npz")
    if isinstance(options, Interpolate) and options.square and options.n is not None:
        raise UserError("--n is how many pairs: a --square has four corners, leave it out.")
    if isinstance(options, Compare):
        _check_compare(options)
    if isinstance(options, Evaluate):
        _check_evaluate(options)


def _check_format(option: str, path: Path | None, suffix: str) -> None:
    """Raises `UserError` for a file whose name says another format than the one that is written."""
    if path is not None and path.suffix.lower() in FORMATS - {suffix}:
        raise UserError(
            f"{option} {paths.address(path) or path}: what is written is {suffix[1:].upper()}, so call it "
            f"{path.stem}{suffix}."
        )


def _check_compare(options: Compare) -> None:
    """Raises `UserError` for what cannot be compared."""
    if len(options.runs) < 2:
        raise UserError("compare needs two runs or more: jaxvae compare RUN RUN ...")
    places = [paths.resolved(run) for run in options.runs]
    twice = [run for i, run in enumerate(options.runs) if places.index(places[i]) < i]
    if twice:
        raise UserError(f"{twice[0]} is given twice: name each run once.")


def _check_evaluate(options: Evaluate) -> None:
    """Raises `UserError` for what no evaluation can use."""
    if options.metrics == ():
        raise UserError(f"--metrics needs at least one of {', '.join(METRICS)}.")
    if options.stats is not None and len(set(options.stats)) != len(options.stats or (0, 0)):
        raise UserError(f"--stats needs one or more of {', '.join(get_args(Stats))}, each once.")
    if options.gamma is not None:
        check_number("--gamma", options.gamma, above=0.0)
    if "auroc" in (options.metrics or ()):
        if options.out_data is None:
            raise UserError(
                "auroc needs the data that the model is to tell from its own: --out-data NAME."
            )
        return
    given = [name for name in OF_AUROC if getattr(options, name) not in (None, False)]
    if given:
        words = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{words}: only for --metrics auroc.")
