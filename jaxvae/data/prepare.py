"""`jaxvae data prepare` and `jaxvae data list`: the official files, checked, as TFDS data sets in
ArrayRecord form.

A data set is built in a hidden folder beside its place, read back, and moved there whole: after a
full disk, a kill or a lost connection there is either all of it or nothing.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from jaxvae import paths, writers
from jaxvae.data import official, places, prepared, sets
from jaxvae.errors import UserError, unknown

NAMES = ("mnist", "fashion_mnist", "cifar10", "svhn_cropped", "celeb_a")
SPACE = {  # MiB that a data set takes while it is prepared, about
    "mnist": 40,
    "fashion_mnist": 70,
    "cifar10": 300,
    "svhn_cropped": 3500,
    "celeb_a": 3000,
}
FORBID = " (--no-download refuses)"
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
    existing = _existing(root, name)
    if existing is not None:
        say(f"{name} is there already: {existing.folder}")
        return existing
    from jaxvae.data.builders import BUILDERS

    cls = BUILDERS[name]
    files = None
    if source is not None:
        files, remarks = official.check(cls, Path(os.path.expanduser(source)))
        for remark in remarks:
            say(remark)
    final = f"{root}/{name}/{cls.VERSION}"

    def taken() -> UserError:  # of another format, or without its page
        return UserError(
            f"{final} is taken by something else: move it away, or choose another --data-dir."
        )

    if not places.remote(root) and os.path.isdir(final) and os.listdir(final):
        raise taken()
    place = tempfile.gettempdir() if places.remote(root) else root
    with _disk(place, name):
        _make_room(place, name)
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
                existing = _existing(root, name)
                if existing is None:
                    raise taken() from None
                say(f"{name} is there already, another process was faster: {existing.folder}")
                return existing
    say(
        f"{name}: {', '.join(f'{k} {n:,}' for k, n in made.counts.items())} examples, "
        f"{made.bytes / 2**20:.1f} MiB in {final}"
    )
    return made._replace(folder=final)


def obtain(name: str, *, data_dir: places.PathLike | None = None, say=print) -> None:
    """Downloads and prepares a data set of `sets.load` that is not here, and says first what, how
    much and where to; does nothing where it is here or needs no files, and where JAXVAE_OFFLINE is
    set.

    Args:
        name: of the data set; those that `NAMES` does not have are left alone.
        data_dir: as for `prepare`.
        say: as for `prepare`.

    Raises:
        UserError: as `prepare`.
    """
    offline = os.environ.get("JAXVAE_OFFLINE", "0") not in ("", "0")
    if offline or sets.is_here(name, data_dir):
        return
    files = sets.DATA_SETS[name].files
    assert files is not None  # as `is_here` has seen
    from jaxvae.data.builders import BUILDERS

    where = places.target(data_dir)
    say(f"{name} is not here: downloading {announced(BUILDERS[files])}, into {where}{FORBID}")
    prepare(files, data_dir=data_dir, say=say)


def announced(cls) -> str:
    """Returns in words what a download of the official files of `cls`, a TFDS builder, takes."""
    size = sum(int(info.size) for info in cls.url_infos.values()) / 2**20
    hosts = dict.fromkeys(urllib.parse.urlparse(url).netloc for url in cls.url_infos)
    return f"{len(cls.url_infos)} files, {size:,.1f} MiB, from {', '.join(hosts)}"


def _make_room(place: str, name: str) -> None:
    """Makes the folder `place`, without what a killed preparation left; raises `UserError` where
    the data set does not fit."""
    os.makedirs(place, exist_ok=True)
    free = shutil.disk_usage(place).free / 2**20
    if free < SPACE[name]:
        raise UserError(
            f"{name} needs about {SPACE[name]:,} MiB in {place}, which has {free:,.0f} MiB "
            "free: free some space, or choose another folder with --data-dir."
        )
    _clean(place, name)


def _existing(root: str, name: str) -> prepared.Copy | None:
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
    # what is downloaded is kept for the next attempt
    downloads = f"{place if files is None else hidden}/downloads"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces sizes it does not know
            builder.download_and_prepare(download_dir=downloads, download_config=download)
    except requests.RequestException as error:  # an OSError, but not the disk's
        why = str(error).strip().splitlines()[0]
        raise UserError(
            f"{cls.name} could not be downloaded ({type(error).__name__}: {why[:300]}). "
            f"{official.by_hand(cls)}"
        ) from None
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        inner = _user_error(error)
        if inner is not None:
            raise inner from None
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = official.by_hand(cls) if files is None else "Check the files, or report this."
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
    """Raises `UserError` unless every record of a copy can be read back."""
    for split, count in copy.counts.items():
        found = sum(len(chunk) for chunk in prepared.records(copy, split))
        if found != count or not count:
            raise UserError(
                f"{copy.name} was not written whole ({split}: {found} of {count} examples): is "
                "the disk full?"
            )


def _upload(folder: str, final: str) -> None:
    """Copies a prepared folder behind an address, its page last: without it nothing looks whole.

    Raises:
        UserError: where the bucket refuses, or keeps less than it was sent.
    """
    with writers.disk("write", final):
        target = paths.path(final)
        names = sorted(Path(folder).iterdir())
        for file in sorted(names, key=lambda path: path.name == "dataset_info.json"):
            with file.open("rb") as source, (target / file.name).open("wb") as copy:
                shutil.copyfileobj(source, copy, 2**24)
            if paths.size(target / file.name) != paths.size(file):
                raise OSError(f"{file.name} did not arrive whole")


def _clean(place: str, name: str) -> None:
    """Removes what killed preparations left: hidden folders of this data set, over an hour old."""
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
            "space, or choose another folder with --data-dir."
        ) from None


def check_network(cls) -> None:
    """Raises `UserError` within seconds where the server of an official file does not answer."""
    import requests

    url_of = {urllib.parse.urlparse(url)[:2]: url for url in cls.url_infos}  # one of each server
    for (_, where), url in url_of.items():
        try:
            with requests.get(url, stream=True, timeout=TIMEOUT) as answer:
                answer.raise_for_status()
        except requests.RequestException as error:
            raise UserError(
                f"{where} does not answer ({type(error).__name__}), so {cls.name} cannot be "
                f"downloaded. {official.by_hand(cls)}"
            ) from None
