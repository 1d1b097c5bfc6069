import gc
import sys
import tracemalloc
from types import SimpleNamespace

import jax
import optax
import pytest
import tensorstore

from jaxvae.train import init_state, workarounds
from jaxvae.train.checkpoint import Checkpoints
from small import EXAMPLE, small


def test_tensorstore_is_not_asked_for_its_counters(tmp_path, monkeypatch):
    """It keeps a part of each answer."""
    questions = []
    monkeypatch.setattr(tensorstore, "experimental_collect_matching_metrics", questions.append)
    state = init_state(small(), optax.adam(1e-2), jax.random.key(3), EXAMPLE)
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state, {}, config={}, metrics=None)
    checkpoints.wait()
    checkpoints.restore(0, state, {})
    checkpoints.close()
    assert questions == []


@pytest.mark.parametrize(
    "words",
    [
        {"driver": "file", "path": '/a folder\'s/"x" \\ é 漢/'},
        {"driver": "file", "path": "/a/", "file_io_locking": {"mode": "non_atomic"}},
        {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": "/a/"},
            "config": {"max_inline_value_bytes": 1024, "compression": {"id": "zstd", "level": 3}},
            "assume_config": True,
        },
        {"driver": "gcs", "bucket": "abc", "path": "x/"},
    ],
)
def test_the_spec_of_a_store_is_what_tensorstore_says_and_is_not_kept(words):
    workarounds.apply()
    spec = tensorstore.KvStore.Spec(words)
    said = spec.to_json(include_defaults=False)  # as TensorStore says it
    assert spec.to_json() == said
    tracemalloc.start()
    try:
        for _ in range(10):
            spec.to_json()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            spec.to_json()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 200 * 20
    finally:
        tracemalloc.stop()


def test_tracebacks_of_writes_that_nobody_waits_for_are_dropped_and_no_others(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    workarounds._drop_late_callbacks()
    late = SimpleNamespace(exc_value=RuntimeError("Event loop is closed"), object=None)
    sys.unraisablehook(late)
    assert shown == []
    others = [
        SimpleNamespace(exc_value=RuntimeError("Event loop is closed"), object="__del__ of ours"),
        SimpleNamespace(exc_value=RuntimeError("another"), object=None),
        SimpleNamespace(exc_value=ValueError("Event loop is closed"), object=None),
    ]
    for found in others:
        sys.unraisablehook(found)
    assert shown == others


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            'OUT_OF_RANGE: Error writing "a/0": Failed to write 9 bytes: File too large '
            "[os_error_code='27']",
            "File too large",
        ),
        ("RESOURCE_EXHAUSTED: Failed to write: No space left on device", "No space left on device"),
        (
            'Error writing "a" in "/my [runs]/x/": No space left on device '
            "[os_error_code='28'] [source locations='a.cc:1']",
            "No space left on device",
        ),
        ("ABORTED: in part\nRESOURCE_EXHAUSTED: ", "RESOURCE_EXHAUSTED"),
        ('NOT_FOUND: in "/Read-only data/": no such key', None),
        (
            "PERMISSION_DENIED: Failed to open: Permission denied [os_error_code='13']\nmore",
            "Permission denied",
        ),
        ("NOT_FOUND: no such key", None),
        ("", None),
    ],
)
def test_why_a_disk_refuses_is_the_last_thing_that_tensorstore_says(text, why):
    assert workarounds.refusal(ValueError(text)) == why
