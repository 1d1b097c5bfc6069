import json
import time
import types

import pytest

from jaxvae import paths, writers
from jaxvae.errors import UserError
from jaxvae.train import lease
from jaxvae.train import recorder as recorders
from jaxvae.train.recorder import Recorder

RUN = "s3://bucket/run"
LOCK = "/bucket/run/.lock"


class Clock:
    """Time that passes in `sleep` alone, during which `meanwhile` happens, once."""

    def __init__(self):
        self.now, self.meanwhile = 100.0, lambda: None

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        happens, self.meanwhile = self.meanwhile, lambda: None
        happens()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(lease, "time", made)
    monkeypatch.setattr(lease, "BEAT", 1e6)  # tests renew by hand
    return made


def another():
    """Returns another run that has signed its life in the folder."""
    other = lease.Held(RUN)
    writers.write_bytes(other.place, other.sign())
    return other


def test_a_folder_is_held_by_one_run_and_free_after_it(shelf, clock, capsys):
    with lease.hold(RUN) as held:
        clock.meanwhile = held.renew
        with (
            pytest.raises(UserError, match=r"in use by another run \(process \d+ on .+\): wait"),
            lease.lock(RUN),
        ):
            pass
        held.check()
        assert held.is_ours(shelf.store[LOCK].getvalue())
    assert LOCK not in shelf.store
    with lease.lock(RUN) as check:
        check()
    assert capsys.readouterr().err.count("waiting up to 60 s") == 1


def test_a_dead_run_is_waited_for_and_taken_over(shelf, clock):
    another()
    said, start = [], clock.now
    with lease.hold(RUN, said.append) as held:
        assert lease.LEASE <= clock.now - start < lease.LEASE + 3 * lease.SETTLE
        assert held.is_ours(shelf.store[LOCK].getvalue())
    assert len(said) == 1 and f"process {lease.os.getpid()} on" in said[0]


def test_a_run_that_ends_in_the_meantime_is_not_waited_for(shelf, clock):
    other, start = another(), clock.now
    clock.meanwhile = other.place.unlink
    with lease.hold(RUN, lambda text: None):
        assert clock.now - start == 2 * lease.SETTLE


def test_a_damaged_sign_of_life_is_one_of_nobody(shelf):
    writers.write_bytes(f"{RUN}/.lock", b"\xff{")
    said = []
    with lease.hold(RUN, said.append):
        pass
    assert "an unknown process" in said[0]


def test_of_two_that_take_it_at_once_the_last_one_has_it(shelf, clock):
    found = []
    clock.meanwhile = lambda: found.append(another())
    with pytest.raises(UserError, match="in use by another run"), lease.lock(RUN):
        pass
    assert found[0].is_ours(shelf.store[LOCK].getvalue())


def test_a_run_that_lost_its_folder_writes_nothing_more(shelf, monkeypatch):
    stub = types.SimpleNamespace(wait=lambda: None, close=lambda: None)  # Orbax knows no s3
    monkeypatch.setattr(recorders, "Checkpoints", lambda folder, **options: stub)
    with lease.hold(RUN) as held:
        recorder = Recorder(paths.path(RUN), {}, 10, check=held.check)
        recorder.write({"step": 1, "split": "train"})
        recorder.flush()
        recorder.write({"step": 2, "split": "train"})
        other = another()
        held.renew()
        count = len(shelf.written)
        writes = (recorder.flush, lambda: recorder.save(3, None, None), recorder.wait)
        for write in (*writes, lambda: recorder.write({"step": 3, "split": "train"})):
            with pytest.raises(UserError, match=r"was taken over by another run .* ends here"):
                write()
        recorder.close(3)
    assert len(shelf.written) == count
    assert [line["step"] for line in writers.read(f"{RUN}/metrics.jsonl")] == [1]
    assert other.is_ours(shelf.store[LOCK].getvalue())


def test_a_bucket_that_refuses_for_longer_than_the_lease_ends_the_run(shelf, clock):
    with lease.hold(RUN) as held:
        shelf.refuses = staticmethod(lambda name: True)
        held.renew()
        held.check()  # it may come back
        clock.now += lease.LEASE + 1
        held.renew()
        with pytest.raises(UserError, match=r"may have been taken over .* has been disabled"):
            held.check()


def test_signs_are_written_for_as_long_as_the_folder_is_held(shelf, monkeypatch):
    monkeypatch.setattr(lease, "BEAT", 0.01)
    with lease.hold(RUN) as held:
        end = time.monotonic() + 20
        while held.count < 4 and time.monotonic() < end:
            time.sleep(0.01)
    page = json.loads(held.sign())
    assert page["process"] == lease.os.getpid() and page["count"] > 4
