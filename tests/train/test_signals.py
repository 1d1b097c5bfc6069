"""A run is asked to stop by SIGTERM and Ctrl-C, and says by its exit code which it was."""

import signal
import threading

import pytest

from jaxvae.train import signals
from small import assert_same, go, params


def test_a_stop_at_the_very_end_is_heard_and_the_run_is_whole(tmp_path):
    """A Ctrl-C during the last evaluation must not let a script go on to its next run."""
    with pytest.raises(signals.Stopped) as stopped:
        go(10, workdir=tmp_path, on_eval=lambda step, state: signal.raise_signal(signal.SIGINT))
    assert stopped.value.code == 130
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert_same(params(go(10, workdir=tmp_path)), params(go(10)))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def code_after(during):
    """Returns the exit code of a block that listens, in which `during` is called."""
    with pytest.raises(signals.Stopped) as stopped:  # nobody acted on what was heard
        listening(during)
    return stopped.value.code


def listening(during):
    with signals.listen() as heard:
        during(heard)


def test_the_first_signal_asks_to_stop_and_a_second_ctrl_c_stops_at_once():
    def during(heard):
        assert not heard.stop_at(0)
        signal.raise_signal(signal.SIGTERM)
        assert heard.stop_at(1) and heard.code == signals.EXIT_SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert code_after(during) == 75


def test_ctrl_c_has_a_code_of_its_own():
    assert code_after(lambda heard: signal.raise_signal(signal.SIGINT)) == signals.EXIT_SIGINT


def test_signals_mean_again_afterwards_what_they_meant_before():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with signals.listen():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_thread_listens_to_nothing():
    found = []

    def listen():
        with signals.listen() as heard:
            found.append((signal.getsignal(signal.SIGTERM) is heard, heard.stop_at(3)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [(False, False)]
