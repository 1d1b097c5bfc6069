"""The zoo: found by looking, named, and refused by name; what the package holds of it can be used."""

import configparser
import json
import re
from pathlib import Path

import pytest

from experiments import zoo as making
from jaxvae.errors import UserError
from jaxvae.presets import load, released, zoo


def make_entry(root, name, **page):
    folder = root / name
    folder.mkdir(parents=True)
    config = {"preset": "vae", "data": "digits"}
    page = {"config": config, "command": "jaxvae train vae --workdir RUN", **page}
    (folder / released.CONFIG).write_text(json.dumps(page))
    (folder / released.MODEL).write_bytes(bytes(1000))
    return folder


def test_models_are_found_by_looking(tmp_path):
    assert zoo.names(tmp_path / "nowhere") == [] == zoo.entries(tmp_path)
    row = {"metric": "elbo", "value": -9.5, "error": 0.1, "n": 360, "protocol": "nats, one draw"}
    folder = make_entry(tmp_path, "vae/digits")
    (folder / released.EVALUATION).write_text(json.dumps({"metrics": [row, row]}))
    make_entry(tmp_path, "gan/digits")
    (tmp_path / "README.md").touch()
    (tmp_path / "half" / "done").mkdir(parents=True)
    other, found = zoo.entries(tmp_path)
    assert (other.name, other.number) == ("gan/digits", None)
    assert found[:2] == ("vae/digits", folder) and found[2:4] == ("vae", "digits")
    assert found.size == sum(path.stat().st_size for path in folder.iterdir())
    assert found.number == row and found.command == "jaxvae train vae --workdir RUN"


def test_a_name_is_a_folder_and_an_unknown_one_has_a_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    with pytest.raises(UserError, match="zoo:vae/mnist: this installation has no zoo"):
        load.place("zoo:vae/mnist")
    make_entry(tmp_path, "vae/mnist")
    assert load.place("zoo:vae/mnist") == tmp_path / "vae" / "mnist"
    for name in ("vae/mnits", "vea/mnist", "../vae/mnist", "", "vae"):
        with pytest.raises(UserError, match=f"unknown model of the zoo '{name}'") as raised:
            load.place(f"zoo:{name}")
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"Did you mean 'vae/mnist'\? Choose from: vae/mnist"):
        load.place("zoo:vae/mnits")


def test_the_models_of_this_package_are_small_and_can_be_used():
    found = zoo.entries()
    assert [said for each in found for said in making.problems(each.folder)] == []
    assert sum(each.size for each in found) <= making.ALL


def test_they_are_in_the_wheel():
    root = zoo.FOLDER.parents[1]
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    assert "zoo/*/*/*" in setup["options.package_data"]["jaxvae"].split()
    files = [path for path in zoo.FOLDER.rglob("*") if path.is_file()]
    others = [path for path in files if len(path.relative_to(zoo.FOLDER).parts) != 3]
    assert others == [zoo.FOLDER / "README.md"]


def test_every_model_that_the_documentation_names_is_there():
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *root.glob("notebooks/*.ipynb")]
    named = {name for p in pages for name in re.findall(r"zoo:([a-z_]+/[a-z_0-9]+)", p.read_text())}
    assert named and named <= set(zoo.names())
