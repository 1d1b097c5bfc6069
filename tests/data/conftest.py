"""Data sets prepared from small official files, on a machine that has none of its own."""

import pytest


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No data that are here are found."""
    import official

    official.hide_machine(monkeypatch, tmp_path)


@pytest.fixture
def made(alone, monkeypatch, tmp_path, request):
    """The name of a data set, the folder of its official files, and what is in them."""
    import official

    name = request.param
    arrays = official.make(name, tmp_path / "raw")
    official.pass_as_official(monkeypatch, name, tmp_path / "raw", arrays)
    return name, tmp_path / "raw", arrays
