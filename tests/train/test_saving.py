import pytest

from jaxvae.train import saving


class Pages:
    def wait_until_finished(self):
        raise OSError("no page")


class Manager:
    """What of Orbax's manager is watched."""

    def __init__(self):
        self._non_blocking_metadata_store = Pages()

    def _wait_for_checkpointers(self):
        raise ValueError("no array")

    def _finalize_checkpoint(self, step):
        """Moves it."""
        return -step


def test_what_goes_wrong_behind_a_run_is_told_and_raised():
    heard = []
    manager = saving.watched(Manager(), heard.append)
    assert manager._finalize_checkpoint(3) == -3 and heard == []
    assert manager._finalize_checkpoint.__doc__ == "Moves it."
    with pytest.raises(ValueError, match="no array") as arrays:
        manager._wait_for_checkpointers()
    with pytest.raises(OSError, match="no page") as pages:
        manager._non_blocking_metadata_store.wait_until_finished()
    assert heard == [arrays.value, pages.value]


def test_orbax_has_what_is_watched(tmp_path):
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(tmp_path) as manager:
        assert all(callable(getattr(manager, name)) for name in saving.STEPS)
        assert callable(getattr(manager, saving.PAGES).wait_until_finished)


def test_another_orbax_is_left_alone():
    manager = object()
    assert saving.watched(manager, pytest.fail) is manager
