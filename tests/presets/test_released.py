"""A run in its released form: what is in the folder, what its card says, commands on it by folder and
by name, and what is refused of it. All on one run."""

import json
import re
import shlex
import shutil

import jax
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile
import jaxvae
from commands import TINY, refused
from jaxvae import safetensors, writers
from jaxvae.cli.main import main
from jaxvae.errors import UserError
from jaxvae.presets import export, released, zoo
from jaxvae.presets import load as loading

TRAIN = [
    "train",
    "vae",
    "--data",
    "digits",
    "--steps",
    "4",
    *TINY,
    "--hidden",
    "8",
    "--latent-dim",
    "3",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "run"
    assert main([*TRAIN, "--workdir", str(folder)]) == 0
    assert main(["evaluate", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def out(run):
    out = run.parent / "out"
    assert main(["export", str(run), "--out", str(out), "--license", "mit"]) == 0
    return out


@pytest.fixture
def copy(out, tmp_path):
    return shutil.copytree(out, tmp_path / "copy")


@pytest.fixture
def named(out, tmp_path, monkeypatch):
    """The model as one of the zoo, vae/digits, in an empty current folder."""
    folder = shutil.copytree(out, tmp_path / "zoo" / "vae" / "digits")
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- what is in it -------------------------------------------------------------------------------


@pytest.mark.long
def test_a_released_model_is_weights_settings_numbers_samples_and_a_card(run, out):
    assert set(contents(out)) == set(released.FILES)
    assert contents(out)["samples.png"] == (run / "samples.png").read_bytes()
    page, evaluation = released.read_page(out), released.read_evaluation(out)
    command = shlex.split(page["command"])
    assert command[:3] == ["jaxvae", "train", "vae"]
    assert command[command.index("--hidden") + 1] == "8" and "--data" not in command  # the default
    assert command[command.index("--workdir") + 1] == "RUN"
    assert page["format"] == 1 and page["step"] == evaluation["step"] == 4
    of_run = writers.read_json(run / "config.json")
    assert page["versions"] == of_run["versions"] and page["config"] == of_run["config"]
    assert page["versions"]["jaxvae"] == jaxvae.__version__
    assert "run" not in evaluation  # where it was measured is nobody's business
    assert str(run.parent) not in "".join(
        (out / name).read_text() for name in ("config.json", "evaluation.json")
    )


@pytest.mark.long
def test_the_card_has_the_hubs_header_and_every_number_with_its_protocol(out):
    _, header, text = (out / "README.md").read_text().split("---\n", 2)
    header, evaluation = yaml.safe_load(header), released.read_evaluation(out)
    assert header["license"] == "mit" and header["library_name"] == "jaxvae"
    assert {"vae", "jax"} <= set(header["tags"]) and "datasets" not in header  # none of the Hub
    assert header["metrics"] == [row["metric"] for row in evaluation["metrics"]]
    assert header["pipeline_tag"] == "unconditional-image-generation"
    assert "    -E_q[log p(x|z)] + beta KL(q(z|x) || N(0, I))\n" in text
    assert "digits, test split" in text and "Training cannot be resumed" in text
    for row in evaluation["metrics"]:
        [line] = [line for line in text.splitlines() if line.startswith(f"| {row['metric']} |")]
        _, _, value, n, protocol, _ = map(str.strip, line.split("|"))
        assert float(value.split(" ± ")[0]) == pytest.approx(row["value"], abs=1e-4)
        assert (n, protocol) == (str(row["n"]), row["protocol"])


@pytest.mark.long
def test_the_python_of_the_card_runs_and_its_commands_are_understood(out, run, monkeypatch):
    text = (out / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found = {}
    exec(code, found)
    assert found["x"].shape == (16, 8, 8, 1) and "# [16, 8, 8, 1]" in code
    jax.tree.map(np.testing.assert_array_equal, found["params"], jaxvae.load(run).params)
    [lines] = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    words = [shlex.split(line) for line in lines.splitlines()]
    verbs = ["sample", "reconstruct", "interpolate", "evaluate"]
    assert words == [["jaxvae", verb, str(out)] for verb in verbs]


@pytest.mark.long
def test_numbers_of_another_checkpoint_are_left_out(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    page = json.loads((copy / "evaluation.json").read_text())
    (copy / "evaluation.json").write_text(json.dumps({**page, "step": 2}))
    folder = shutil.copytree(run.parent / "out", tmp_path / "out")  # of an earlier model
    jaxvae.export(copy, folder, name="hf:me/vae")
    assert set(contents(folder)) == set(released.FILES) - {"evaluation.json"}
    text = (folder / "README.md").read_text()
    assert "has not been evaluated: `jaxvae evaluate RUN`" in text
    assert 'license: "unknown"' in text and 'jaxvae.load("hf:me/vae")' in text


@pytest.mark.long
def test_samples_are_of_the_step_and_never_those_of_other_options(run, out, tmp_path):
    copy, drawn = shutil.copytree(run, tmp_path / "copy"), contents(out)["samples.png"]
    assert main(["sample", str(copy), "--seed", "9", "--n", "4"]) == 0
    assert (copy / "samples.png").read_bytes() != drawn
    jaxvae.export(copy, tmp_path / "again")
    assert contents(tmp_path / "again")["samples.png"] == drawn
    (copy / "samples.png").unlink()
    jaxvae.export(copy, tmp_path / "again")
    assert contents(tmp_path / "again")["samples.png"] == drawn
    earlier, *_, last = sorted(int(path.name) for path in (copy / "checkpoints").glob("[0-9]*"))
    jaxvae.export(copy, tmp_path / "earlier", step=earlier)
    assert earlier < last and contents(tmp_path / "earlier")["samples.png"] != drawn
    # a released one is a folder that commands draw into
    assert main(["sample", str(tmp_path / "again"), "--seed", "9", "--n", "4"]) == 0
    assert export.renamed(tmp_path / "again", "hf:me/x")["samples.png"] == drawn


@pytest.mark.long
def test_a_card_without_a_picture_where_none_can_be_drawn(run, tmp_path, monkeypatch):
    monkeypatch.setattr(export.finish, "pictures", lambda *_: ["curves"])
    jaxvae.export(run, tmp_path / "out")
    assert "samples.png" not in contents(tmp_path / "out")
    assert "samples.png" not in (tmp_path / "out" / "README.md").read_text()


# ---- commands on it ------------------------------------------------------------------------------


@pytest.mark.long
def test_commands_take_its_name_and_write_here(named, out):
    before = contents(named)
    assert main(["sample", "zoo:vae/digits", "--n", "4", "--npz", "x.npz"]) == 0
    assert main(["sample", str(out), "--n", "4", "--npz", "y.npz", "--out", "y.png"]) == 0
    np.testing.assert_array_equal(np.load("x.npz")["x"], np.load("y.npz")["x"])
    assert main(["evaluate", "zoo:vae/digits"]) == 0
    again = released.read_evaluation("vae-digits")
    assert again["metrics"] == released.read_evaluation(named)["metrics"]
    assert again["run"] == "zoo:vae/digits"
    assert set(contents(named.parents[2] / "here" / "vae-digits")) == {
        "samples.png",
        "evaluation.json",
    }
    assert contents(named) == before


@pytest.mark.long
def test_it_is_compared_with_others_by_its_numbers(named, run, out, capsys):
    assert main(["compare", "zoo:vae/digits", str(out), "--out", "both.png"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"digits +out", shown) and "settings" in shown
    elbo = next(
        r["value"] for r in released.read_evaluation(out)["metrics"] if r["metric"] == "elbo"
    )
    assert re.search(rf"test elbo +{elbo:.5g} +{elbo:.5g}", shown)
    assert re.search(r"test step +4 +4", shown)
    assert (named.parents[2] / "here" / "both.png").stat().st_size > 1000
    assert main(["compare", "zoo:vae/digits", str(run), "--out", "mixed.png"]) == 0


@pytest.mark.long
def test_training_neither_goes_on_in_it_nor_writes_to_a_name(named, copy, capsys):
    before = contents(copy)
    said = refused(capsys, *TRAIN, "--workdir", copy, silent=False)
    assert "holds an exported model" in said and "Choose a new folder" in said
    assert contents(copy) == before
    for words in (
        [*TRAIN, "--workdir", "zoo:vae/digits"],
        ["export", "zoo:vae/digits", "--out", "zoo:vae/mine"],
        ["sample", "zoo:vae/digits", "--out", "hf:me/x.png"],
    ):
        said = refused(capsys, *words, silent=False)
        assert "is the name of a trained model" in said or "is an exported model already" in said
    assert not any(path.is_dir() for path in (named.parents[2] / "here").iterdir())


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": 2}, "is a model in format 2, and this version of jaxvae reads up to 1: pip"),
        ({"format": "1"}, "is damaged: its format is '1'"),
        ({"step": True}, "is damaged: its step is True"),
        ({"config": []}, "is not the config of a run of jaxvae"),
        ({"config": {"preset": "vea", "shape": [8, 8, 1]}}, "unknown preset 'vea'"),
        ({"statistics": {"name": 3}}, "what it says of statistics cannot be read"),
    ],
)
def test_settings_that_are_not_ours_or_of_a_later_version(copy, capsys, entries, message):
    page = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**page, **entries}))
    assert message in refused(capsys, "sample", copy)


@pytest.mark.long
def test_settings_say_nothing_of_where_things_lie_here(copy):
    """They may come from anywhere, and where data are read is not theirs to say."""
    page = json.loads((copy / "config.json").read_text())
    page["config"] |= {"data_dir": "gs://elsewhere", "workdir": "/", "download": False}
    (copy / "config.json").write_text(json.dumps(page))
    config = loading.open_run(copy).saved.config
    assert (config.data_dir, config.workdir, config.download) == (None, copy, True)


@pytest.mark.long
@pytest.mark.parametrize("rows", [None, {}, [3], [{"metric": "elbo"}]])
def test_numbers_that_are_damaged_are_named(copy, capsys, rows):
    (copy / "evaluation.json").write_text(json.dumps({"metrics": rows}))
    said = refused(capsys, "compare", copy, copy.parent, "--out", copy.parent / "x.png")
    assert "evaluation.json is damaged: delete it" in said


@pytest.mark.long
def test_a_folder_of_somebody_else_is_not_written_over(run, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights of another library")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="is not the config of a run of jaxvae"):
        jaxvae.export(run, tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "bert"}'


@pytest.mark.long
def test_weights_of_somebody_else_are_not_written_over_and_ours_are(run, out, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / released.MODEL).write_bytes(safetensors.dump({"w": np.zeros(2)}, {"format": "pt"}))
    (theirs / "notes.txt").write_text("mine")
    before = contents(theirs)
    with pytest.raises(UserError, match="weights that are not jaxvae's"):
        export.export(run, theirs)
    assert contents(theirs) == before
    half = shutil.copytree(out, tmp_path / "half")
    (half / released.CONFIG).unlink()  # a writer was interrupted here
    export.export(run, half)
    assert jaxvae.load(half).params.keys() == jaxvae.load(out).params.keys()


@pytest.mark.long
def test_what_is_no_step_of_it_and_a_folder_without_weights(copy, capsys):
    assert "of step 4 alone: leave out" in refused(capsys, "sample", str(copy), "--step", "3")
    (copy / released.MODEL).unlink()
    assert "without its weights, model.safetensors" in refused(capsys, "sample", str(copy))


@pytest.mark.parametrize("where", ["s3://a/b", "az://a/b", "hf:/a/b", "n" * 300])
def test_what_cannot_be_looked_at_is_one_line(capsys, where):
    assert refused(capsys, "sample", where)


@pytest.mark.long
def test_an_interrupted_writer_leaves_no_model(out, tmp_path, monkeypatch):
    folder = shutil.copytree(out, tmp_path / "copy")
    write, written = writers.write_bytes, []

    def full(path, content):
        if written:
            raise UserError("the disk is full")
        written.append(path.name)
        write(path, content)

    monkeypatch.setattr(writers, "write_bytes", full)
    with pytest.raises(UserError, match="is full"):
        released.write(folder, contents(out))
    assert written == ["model.safetensors"]
    with pytest.raises(UserError, match=r"there is no config.json in it"):
        jaxvae.load(folder)
    monkeypatch.undo()
    released.check_target(folder)
    released.write(folder, contents(out))
    assert contents(folder) == contents(out)


@pytest.mark.long
def test_damaged_folders_load_or_end_in_one_line(out, copy):
    intact = contents(out)

    @settings(hostile.tries, max_examples=30)
    @given(st.data(), st.sampled_from(["config.json", "config.json", "model.safetensors"]))
    def check(data, name):
        content = data.draw(hostile.damaged(intact[name]))
        (copy / name).write_bytes(content)
        said = ""
        try:
            loading.load(copy, step=loading.step_of(copy))
            loading.statistics_of(copy)
        except UserError as error:
            said = str(error)
        finally:
            (copy / name).write_bytes(intact[name])
        assert "\n" not in said and len(said) < 2000

    check()
