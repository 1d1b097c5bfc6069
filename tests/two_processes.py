"""Two processes that find each other at an address, as two hosts do."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent


def free_address() -> str:
    """Returns an address of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


class End(NamedTuple):
    """How a process ended, and what it printed."""

    code: int
    out: str
    err: str


def ends(script: str, *words: str, timeout: float) -> list[End]:
    """Returns how each of two processes ended: of a script in Python that is given an address, the
    number of the process, and `words`."""
    address, path = free_address(), os.pathsep.join([str(HERE), str(HERE.parent)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, address, str(i), *words],
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:  # which may wait for each other
            process.kill()
    return [
        End(process.returncode, *printed)
        for process, printed in zip(processes, outputs, strict=True)
    ]


def results(script: str, *words: str, timeout: float) -> list[Any]:
    """Returns the JSON that each of two processes prints after "RESULT ", of a script as in `ends`."""
    found = ends(script, *words, timeout=timeout)
    assert [each.code for each in found] == [0, 0], found
    return [json.loads(each.out.split("RESULT ")[1]) for each in found]
