"""Released models on the Hugging Face Hub, by `huggingface_hub` (the extra `hub`): `send` and `fetch`.

A repository holds the files of `released.FILES`; whatever else is in it is not fetched, pickles least of
all. HF_ENDPOINT says where the Hub is, HF_HOME where fetched files are kept.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxvae import writers
from jaxvae.errors import UserError, one_line
from jaxvae.presets import released

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
NEEDED = (released.MODEL, released.CONFIG)
NAME = re.compile(r"(?!.*(--|\.\.))(\w([\w.-]*\w)?)/(\w([\w.-]*\w)?)", re.ASCII)
LONGEST = 96  # characters of a name


def fetch(name: str) -> Path:
    """Returns a folder with the model of the repository USER/NAME, in the Hub's own cache; the Hub is
    asked each time which files it has, and only those that are not in the cache are fetched.

    Where JAXVAE_OFFLINE or HF_HUB_OFFLINE forbids to ask it, it is the model that was fetched last; so it
    is, with a line on stderr, where the Hub cannot be reached.

    Raises:
        UserError: for a repository that is not there or holds no model of jaxvae, for one that is not in
            the cache where the Hub cannot or must not be asked, and without `huggingface_hub`.
    """
    check_name(name)
    client = _client()
    if forbids := _offline(client):
        found = _fetched(client, name)
        if found is None:
            raise UserError(
                f"{name} is on the Hugging Face Hub and not in its cache here, and {forbids} forbids to "
                "fetch: unset it, or use the folder that `jaxvae pull` made."
            )
        return found
    timeout = client.constants.HF_HUB_ETAG_TIMEOUT
    try:
        info = client.HfApi(endpoint=_endpoint()).model_info(name, timeout=timeout)
    except Exception as error:
        status = _status(error)
        is_away = status is None or status == 429 or status >= 500  # down, or asked too often
        found = _fetched(client, name) if is_away else None
        if found is None:
            with _refusals("fetch", name):
                raise
        why = one_line(str(error)) or type(error).__name__
        print(f"jaxvae: {name} is as it was fetched last: no Hub ({why}).", file=sys.stderr)
        return found
    with _refusals("fetch", name):
        there = [each.rfilename for each in info.siblings or ()]
    _check_files(name, there)
    with _refusals("fetch", name):
        found = [
            client.hf_hub_download(name, file, revision=info.sha, endpoint=_endpoint())
            for file in released.FILES
            if file in there
        ]
    folder = Path(found[0]).parent
    _remember(folder)
    return folder


def _offline(client: Any) -> str | None:
    """Returns what in the environment forbids to ask the Hub."""
    if os.environ.get("JAXVAE_OFFLINE", "0") not in ("", "0"):
        return "JAXVAE_OFFLINE"
    return "HF_HUB_OFFLINE" if client.constants.HF_HUB_OFFLINE else None


def _fetched(client: Any, name: str) -> Path | None:
    """Returns the folder in the cache of the model that was fetched last; asks nobody."""
    found = [client.try_to_load_from_cache(name, file) for file in NEEDED]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) else None


def _remember(folder: Path) -> None:
    """Notes in the cache, as the Hub's client does, that a snapshot is what the main branch is at."""
    place = folder.parents[1] / "refs" / "main"
    with contextlib.suppress(OSError, UserError):  # a cache that is only read
        if not place.is_file() or place.read_text() != folder.name:
            writers.write_bytes(place, folder.name.encode())


def _check_files(name: str, there: list[str]) -> None:
    """Raises `UserError` for a repository without a model of ours; pickles are named."""
    missing = [file for file in NEEDED if file not in there]
    pickles = [file for file in there if file.endswith(PICKLES)]
    if missing and pickles:
        raise UserError(
            f"{name} holds pickles ({one_line(', '.join(pickles))}), which can run anything when they "
            f"are read, and no {missing[0]}: ask its owner for a model from `jaxvae push`."
        )
    if missing:
        raise UserError(
            f"{name} holds no model of jaxvae: there is no {missing[0]}. Models of `jaxvae push` have one."
        )


def send(folder: Path, name: str, *, private: bool = False, message: str = "") -> str:
    """Returns the address of the repository USER/NAME after one commit with the released model in
    `folder`. The repository is made where there is none; an upload that fails
    changes no file there.

    Args:
        private: whether a new repository is private.

    Raises:
        UserError: where the Hub refuses or cannot be reached, without `huggingface_hub`, and for a
            public repository that was to be private.
    """
    check_name(name)
    client = _client()
    files = {file: folder / file for file in released.FILES if (folder / file).is_file()}
    with _refusals("push to", name):
        hub = client.HfApi(endpoint=_endpoint())
        hub.create_repo(name, private=private or None, exist_ok=True)
        changes: list[Any] = [client.CommitOperationAdd(file, path) for file, path in files.items()]
        info = hub.model_info(name)
        if private and not info.private:
            raise UserError(f"{name} is there already, and is public: leave out --private.")
        there = {each.rfilename for each in info.siblings or ()}
        gone = sorted((there & set(released.FILES)) - set(files))  # of an earlier model
        changes += [client.CommitOperationDelete(file) for file in gone]
        hub.create_commit(name, changes, commit_message=message or "A model of jaxvae")
    return f"{hub.endpoint}/{name}"


def check_name(name: str) -> None:
    """Raises `UserError` for what is no USER/NAME."""
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise UserError(
            f"{one_line(name)!r} is no name on the Hugging Face Hub: give USER/NAME, such as me/vae-mnist."
        )


def check_client() -> None:
    """Raises `UserError` where `huggingface_hub` is not installed."""
    _client()


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _client() -> Any:
    """Returns `huggingface_hub`; raises `UserError` where it is not installed."""
    try:
        import huggingface_hub.constants  # which the package does not load by itself
    except ImportError:
        raise UserError(
            "the Hugging Face Hub needs huggingface_hub: pip install 'jaxvae[hub]'."
        ) from None
    return huggingface_hub


@contextlib.contextmanager
def _refusals(doing: str, name: str) -> Iterator[None]:
    """Turns what the Hub, the network or the disk refuses inside the block into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client's, its HTTP library's, and those of its threads
        cause = _cause(error)
        why = one_line(str(cause)) or type(cause).__name__
        raise UserError(
            f"cannot {doing} {name} ({why}): {_advice(_status(error), doing)}"
        ) from None


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status with which the Hub refused; None where it did not answer."""
    return getattr(getattr(_cause(error), "response", None), "status_code", None)


def _advice(status: int | None, doing: str) -> str:
    log_in = "log in with `hf auth login`"
    if status in (401, 403):
        return f"{log_in}, and check that this account may do it."
    if status == 404:
        return f"check the name; for a private one {log_in}."
    again = " No file there has changed." if doing == "push to" else ""
    return f"check the network, HF_ENDPOINT and the disk, then try again.{again}"
