"""The introspective presets with residual nets: one tiny conditional run of two phases, what the
commands make of it, resume in either phase, and what is refused."""

import functools
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from jaxvae import models, writers
from jaxvae.cli.main import main
from jaxvae.data.preprocess import flip
from jaxvae.presets import PRESETS, record, run, stages
from jaxvae.presets.intro_vae import IntroVAE
from jaxvae.presets.soft_intro_vae import SoftIntroVAE
from jaxvae.presets.two_stage_options import TwoStageVAE
from jaxvae.train.checkpoint import Checkpoints

SHAPE = (8, 8, 1)
NET = ["--net", "intro", "--channels", "4", "--latent-dim", "3"]
WORDS = [  # 64 training images: 4 steps of a plain VAE, 3 of what comes after
    *NET,
    *("--conditional", "--flip", "--num-vae", "2", "--s", "0.02", "--alpha", "1.5"),
    *("--steps", "7", "--batch-size", "32", "--log-every", "1", "--eval-every", "1"),
    *("--keep", "7", "--no-progress"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of 80 labelled images of 8x8."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images") / "images.npz"
    x = rng.integers(0, 256, (80, *SHAPE), dtype=np.uint8)
    np.savez(path, x=x, label=np.arange(80, dtype=np.int32) % 3)
    return path


def train(images, folder, *more):
    words = ["--data", f"npz:{images}", "--workdir", str(folder), *WORDS, *more]
    return main(["train", "soft_intro_vae", *words])


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(images, folder) == 0
    return folder


def leaves(folder, **options):
    loaded = jaxvae.load(folder, **options)
    return jax.tree.leaves((loaded.params, loaded.state))


@pytest.mark.long
def test_a_plain_vae_comes_first(trained):
    lines = [line for line in writers.read(trained / "metrics.jsonl") if line["split"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert ["kl_fake" in line for line in lines] == [False] * 4 + [True] * 3
    for line in lines[4:]:
        assert {"encoder_loss", "decoder_loss", "exp_elbo_fake"} <= set(line)
    model = jaxvae.load(trained).model
    assert [objective.name for objective in model.objectives] == ["encoder_loss", "decoder_loss"]


@pytest.mark.long
def test_every_checkpoint_of_both_phases_loads_and_samples(trained):
    assert Checkpoints(trained / "checkpoints", read_only=True).steps() == list(range(1, 8))
    cond = jax.nn.one_hot(jnp.arange(6) % 3, 3)
    draw = jax.jit(jaxvae.load(trained).model.sample, static_argnums=3)
    seen = []
    for step in (2, 6):
        _, params, state = jaxvae.load(trained, step=step)
        seen.append(np.asarray(draw(params, state, jax.random.key(0), 6, cond)))
        assert seen[-1].shape == (6, *SHAPE) and np.isfinite(seen[-1]).all()
    assert np.abs(seen[0] - seen[1]).max() > 1e-4
    labels = np.asarray(draw(params, state, jax.random.key(0), 6, cond[::-1]))
    assert np.abs(labels - seen[1]).max() > 1e-4  # the label matters


@pytest.mark.slow  # of phases in general: train/test_training.py
def test_stopped_in_either_phase_it_ends_with_the_same_bits(images, trained, tmp_path, monkeypatch):
    folder, fit = tmp_path / "run", run.fit
    for stop in (1, 5):  # which is heard a step later

        def interrupt(step, state, stop=stop):
            if step == stop:
                signal.raise_signal(signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(run, "fit", functools.partial(fit, on_eval=interrupt))
            with pytest.raises(SystemExit) as stopped:
                train(images, folder)
        assert stopped.value.code == 75
        for a, b in zip(leaves(folder), leaves(trained, step=stop + 1), strict=True):
            np.testing.assert_array_equal(a, b)
    assert train(images, folder) == 0
    for a, b in zip(leaves(folder), leaves(trained), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.long
def test_commands_on_it(trained, tmp_path, capsys):
    for words, shapes in (
        (["sample", "--n", "4"], {"x": (4, *SHAPE)}),
        (["reconstruct", "--n", "4"], {"x": (4, *SHAPE), "x_hat": (4, *SHAPE)}),
        (["interpolate", "--n", "2", "--points", "3"], {"x": (2, 3, *SHAPE)}),
    ):
        out = ["--out", str(tmp_path / "x.png"), "--npz", str(tmp_path / "x.npz")]
        assert main([words[0], str(trained), *words[1:], *out]) == 0
        found = np.load(tmp_path / "x.npz")
        assert {name: found[name].shape for name in found} == shapes
        assert (tmp_path / "x.png").stat().st_size > 100
    assert main(["evaluate", str(trained), "--out", str(tmp_path / "e.json")]) == 0
    rows = {row["metric"]: row for row in json.loads((tmp_path / "e.json").read_text())["metrics"]}
    assert rows["elbo"]["value"] == pytest.approx(-rows["rec"]["value"] - rows["kl"]["value"])
    words = ["export", str(trained), "--out", str(tmp_path / "out"), "--step", "2"]
    assert main([*words, "--stats", "running"]) == 0
    for a, b in zip(leaves(tmp_path / "out"), leaves(trained, step=2), strict=True):
        np.testing.assert_array_equal(a, b)
    capsys.readouterr()
    assert main(["sample", str(trained), "--label", "3"]) == 2
    assert "this model has the classes 0 to 2" in capsys.readouterr().err


@pytest.mark.long
def test_data_without_its_labels_are_refused(trained, tmp_path, capsys):
    """The file has been replaced: by one without labels, and by one with more classes."""
    for label, have in ((None, "none"), (np.arange(20) % 4, "4")):
        path = tmp_path / f"{have}.npz"
        labels = {} if label is None else {"label": label.astype(np.int32)}
        np.savez(path, x=np.zeros((20, *SHAPE), np.uint8), **labels)
        page = json.loads((trained / "config.json").read_text())
        page["config"]["data"] = f"npz:{path}"
        other = tmp_path / have
        other.mkdir()
        (other / "config.json").write_text(json.dumps(page))
        (other / "checkpoints").symlink_to(trained / "checkpoints")
        assert main(["reconstruct", str(other)]) == 2
        assert f"labels of 3 classes, and {have} has {have} here" in capsys.readouterr().err


# ---- what the options become ---------------------------------------------------------------------


def build(config, shape=(28, 28, 1), num_classes=10):
    return PRESETS[record.name_of(config)].build(config, shape, num_classes)


def test_phases_have_the_weights_of_their_papers(tmp_path, monkeypatch):
    """IntroVAE's own code warms up without weights."""
    seen, real = [], models.plain_vae
    monkeypatch.setattr(
        models,
        "plain_vae",
        lambda *nets, **options: (
            seen.append((options["beta_rec"], options["beta_kl"])) or real(*nets, **options)
        ),
    )
    common = {"net": "intro", "num_vae": 2, "beta_rec": 0.5, "beta_kl": 0.3, "batch_size": 32}
    for config, weights in (
        (SoftIntroVAE(tmp_path, **common), (0.5, 0.3)),
        (IntroVAE(tmp_path, m=1.0, **common), (0.5, 0.3)),
        (IntroVAE(tmp_path, m=1.0, convention="released", **common), (1.0, 1.0)),
    ):
        system = build(config)
        phases = system.phases(100, 1000)
        assert seen.pop() == weights
        assert [phase.steps for phase in phases] == [63, 37]  # 2 * 1000 / 32
        assert phases[1].model is system.model
        assert all(phase.tx is None for phase in phases)  # which share Adam's moments
    assert build(SoftIntroVAE(tmp_path, net="intro")).phases is None


@pytest.mark.parametrize("preset", ["vae", "intro_vae", "soft_intro_vae", "info_vae"])
def test_the_nets_are_those_of_the_paper(preset, tmp_path):
    more = {"m": 1.0} if preset == "intro_vae" else {}
    config = PRESETS[preset].options(tmp_path, net="intro", latent_dim=32, **more)
    model = build(config).model
    batch = jaxvae.Batch(jnp.zeros((2, 28, 28, 1)))
    params, _ = jax.eval_shape(model.init, jax.random.key(0), batch)
    count = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert count == {"encoder": 928_512, "decoder": 697_025}


def test_a_first_stage_may_have_them(tmp_path):
    config = TwoStageVAE(tmp_path, net="intro", latent_dim=32)
    model = build(stages.first_stage(config)).model
    batch = jaxvae.Batch(jnp.zeros((2, 28, 28, 1)))
    params, _ = jax.eval_shape(model.init, jax.random.key(0), batch)
    assert sum(x.size for x in jax.tree.leaves(params["encoder"])) == 928_512


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_any_posterior_norm_and_label(norm, tmp_path):
    config = SoftIntroVAE(
        tmp_path, net="intro", channels=(2, 3), norm=norm, posterior="ar1", conditional=True
    )
    model = build(config, (8, 8, 1), 4).model
    batch = jaxvae.Batch(jnp.zeros((2, 8, 8, 1)), jnp.zeros((2, 4)))
    params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
    assert params["encoder"]["Dense_0"]["kernel"].shape == (2 * 2 * 3 + 4, 10 + 2)
    assert params["decoder"]["Dense_0"]["kernel"].shape == (10 + 4, 12)
    assert bool(state["encoder"]) == (norm == "batch")


@pytest.mark.parametrize("preset", ["soft_intro_vae", "intro_vae"])
def test_features_are_computed_again_where_that_is_asked_for(preset, tmp_path):
    more = {"m": 1.0} if preset == "intro_vae" else {}
    batch, texts = jaxvae.Batch(jnp.zeros((2, 8, 8, 1))), []
    for remat in (False, True):
        config = PRESETS[preset].options(
            tmp_path, net="intro", channels=(2,), latent_dim=2, num_vae=1, remat=remat, **more
        )
        config.check()
        system = build(config, (8, 8, 1), None)
        for model in (system.model, system.phases(100, 100)[0].model):
            params, state = jax.eval_shape(model.init, jax.random.key(0), batch)

            def loss(p, model=model, state=state):
                state = jax.tree.map(lambda x: jnp.zeros(x.shape), state)
                rng, step = jax.random.key(0), jnp.zeros((), jnp.int32)
                return model.objectives[0].loss(p, state, rng, batch, step, None)[0].mean()

            texts.append(str(jax.make_jaxpr(jax.grad(loss))(params)))
    assert ["remat" in text or "checkpoint" in text for text in texts] == [False] * 2 + [True] * 2


def test_flips_are_of_training_alone(tmp_path):
    for preset, more in (("vae", {}), ("gan", {}), ("soft_intro_vae", {}), ("two_stage_vae", {})):
        for on in (False, True):
            config = PRESETS[preset].options(tmp_path, flip=on, **more)
            assert build(config).augment is (flip if on else None)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["soft_intro_vae", "--net", "intro"],
            "square images of 28, 32, 64, 128, 256, 512, 1024 pixels a side, not 8x8: resize them, "
            "or give channels, one entry for each time that the sides are halved. That is --size, "
            "for a folder of images, or --channels; or use --net mlp or conv.",
        ),
        (
            ["vae", "--net", "intro", "--channels", "2", "2", "2", "2"],
            "takes images whose sides 16 divides, not 8x8",
        ),
        (
            ["vae", "--net", "intro", "--hidden", "9"],
            "--net intro has --channels, --norm, --remat alone: leave out --hidden, or use --net mlp or conv",
        ),
        (["vae", "--channels", "4"], "leave out --channels, or use --net conv or intro"),
        (["vae", "--norm", "none"], "leave out --norm, or use --net intro"),
        (["soft_intro_vae", "--remat"], "leave out --remat, or use --net intro"),
        (["vae", "--net", "intro", "--norm", "bacth"], "Did you mean 'batch'"),
        (["soft_intro_vae", "--s", "0"], "s must be greater than 0"),
        (["soft_intro_vae", "--alpha", "-1"], "alpha must be greater than 0"),
        (["soft_intro_vae", "--gamma-fakes", "-1"], "--gamma-fakes must be at least 0"),
        (["soft_intro_vae", "--num-vae", "-1"], "--num-vae must be at least 0"),
        (
            ["intro_vae", "--m", "1", "--num-vae", "3", "--epochs", "3", "--batch-size", "128"],
            "--num-vae 3 is 31 steps of a plain VAE, and the run has 31: give more",
        ),
        (["soft_intro_vae", "--free-bits", "1"], "no --beta, --beta-warmup and --free-bits"),
        (["vae", "--data", "npz:{points}", "--flip"], "flip mirrors images"),
        (
            ["vae", "--data", "npz:{points}", "--conditional"],
            "--conditional needs labels, which npz:",
        ),
    ],
)
def test_what_is_refused(argv, message, tmp_path, capsys):
    np.savez(tmp_path / "points.npz", x=np.zeros((200, 5), np.float32))
    argv = [word.format(points=tmp_path / "points.npz") for word in argv]
    words = [] if "--data" in argv else ["--data", "digits"]
    assert main(["train", *argv, *words, "--workdir", str(tmp_path / "run"), "--no-progress"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()
