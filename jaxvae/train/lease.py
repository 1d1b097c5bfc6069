"""One writer of a run folder at a time: on a disk by a lock, in a bucket, which has no locks, by signs of
life.

In a bucket the run that holds a folder writes such a sign into the object `.lock` every `BEAT` seconds.
Who finds one waits: if it changes, its run is alive, and the folder is in use; if it stays the same for
`LEASE` seconds, its run is dead, and the folder is taken over. No clocks are compared. A run that was cut
off for so long that another one took its folder finds out at its next sign, and ends before it writes
again.
"""

import contextlib
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxvae import paths, writers
from jaxvae.errors import UserError
from jaxvae.paths import PathLike

LEASE = 60.0  # seconds without a sign of life after which a run is dead
BEAT = 15.0  # seconds between two signs
SETTLE = 2.0  # seconds after which the last of several that took it at once is known


class Held:
    """A folder in a bucket that this process holds."""

    def __init__(self, workdir: PathLike):
        self.workdir, self.place = workdir, paths.path(workdir) / ".lock"
        self.mark, self.count = uuid.uuid4().hex, 0
        self.lost: str | None = None  # why it is no longer held
        self.renewed, self.ended = time.monotonic(), threading.Event()

    def sign(self) -> bytes:
        """Returns the next sign of life."""
        self.count += 1
        who = {"process": os.getpid(), "host": platform.node(), "mark": self.mark}
        return json.dumps({**who, "count": self.count}).encode()

    def is_ours(self, sign: bytes | None) -> bool:
        """Returns whether this process wrote a sign."""
        return sign is not None and self.mark.encode() in sign

    def renew(self) -> None:
        """Writes a sign of life; notes it where another run has taken the folder, or where the bucket
        has refused for so long that one may have."""
        try:
            sign = _read(self.place)
            if sign is not None and not self.is_ours(sign):
                self.lost = f"was taken over by another run ({_owner(sign)})"
                return
            writers.write_bytes(self.place, self.sign())
            self.renewed = time.monotonic()
        except UserError as error:
            if time.monotonic() - self.renewed > LEASE:
                self.lost = f"may have been taken over by another run: {error}"

    def check(self) -> None:
        """Raises `UserError` where the folder is no longer held."""
        if self.lost is not None:
            raise UserError(
                f"{self.workdir} {self.lost}. This run ends here; what it saved before is there."
            )

    def beat(self) -> None:
        """Writes signs of life until the end."""
        while self.lost is None and not self.ended.wait(BEAT):
            self.renew()


@contextlib.contextmanager
def lock(workdir: PathLike) -> Iterator[Callable[[], None]]:
    """Holds a run folder for one writer, and yields what raises `UserError` once it is no longer held.

    On a disk the lock goes with the process, however it ends; one in a bucket is held by its signs of
    life (`hold`).

    Raises:
        UserError: while another process holds it.
    """
    if paths.address(workdir):
        with hold(workdir) as held:
            yield held.check
        return
    try:
        import fcntl
    except ImportError:  # no such lock on Windows
        yield lambda: None
        return
    path = Path(workdir) / ".lock"
    with writers.disk("write to", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 32).decode(errors="replace").strip()
            raise UserError(
                f"{workdir} is in use by another run (process {owner or 'unknown'}): wait for it, "
                "or choose another folder."
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield lambda: None
    finally:
        os.close(handle)


@contextlib.contextmanager
def hold(workdir: PathLike, say: Callable[[str], None] | None = None) -> Iterator[Held]:
    """Holds a folder in a bucket for one writer, for as long as the block runs.

    Raises:
        UserError: while another process holds it; and where the bucket refuses.
    """
    held = Held(workdir)
    _wait_for_its_end(held, say or (lambda text: print(text, file=sys.stderr)))
    writers.write_bytes(held.place, held.sign())
    time.sleep(SETTLE)
    if not held.is_ours(_read(held.place)):
        raise _in_use(workdir, _read(held.place))
    thread = threading.Thread(target=held.beat, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        held.ended.set()
        thread.join()
        if held.lost is None:
            with contextlib.suppress(Exception):  # it runs out by itself
                held.place.unlink()


def _wait_for_its_end(held: Held, say: Callable[[str], None]) -> None:
    """Waits while another run may be alive; raises `UserError` once it is known to be."""
    first = _read(held.place)
    if first is None:
        return
    say(
        f"jaxvae: {held.workdir} was held by {_owner(first)}: waiting up to {LEASE:g} s for a sign of "
        "life."
    )
    end = time.monotonic() + LEASE
    while time.monotonic() < end:
        time.sleep(min(SETTLE, LEASE / 4))
        now = _read(held.place)
        if now is None:
            return
        if now != first:
            raise _in_use(held.workdir, now)


def _in_use(workdir: PathLike, sign: bytes | None) -> UserError:
    return UserError(
        f"{workdir} is in use by another run ({_owner(sign)}): wait for it, or choose another folder."
    )


def _owner(sign: bytes | None) -> str:
    """Returns in words who wrote a sign of life."""
    try:
        page = json.loads(sign or b"{}")
        return f"process {int(page['process'])} on {page['host']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"


def _read(place: Path) -> bytes | None:
    """Returns the sign of life, or None where there is none; raises `UserError` where the bucket
    refuses."""
    with writers.disk("read", place):
        try:
            return place.read_bytes()
        except FileNotFoundError:
            return None
