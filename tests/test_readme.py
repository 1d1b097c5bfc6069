"""What the documents say is run: their Python, their commands, and their tables."""

import importlib.util
import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import blocks as tables
from jaxvae.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run that the README's first command makes, cut short."""
    folder = tmp_path_factory.mktemp("readme")
    command = next(c for c in blocks(PAGES[0], "bash")[1].splitlines() if "digits" in c)
    options = [*shlex.split(command)[1:], "--steps", "20", "--no-progress"]
    options[options.index("--workdir") + 1] = str(folder / "runs" / "digits")
    assert main(options) == 0
    return folder


@pytest.mark.long
@pytest.mark.smoke
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_of_the_page_runs(page, trained, monkeypatch):
    monkeypatch.chdir(trained)
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), {"__name__": "page"})


def test_commands_of_the_readme_are_understood(tmp_path, monkeypatch, capsys):
    """Each is parsed; those on MNIST then ask for its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAXVAE_DATA_DIR", raising=False)
    commands = [
        c.split("#")[0]
        for text in blocks(PAGES[0], "bash")
        for c in text.splitlines()
        if c.startswith("jaxvae")
    ]
    assert len(commands) >= 3
    for command in commands:
        if "mnist" in command:
            assert main(shlex.split(command)[1:]) == 2
            assert "mnist needs train-images-idx3-ubyte.gz" in capsys.readouterr().err


def test_make_targets_that_the_pages_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for text in blocks(page, "bash"):
            assert set(re.findall(r"^make ([\w-]+)", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_tables_are_what_their_commands_print(monkeypatch, capsys):
    """A table in a README is never typed: `<!-- table: COMMAND -->` ... `<!-- end -->`."""
    monkeypatch.chdir(ROOT)
    pages = tables.pages(ROOT / "experiments")
    found = [
        re.findall(r"<!-- table: (.*?) -->\n\n(.*?)\n*<!-- end -->", page.read_text(), re.DOTALL)
        for page in pages
    ]
    assert pages[0] == PAGES[0] and found[0]
    for command, text in itertools.chain(*found):
        words = shlex.split(command)
        assert words[:2] == ["python", "-m"]
        spec = importlib.util.find_spec(words[2])
        ran = words[2] + (".__main__" if spec.submodule_search_locations else "")
        monkeypatch.delitem(sys.modules, ran, raising=False)  # another test's, which it gets back
        monkeypatch.setattr(sys, "argv", words[2:])
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        assert text.strip() == capsys.readouterr().out.strip(), (
            f"run `{command}` and put its output into the README"
        )


EXPERIMENTS = sorted(p.parent.name for p in (ROOT / "experiments").glob("*/__main__.py"))
# Experiments of many cells that take minutes together: a few that differ. `make torture` runs them
# all.
A_FEW = {
    "course_report": ["mnist/z2"],  # the others need weights: test_course_report.py brings some
    "tutorial": ["proof/logistic/*", "mnist/column/regressor"],
    "rho_vae": ["mnist/vanilla/ar1-released", "mnist/info/ar1-paper"],
    "two_stage": [
        "toy_curve/*"
    ],  # the others need weights: tests/test_two_stage_experiment.py brings some
    "soft_intro_2d": ["rings/soft_intro_vae", "checkerboard/real"],
    "soft_intro_images": ["mnist-fashion_mnist/vae"],  # as above: test_soft_intro_images.py
    "soft_intro_style": ["fashion_mnist/narrow"],
    "translation": ["mnist/narrow/vae"],  # as above: test_translation_experiment.py
    "family": ["mnist/wae_gan"],  # as above: test_family_experiment.py
}


def smoke_run(name, cells=()):
    folder = ROOT / "experiments" / name
    command = [
        sys.executable,
        "-m",
        f"experiments.{name}",
        "--smoke",
        *(word for cell in cells for word in ("--cell", cell)),
    ]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **cache}
    )
    assert done.returncode == 0, done.stderr
    assert "Smoke run" in done.stdout
    assert not any("--smoke" in path.read_text() for path in (folder / "results").glob("*.jsonl"))


# Their own tests make a smoke run without a process for it, or, of nets that take long, do so with the slow ones.
TESTED_ELSEWHERE = set(A_FEW) - {"rho_vae", "soft_intro_images"}


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] if n in TESTED_ELSEWHERE else [])
        for n in EXPERIMENTS
    ],
)
def test_every_experiment_runs_a_smoke_run(name):
    smoke_run(name, A_FEW.get(name, ()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    sorted(
        set(A_FEW) - {"course_report", "two_stage", "soft_intro_images", "translation", "family"}
    ),
)
def test_every_cell_runs_a_smoke_run(name):
    smoke_run(name)
