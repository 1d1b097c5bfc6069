"""`jaxvae export`: what it asks `export.export` for, and what it says."""

from pathlib import Path

import pytest

from jaxvae.cli import export
from jaxvae.cli.options import Export


@pytest.mark.parametrize(("word", "step"), [("best", "best"), ("30", 30), ("latest", "latest")])
def test_it_writes_the_checkpoint_that_was_asked_for_and_says_where(
    word, step, tmp_path, monkeypatch, capsys
):
    seen = []

    def written(run, out, **options):
        seen.append((run, out, options))
        (out / "model.safetensors").write_bytes(bytes(3 * 2**20))
        return 1200, out / "model.safetensors"

    monkeypatch.setattr(export, "export", written)
    args = Export(run=Path("run"), out=tmp_path, step=word, stats="reestimated")
    assert export.run_export(args) == 0
    options = {"step": step, "stats": "reestimated", "data_dir": None}
    assert seen == [(Path("run"), tmp_path, options)]
    said = capsys.readouterr().out
    assert "3.0 MiB, step 1,200" in said and f"jaxvae.load({str(tmp_path)!r})" in said
