"""A released model under another name. What is in one, and what of a run is left out of it:
test_released.py."""

import json

import pytest

import untrained
from jaxvae.errors import UserError
from jaxvae.presets import export, released


@pytest.fixture
def folder(tmp_path):
    for name, content in untrained.files()[0].items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_model_of_another_name_has_a_card_of_its_own(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = export.renamed(folder, "hf:me/x y")
    card = found[released.CARD].decode()
    assert 'jaxvae.load("hf:me/x y")' in card and "jaxvae sample 'hf:me/x y'" in card
    assert card.startswith('---\nlicense: "mit"\n')
    assert b'"run"' in before[released.EVALUATION] and b'"run"' not in found[released.EVALUATION]
    for same in (released.MODEL, released.CONFIG):
        assert found[same] == before[same]
    page = json.loads(before[released.EVALUATION])
    (folder / released.EVALUATION).write_text(json.dumps({**page, "step": 1}))
    assert released.EVALUATION not in export.renamed(folder, "hf:me/x")


def test_a_model_that_is_one_already_is_not_exported(folder, tmp_path):
    with pytest.raises(UserError, match="is an exported model already: copy the folder"):
        export.export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
