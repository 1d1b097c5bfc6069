"""Reading ahead: work on what comes next in threads, in order, with bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np


def ahead(function: Callable[[Any], Any], items: Iterable[Any], depth: int = 2) -> Iterator[Any]:
    """Yields function(item) for every item, in order, while up to `depth` later ones are being
    computed in threads."""
    items, waiting = iter(items), deque()
    with ThreadPoolExecutor(depth) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Reader:
    """Batches by step, those of the next steps read ahead in threads.

    Args:
        read: step -> {"x": [B, ...], ...}: a pure function.
        depth: batches to keep ready.
    """

    def __init__(self, read: Callable[[int], dict[str, np.ndarray]], depth: int):
        self.read, self.depth = read, depth
        self.ready: dict[int, Future] = {}
        self.pool = ThreadPoolExecutor(
            max(2, min(4, os.cpu_count() or 1)), thread_name_prefix="jaxvae-read"
        )

    def take(self, first: int, count: int) -> list[dict[str, np.ndarray]]:
        """Returns the batches of steps first, ..., first + count - 1, and begins to read those
        after them."""
        for step in [step for step in self.ready if step < first]:
            self.ready.pop(step).cancel()
        for step in range(first, first + count + self.depth):
            if step not in self.ready:
                self.ready[step] = self.pool.submit(self.read, step)
        return [self.ready.pop(step).result() for step in range(first, first + count)]

    def close(self) -> None:
        """Lets the threads end; what is being read is finished first."""
        self.pool.shutdown(wait=True, cancel_futures=True)
