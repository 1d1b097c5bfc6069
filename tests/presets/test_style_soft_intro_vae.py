"""The preset `style_soft_intro_vae` by the command line: it grows, resumes to the bit on both sides of an
edge, draws; and what it refuses."""

import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from commands import refused
from jaxvae import nets, writers
from jaxvae.cli.main import main
from jaxvae.errors import UserError
from jaxvae.presets import record
from jaxvae.presets import run as runs
from jaxvae.presets.load import open_run
from jaxvae.presets.style_soft_intro_vae import StyleSoftIntroVAE, build, level
from jaxvae.train import TrainState, carry_over, fit
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.types import Batch
from small import one_device

NETS = [
    "--latent-dim",
    "2",
    "--start-channels",
    "2",
    "--max-channels",
    "2",
    "--mapping-layers",
    "1",
]
TINY = ["--data", "digits", "--split", "train[:16]", *NETS, "--log-every", "1", "--no-progress"]
ONE = [*TINY, "--resolutions", "4", "--batch-size", "8", "--steps", "2", "--num-vae", "0"]
TWO = [*TINY, "--resolutions", "4", "8", "--batch-sizes", "16", "8", "--level-steps", "3"]
TWO += ["--steps", "6", "--save-every", "10"]  # a plain VAE for a step, two at 4 pixels, three at 8


def train(folder, words):
    return main(["train", "style_soft_intro_vae", *words, "--workdir", str(folder)])


@pytest.fixture(scope="module", autouse=True)
def one_of_the_devices():
    """Programs for eight take longest to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "fit", functools.partial(fit, mesh=one_device()))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("style") / "run"
    assert train(folder, ONE) == 0
    return folder


def log_of(folder):
    lines = writers.read(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


@pytest.mark.long
def test_a_run_is_logged_loaded_and_drawn(run):
    lines = [line for line in log_of(run) if line["split"] == "train"]
    assert [line["step"] for line in lines] == [1, 2]
    assert all({"encoder_loss", "kl_fake", "exp_elbo_fake"} <= set(line) for line in lines)
    for name in ("samples", "reconstructions", "interpolation", "curves"):
        assert (run / f"{name}.png").is_file()
    model, params, state = jaxvae.load(run)
    assert np.any(np.asarray(state["decoder"]["styles"]["average"]) != 0)
    assert model.sample(params, state, jax.random.key(0), 3).shape == (3, 4, 4, 1)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped when it had 4 pixels of 8, and its parameters, not trained."""
    folder = tmp_path_factory.mktemp("style") / "stopped"
    config = StyleSoftIntroVAE(
        folder, resolutions=(4, 8), latent_dim=2, start_channels=2, max_channels=2, mapping_layers=1
    )
    rng, x = jax.random.key(0), Batch(jnp.zeros((2, 4, 4, 1)))
    params, state = jax.jit(level(config, 1, 0).init)(rng, x)
    page = record.as_dict(config, (8, 8, 1), 10)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(TrainState(jnp.int32(3), params, state, {}, params, rng), {}, config=page)
    checkpoints.close()
    writers.write_json(folder / "config.json", {"config": page, "versions": {}})
    return folder, params


@pytest.mark.long
def test_commands_use_the_resolution_that_a_stopped_run_has_reached(stopped, tmp_path, capsys):
    folder, params = stopped
    words = ["sample", str(folder), "--n", "3", "--npz", str(tmp_path / "x.npz")]
    assert main([*words, "--truncation", "0.5"]) == 0
    assert np.load(tmp_path / "x.npz")["x"].shape == (3, 4, 4, 1)
    assert main(["reconstruct", *words[1:]]) == 0
    assert np.load(tmp_path / "x.npz")["x"].shape == (3, 4, 4, 1)
    jaxvae.export(folder, tmp_path / "out")
    for place in (folder, tmp_path / "out"):
        loaded = jaxvae.load(place)
        jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert open_run(tmp_path / "out").system.dims == open_run(folder, 3).system.dims == 16


@pytest.mark.slow
def test_a_growing_run_resumes_to_the_bit_at_an_edge_and_inside_a_phase(tmp_path, monkeypatch):
    plain = runs.fit
    assert train(tmp_path / "whole", TWO) == 0
    lines = [line for line in log_of(tmp_path / "whole") if line["split"] == "train"]
    assert ["loss" in line for line in lines] == [True] + [False] * 5
    for signalled in (2, 4):  # the step after that is the last: the edge, and one inside

        def stopping(*args, signalled=signalled, **options):
            def at(step, split, values):
                if (step, split) == (signalled, "train"):
                    signal.raise_signal(signal.SIGTERM)

            return plain(*args, **{**options, "on_log": at})

        monkeypatch.setattr(runs, "fit", stopping)
        with pytest.raises(SystemExit):
            train(tmp_path / "parts", TWO)
        assert max(line["step"] for line in log_of(tmp_path / "parts")) == signalled + 1
    monkeypatch.setattr(runs, "fit", plain)
    assert train(tmp_path / "parts", TWO) == 0
    at_once, parts = (jaxvae.load(tmp_path / name) for name in ("whole", "parts"))
    for a, b in zip(*(jax.tree.leaves(each[1:]) for each in (at_once, parts)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(at_once.state["decoder"]["fade"]["blend"]) == 1.0
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


@pytest.mark.long
@pytest.mark.parametrize("command", ["sample", "reconstruct", "interpolate"])
def test_truncation_draws_to_the_average_image(run, tmp_path, command):
    """With 0 all images are one, and of other widths they are the truncated ones of Python."""
    words = [command, str(run), "--n", "2", "--npz", str(tmp_path / "x.npz"), "--truncation"]
    name = "x_hat" if command == "reconstruct" else "x"
    assert main([*words, "0"]) == 0
    x = np.load(tmp_path / "x.npz")[name].reshape(-1, 4, 4, 1)
    if command != "sample":  # whose noise differs from image to image
        np.testing.assert_allclose(x, np.broadcast_to(x[:1], x.shape), atol=1e-6)
    if command == "sample":
        model, params, state = jaxvae.load(run)
        want = model.sample(params, nets.truncated(state, 0.0), jax.random.key(0), 2)
        np.testing.assert_array_equal(x, want)


@pytest.mark.long
def test_styles_of_two_latents_are_mixed(run):
    model, params, state = jaxvae.load(run)
    z = jax.random.normal(jax.random.key(0), (2, 3, 2))
    rows = nets.style_rows(4)
    images = [
        model.decode(params, state, nets.mixed(z[0], z[1], row, rows)).mean for row in (0, 1, rows)
    ]
    for image, want in zip(images[::2], (z[1], z[0]), strict=True):
        np.testing.assert_allclose(image, model.decode(params, state, want).mean, atol=1e-6)
    assert all(np.any(images[1] != images[i]) for i in (0, 2))


def test_truncation_of_a_model_without_styles_is_one_line(tmp_path, capsys):
    words = ["train", "vae", "--data", "digits", "--hidden", "2", "--steps", "1", "--no-progress"]
    assert main([*words, "--workdir", str(tmp_path / "run")]) == 0
    assert "no styles" in refused(capsys, "sample", tmp_path / "run", "--truncation", "0.7")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--resolutions", "4", "16"], "must be twice the one before, such as 4 8 16, not 4 16"),
        (["--resolutions", "6", "12"], "must begin with 4, 8, 16"),
        ([], "smaller than the last resolution, 32: use --pad 12, a larger --size"),
        (["--quick", "--level-steps", "3"], "leave out --level-steps, or --quick"),
        (["--pad", "1", "--resolutions", "4", "8"], "10x10 pixels cannot be averaged to 8x8"),
        (["--resolutions", "4", "8", "--batch-sizes", "8"], "needs 2 numbers, one for each"),
        (["--batch-sizes", "8", "8", "8", "8", "--batch-size", "16"], "--batch-sizes, not both"),
        (["--learning-rates", "1", "1", "0", "1"], "--learning-rates must be greater than 0"),
        (["--beta-neg", "1", "2"], "--beta-neg needs 4 numbers"),
        (
            ["--level-steps", "3", "--level-epochs", "3"],
            "--level-epochs or --level-steps, not both",
        ),
        (["--level-steps", "3", "--epochs", "3"], "--level-steps goes with --steps"),
        (["--ema-decay", "0.9", "--ema-images", "9"], "--ema-decay or --ema-images, not both"),
        (["--lr-halve-every", "9"], "use --learning-rates, not --lr-halve-every"),
        (["--resolutions", "4", "8", "--steps", "9"], "is only faded in after"),
        (["--resolutions", "4", "8", "--level-epochs", "1"], "--num-vae 1 is"),
        (["--convention", "code"], "convention"),
    ],
)
def test_what_it_refuses(argv, message, tmp_path, capsys):
    words = ["--data", "digits", "--workdir", tmp_path / "run", "--no-progress", *NETS]
    err = refused(capsys, "train", "style_soft_intro_vae", *argv, *words, silent=False)
    assert message in err
    assert not (tmp_path / "run").exists()


def test_batches_that_the_devices_do_not_divide_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "fit", fit)
    words = [*TWO, "--batch-sizes", "16", "12", "--workdir", tmp_path / "run"]
    err = refused(capsys, "train", "style_soft_intro_vae", *words, silent=False)
    assert "12 cannot be cut into equal slices over 8 devices" in err
    assert not (tmp_path / "run").exists()


def test_a_level_starts_from_what_the_one_below_has_learned(tmp_path):
    config = StyleSoftIntroVAE(
        tmp_path, resolutions=(4, 8), latent_dim=2, start_channels=2, mapping_layers=1
    )
    phases = build(config, (8, 8, 1), None).phases(10**6, 16)
    low, high = (
        jax.jit(phases[i].model.init)(jax.random.key(i), Batch(jnp.ones((2, side, side, 1))))
        for i, side in ((1, 4), (2, 8))
    )
    params, state = carry_over(low, high)
    assert jax.tree.map(jnp.shape, (params, state)) == jax.tree.map(jnp.shape, high)
    for net in ("encoder", "decoder"):
        old = set(low[0][net])
        assert old < set(params[net]) and {"block_4", "mapping_0"} <= old
        for name, tree in params[net].items():
            want = low[0][net][name] if name in old else high[0][net][name]
            jax.tree.map(np.testing.assert_array_equal, tree, want)


def test_images_that_are_not_square_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"shape \(32, 16, 3\), and style nets take square images"):
        build(StyleSoftIntroVAE(tmp_path), (32, 16, 3), None)


def test_each_resolution_has_its_own_settings(tmp_path):
    config = StyleSoftIntroVAE(
        tmp_path,
        resolutions=(4, 8, 16),
        pad=1,
        batch_sizes=(8, 4, 2),
        learning_rates=(0.1, 0.2, 0.3),
        beta_neg=(3.0, 2.0, 1.0),
        level_epochs=2,
        epochs=7,
        latent_dim=2,
        start_channels=2,
        mapping_layers=1,
    )
    config.check()
    size = 16
    assert config.lengths(size) == (4 + 8 + 24,)
    system = build(config, (14, 14, 1), None)
    phases = system.phases(36, size)
    assert [phase.steps for phase in phases] == [2, 2, 8, 24]
    assert [phase.batch_size for phase in phases] == [8, None, 4, 2]
    assert [phase.grow is None for phase in phases] == [True, True, False, False]
    decays = [phase.ema_decay for phase in phases if phase.ema_decay is not None]
    np.testing.assert_allclose(decays, [0.5 ** (n / 10_000) for n in (8, 4, 2)])
    for phase, side in zip((phases[0], *phases[2:]), (4, 8, 16), strict=True):
        examples = {"x": np.full((2, 14, 14, 1), 255, np.uint8)}
        x = np.asarray(phase.preprocess(jax.random.key(0), examples).x)
        assert x.shape == (2, side, side, 1)
        assert x[0, 0, 0, 0] == pytest.approx({4: 9 / 16, 8: 1 / 4, 16: 0.0}[side])
        np.testing.assert_array_equal(x[:, side // 2, side // 2], 1.0)


@pytest.mark.long
@pytest.mark.parametrize(("convention", "s"), [("released", 5e-6), ("paper", 1 / 16)])
def test_the_scale_of_the_elbo_is_by_default_that_of_the_convention(tmp_path, convention, s):
    given = {"resolutions": (4, 8), "latent_dim": 2, "start_channels": 2, "mapping_layers": 1}
    given["convention"] = convention

    def losses(**more):
        """Returns both losses at 4 pixels of grey images."""
        model = level(StyleSoftIntroVAE(tmp_path, **given, **more), 1, 0)
        batch = Batch(jnp.full((2, 4, 4, 1), 0.5))
        params, state = model.init(jax.random.key(0), batch)
        found, carry = [], None
        for objective in model.objectives:
            value, aux = objective.loss(
                params, state, jax.random.key(1), batch, jnp.zeros((), jnp.int32), carry
            )
            carry = aux.carry
            found.append(value)
        return np.asarray(jnp.stack(found))

    found = losses()
    np.testing.assert_allclose(found, losses(s=s), rtol=1e-6)
    assert np.abs(found / losses(s=1.1 * s) - 1).max() > 0.01
