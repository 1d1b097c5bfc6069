"""Output that cannot be written; what a command makes of it is in cli/test_main.py and test_runner.py."""

import errno
import io
import os
import subprocess
import sys

import pytest

from jaxvae import terminal

full_disk = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


class Bare:
    """A stand-in for stdout with as little as print needs."""

    def write(self, text):
        return len(text)


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("make", [lambda: None, Bare, io.StringIO, closed])
def test_a_stdout_without_a_disk_refuses_nothing(monkeypatch, make):
    monkeypatch.setattr(sys, "stdout", make())
    monkeypatch.setattr(sys, "stderr", make())
    assert terminal.flush() is None
    assert not terminal.refuses(OSError(errno.ENOSPC, "of something else"))


@full_disk
def test_what_a_full_disk_refuses_is_dropped_and_the_stream_goes_on(monkeypatch):
    """No descriptor is left open."""
    before = os.listdir("/proc/self/fd")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        for _ in range(3):
            print("what does not fit")
            refused = terminal.flush()
            assert refused is not None and refused.errno == errno.ENOSPC
            assert terminal.flush() is None  # nothing is left
        assert terminal.refuses(OSError(errno.ENOSPC, "of print"))
        assert not terminal.refuses(OSError(errno.ENOENT, "no such file"))
        assert not terminal.refuses(OSError(errno.ENOSPC, "full", "a file"))
        terminal.flush()
        monkeypatch.undo()
    assert os.listdir("/proc/self/fd") == before


@full_disk
def test_a_complaint_that_stderr_does_not_take_is_dropped(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        terminal.complain("something")
        assert terminal.end(OSError(errno.EPIPE, "gone")) == 1
        assert terminal.end(OSError(errno.ENOSPC, "full")) == 2
        monkeypatch.undo()


def test_a_complaint_stands_below_what_was_printed_before(tmp_path):
    script = "from jaxvae import terminal; print('first'); terminal.complain('second')"
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    with open(tmp_path / "said", "w") as file:
        words = [sys.executable, "-c", script]
        subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, env=env, check=True)
    assert (tmp_path / "said").read_text() == "first\nsecond\n"


def test_a_complaint_is_one_line(capsys):
    terminal.complain("a name\nof two lines")
    assert terminal.end(OSError(errno.ENOSPC, "No space left on device"), "jaxvae: ") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "a name of two lines"
    assert second.startswith("jaxvae: cannot write what is to be printed: No space left on device.")
