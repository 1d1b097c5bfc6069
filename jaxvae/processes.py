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
from collections.abc import Callable, Iterator
from typing import Any

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


class _Block:
    """The outermost `together` that this process is in."""

    def __init__(self, key: str):
        self.client, self.key, self.depth = _client(), key, 1
        self.left = threading.Event()  # this process is through with what is in it, or has failed
        self.out = threading.Event()  # and out of it
        self.threads = [_start(self.listen)]

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process has failed, and why."""
        if self.left.is_set():  # said in a block inside this one
            return
        self.left.set()
        why = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        said = f"process {jax.process_index()} failed: {why}"
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first process is gone
            self.client.key_value_set(f"{self.key}/{jax.process_index()}", said)
        self.threads.append(_start(lambda: self.leave(why)))

    def listen(self) -> None:
        """Ends this process once another one has failed, which it waits for at its own end."""
        while not self.left.wait(LISTEN):
            failed = self.failed()
            if failed and not self.left.wait(GRACE):
                self.quit(f"{failed[0].rstrip('.')}. This process ends with it.")

    def leave(self, why: str) -> None:
        """Ends this process, which has failed, where it closes what it does with the others, who are
        about to end: not where all of them have failed."""
        if not self.out.wait(CLOSE) and len(self.failed()) < jax.process_count():
            self.quit(why)

    def failed(self) -> list[str]:
        """Returns what each process says that has failed."""
        try:
            return [said for _, said in sorted(self.client.key_value_dir_get(self.key))]
        except jax.errors.JaxRuntimeError:  # the first process is gone: JAX ends the others
            return []

    def quit(self, why: str) -> None:
        """Ends this process, whose main thread may wait for another one for ever, once all end."""
        with contextlib.suppress(OSError):
            print(file=sys.stderr)  # below a bar
        terminal.complain(f"jaxvae: {why}")
        with contextlib.suppress(Exception):
            self.client.shutdown()
        os._exit(EXIT_FAILED)

    def end(self) -> None:
        """Lets go of the threads."""
        self.left.set()
        self.out.set()
        for thread in self.threads:
            thread.join()


def _start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name="together", daemon=True)
    thread.start()
    return thread


_block: _Block | None = None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process where another one raises an error in the same block, once that is known:
    with a line that says which and why, and with `EXIT_FAILED`.

    Without it a process waits in its next collective for one that has failed, and that one at its own
    end for the others, until JAX gives up on both after minutes. What all processes raise, each raises
    by itself. A `SystemExit`, such as `signals.Stopped`, is no failure, and a process that is killed
    says nothing: JAX ends the others within two minutes.

    All processes enter the same blocks in the same order; of one inside another the outer one counts.
    A process alone just does what is in it. Also a decorator.
    """
    global _block
    if jax.process_count() == 1:
        yield
        return
    block = _block
    if block is None:
        block = _block = _Block(f"jaxvae/together/{next(_turns)}")
    else:
        block.depth += 1
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        block.fail(error)
        raise
    finally:
        block.depth -= 1
        if block.depth == 0:
            _block = None
            block.end()


def end(error: Exception) -> None:
    """Ends the processes of a `together` for an error in a thread of this one, which says it, while its
    main thread may wait for the others; outside such a block, or alone, nothing happens."""
    block = _block
    if block is not None and not block.left.is_set():
        block.fail(error)
        block.quit(str(error))
