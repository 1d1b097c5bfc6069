"""CONTRIBUTING.md names files that exist; a commit is formatted by the version that checks it."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:experiments|jaxvae|tests)/[\w/.]*)`", text)
    named += re.findall(r"\]\(([\w/.]+)\)", text)
    assert len(named) > 15
    missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert missing == []


def test_the_hook_and_the_environment_have_one_version_of_ruff():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    setup = (ROOT / "setup.cfg").read_text()
    assert re.findall(r"rev: v(\S+)", hooks) == re.findall(r"^ *ruff==(\S+)$", setup, re.MULTILINE)
