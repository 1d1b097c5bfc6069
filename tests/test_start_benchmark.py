"""The benchmark of starts: a first one with an empty cache, a second one with what it left."""

import json

import pytest

from benchmarks import measure, start
from jaxvae import host
from jaxvae.errors import UserError

TINY = ["vae", "--hidden", "4", "--latent-dim", "2", "--batch-size", "8"]


@pytest.mark.slow
def test_a_first_start_fills_the_cache_and_a_second_one_adds_nothing(tmp_path):
    cache = tmp_path / "cache"
    held = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert start.first_step(TINY, cache, tmp_path / name) > 0
        compiled = host.compiled_folder(str(cache))
        held.append(sorted(path.name for path in (cache / compiled).iterdir()))
        lines = (tmp_path / name / "run" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[0])["step"] == 1
    assert held[0] and {n for n in held[1] if "atime" not in n} <= set(held[0])


def test_a_command_that_fails_is_said_with_its_last_line(tmp_path):
    with pytest.raises(UserError, match="`vae --dat x` ends with 2: jaxvae: .*'--data'"):
        start.first_step(["vae", "--dat", "x"], tmp_path / "cache", tmp_path)


def test_each_round_has_a_cache_of_its_own_and_two_runs(monkeypatch):
    seen = []

    def first_step(words, cache, place):
        seen.append((cache, cache.exists()))
        cache.mkdir(exist_ok=True)
        (place / "run").mkdir()  # of a new run
        return float(len(seen))

    monkeypatch.setattr(start, "first_step", first_step)
    assert start.starts(["vae"], 2) == {"first": [1.0, 3.0], "second": [2.0, 4.0]}
    assert [there for _, there in seen] == [False, True, False, True]
    assert seen[0][0] == seen[1][0] != seen[2][0] == seen[3][0]


def test_what_is_kept_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(start, "bare", lambda: 2.0)
    monkeypatch.setattr(start, "starts", lambda words, rounds: {"first": [14.0], "second": [4.0]})
    start.main(["--rounds", "1", "--only", "gan"])
    assert "gan: 14.0 s, then 4.0 s: 3.5x" in capsys.readouterr().out
    kept = json.loads((tmp_path / "start.cpu.json").read_text())
    assert kept["command"] == 'python -m benchmarks.start --rounds 1 --only "gan"'
    start.main(["--table"])
    assert "| 14.0 | 4.0 | 3.5 | 2.0 | 6.0 |" in capsys.readouterr().out
    for words, said in (
        (["--only", "gna"], "unknown program 'gna'. Did you mean 'gan'?"),
        (["--rounds", "0"], "--rounds must be"),
    ):
        with pytest.raises(SystemExit):
            start.main(words)
        assert said in capsys.readouterr().err
