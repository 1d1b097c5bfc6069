"""The preset `translation` by the command line: it trains, loads, exchanges content and class, and
says what it does not take."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxvae
from commands import refused, refused_training
from jaxvae import data, models, writers
from jaxvae.cli.main import main
from jaxvae.errors import UserError
from jaxvae.presets.translation import Translation, build
from jaxvae.types import Batch

NARROW = ["--shrink", "64", "--content-dim", "3", "--class-dim", "2", "--batch-size", "16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translation") / "run"
    words = ["train", "translation", "--data", "digits", "--workdir", str(folder), "--steps", "4"]
    words += ["--method", "vae", "--no-progress", "--log-every", "2"]
    assert main([*words, *NARROW]) == 0
    return folder


@pytest.mark.long
def test_it_trains_loads_and_has_every_picture(run):
    model, params, state = jaxvae.load(run)
    assert set(params["encoder"]) == {"content", "class"}
    assert model.sample(params, state, jax.random.key(0), 3).shape == (3, 8, 8, 1)
    lines = [line for line in writers.read(run / "metrics.jsonl") if line["split"] == "train"]
    assert {"kl", "kl_content", "kl_class", "squared_error"} <= set(lines[0])
    for line in lines:
        assert line["kl"] == pytest.approx(line["kl_content"] + line["kl_class"], rel=1e-4)
    for name in ("samples", "reconstructions", "interpolation", "curves"):
        assert (run / f"{name}.png").is_file()


@pytest.mark.long
def test_translations_of_held_out_examples(run, tmp_path):
    assert main(["translate", str(run), "--n", "3", "--npz", str(tmp_path / "x.npz")]) == 0
    with np.load(tmp_path / "x.npz") as found:
        x, content, of_class = found["x"], found["content"], found["of_class"]
    assert x.shape == (3, 3, 8, 8, 1)
    grey = data.load("digits", "test").read(np.arange(6))["x"].astype(np.float32) / 255.0
    np.testing.assert_allclose(np.concatenate([of_class, content]), grey, atol=1e-6)
    model, params, state = jaxvae.load(run)
    for i, j in ((0, 0), (2, 1)):
        pair = (Batch(jnp.asarray(grey[3 + j][None])), Batch(jnp.asarray(grey[i][None])))
        want = models.translate(model, params, state, *pair)[0]
        np.testing.assert_allclose(x[i, j], want, atol=1e-5)
    with Image.open(run / "translations.png") as picture:
        assert picture.size[0] == picture.size[1] > 50


@pytest.mark.long
def test_a_table_larger_than_the_split_is_refused(run, capsys):
    said = refused(capsys, "translate", run, "--n", "200")
    assert "200 classes and 200 contents are 400 examples, and there are" in said


def test_every_weight_is_an_option_with_the_published_default(tmp_path, monkeypatch):
    seen = {}
    real = models.translation
    monkeypatch.setattr(
        models, "translation", lambda *nets, **given: seen.update(given) or real(*nets, **given)
    )
    model = build(Translation(tmp_path), (64, 64, 3), None).model
    assert [objective.name for objective in model.objectives] == ["encoder_loss", "decoder_loss"]
    dims = {"content_dim": 128, "class_dim": 256}
    assert seen == {**dims, "beta_rec": 1.0, "beta_kl_content": 1.0, "beta_kl_class": 1.0}
    given = {"beta_neg_content": 3.0, "beta_neg_class": 2.0, "s": 0.1, "gamma_r": 0.2}
    given |= {"beta_rec": 0.5, "beta_kl_content": 0.4, "beta_kl_class": 0.6}
    given |= {"convention": "paper", "content_dim": 4, "class_dim": 2}
    seen.clear()
    build(Translation(tmp_path, **given), (64, 64, 3), None)
    assert seen == given


@pytest.mark.parametrize("method", ["soft_intro_vae", "vae"])
def test_a_perceptual_error_reads_its_weights_when_it_trains(method, tmp_path, monkeypatch):
    """So that a trained model is used without them; the first loss asks for them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXVAE_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.delenv("JAXVAE_DATA_DIR", raising=False)
    config = Translation(tmp_path, method=method, error="vgg", shrink=64, batch_size=2)
    model = build(config, (16, 16, 3), None).model
    batch, rng = Batch(jnp.zeros((2, 16, 16, 3))), jax.random.key(0)
    params, state = jax.eval_shape(model.init, rng, batch)
    sample = functools.partial(model.sample, stats="running")
    assert jax.eval_shape(lambda p, s: sample(p, s, rng, 2), params, state).shape == batch.x.shape
    with pytest.raises(UserError, match="vgg16"):
        jax.eval_shape(
            lambda p, s: model.objectives[0].loss(p, s, rng, batch, jnp.int32(0), None)[0],
            params,
            state,
        )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--method", "vae", "--beta-neg-class", "1", "--convention", "paper"],
            "has no fakes: leave out --beta-neg-class and --convention with --method vae",
        ),
        (["--beta-kl-class", "-1"], "--beta-kl-class must be at least 0"),
        (["--content-dim", "0"], "--content-dim must be at least 1"),
        (["--channels", "8", "8", "8", "8", "8"], "whose sides 16 divides, not 8x8"),
        (["--error", "squeeze", *NARROW], "at least 17 pixels a side, not 8x8"),
    ],
)
def test_what_it_refuses(argv, message, tmp_path, capsys):
    assert message in refused_training(capsys, tmp_path, "translation", *argv, "--steps", "2")


def test_a_class_without_images_is_refused_before_the_first_step(tmp_path, capsys):
    for name in ("one", "two", "three"):
        (tmp_path / "cars" / name).mkdir(parents=True)
        if name != "two":
            Image.new("RGB", (8, 8)).save(tmp_path / "cars" / name / "1.png")
    words = ["train", "translation", "--data", f"folder:{tmp_path / 'cars'}"]
    said = refused(capsys, *words, "--workdir", tmp_path / "run", "--steps", "2")
    assert "1 class folders without images: two" in said
    assert not (tmp_path / "run").exists()
