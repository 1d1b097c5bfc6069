"""The preset `gan` by the command line, and what its options become."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from jaxvae import writers
from jaxvae.cli.main import main
from jaxvae.errors import UserError
from jaxvae.presets.gan import GAN, build
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch

WORDS = ["--data", "digits", "--steps", "4", "--batch-size", "32", "--no-progress"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gan") / "run"
    words = ["train", "gan", *WORDS, "--log-every", "2", "--latent-dim", "8", "--shrink", "8"]
    assert main([*words, "--workdir", str(folder)]) == 0
    return folder


@pytest.mark.long
def test_a_run_has_its_log_its_samples_and_no_reconstructions(run):
    lines = writers.read(run / "metrics.jsonl")
    assert {line["split"] for line in lines} == {"train"}
    names = {"generator_loss", "discriminator_loss", "real_loss", "fake_loss", "on_real", "on_fake"}
    assert names <= set(lines[-1]) and np.isfinite([lines[-1][name] for name in names]).all()
    for name in ("samples", "curves", "interpolation"):
        assert (run / f"{name}.png").is_file()
    assert not (run / "reconstructions.png").exists()
    assert json.loads((run / "config.json").read_text())["config"]["preset"] == "gan"


@pytest.mark.long
def test_it_loads_and_samples_images(run, tmp_path):
    model, params, state = jaxvae.load(run)
    x = np.asarray(model.sample(params, state, jax.random.key(0), 5))
    assert x.shape == (5, 8, 8, 1) and x.min() >= 0.0 and x.max() <= 1.0
    assert main(["sample", str(run), "--n", "7", "--npz", str(tmp_path / "x.npz")]) == 0
    assert np.load(tmp_path / "x.npz")["x"].shape == (7, 8, 8, 1)


@pytest.mark.long
def test_interpolations_go_from_draw_to_draw(run, tmp_path):
    words = ["interpolate", str(run), "--n", "3", "--points", "5", "--seed", "4"]
    assert main([*words, "--npz", str(tmp_path / "x.npz")]) == 0
    found = np.load(tmp_path / "x.npz")["x"]
    model, params, state = jaxvae.load(run)
    z = model.prior(jax.random.key(4), 6)
    assert found.shape == (3, 5, 8, 8, 1)
    for at, latent in ((0, z[:3]), (4, z[3:]), (2, (z[:3] + z[3:]) / 2)):
        x = model.decode(params, state, latent)
        np.testing.assert_allclose(found[:, at], x.mean, atol=1e-5)
        np.testing.assert_array_equal(x.sample(jax.random.key(0)), x.mean)
    with pytest.raises(UserError, match="a GAN has no likelihood"):
        model.decode(params, state, z).log_prob(found[:, 0])


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reconstruct"], "this model does not encode"),
        (["traverse"], "this model does not encode"),
        (["interpolate", "--split", "train"], "--split is for a model that encodes"),
        (["evaluate"], "ask for --metrics fid or kid"),
        (["evaluate", "--metrics", "elbo"], "no evidence lower bound"),
        (["evaluate", "--metrics", "log_prob"], "no exact density"),
    ],
)
def test_what_it_cannot_do_is_one_line(run, words, message, capsys):
    assert main([words[0], str(run), *words[1:]]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def system_of(shape=(8, 8, 1), **options):
    return build(GAN(workdir=Path("run"), **options), shape, None)


def test_defaults_are_the_reports():
    model = system_of((28, 28, 1)).model
    assert [o.name for o in model.objectives] == ["generator_loss", "discriminator_loss"]
    x = Batch(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32))
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    count = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert count == {"generator": 1_510_032, "discriminator": 533_505}
    config = GAN(workdir=Path("run"))
    assert (config.learning_rate, config.beta1, config.batch_size) == (2e-4, 0.9, 64)


@pytest.mark.parametrize("loss", ["ns", "mm", "lsgan", "wgan", "wgan_gp", "dragan", "began"])
def test_every_loss_trains_the_nets_of_the_study(loss):
    options = {"first": "discriminator", "prior": "uniform", "convention": "released"}
    system = system_of(net="infogan", loss=loss, every=2, latent_dim=4, **options)
    x = Batch(jnp.zeros((8, 8, 8, 1)))
    state = jax.eval_shape(lambda: init_state(system.model, system.tx, jax.random.key(0), x))
    new, metrics = jax.eval_shape(make_train_step(system.model, system.tx), state, x)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert ("penalty" in metrics) == (loss in ("wgan_gp", "dragan"))
    norms = "batch_stats" in state.state["discriminator"]
    assert norms == (loss not in ("wgan_gp", "dragan", "began"))
    assert ("balance" in state.state) == ("convergence" in metrics) == (loss == "began")


def test_the_weights_of_wgan_are_clipped():
    weights = {"w": jnp.ones(3)}
    for loss, clip, bound in (("wgan", None, 0.01), ("wgan", 0.05, 0.05), ("wgan_gp", None, 1.0)):
        tx = system_of(loss=loss, clip=clip).tx
        for name, largest in (("discriminator", bound), ("generator", 1.0)):
            with jax.numpy_dtype_promotion("standard"):  # as optax needs
                updates, _ = tx[name].update({"w": jnp.ones(3)}, tx[name].init(weights), weights)
            np.testing.assert_allclose(weights["w"] + updates["w"], largest, rtol=1e-3)


def test_the_balance_of_began_is_of_its_options():
    """One step from k = 0: rate (gamma L(x) - L(G(z)))."""
    batch = Batch(jax.random.uniform(jax.random.key(1), (8, 8, 8, 1)))
    found = {}
    for options in ({}, {"gamma": 1.0}, {"balance_rate": 0.1}):
        system = system_of(
            net="infogan", loss="began", convention="released", latent_dim=4, **options
        )
        model = system.model._replace(objectives=system.model.objectives[1:])

        def step(model=model):
            params, state = model.init(jax.random.key(0), batch)
            loss = model.objectives[0].loss
            _, aux = loss(params, state, jax.random.key(2), batch, jnp.int32(0), None)
            means = (jnp.mean(aux.metrics[name]) for name in ("real_error", "fake_error"))
            return aux.state["balance"], *means

        found[tuple(options)], real, fake = (float(x) for x in jax.jit(step)())
    assert found[()] == pytest.approx(1e-3 * (0.75 * real - fake), rel=1e-4)
    assert found["gamma",] == pytest.approx(1e-3 * (real - fake), rel=1e-4)
    assert found["balance_rate",] == pytest.approx(0.1 * (0.75 * real - fake), rel=1e-4)


def test_points_are_drawn_without_a_tanh():
    model = system_of((2,), latent_dim=2).model

    def sample():
        params, state = model.init(jax.random.key(0), Batch(jnp.ones((4, 2))))
        return model.sample(params, state, jax.random.key(1), 100)

    assert float(jax.jit(sample)().min()) < 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": 1.0}, "--penalty is of --loss wgan_gp or dragan: leave it out with ns"),
        (
            {"convention": "released"},
            "--convention released differs from the papers for --loss lsgan, wgan_gp, dragan and "
            "began alone: leave it out with ns",
        ),
        ({"clip": 0.1, "loss": "lsgan"}, "--clip is of --loss wgan"),
        ({"gamma": 0.5}, "--gamma is of --loss began"),
        ({"balance_rate": 0.1, "loss": "wgan"}, "--balance-rate is of --loss began"),
        ({"loss": "began"}, "which is of --net infogan"),
        ({"beta1": 1.0}, "--beta1 must be below 1"),
        ({"shrink": 0}, "--shrink must be at least 1"),
    ],
)
def test_options_of_another_loss_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        GAN(workdir=Path("run"), **options).check()


def test_images_that_its_nets_do_not_take_are_one_line(tmp_path, capsys):
    np.savez(tmp_path / "odd.npz", x=np.zeros((40, 6, 6, 1), np.uint8))
    words = ["train", "gan", "--net", "infogan", "--data", f"npz:{tmp_path / 'odd.npz'}"]
    assert main([*words, "--workdir", str(tmp_path / "run"), "--no-progress"]) == 2
    said = capsys.readouterr().err
    assert "whose sides 4 divides" in said and said.count("\n") == 1


@pytest.mark.parametrize("options", [{}, {"net": "infogan"}, {"net": "infogan", "loss": "began"}])
def test_shrink_divides_all_widths(options):
    def size(shrink):
        config = GAN(workdir=Path("x"), shrink=shrink, **options)
        init = build(config, (8, 8, 1), None).model.init
        params, _ = jax.eval_shape(init, jax.random.key(0), Batch(jnp.zeros((2, 8, 8, 1))))
        return sum(x.size for x in jax.tree.leaves(params))

    assert size(4) < size(2) / 2 < size(1) / 4
