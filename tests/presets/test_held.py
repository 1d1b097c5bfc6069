"""Settings that ask for a larger net than the weights beside them are of."""

import dataclasses
import json
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hostile
import jaxvae
import untrained
from commands import TINY, refused
from jaxvae.cli.main import main
from jaxvae.errors import UserError
from jaxvae.presets import PRESETS, held, record
from jaxvae.presets.config import Options
from jaxvae.presets.options import LAYERS, WIDTH
from jaxvae.types import Batch

HUGE, LONG, SECONDS = 10**9, [8] * 100_000, 60
OF_NO_SIZE = {  # whole numbers that say of no net how large it is: training, data, and caps
    *("beta_warmup", "beta_cycle", "disc_start", "num_vae", "every", "k", "pad", "column"),
    *("second_steps", "second_epochs", "second_lr_halve_every", "second_lr_steps"),
    *("level_epochs", "level_steps", "start_channels", "max_channels", "shrink"),
}


@pytest.fixture(autouse=True)
def in_time():
    """Fails a test that stalls."""

    def stop(*_):
        pytest.fail(f"no answer within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path):
    for name, content in untrained.files()[0].items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def ask(folder, **entries) -> None:
    """Writes other settings into the config.json of a run or of a released model."""
    page = json.loads((folder / "config.json").read_text())
    page["config"] |= entries
    (folder / "config.json").write_text(json.dumps(page))


def own_options(preset):
    common = {field.name for field in dataclasses.fields(Options)}
    return [f for f in dataclasses.fields(preset.options) if f.name not in common]


def is_whole(field):
    """Whether an option is one whole number."""
    return record._is(3, field.type) and not record._is(0.5, field.type)


@pytest.mark.parametrize("name", PRESETS)
def test_every_whole_number_of_a_preset_says_whether_it_is_a_size(name):
    for field in own_options(PRESETS[name]):
        marks = {LAYERS, WIDTH} & set(getattr(field.type, "__metadata__", ()))
        if is_whole(field):
            assert len(marks) == (field.name not in OF_NO_SIZE), field.name
        else:
            assert not marks, field.name


@pytest.mark.parametrize("name", PRESETS)
def test_every_size_of_a_preset_has_a_bound(name):
    there = held.Held("here", {f"params.{i}": (40, 100) for i in range(20)})
    config = PRESETS[name].options(workdir=Path())
    held.check(config, there)  # defaults are ours
    for field in own_options(PRESETS[name]):
        default, marks = getattr(config, field.name), getattr(field.type, "__metadata__", ())
        if isinstance(default, tuple) or record._is((8, 8, 8), field.type):
            limit, more, said = (8,) * 36, (8,) * 37, "has 37 entries"
        elif LAYERS in marks:
            limit, more, said = 36, 37, "is 37"
        elif WIDTH in marks:
            limit, more, said = 4000, 4001, "is 4,001"
        else:
            continue
        object.__setattr__(config, field.name, limit)
        held.check(config, there)
        object.__setattr__(config, field.name, more)
        with pytest.raises(UserError, match=f"{field.name} {said}, and they are 20 arrays"):
            held.check(config, there)
        object.__setattr__(config, field.name, default)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"hidden": LONG}, "hidden has 100,000 entries, and they are 10 arrays of at most 48"),
        ({"latent_dim": HUGE}, "latent_dim is 1,000,000,000, and they are 10 arrays of at most 48"),
        ({"latent_dim": 10**4000}, "latent_dim is 10,000,000,000,000,"),
        ({"hidden": [HUGE] * 3}, "is of another model: params.decoder."),
        ({"net": "conv", "hidden": [4], "channels": LONG}, "channels has 100,000 entries"),
        ({"preset": "ladder_vae", "depth": HUGE}, "depth is 1,000,000,000"),
        ({"preset": "flow", "couplings": HUGE}, "couplings is 1,000,000,000"),
        ({"preset": "vq_vae", "halvings": HUGE}, "halvings is 1,000,000,000"),
        ({"preset": "translation", "content_dim": HUGE}, "content_dim is 1,000,000,000"),
        ({"preset": "style_soft_intro_vae", "mapping_layers": HUGE}, "mapping_layers is 1,000"),
        ({"shape": [HUGE, HUGE, 3]}, "is damaged: the shape of the data is [1000000000,"),
        ({"shape": [2] * 20}, "is damaged: the shape of the data is [2, 2,"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_a_released_model_is_refused_before_its_net_is_built(folder, capsys, entries, message):
    if "preset" in entries:
        config = PRESETS[entries["preset"]].options(workdir=Path())
        page = {"format": 1, "config": record.as_dict(config, (4, 4, 1), None), "step": 0}
        (folder / "config.json").write_text(json.dumps(page))
    ask(folder, **entries)
    said = refused(capsys, "sample", folder)
    assert message in said and str(folder) in said and len(said) < 1000


@pytest.mark.long
def test_a_run_is_refused_before_its_net_is_built(tmp_path, capsys):
    words = ["train", "vae", "--data", "digits", "--steps", "2", *TINY]
    assert main([*words, "--workdir", str(tmp_path)]) == 0
    for entries in ({"hidden": LONG}, {"hidden": [16], "latent_dim": HUGE}):
        ask(tmp_path, **entries)
        said = refused(capsys, "sample", tmp_path)
        assert f"{tmp_path}: the settings ask for a larger net than the weights are of" in said
    ask(tmp_path, hidden=[16], latent_dim=2)
    assert main(["sample", str(tmp_path)]) == 0


def test_layers_that_several_options_multiply_are_counted_as_they_are_made():
    there = held.Held("here", {f"params.{i}": (4, 4) for i in range(30)})
    config = PRESETS["ladder_vae"].options(
        workdir=Path(), latents=(4,) * 30, hidden=(4,) * 30, depth=30
    )
    held.check(config, there)
    model = PRESETS["ladder_vae"].build(config, (4, 4, 1), None).model
    example = Batch(jnp.zeros((2, 4, 4, 1)))
    said = r"^here: .* more than 136 layers, and they are 30 arrays"
    with pytest.raises(UserError, match=said), held.bounded(there):
        jax.eval_shape(model.init, jax.random.key(0), example)


NUMBERS = st.sampled_from([0, -1, 1, 2, 7, 1000, 2**31, HUGE, 2**70, 1e300, True, None, "8"])
VALUES = (
    NUMBERS
    | st.lists(NUMBERS, max_size=4)
    | st.builds(lambda n, times: [n] * times, NUMBERS, st.sampled_from([9, 1000, 100_000]))
    | st.builds(lambda depth: json.loads("[" * depth + "]" * depth), st.sampled_from([2, 90]))
)


def test_settings_that_anyone_may_write_load_or_end_in_one_line(folder):
    intact = (folder / "config.json").read_bytes()
    names = sorted(json.loads(intact)["config"])

    @hostile.tries
    @given(st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=3))
    def check(entries):
        (folder / "config.json").write_bytes(intact)
        ask(folder, **entries)
        said = ""
        try:
            jaxvae.load(folder)
        except UserError as error:
            said = str(error)
        assert "\n" not in said and len(said) < 2000

    check()
