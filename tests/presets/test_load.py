"""A folder that holds an exported model: read back to the bit, and refused where it is damaged."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from jaxvae import safetensors
from jaxvae.errors import UserError
from jaxvae.presets import load as loading
from jaxvae.presets import record, vae
from jaxvae.presets.config import VAE
from jaxvae.types import Batch

SHAPE = (4, 4, 1)


@pytest.fixture
def exported(tmp_path):
    """A model at its start, and a folder with it as `jaxvae export` writes one."""
    config = VAE(workdir=tmp_path, hidden=(3,), latent_dim=2)
    model = vae.build(config, SHAPE, None).model
    params, state = model.init(jax.random.key(0), Batch(jnp.zeros((2, *SHAPE))))
    arrays = loading.flatten({"params": params, "state": state})
    (tmp_path / loading.FILE).write_bytes(safetensors.dump(arrays, {"format": "jaxvae"}))
    page = {"config": record.as_dict(config, SHAPE, None), "step": 7}
    (tmp_path / "config.json").write_text(json.dumps(page))
    return params, tmp_path


def changed(folder, **entries):
    page = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**page, **entries}))


def test_it_is_read_back_to_the_bit(exported):
    params, folder = exported
    loaded = jaxvae.load(folder)
    assert loading.step_of(folder, "best") == 7
    assert jax.tree.structure(loaded.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert loading.statistics_of(folder) == loading.Exported("running", "")


def test_leaves_are_named_by_their_path():
    tree = {"params": {"encoder": {"Dense_0": {"bias": np.zeros(2)}}}, "state": {}}
    assert list(loading.flatten(tree)) == ["params.encoder.Dense_0.bias"]


def test_an_exported_model_is_not_exported_again(exported):
    with pytest.raises(UserError, match="is an exported model already: copy the folder"):
        jaxvae.export(exported[1], exported[1] / "more")


@pytest.mark.parametrize(
    ("read", "entries", "message"),
    [
        (loading.step_of, {"step": "seven"}, "is damaged: its step is 'seven'"),
        (
            loading.statistics_of,
            {"statistics": {"kind": "mine"}},
            "what it says of statistics cannot be read",
        ),
    ],
)
def test_a_page_that_is_damaged(exported, read, entries, message):
    _, folder = exported
    changed(folder, **entries)
    with pytest.raises(UserError, match=message):
        read(folder)


def test_arrays_of_another_model_are_named(exported):
    _, folder = exported
    config = VAE(workdir=folder, hidden=(5,), latent_dim=2)
    changed(folder, config=record.as_dict(config, SHAPE, None))
    with pytest.raises(
        UserError, match=r"is of another model: params.decoder.Dense_0.bias, .*differ\."
    ):
        jaxvae.load(folder)


def test_folders_without_a_model(tmp_path):
    with pytest.raises(UserError, match="holds no run of jaxvae"):
        jaxvae.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="re-estimates those of runs of the command line"):
        jaxvae.load(tmp_path, stats="batch")
    with pytest.raises(UserError, match="statistics of each batch are in no file"):
        jaxvae.export(tmp_path, tmp_path / "out", stats="batch")


def test_a_stage_of_a_run_is_not_used_alone(exported):
    _, folder = exported
    (folder / "second").mkdir()
    (folder / "second" / "config.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(UserError, match="this is the second stage of a run"):
        loading.open_run(folder / "second")
