"""`jaxvae data prepare` and `jaxvae data list`: the official files, checked, as TFDS data sets in
ArrayRecord form.

A data set is built in a hidden folder beside its place, read back, and moved there whole: after a
full disk, a kill or a lost connection there is either all of it or nothing.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import urllib.parse
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxvae.data import idx, places, prepared
from jaxvae.errors import UserError, unknown

NAMES = ("mnist", "fashion_mnist", "cifar10", "svhn_cropped", "celeb_a")
SPACE = {  # MiB that a data set takes while it is prepared, about
    "mnist": 40,
    "fashion_mnist": 70,
    "cifar10": 300,
    "svhn_cropped": 3500,
    "celeb_a": 3000,
}
CIFAR_MD5 = {  # of the files in cifar-10-binary.tar.gz
    "data_batch_1.bin": ("5dd7e06a14cb22eb9f671a540d1b7c25",),
    "data_batch_2.bin": ("5ea93a67294ea407fff1d09f752e9692",),
    "data_batch_3.bin": ("942cd6a4bcdd0dd3c604fbe906cb4421",),
    "data_batch_4.bin": ("ae636b3ba5c66a11e91e8cb52e771fcb",),
    "data_batch_5.bin": ("53f37980c15c3d472c316c40844f3f0d",),
    # the official one, and one known to differ in 20 images that were kept as JPEG
    "test_batch.bin": ("803d5f7f4d78ea53de84dbe85f74fb6d", "4fd89b928a74095080b56355876466c0"),
}
TIMEOUT = 5  # seconds to wait for an answer


def prepare(
    name: str,
    *,
    data_dir: places.PathLike | None = None,
    source: places.PathLike | None = None,
    say=print,
) -> prepared.Copy:
    """Returns the prepared copy of `name` in `places.target(data_dir)`, made now unless it is there
    already.

    Args:
        name: one of `NAMES`.
        data_dir: where to; may be an address such as gs://bucket/data.
        source: a folder with the official archives, or with the official files that are in them;
            None: download.
        say: called with a line about each stage.

    Raises:
        UserError: for files that are missing or damaged (all of them are named), no network, no
            space.
    """
    if name not in NAMES:
        raise unknown("data set", name, NAMES)
    root = places.target(data_dir)
    there = _there(root, name)
    if there is not None:
        say(f"{name} is there already: {there.folder}")
        return there
    from jaxvae.data.builders import BUILDERS

    cls = BUILDERS[name]
    files = None
    if source is not None:
        files, notes = check_files(cls, Path(os.path.expanduser(source)))
        for note in notes:
            say(note)
    final = f"{root}/{name}/{cls.VERSION}"

    def taken() -> UserError:  # of another format, or without its page
        return UserError(
            f"{final} is taken by something else: move it away, or choose another --data-dir."
        )

    if not places.remote(root) and os.path.isdir(final) and os.listdir(final):
        raise taken()
    place = tempfile.gettempdir() if places.remote(root) else root
    with _disk(place, name):
        os.makedirs(place, exist_ok=True)
        free = shutil.disk_usage(place).free / 2**20
        if free < SPACE[name]:
            raise UserError(
                f"{name} needs about {SPACE[name]:,} MiB in {place}, which has {free:,.0f} MiB "
                "free: "
                "free some space, or choose another folder with --data-dir."
            )
        _clean(place, name)
    if files is None:
        check_network(cls)
    with (
        _disk(place, name),
        tempfile.TemporaryDirectory(dir=place, prefix=f".preparing-{name}-") as hidden,
    ):
        made = _build(cls, hidden, files, place, say)
        verify(made)
        if places.remote(root):
            _upload(made.folder, final)
        else:
            os.makedirs(f"{root}/{name}", exist_ok=True)
            try:
                os.rename(made.folder, final)
            except OSError:
                if not os.path.lexists(final):
                    raise
                there = _there(root, name)
                if there is None:
                    raise taken() from None
                say(f"{name} is there already, another process was faster: {there.folder}")
                return there
    say(
        f"{name}: {', '.join(f'{k} {n:,}' for k, n in made.counts.items())} examples, "
        f"{made.bytes / 2**20:.1f} MiB in {final}"
    )
    return made._replace(folder=final)


def _there(root: str, name: str) -> prepared.Copy | None:
    return next(
        (copy for copy in prepared.copies_in(root, name) if copy.format == "array_record"), None
    )


def _build(cls, hidden: str, files: dict[str, Path] | None, place: str, say) -> prepared.Copy:
    """Returns the copy that TFDS makes in the folder `hidden`."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import shuffle

    if sys.stderr is None or not sys.stderr.isatty():
        tfds.disable_progress_bar()
    builder = cls(data_dir=hidden, file_format="array_record")
    builder.files = files
    download = tfds.download.DownloadConfig(try_download_gcs=False)
    say(f"{'downloading and preparing' if files is None else 'preparing'} {cls.name}")
    limit = shuffle.MAX_MEM_BUFFER_SIZE
    shuffle.MAX_MEM_BUFFER_SIZE = 2**40  # beyond it TFDS shuffles with TensorFlow's file system
    downloads = (
        f"{place}/downloads" if files is None else f"{hidden}/downloads"
    )  # kept for the next attempt
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces sizes it does not know
            builder.download_and_prepare(download_dir=downloads, download_config=download)
    except (UserError, OSError, MemoryError) as error:
        if not isinstance(
            error, requests.RequestException
        ):  # which is an OSError, but not the disk's
            raise
        why = str(error).strip().splitlines()[0]
        raise UserError(
            f"{cls.name} could not be downloaded ({type(error).__name__}: {why[:300]}). "
            f"{by_hand(cls)}"
        ) from None
    except Exception as error:
        inner = _user_error(error)
        if inner is not None:
            raise inner from None
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = by_hand(cls) if files is None else "Check the files, or report this."
        raise UserError(
            f"{cls.name} could not be prepared ({type(error).__name__}: {why[:300]}). {hint}"
        ) from None
    finally:
        shuffle.MAX_MEM_BUFFER_SIZE = limit
    return prepared.copies_in(hidden, cls.name)[0]


def _user_error(error: BaseException | None) -> UserError | None:
    """Returns the `UserError` that TFDS wrapped into errors of its own, if there is one."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None


def verify(copy: prepared.Copy) -> None:
    """Raises `UserError` unless every record of a copy can be read back and is as long as it
    was."""
    for split, count in copy.counts.items():
        found = sum(len(chunk) for chunk in prepared.records(copy, split))
        if found != count or not count:
            raise UserError(
                f"{copy.name} was not written whole ({split}: {found} of {count} examples): is "
                "the disk full?"
            )


def _upload(folder: str, final: str) -> None:
    """Copies a prepared folder behind an address, its page last, without which nothing looks
    whole."""
    with prepared._readable(final):
        target = prepared._path(final)
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(
            Path(folder).iterdir(), key=lambda path: path.name == "dataset_info.json"
        ):
            (target / file.name).write_bytes(file.read_bytes())


def _clean(place: str, name: str) -> None:
    """Removes what a killed preparation left: hidden folders of this data set, older than an
    hour."""
    import time

    for path in Path(place).glob(f".preparing-{name}-*"):
        if time.time() - path.stat().st_mtime > 3600:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _disk(place: str, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(
            f"{name} cannot be prepared in {place}: {why}. Nothing of it was kept: free some "
            "space, or choose "
            "another folder with --data-dir."
        ) from None


# ---- the official files --------------------------------------------------------------------


def by_hand(cls, files: Collection[str] | None = None) -> str:
    """Returns which files to fetch by hand (default: all), and what to do with them."""
    urls = ", ".join(
        f"{info.filename} from {url}"
        for url, info in cls.url_infos.items()
        if files is None or info.filename in files
    )
    return f"Fetch by hand: {urls}; then: jaxvae data prepare {cls.name} --from DIR"


def check_network(cls) -> None:
    """Raises `UserError` within seconds where the server of an official file does not answer."""
    import requests

    for host in {
        f"{u.scheme}://{u.netloc}": url
        for url in cls.url_infos
        for u in [urllib.parse.urlparse(url)]
    }.values():
        try:
            with requests.get(host, stream=True, timeout=TIMEOUT) as answer:
                answer.raise_for_status()
        except requests.RequestException as error:
            where = urllib.parse.urlparse(host).netloc
            raise UserError(
                f"{where} does not answer ({type(error).__name__}), so {cls.name} cannot be "
                "downloaded. "
                f"{by_hand(cls)}"
            ) from None


def check_files(cls, folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Returns official file name -> path in `folder` (or in its subfolder of the data set's name),
    all checked, and remarks.

    Raises:
        UserError: with every file that is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder: give --from the one with the official files of {cls.name}."
        )
    found: dict[str, Path] = {}
    missing, damaged, notes = [], {}, []
    for info in cls.url_infos.values():
        path = _find(cls.name, info.filename, folder)
        if path is None:
            missing.append(info.filename)
            continue
        found[info.filename] = path
        problem, note = _problem(cls.name, info, path)
        if problem:
            damaged[info.filename] = f"{path}: {problem}"
        if note:
            notes.append(note)
    images = found.get("img_align_celeba.zip")
    if images is not None and images.is_dir() and not missing and not damaged:
        problem = _images_problem(images, found["list_eval_partition.txt"])
        damaged |= {"img_align_celeba.zip": f"{images}: {problem}"} if problem else {}
    if missing or damaged:
        parts = [f"missing: {', '.join(missing)}"] if missing else []
        parts += [f"damaged: {'; '.join(damaged.values())}"] if damaged else []
        hint = by_hand(cls, [*missing, *damaged])
        raise UserError(f"{cls.name} cannot be prepared from {folder} ({'; '.join(parts)}). {hint}")
    return found, notes


def _find(name: str, file: str, folder: Path) -> Path | None:
    """Returns an official file, or what was extracted from it."""
    for base in (folder, folder / name):
        extracted = [base / file.removesuffix(".gz")] if name in idx.ADDRESSES else []
        if (base / file).is_file():
            return base / file
        if file == "cifar-10-binary.tar.gz":
            extracted = [
                place
                for place in (base / "cifar-10-batches-bin", base)
                if any(place.glob("*_batch*.bin"))
            ]
        if file == "img_align_celeba.zip":
            extracted = [place for place in (base / "img_align_celeba",) if place.is_dir()]
        there = [path for path in extracted if path.exists()]
        if there:
            return there[0]
    return None


def _problem(name: str, info: Any, path: Path) -> tuple[str, str]:
    """Returns what is wrong with a file ("" for nothing), and a remark ("" for none)."""
    if name in idx.ADDRESSES:  # the content is compared: the files may be packed anew
        file = info.filename.removesuffix(".gz")
        split = next(split for split, files in idx.FILES.items() if file in files)
        try:
            idx.read_file(name, split, file, path)
        except (
            UserError
        ) as error:  # without the path and the address, which are said once for all files
            other = re.search(r" holds (\w+), not ", str(error))
            why = re.search(r" is damaged \((.*)\): fetch it again", str(error))
            return f"it is {other[1]}'s" if other else why[1] if why else str(error), ""
        return "", ""
    if path.is_file():
        size = path.stat().st_size
        if size != int(info.size):
            return f"{size:,} bytes instead of {int(info.size):,}", ""
        return (
            ""
            if _digest(path, "sha256") == info.checksum
            else "its checksum is not that of the official file"
        ), ""
    if name == "cifar10":
        wrong = [file for file in CIFAR_MD5 if not (path / file).is_file()]
        if wrong:
            return f"lacks {', '.join(wrong)}", ""
        digests = {file: _digest(path / file, "md5") for file in CIFAR_MD5}
        wrong = [file for file, known in CIFAR_MD5.items() if digests[file] not in known]
        if wrong:
            return f"the checksum of {', '.join(wrong)} is not the official one", ""
        changed = [file for file, known in CIFAR_MD5.items() if digests[file] != known[0]]
        note = f"{', '.join(changed)} is a known variant of the official file: 20 of its images went through JPEG."
        return "", note if changed else ""
    return "", ""  # CelebA's folder: `_images_problem`


def _images_problem(folder: Path, partition: Path) -> str:
    """Returns what is wrong with CelebA's extracted images, every one of which is decoded, or
    ""."""
    from jaxvae.data.builders import celeba_names

    def decodes(name: str) -> bool:
        try:
            prepared.decode_image((folder / name).read_bytes())
        except Exception:  # Pillow raises many kinds
            return False
        return True

    names = sorted(celeba_names(partition))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        bad = [name for name, good in zip(names, pool.map(decodes, names), strict=True) if not good]
    lost = [name for name in bad if not (folder / name).is_file()]
    problems = []
    for what, some in (
        ("lacks", lost),
        ("cannot decode", [name for name in bad if name not in set(lost)]),
    ):
        if some:
            shown = ", ".join(some[:3]) + (", ..." if len(some) > 3 else "")
            problems.append(f"{what} {shown} ({len(some):,} of {len(names):,} images)")
    return ", ".join(problems)


def _digest(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


# ---- jaxvae data list ----------------------------------------------------------------------
