"""Two processes that find each other at an address, as two hosts do."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def free_address() -> str:
    """Returns an address of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def results(script: str, *words: str, timeout: float) -> list[Any]:
    """Returns the JSON that each of two processes prints after "RESULT ": of a script in Python that is
    given an address, the number of the process, and `words`."""
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
    outputs = [process.communicate(timeout=timeout) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [json.loads(out.split("RESULT ")[1]) for out, _ in outputs]
