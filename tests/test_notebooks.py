"""The notebooks: stored without outputs; without their data they say which command, after all that comes
before. The first runs from top to bottom with tiny settings, and `make torture` runs each at its own."""

import json
import os
import re
from pathlib import Path

import pytest

from jaxvae.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "notebooks").glob("*.ipynb"))
TINY = {"STEPS": 2, "HIDDEN": 4, "DRAWS": 200, "SEEDS": 1}


def cells(path):
    return json.loads(path.read_text())["cells"]


def run(path, monkeypatch, **changed):
    """Returns the names of a notebook after its code cells, with other settings."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = {"__name__": "__main__"}
    for cell in cells(path):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), names)
            if "settings" in cell["metadata"].get("tags", ()):
                names |= {name: value for name, value in changed.items() if name in names}
    return names


def test_they_are_stored_without_outputs_and_install_only_what_is_missing():
    assert len(PAGES) == 3
    for path in PAGES:
        code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
        assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
        assert 'if importlib.util.find_spec("jaxvae") is None:' in "".join(code[0]["source"])
        assert code[1]["metadata"]["tags"] == ["settings"]
        assert len({cell["id"] for cell in cells(path)}) == len(cells(path))


def test_the_first_runs_from_top_to_bottom(monkeypatch):
    names = run(ROOT / "notebooks" / "first_vae.ipynb", monkeypatch, **TINY)
    assert names["test"].size == 360
    check("first_vae", names)


def check(name, names):
    """Asserts what a notebook shows of any length of training."""
    if name == "first_vae":
        assert names["z"].shape == (360, 2) and names["tiles"].shape == (15, 8, 15, 8)
    if name == "posterior_of_your_own":
        assert re.search("determinism|same key", names["found"]) and len(names["elbos"]) == 2
    if name == "a_claim_tested":
        assert list(names["table"]) == ["normal", "ar1", "ar1-released"] == list(names["gap"])


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_notebook_runs_at_its_own_settings(path, monkeypatch):
    check(path.stem, run(path, monkeypatch))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_notebook_without_its_data_says_which_command(path, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("JAXVAE_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert "JAXVAE_OFFLINE" in os.environ
    with pytest.raises(UserError, match="jaxvae data prepare mnist"):
        run(path, monkeypatch, **TINY, DATA="mnist")
