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
GRACE = 5.0  # seconds in which what fails everywhere is said by each
CLOSE = (
    10.0  # seconds for a process that has failed to close what it has open, such as a checkpoint
)


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
        self.depth, self.lock, self.out = 1, threading.Lock(), threading.Event()
        self.said, self.error = _Said(IN, 0, ""), None
        self.thread = threading.Thread(target=self.listen, name="together", daemon=True)
        self.thread.start()

    def say(self, word: str) -> None:
        """Leaves a word for the others."""
        self.said = self.said._replace(word=word)
        text = " ".join(map(str, self.said)).encode("utf-8", "replace").decode()
        with contextlib.suppress(Exception):  # the first process is gone: JAX ends the others
            self.client.key_value_set(f"{self.key}/{self.me}", text, allow_overwrite=True)

    def others(self) -> dict[int, _Said]:
        """Returns what each other process has said."""
        try:
            found = self.client.key_value_dir_get(self.key)
        except jax.errors.JaxRuntimeError:  # the first process is gone: JAX ends the others
            return {}
        said = {int(key.rpartition("/")[2]): text.split(" ", 2) for key, text in found}
        return {
            i: _Said(said[i][0], int(said[i][1]), said[i][2]) for i in sorted(said) if i != self.me
        }

    def failed(self, others: dict[int, _Said]) -> str:
        """Returns what another process says that has failed more often than this one, or ""."""
        found = [
            f"process {i} failed: {said.why}" for i, said in others.items() if self.is_behind(said)
        ]
        return found[0] if found else ""

    def is_behind(self, said: _Said) -> bool:
        """Returns whether this process has failed less often than another one."""
        return self.said.failures < said.failures

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process has failed, and why."""
        with self.lock:
            if error is not self.error:  # which leaves more than one block
                self.error = error
                self.said = _Said(FAILED, self.said.failures + 1, _why(error))
                self.say(FAILED)

    def listen(self) -> None:
        """Ends this process once another one has failed, which it waits for at its own end; and where it
        has failed itself and cannot close what it does with others that are about to end."""
        since = None
        while not self.out.wait(LISTEN):
            others = self.others()
            gone = any(said.word == GONE for said in others.values())
            if self.failed(others):
                limit = 0.0 if gone or self.said.word == DONE else GRACE
            elif self.said.word == FAILED and (gone or self.is_ahead(others)):
                limit = CLOSE
            else:
                since = None
                continue
            since = since or time.monotonic()
            if time.monotonic() - since >= limit:
                self.quit()

    def is_ahead(self, others: dict[int, _Said]) -> bool:
        """Returns whether a process has not failed as often as this one."""
        known = [said.failures for said in others.values()]
        return len(known) < self.count - 1 or min(known) < self.said.failures

    def quit(self, error: BaseException | None = None) -> None:
        """Ends this process, whose main thread may wait for another one for ever, for what another one
        says or, where none does, for an error in this one."""
        with self.lock:  # once
            if failed := self.failed(self.others()):
                why = f"{failed}. This process ends with it"
            else:
                if error is not None:
                    why = ", then ".join(filter(None, [self.said.why, _why(error)]))
                    self.said = _Said(FAILED, self.said.failures + 1, why)
                why = self.said.why
            self.say(GONE)
            with contextlib.suppress(OSError):
                if "tqdm" in sys.modules:
                    print(file=sys.stderr)  # below a bar
            terminal.complain(f"jaxvae: {why}.")
            last = threading.Thread(target=_shutdown, args=(self.client,), daemon=True)
            last.start()  # waits for all, as JAX wants it
            last.join(CLOSE + GRACE)
            if self.me == 0:  # which all talk to: they abort where it is gone before they are
                time.sleep(2 * LISTEN)
            os._exit(EXIT_FAILED)

    def leave(self, word: str) -> None:
        """Waits until all are out, and lets go of the thread; that ends this process meanwhile where one
        has failed that this one has not."""
        self.say(word)
        begun, out = time.monotonic(), (DONE, LEFT, GONE)
        while self.others_in(out) < self.count - 1 or (word == DONE and self.failed(self.others())):
            if word == LEFT and time.monotonic() - begun > CLOSE + GRACE:
                break
            time.sleep(LISTEN / 10)
        self.let_go()

    def others_in(self, words: tuple[str, ...]) -> int:
        """Returns how many other processes are where one of the words says."""
        return sum(said.word in words for said in self.others().values())

    def let_go(self) -> None:
        """Ends the thread."""
        self.out.set()
        self.thread.join()


def _shutdown(client: Any) -> None:
    with contextlib.suppress(Exception):
        client.shutdown()


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
    says which and why, and with `EXIT_FAILED`. No process leaves the block before all are through.

    Without it a process waits in its next collective for one that has failed, and that one at its own
    end for the others, until JAX gives up on both after minutes. What all processes raise, each raises
    by itself. `signals.Stopped` and an exit without an error are no failure, and a process that is
    killed says nothing: JAX ends the others within two minutes.

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
            if word is None:
                block.say(DONE)
                block.let_go()
            else:
                block.leave(word)


def end(error: Exception) -> None:
    """Ends the processes of a `together` for an error in a thread of this one, which says it, while its
    main thread may wait for the others; outside such a block, or alone, nothing happens."""
    if _block is not None:
        _block.quit(error)
