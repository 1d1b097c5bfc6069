"""Where the weights of metrics are, how they are read, and `jaxvae weights fetch | list`."""

import contextlib
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxvae import archives, safetensors, writers
from jaxvae.data import places
from jaxvae.errors import Damaged, UserError, one_line, unknown
from jaxvae.metrics import torch_files

ENVIRONMENT = "JAXVAE_WEIGHTS_DIR"
TIMEOUT = 5  # seconds to wait for an answer
SUFFIXES = (".pth", ".pt", ".npz", ".safetensors")
StateDict = dict[str, np.ndarray]


class Weights(NamedTuple):
    """A file that a metric needs."""

    file: str  # as it is published; its eight hex digits, where it has them, begin its SHA-256
    url: str
    purpose: str  # "FID"
    others: tuple[str, ...] = ()  # other names under which it is found

    @property
    def files(self) -> tuple[str, ...]:
        """The names that are looked for, first to last; the same with .npz and .safetensors."""
        names = (self.file, *self.others)
        stems = dict.fromkeys(name.removesuffix(".pth") for name in names)
        return (*names, *(stem + suffix for stem in stems for suffix in (".safetensors", ".npz")))


KNOWN = {
    "inception": Weights(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "FID and KID",
    ),
    "squeezenet": Weights(
        "squeezenet1_1-b8a52dc0.pth",
        "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        "the offline protocol squeezenet, LPIPS(squeeze)",
        ("squeezenet1_1_features.pth",),
    ),
    "lpips_squeeze": Weights(
        "lpips_squeeze_linear_v0.1.pth",
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/squeeze.pth",
        "LPIPS(squeeze)",
    ),
    "alexnet": Weights(
        "alexnet-owt-7be5be79.pth",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "LPIPS(alex)",
    ),
    "lpips_alex": Weights(
        "lpips_alex_linear_v0.1.pth",
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
        "LPIPS(alex)",
    ),
    "vgg16": Weights(
        "vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth", "LPIPS(vgg)"
    ),
    "lpips_vgg": Weights(
        "lpips_vgg_linear_v0.1.pth",
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth",
        "LPIPS(vgg)",
    ),
}


# ---- finding -------------------------------------------------------------------------------


def folders(data_dir: places.PathLike | None = None) -> list[Path]:
    """Returns the folders that are searched, first to last.

    JAXVAE_WEIGHTS_DIR, then those of data sets (`places.roots`) and ~/.cache/jaxvae, in each of
    which also weights/ and lpips/.
    """
    chosen = os.environ.get(ENVIRONMENT)
    found = [Path(os.path.expanduser(chosen))] if chosen else []
    roots = [Path(root) for root in places.roots(data_dir) if not places.remote(root)]
    for root in (*roots, places.cache()):
        found += [root, root / "weights", root / "lpips"]
    return list(dict.fromkeys(found))


def target(data_dir: places.PathLike | None = None) -> Path:
    """Returns the folder that is to be filled.

    JAXVAE_WEIGHTS_DIR, else weights/ in `data_dir` or in ~/.cache/jaxvae.
    """
    if chosen := os.environ.get(ENVIRONMENT):
        return Path(os.path.expanduser(chosen))
    return Path(data_dir or places.cache()) / "weights"


def find(name: str, data_dir: places.PathLike | None = None) -> Path | None:
    """Returns where the weights called `name` (a key of `KNOWN`) are, or None."""
    candidates = (folder / file for folder in folders(data_dir) for file in _known(name).files)
    return next((path for path in candidates if path.is_file()), None)


def locate(name: str, path: places.PathLike | None = None) -> Path:
    """Returns the file of the weights called `name`: at or in `path`, or where `find` finds it.

    Raises:
        UserError: where there is none; it says what to fetch and where to put it.
    """
    known = _known(name)
    if path is None:
        found = find(name)
        if found is None:
            raise UserError(
                f"the weights {known.file} are not here: run `jaxvae weights fetch {name}`, or "
                f"get {known.url} by hand and put it into {target()} (or say where it is with "
                f"{ENVIRONMENT} or a path)."
            )
        return found
    place = Path(os.path.expanduser(path))
    if place.is_dir():
        found = next((place / file for file in known.files if (place / file).is_file()), None)
        if found is None:
            raise UserError(f"{place} has none of {', '.join(known.files)}: get {known.url}.")
        return found
    if not place.is_file():
        raise UserError(
            f"there is no file {place}: run `jaxvae weights fetch {name}`, or get {known.url}."
        )
    return place


def _known(name: str) -> Weights:
    if name not in KNOWN:
        raise unknown("weights", name, KNOWN)
    return KNOWN[name]


# ---- reading -------------------------------------------------------------------------------


def read(path: places.PathLike) -> StateDict:
    """Returns the arrays of a .pth (either layout of torch), .npz or .safetensors file by name.

    Nothing in it is run.

    Raises:
        UserError: for a file of another kind, and one that is missing, truncated, damaged, or asks
            for code.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is not a file of weights: they end in {', '.join(SUFFIXES)}.")
    with writers.disk("read", path):
        if path.suffix in (".pth", ".pt"):
            found = torch_files.read(path)
        else:
            found = _npz(path) if path.suffix == ".npz" else safetensors.read(path)
    if not found:
        raise UserError(f"{path} is not a whole file of weights (it holds none): fetch it again.")
    return found


def _npz(path: Path) -> StateDict:
    try:
        return archives.read_npz(path)
    except Damaged as error:
        raise UserError(
            f"{path} is not a whole file of weights ({error}): fetch it again."
        ) from None


def select(
    state_dict: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], what: str
) -> StateDict:
    """Returns the arrays named in `shapes`, as float32, from a state dictionary.

    Args:
        state_dict: what is in it beyond `shapes` is left out.
        shapes: name -> shape, as torch lays weights out.
        what: the net and where the weights came from, for messages.

    Raises:
        UserError: for weights of another model (which names are missing, which shapes differ), or
            not finite.
    """
    missing = [name for name in shapes if name not in state_dict]
    if missing:
        first_names = one_line(", ".join(list(state_dict)[:2])) or "nothing"
        raise UserError(
            f"{what}: these are the weights of another model: {len(missing)} of {len(shapes)} "
            f"names are missing, such as {missing[0]} (it has {first_names})."
        )
    wrong = [
        name for name, shape in shapes.items() if tuple(state_dict[name].shape) != tuple(shape)
    ]
    if wrong:
        first, more = wrong[0], f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
        raise UserError(
            f"{what}: these are the weights of another model: {first} has shape "
            f"{tuple(state_dict[first].shape)} instead of {tuple(shapes[first])}{more}."
        )
    arrays = {name: np.asarray(state_dict[name]).astype(np.float32) for name in shapes}
    damaged = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if damaged:
        raise UserError(
            f"{what}: {damaged[0]} holds values that are not finite: fetch the file again."
        )
    return arrays


def convolutions(
    state_dict: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], what: str
) -> StateDict:
    """Returns the parameters of the convolutions of a torchvision model, kernels as [H, W, in,
    out], from its state dictionary or from that of its `features`; else as `select`."""
    prefix = "features."
    if any(name.startswith(prefix) for name in state_dict):
        state_dict = {
            name.removeprefix(prefix): value
            for name, value in state_dict.items()
            if name.startswith(prefix)
        }
    return {
        name: value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        for name, value in select(state_dict, shapes, what).items()
    }


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names, shapes and float32 values: the same for every kind of file."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name], np.float32)
        total.update(f"{name} {value.shape};".encode())
        total.update(value.astype("<f4", copy=False).data)
    return total.hexdigest()


# ---- fetching ------------------------------------------------------------------------------


def fetch(
    name: str,
    folder: places.PathLike | None = None,
    *,
    url: str | None = None,
    say: Callable[[str], Any] = print,
) -> Path:
    """Returns the file of the weights called `name`, downloaded into `folder` unless it is there.

    What is published with eight hex digits in its name is compared with them, the first of its
    SHA-256. A file comes under its name only when it is whole.

    Args:
        folder: default: `target()`.
        url: another place to get the same file from.
        say: called with a line about each stage.

    Raises:
        UserError: without a network (within seconds), for another file than the published one, and
            a full disk.
    """
    known = _known(name)
    folder = target() if folder is None else Path(os.path.expanduser(folder))
    path, url = folder / known.file, url or known.url
    want = checksum(known.file)
    by_hand = f"Get {url} by hand and put it into {folder} as {known.file}."
    if path.is_file():
        if want and not _sha256(path).startswith(want):
            raise UserError(
                f"{path} is not the published file (its checksum is another): remove it, then "
                "fetch again."
            )
        say(f"{name} is there already: {path}")
        return path
    if want is None:
        raise UserError(
            f"{known.file} is published without a checksum, so it is not downloaded. {by_hand}"
        )
    writers.make_folder(folder)
    say(f"downloading {url}")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as hidden:
        part = Path(hidden) / known.file
        _download(url, part, by_hand)
        if not _sha256(part).startswith(want):
            raise UserError(
                f"what {url} sent is not the published file (its checksum is another). {by_hand}"
            )
        with writers.disk("write", path):
            os.replace(part, path)
    say(f"{name}: {path.stat().st_size / 2**20:.1f} MiB in {path}")
    return path


def checksum(file: str) -> str | None:
    """Returns the beginning of the SHA-256 in a file name, as torch's hub names its files."""
    match = re.search(r"-([0-9a-f]{8})\.pth$", file)
    return match[1] if match else None


def _sha256(path: Path) -> str:
    with writers.disk("read", path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, part: Path, by_hand: str) -> None:
    import requests
    from tqdm import tqdm

    try:
        with (
            requests.get(url, stream=True, timeout=TIMEOUT) as answer,
            contextlib.ExitStack() as stack,
        ):
            answer.raise_for_status()
            total = int(answer.headers.get("content-length") or 0)
            bar = stack.enter_context(
                tqdm(
                    total=total or None, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
                )
            )
            for piece in answer.iter_content(2**20):
                with writers.disk("write", part), open(part, "ab") as file:
                    file.write(piece)
                bar.update(len(piece))
    except (requests.RequestException, ValueError) as error:
        raise UserError(f"{url} cannot be downloaded ({type(error).__name__}). {by_hand}") from None
    if total and part.stat().st_size != total:
        raise UserError(
            f"the download of {url} broke off after {part.stat().st_size:,} of {total:,} bytes. "
            f"{by_hand}"
        )


# ---- the commands --------------------------------------------------------------------------


def listing(data_dir: places.PathLike | None = None) -> list[tuple[str, str]]:
    """Returns (file, where it is or how to get it) for every file of weights that metrics use."""
    rows = []
    for name, known in KNOWN.items():
        path = find(name, data_dir)
        fetched = f"jaxvae weights fetch {name}, or " if checksum(known.file) else ""
        by_hand = f"put {known.url} into {target(data_dir)} as {known.file}"
        where = str(path) if path else f"not found; {known.purpose}: {fetched}{by_hand}"
        rows.append((path.name if path else known.file, where))
    return rows
