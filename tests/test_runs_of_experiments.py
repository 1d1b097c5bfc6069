"""Runs of cells: where each is kept, and the command that draws those that are whole."""

from pathlib import Path
from typing import NamedTuple

import pytest

from experiments import runs


class Case(NamedTuple):
    """A case of an experiment with so many kinds of runs as one likes."""

    label: str
    kind: str
    home: Path
    seed: int = 0
    smoke: bool = False
    suffix: str = ""

    @property
    def folder(self):
        return runs.folder_of(self.home, self)


@pytest.mark.parametrize(
    ("kind", "smoke", "folder"),
    [
        ("narrow", False, "runs/narrow/mnist.vae.seed2"),
        ("full", True, "runs/smoke_full/mnist.vae.seed2"),
        ("", False, "runs/full/mnist.vae.seed2"),  # an experiment of one kind
        ("", True, "runs/smoke/mnist.vae.seed2"),
    ],
)
def test_each_kind_of_run_has_a_folder_of_its_own(tmp_path, kind, smoke, folder):
    case = Case("mnist.vae", kind, tmp_path, 2, smoke)
    assert case.folder == tmp_path / folder
    assert not runs.finished(case)
    case.folder.mkdir(parents=True)
    runs.finish(case)
    assert runs.finished(case)


@pytest.mark.parametrize(("words", "place"), [([], "figures"), (["--smoke"], "smoke")])
def test_what_is_trained_is_drawn_where_its_likes_are(tmp_path, words, place, capsys):
    calls = []

    def cases(seed, smoke):
        calls.append((seed, smoke))
        return [Case("a", "narrow", tmp_path), Case("b", "", tmp_path)]

    def draw(case, folder):
        assert folder.is_dir()
        return [folder / f"{case.label}.png"]

    runs.draw("paper", tmp_path, cases, draw, "mnist/vae", [*words, "--seed", "3"])
    assert calls == [(3, bool(words))]
    assert capsys.readouterr().out.split() == [f"{place}/narrow/a.png", f"{place}/b.png"]


def test_nothing_to_draw_is_said_with_the_command_that_trains(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        runs.draw("paper", tmp_path, lambda *_: [], lambda *_: [], "mnist/vae", [])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "nothing has been trained here: python -m experiments.paper --cell mnist/vae\n"
    )
