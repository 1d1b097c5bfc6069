"""The processes of one run, one on each host: how they find each other, agree, wait, and end.

Each runs the same program on the same options (`join`), computes its part of every batch with the
others, and does what is done on a disk once in the first of them (`first_alone`). Where one fails,
the others would wait for it in their next collective for minutes: `together` ends them with it.
"""

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import distributed  # whose client has no public name
from jax.experimental import multihost_utils

from jaxvae import terminal
from jaxvae.errors import UserError

EXIT_FAILED = 2  # of a process that ends because another one has failed
LISTEN = 1.0  # seconds between two looks at whether one has
GRACE = 10.0  # seconds in which what fails everywhere is said by each
CLOSE = 15.0  # seconds for a process that has failed to close what it has open


def start_multihost(**options: Any) -> None:
    """Joins the processes of a TPU pod slice or a GPU cluster; call before anything else of JAX.

    On Cloud TPU, SLURM and Open MPI no option is needed; elsewhere pass `coordinator_address`,
    `num_processes` and `process_id` as `jax.distributed.initialize` takes them. Calling it twice
    does nothing.
    """
    if not jax.distributed.is_initialized():
        jax.distributed.initialize(**options)


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the processes of a cluster: the ones described, else those that JAX finds around this one
    (Cloud TPU, SLURM, Open MPI, Kubernetes); alone it stays alone. Call it before JAX computes.

    Args:
        coordinator: HOST:PORT of process 0.
        num_processes: of all; 1: this one alone, whatever is around it.
        process_id: of this one, from 0.

    Raises:
        UserError: where the others cannot be reached.
    """
    if num_processes == 1 or jax.distributed.is_initialized():
        return
    if coordinator is None and not _may_be_in_cluster():
        return
    try:
        start_multihost(
            coordinator_address=coordinator, num_processes=num_processes, process_id=process_id
        )
    except (RuntimeError, ValueError, OSError) as error:
        started = "must be called before" in str(error)  # a program of somebody's own computes
        if coordinator is None and (started or isinstance(error, ValueError)):
            return  # JAX has found no cluster
        why = str(error).splitlines()[0][:300]
        raise UserError(
            f"the processes of this run could not be joined ({why}). Start all of them within five "
            "minutes, with the same --coordinator HOST:PORT and --num-processes and a --process-id "
            "of its own each; or train with this one alone: --num-processes 1."
        ) from None


def _may_be_in_cluster() -> bool:
    """Returns False for the single task of a SLURM step, which JAX would give a single GPU."""
    return "SLURM_JOB_ID" not in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def agreed(value: int) -> int:
    """Returns the number that the first process has, in all of them."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


_turns = itertools.count()  # each has a key of its own, the same in all processes


def first_alone(work: Callable[[], None]) -> None:
    """Does `work` in the first process and then in the others, which find what it has left where
    they share a disk or a bucket; a process that is alone just does it. All must call this.

    They wait for a word, not in a collective of the devices, which would give up within a minute.

    Raises:
        UserError: in the others, where the first one has failed; beside what `work` raises.
    """
    if jax.process_count() == 1:
        return work()
    client, key = _client(), f"jaxvae/first_alone/{next(_turns)}"
    if jax.process_index() > 0:
        if _word(client, key) != "done":
            raise UserError("the first process of this run has failed, and says why.")
        return work()
    word = "failed"
    try:
        work()
        word = "done"
    finally:
        client.key_value_set(key, word)


def _client() -> Any:
    """Returns how the processes of a run leave words for each other."""
    client = distributed.global_state.client
    assert client is not None  # as there are several
    return client


def _word(client: Any, key: str) -> str:
    """Returns what the first process says under `key`, once it does."""
    while True:
        try:
            return client.blocking_key_value_get(key, 1_000)  # ms: Ctrl-C is heard in between
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


# ---- the end of one is the end of all --------------------------------------------------------

IN, FAILED = "in", "failed"  # a process in a block: it is well, or something has been raised in it
DONE, LEFT, GONE = "done", "left", "gone"  # out of it: well, by an error; ended


class _Said(NamedTuple):
    """What a process has left for the others: where it is, how often it has failed, why the last time."""

    word: str
    failures: int
    why: str


class _Block:
    """The outermost `together` that this process is in, and a thread that listens to the others.

    What all processes raise they may catch, too, so failures are counted: one that has fewer waits for
    one that has failed.
    """

    def __init__(self):
        self.client, self.key = _client(), f"jaxvae/together/{next(_turns)}"
        self.me, self.count = distributed.global_state.process_id, _count()
        self.depth, self.lock, self.out = 1, threading.RLock(), threading.Event()
        self.said = _Said(IN, 0, "")
        self.thread = threading.Thread(target=self.listen, name="together", daemon=True)
        self.thread.start()

    def say(self, word: str) -> bool:
        """Leaves a word for the others; returns whether it is there."""
        with self.lock:
            self.said = self.said._replace(word=word)
            text = " ".join(map(str, self.said)).encode("utf-8", "replace").decode()
            try:
                self.client.key_value_set(f"{self.key}/{self.me}", text, allow_overwrite=True)
            except Exception:  # the first process is gone, which ends all, or out of reach
                return False
            return True

    def others(self) -> dict[int, _Said] | None:
        """Returns what each other process has said; None where that is not to be had now."""
        try:
            found = self.client.key_value_dir_get(self.key)
        except Exception:  # as above
            return None
        said = {int(key.rpartition("/")[2]): text.split(" ", 2) for key, text in found}
        return {
            i: _Said(word, int(failures), why)
            for i, (word, failures, why) in sorted(said.items())
            if i != self.me
        }

    def failed(self, others: dict[int, _Said]) -> str:
        """Returns what another process says that has failed more often than this one, or ""."""
        for i, said in others.items():
            if said.failures > self.said.failures:
                return f"process {i} failed: {said.why}"
        return ""

    def limit(self, others: dict[int, _Said]) -> float | None:
        """Returns for how many seconds this process may be as it is beside the others; None for ever."""
        gone = any(said.word == GONE for said in others.values())
        if self.failed(others):  # which it waits for, unless it is about to fail, too
            return 0.0 if gone or self.said.word == DONE else GRACE
        known = [said.failures for said in others.values()]
        ahead = len(known) < self.count - 1 or min(known) < self.said.failures
        if self.said.word == FAILED and (gone or ahead):  # it closes what the others do not
            return CLOSE
        return None

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process has failed, and why."""
        with self.lock:
            if getattr(error, "_told", None) == self.key:  # it leaves more than one block
                return
            with contextlib.suppress(AttributeError):
                error._told = self.key  # type: ignore[attr-defined]
            self.said = _Said(FAILED, self.said.failures + 1, _why(error))
            self.say(FAILED)

    def listen(self) -> None:
        """Ends this process once another one has failed, which it waits for at its own end; and where it
        has failed itself and cannot close what it does with others that are about to end."""
        since, state = 0.0, None
        while not self.out.wait(LISTEN):
            others = self.others()
            limit = None if others is None else self.limit(others)
            if others is None or limit is None:
                state = None
                continue
            now = limit, self.said.failures, self.failed(others)
            if now != state:
                since, state = time.monotonic(), now
            if time.monotonic() - since >= limit:
                self.quit()

    def quit(self, error: BaseException | None = None) -> None:
        """Ends this process, whose main thread may wait for another one for ever, for what another one
        says or, where none does, for an error in this one."""
        with self.lock:
            others = self.others() or {}
            if error is None and self.limit(others) is None:
                return  # its main thread has gone on meanwhile
            if error is not None and not self.failed(others):
                why = ", then ".join(filter(None, [self.said.why, _why(error)]))
                self.said = _Said(FAILED, self.said.failures + 1, why)
            faults = [] if self.said.word in (IN, DONE) else [self.said.why]
            if failed := self.failed(others):
                faults += [failed, "This process ends with it"]
            try:
                self.say(GONE)
                why = ". ".join(faults)
                last = threading.Thread(target=self.end, args=(why,), daemon=True)
                last.start()
                last.join(CLOSE + GRACE)
            finally:
                os._exit(EXIT_FAILED)

    def end(self, why: str) -> None:
        """Says why this process ends, and waits for the others, as JAX wants it."""
        with contextlib.suppress(Exception):
            if getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ()):
                print(file=sys.stderr)  # below a bar
            terminal.complain(f"jaxvae: {why}.")
        with contextlib.suppress(Exception):
            self.client.shutdown()
        if self.me == 0:  # which all talk to: they abort where it is gone before they are
            time.sleep(2 * LISTEN)

    def leave(self, word: str, *, wait: bool = True) -> None:
        """Says that this process is out, waits until all are, and lets go of the thread; that ends this
        process meanwhile where one has failed that this one has not."""
        begun, told = time.monotonic(), False
        while True:
            told = told or self.say(word)
            if told and (not wait or self.is_over(word)):
                break
            if (word == LEFT or not wait) and time.monotonic() - begun > CLOSE + GRACE:
                break
            time.sleep(LISTEN / 10)
        self.out.set()
        self.thread.join()

    def is_over(self, word: str) -> bool:
        """Returns whether all others are out, and none has failed where this one is well."""
        others = self.others()
        if others is None or len(others) < self.count - 1:
            return False
        out = all(said.word in (DONE, LEFT, GONE) for said in others.values())
        return out and not (word == DONE and self.failed(others))


def _why(error: BaseException) -> str:
    """Returns an error in less than a line, without its last stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0].rstrip(" .:!")[:300] if lines else ""
    if isinstance(error, UserError) and first:
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _count() -> int:
    """Returns the number of processes that have joined; starts no device."""
    state = distributed.global_state
    return 1 if state.client is None else state.num_processes


def _is_failure(error: BaseException) -> bool:
    """Returns whether an error is none of an orderly end: of a `SystemExit` one that says something, but
    not `signals.Stopped`, which all processes are."""
    if isinstance(error, SystemExit):
        return type(error) is SystemExit and error.code not in (None, 0)
    return not isinstance(error, GeneratorExit)


_block: _Block | None = None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process where another one fails in the same block, once that is known: with a line that
    says which and why, and with `EXIT_FAILED`. Where all is well, none leaves the block before all are
    through.

    Without it a process waits in its next collective for one that has failed, and that one at its own
    end for the others, until JAX gives up on both after minutes. What all processes raise within `GRACE`
    seconds, each raises by itself. `signals.Stopped` and an exit without an error are no failure, and a
    process that is killed says nothing: JAX ends the others within two minutes.

    All processes enter the same blocks in the same order, in one thread each; of one inside another the
    outer one counts, and what one process alone raises has to leave both. A process alone just does
    what is in it. Also a decorator, of a function that is no generator.
    """
    global _block
    if _count() == 1:
        yield
        return
    block = _block
    if block is None:
        block = _block = _Block()
    else:
        block.depth += 1
    word = DONE
    try:
        yield
    except BaseException as error:
        word = None  # an orderly end, of all
        if _is_failure(error):
            word = LEFT
            block.fail(error)
        raise
    finally:
        block.depth -= 1
        if block.depth == 0:
            _block = None
            block.leave(word or DONE, wait=word is not None)


def end(error: Exception) -> None:
    """Ends the processes of a `together` for an error in a thread of this one, which says it, while its
    main thread may wait for the others; outside such a block, or alone, nothing happens."""
    block = _block
    if block is not None:
        block.quit(error)
