import threading
import time

import jax
import numpy as np
import pytest

from jaxvae.data.stream import Reader, ahead
from jaxvae.train import evaluate
from small import go, one_device, source


def streamed(delay=0.0, **counts):
    """The small source without its arrays; `counts` gets the number of reads."""
    resident = source()

    def read(indices):
        time.sleep(delay)
        counts.setdefault("reads", []).append(threading.current_thread().name)
        return resident.read(indices)

    return resident._replace(arrays=None, read=read), counts


def test_ahead_keeps_order_and_bounds_what_is_computed():
    started = []

    def slow(i):
        started.append(i)
        time.sleep(0.01 * (5 - i % 5))
        return i * i

    for n, value in enumerate(ahead(slow, range(12), depth=3)):
        assert value == n * n
        assert len(started) <= n + 5
    assert list(ahead(slow, [])) == []


def test_ahead_passes_errors_on_and_may_be_left():
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda i: 1 // i, [1, 0, 1]))
    for value in ahead(lambda i: i, range(10**9)):
        if value == 3:
            break


def test_reader_reads_each_step_once_and_in_threads():
    seen = []

    def read(step):
        seen.append(step)
        return {"x": np.full(2, step)}

    reader = Reader(read, depth=4)
    for first, count in ((0, 3), (3, 2), (5, 4)):
        assert [int(b["x"][0]) for b in reader.take(first, count)] == list(
            range(first, first + count)
        )
    reader.close()
    assert len(seen) == len(set(seen)) and set(range(9)) <= set(seen) <= set(range(13))


@pytest.mark.optimised
@pytest.mark.parametrize("steps_per_call", [None, 1, 4])
def test_streaming_gives_the_bits_of_resident_data(steps_per_call):
    """The same batches and noise: whether the data are on the device changes nothing."""
    streaming, counts = streamed()
    options = {
        "valid": source(1)._replace(arrays=None),
        "eval_every": 10,
        "steps_per_call": steps_per_call,
    }
    found = go(20, data=streaming, **options)
    want = go(20, **{**options, "valid": source(1)})
    for a, b in zip(
        *(jax.tree.leaves(result.train_state.params) for result in (found, want)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert found.metrics["valid"] == pytest.approx(want.metrics["valid"], rel=1e-6)
    assert any("jaxvae-read" in name for name in counts["reads"])
    assert not [t for t in threading.enumerate() if t.name.startswith("jaxvae-read")]


def test_streaming_over_eight_devices_resumes(tmp_path):
    streaming, _ = streamed()
    go(12, data=streaming, workdir=tmp_path, mesh=None)
    found = go(20, data=streaming, workdir=tmp_path, mesh=None)
    for a, b in zip(*(jax.tree.leaves(r.train_state.params) for r in (found, go(20))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_source_that_fails_in_a_thread_ends_the_run_with_its_error():
    resident = source()

    def read(indices):
        if len(seen) > 5:
            raise OSError(5, "Input/output error")
        seen.append(1)
        return resident.read(indices)

    seen = []
    with pytest.raises(OSError, match="Input/output error"):
        go(40, data=resident._replace(arrays=None, read=read), steps_per_call=2)
    assert not [t for t in threading.enumerate() if t.name.startswith("jaxvae-read")]


def test_streamed_evaluation_is_exact():
    streaming, _ = streamed()
    result = go(5)
    state = result.train_state
    from small import small

    found, want = (
        evaluate(small(), state.params, state.state, s, batch_size=24, mesh=one_device())
        for s in (streaming, source())
    )
    assert found == pytest.approx(want, rel=1e-6)
