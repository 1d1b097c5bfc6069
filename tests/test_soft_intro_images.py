"""The image experiment of Soft-IntroVAE: its settings against the paper, the published numbers, and
its commands on a tiny run."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distances
from experiments import runner, runs
from experiments.soft_intro_images import cells, figures, setting, train
from experiments.soft_intro_images.train import Case
from jaxvae import table
from jaxvae.errors import UserError
from jaxvae.types import Batch

ROOT = Path(__file__).parents[1] / "experiments" / "soft_intro_images"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sends everything that is written into a folder of its own, and gives weights of the right
    shapes for SqueezeNet and LPIPS."""
    place = tmp_path_factory.mktemp("soft_intro_images")
    train.trained.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for module in (cells, figures, train):
            patch.setattr(module, "FOLDER", place)
        patch.setenv("JAXVAE_WEIGHTS_DIR", str(distances.write_weights(place / "weights")))
        patch.setenv("HOME", str(place))
        patch.delenv("JAXVAE_DATA_DIR", raising=False)
        yield place
    train.trained.cache_clear()


# ---- the setting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "encoder", "decoder"),
    [
        ("cifar10", (32, 32, 3), 3_382_848, 2_382_531),
        ("svhn", (32, 32, 3), 3_382_848, 2_382_531),
        ("mnist", (28, 28, 1), 928_512, 697_025),
        ("celeba_hq", (256, 256, 3), 23_182_144, 18_842_307),
    ],
)
def test_parameters(name, shape, encoder, decoder):
    for method in setting.METHODS:
        params = initial(method, setting.PUBLISHED[name], shape)
        assert (count(params["encoder"]), count(params["decoder"])) == (encoder, decoder)


def test_conditional_nets_have_the_label_beside_features_and_latents():
    plain, labelled = (
        initial("soft_intro_vae", setting.PUBLISHED["cifar10"], (32, 32, 3), classes)
        for classes in (None, 10)
    )
    extra = {name: count(labelled[name]) - count(plain[name]) for name in plain}
    assert extra == {"encoder": 10 * 256, "decoder": 10 * 4096}


def test_narrow_nets_have_a_quarter_of_the_channels():
    for name, chosen in setting.NARROW.items():
        assert chosen.shrink == 4
        assert setting.suffix(chosen) == f", channels / 4, {chosen.epochs} epochs"
        assert setting.suffix(setting.PUBLISHED[name]) == ""
        kernel = initial("vae", chosen, (32, 32, 3))["encoder"]["Conv_0"]["kernel"]
        assert kernel.shape[-1] == 16


def initial(method, chosen, shape, classes=None):
    model = setting.build(method, chosen, shape, classes)
    cond = None if classes is None else jnp.zeros((2, classes))
    return jax.eval_shape(model.init, jax.random.key(0), Batch(jnp.zeros((2, *shape)), cond))[0]


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_published_settings():
    """Facts of the released command lines; batch, latents, epochs, the three weights."""
    rows = {
        name: (s.batch_size, s.latent_dim, s.epochs, s.beta_rec, s.beta_kl, s.beta_neg)
        for name, s in setting.PUBLISHED.items()
    }
    assert rows["cifar10"] == rows["svhn"] == (32, 128, 220, 1.0, 1.0, 256.0)
    assert rows["mnist"] == rows["fashion_mnist"] == (128, 32, 200, 1.0, 1.0, 256.0)
    assert rows["celeba_hq"] == rows["ffhq"] == (8, 256, 220, 1.0, 0.5, 1024.0)
    assert [name for name, s in setting.PUBLISHED.items() if s.flip] == ["celeba_hq", "ffhq"]


def test_expected_numbers_are_of_cells_and_protocols_that_exist():
    _, expected = table.load(ROOT)
    names = {cell.name for cell in cells.CELLS}
    assert len(names) == len(cells.CELLS) == 6 + 4 + 8 + 6
    for entry in expected["cells"]:
        assert entry["cell"] in names
        data = entry["cell"].partition("/")[0].partition("-")[0]
        labels = [p.label for p in setting.protocols(setting.PUBLISHED[data])]
        labels += [f"ELBO, {stats} statistics" for stats in setting.STATS]
        assert entry["protocol"] in labels
    values = {(e["cell"], e["protocol"]): e["value"] for e in expected["cells"]}
    assert values["cifar10/unconditional", "soft-intro-released"] == 4.6
    assert values["cifar10/conditional", "soft-intro-released"] == 4.07
    assert values["cifar10-svhn/vae", "ELBO, batch statistics"] == 0.378
    assert len(expected["cells"]) == 4 + 2 * 8


def test_protocols_have_all_modes_of_the_generator():
    labels = [p.label for p in setting.protocols(setting.NARROW["mnist"])]
    assert labels == [
        "squeezenet",
        "squeezenet(generator=batch,batch_size=128)",
        "squeezenet(generator=reestimated-samples)",
    ]
    labels = [p.label for p in setting.protocols(setting.PUBLISHED["cifar10"])]
    assert labels[:2] == ["soft-intro-released", "standard"]
    assert labels[-2] == "squeezenet(generator=batch,batch_size=32)"


# ---- a tiny run ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.large
@pytest.mark.parametrize(
    "chosen",
    [
        ["mnist/narrow/vae"],
        ["cifar10/narrow/soft_intro_vae", "svhn/conditional", "cifar10-svhn/soft_intro_vae"],
    ],
    ids=["one", "more"],
)
def test_cells_from_the_command_line(folder, chosen):
    argv = ["--smoke", *(word for name in chosen for word in ("--cell", name))]
    runner.main(folder, cells.CELLS, argv)
    results, _ = table.load(folder, "smoke")
    results = [line for line in results if line["cell"] in chosen]
    assert {line["cell"] for line in results} == set(chosen)
    for name in chosen:
        lines = [line for line in results if line["cell"] == name]
        metrics = {line["metric"] for line in lines}
        images = {"fid", "fid_reconstruction", "lpips", "elbo", "rec", "kl"}
        assert metrics == (
            {"auroc"} if "-" in name else images | ({"auroc"} if "narrow" in name else set())
        )
        assert len({(line["metric"], line["protocol"]) for line in lines}) == len(lines)
        for line in lines:
            assert np.isfinite(line["value"])
            epochs = 10 if "cifar10" in name else 5
            ending = f", channels / 4, {epochs} epochs"
            assert line["protocol"].endswith(ending) == ("narrow" in name)
        for metric in metrics & {"fid", "lpips", "auroc"}:
            protocols = " ".join(e["protocol"] for e in lines if e["metric"] == metric)
            assert "batch" in protocols and (metric == "fid" or "running" in protocols)
            assert "reestimated" in protocols
    made = figures.cases(0, True)
    assert made and all(runs.finished(case) for case in made)
    for path in figures.kl(made[0], folder / "kl.png"):
        assert path.stat().st_size > 1000


@pytest.mark.long
def test_pictures_of_a_run(folder, capsys):
    case = Case("mnist", "vae", narrow=True, smoke=True)
    sampled, x, x_hat = cells.pictures(case, "batch", n=10)
    assert sampled.shape == x.shape == x_hat.shape == (10, 28, 28, 1)
    assert np.isfinite(sampled).all() and np.isfinite(x_hat).all()


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("celeba_hq/unconditional", "celeba_hq is a folder of images, and not in"),
        ("svhn-cifar10/vae", "svhn_cropped is not in"),
        ("mnist/narrow/vea", "unknown cell 'mnist/narrow/vea'"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_trained(folder, cell, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        runner.main(folder, cells.CELLS, ["--cell", cell])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (folder / "runs" / "full").exists()


def test_without_any_weights_no_cell_of_images_is_run(folder, monkeypatch):
    monkeypatch.setenv("JAXVAE_WEIGHTS_DIR", str(folder / "nothing"))
    for cell in cells.CELLS:
        if cell.name == "mnist/unconditional":
            with pytest.raises(UserError, match="jaxvae weights fetch squeezenet"):
                cell.check(True)
        if cell.name == "mnist-fashion_mnist/vae":
            cell.check(True)  # which needs none


def test_nothing_trained_is_said(folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        figures.main(["--seed", "7"])
    assert capsys.readouterr().err.startswith("nothing has been trained here")
