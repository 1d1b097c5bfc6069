"""The translation experiment: its settings against the paper, the truth of a translation, and its
commands on tiny runs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import distances
from experiments import runner
from experiments.translation import cells, figures, paired, setting, train
from experiments.translation.train import Case
from jaxvae import data, table, writers
from jaxvae.errors import UserError
from jaxvae.models.introspective import squared_error
from jaxvae.types import Batch

ROOT = Path(__file__).parents[1] / "experiments" / "translation"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sends everything that is written into a folder of its own, and gives weights of the right
    shapes for SqueezeNet and LPIPS."""
    place = tmp_path_factory.mktemp("translation")
    for function in (train.trained, train.images):
        function.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for module in (cells, figures, train):
            patch.setattr(module, "FOLDER", place)
        patch.setenv("JAXVAE_WEIGHTS_DIR", str(distances.write_weights(place / "weights")))
        patch.setenv("HOME", str(place))
        patch.delenv("JAXVAE_DATA_DIR", raising=False)
        yield place
    for function in (train.trained, train.images):
        function.cache_clear()


# ---- the setting ---------------------------------------------------------------------------------


def test_published_settings():
    """Appendix 9.3: weights; 64 pixels, Adam 1e-4, batches of 64, 400 epochs, latents of 256 and 128."""
    for chosen in setting.PUBLISHED.values():
        assert chosen.shape[:2] == (64, 64)
        assert (chosen.batch_size, chosen.epochs, chosen.learning_rate) == (64, 400, 1e-4)
        assert (chosen.class_dim, chosen.content_dim, chosen.shrink) == (256, 128, 1)
        assert (chosen.beta_neg_content, chosen.beta_neg_class) == (2048.0, 1024.0)
    cars, kth = setting.PUBLISHED["cars3d"], setting.PUBLISHED["kth"]
    assert (cars.beta_rec, cars.beta_kl, cars.error, cars.images) == (0.5, 1.0, "vgg", 163 * 96)
    assert (kth.beta_rec, kth.beta_kl, kth.error, kth.shape[-1]) == (1.0, 0.5, "squared", 1)
    assert train.steps_of(cars, cars.images) == 400 * 163 * 96 / 64
    assert setting.suffix(cars) == setting.suffix(kth) == ""


def test_parameters_of_the_published_nets():
    """LORD's, with log-variances, of which the last layers of both encoders have more."""
    model = setting.build("soft_intro_vae", setting.PUBLISHED["cars3d"], (64, 64, 3), squared_error)
    params = jax.eval_shape(model.init, jax.random.key(0), Batch(jnp.zeros((2, 64, 64, 3))))[0]
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    encoders = 3_910_400 + 32_896 + 3_943_296 + 65_792
    assert sizes == {"encoder": encoders, "decoder": 7_569_155 + 526_336}


def test_narrow_nets_are_another_protocol():
    for chosen in setting.NARROW.values():
        assert setting.suffix(chosen) == ", widths / 8, 2 epochs"
        assert (chosen.epochs, chosen.num_vae) == (2, 1)
        assert chosen.beta_neg_class == chosen.beta_neg_content / 2
        kth = setting.PUBLISHED["kth"]
        assert (chosen.beta_rec, chosen.beta_kl) == (kth.beta_rec, kth.beta_kl)
    squeeze = setting.chosen_for(setting.NARROW["mnist"], "soft_intro_vae_squeeze")
    assert squeeze.error == "squeeze" and setting.NARROW["mnist"].error == "squared"
    assert squeeze.beta_rec == setting.NARROW["mnist"].beta_rec / 200


def test_expected_numbers_are_of_cells_and_protocols_that_exist():
    _, expected = table.load(ROOT)
    names = [cell.name for cell in cells.CELLS]
    assert len(names) == len(set(names)) == 4 + 6
    for entry in expected["cells"]:
        assert entry["cell"] in names and entry["metric"] == "lpips"
        net, _, rest = entry["protocol"].partition(", ")
        assert net in setting.BACKBONES and rest == "translations of test images"
        assert entry["value"] == 0.084


# ---- data whose truth is known -------------------------------------------------------------------


def test_colours_are_a_class_and_the_digit_the_content():
    grey = data.from_arrays(np.random.default_rng(0).integers(0, 256, (60, 4, 3, 1), np.uint8))
    found = paired.coloured(grey, 5)
    label = found.source.arrays["label"]
    assert len(np.unique(label)) == paired.STYLES == found.source.num_classes
    again = paired.coloured(grey, 5).source.arrays
    np.testing.assert_array_equal(again["x"], found.source.arrays["x"])
    assert (label != paired.coloured(grey, 6).source.arrays["label"]).any()
    everything = np.arange(60)
    np.testing.assert_array_equal(found.truth(everything, everything), found.source.arrays["x"])
    content, of_class = np.array([3, 7]), np.array([10, 20])
    ends, share = paired.colours()[label[of_class]], grey.arrays["x"][content] / 255.0
    want = ends[:, None, None, 0] + (ends[:, 1] - ends[:, 0])[:, None, None] * share
    np.testing.assert_allclose(found.truth(content, of_class), want, atol=0.5)
    apart = np.abs(paired.colours()[:, 0] - paired.colours()[:, 1]).sum(axis=1)
    assert apart.min() > 150  # strokes can be told from the ground
    ends = paired.colours().reshape(paired.STYLES, -1)
    assert min(np.abs(a - b).sum() for i, a in enumerate(ends) for b in ends[:i]) > 100


@pytest.mark.parametrize("resident", [True, False])
def test_views_are_the_content_and_cars_the_class(resident):
    """Image 10 k + v is view v of car k; five cars of ten views, two of them held out, drawn once."""
    x = np.broadcast_to(np.arange(50, dtype=np.uint8)[:, None, None, None], (50, 2, 2, 1)).copy()
    label = np.repeat(np.arange(5), 10).astype(np.int32)
    order = np.random.default_rng(1).permutation(50)  # that of the source does not count
    order = order[np.argsort(x[order, 0, 0, 0] % 10, kind="stable")]
    source = data.from_arrays(x[order], label[order])
    source = source if resident else source._replace(arrays=None)
    parts = {split: paired.cars(source, split, 2) for split in ("train", "test")}
    cars = {s: set(p.source.read(np.arange(p.source.size))["label"]) for s, p in parts.items()}
    assert len(cars["test"]) == 2 and cars["train"] | cars["test"] == set(range(5))
    for part in parts.values():
        images = part.source.read(np.arange(part.source.size))
        np.testing.assert_array_equal(images["x"][:, 0, 0, 0] // 10, images["label"])
        content, of_class = paired.pairs(part, 100)
        assert len(content) == part.source.size == len(set(content))
        seen, car = images["x"][content, 0, 0, 0] % 10, images["label"][of_class]
        truth = part.truth(content, of_class)[:, 0, 0, 0]
        np.testing.assert_array_equal(truth, 10 * car + seen)
        assert (images["label"][content] != car).all()
    assert len(paired.pairs(parts["test"], 7)[0]) == 7


def test_classes_that_are_not_alike_are_refused():
    x, label = np.zeros((5, 2, 2, 1), np.uint8), np.array([0, 0, 1, 1, 1])
    with pytest.raises(UserError, match="have 2 to 3 images"):
        paired.cars(data.from_arrays(x, label), "train", 1)
    with pytest.raises(UserError, match="has 2 classes, and 2 are held out"):
        paired.cars(data.from_arrays(x, label), "train", 2)
    with pytest.raises(UserError, match="needs one folder for each class"):
        paired.cars(data.from_arrays(x), "train", 1)
    one = paired.Paired(data.from_arrays(x, np.zeros(5, np.int32)), None)
    with pytest.raises(UserError, match="has one class here"):
        paired.pairs(one, 5)


# ---- tiny runs -----------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.large
@pytest.mark.parametrize(
    "chosen",
    [
        ["mnist/narrow/vae"],
        pytest.param(
            ["cars3d/soft_intro_vae", "kth/vae", "mnist/narrow/soft_intro_vae_squeeze"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["one", "more"],
)
def test_cells_from_the_command_line(folder, chosen, capsys):
    argv = ["--smoke", *(word for name in chosen for word in ("--cell", name))]
    runner.main(folder, cells.CELLS, argv)
    results, _ = table.load(folder, "smoke")
    for name in chosen:
        lines = [line for line in results if line["cell"] == name]
        metrics = {line["metric"] for line in lines}
        want = {"elbo", "rec", "kl", "kl_content", "kl_class", "lpips_reconstruction"}
        if not name.startswith("kth"):
            want |= {f"{m}{e}" for m in ("lpips", "mse") for e in ("", "_content", "_class")}
        assert metrics == want
        values = {line["metric"]: line["value"] for line in lines}
        assert np.isfinite(list(values.values())).all()
        assert values["kl"] == pytest.approx(values["kl_content"] + values["kl_class"], rel=1e-4)
        if "mse" in values:  # another image is not the truth
            assert values["mse_content"] > 0.001 < values["mse_class"]
        for line in lines:
            assert line["protocol"].endswith(", widths / 8, 2 epochs") == ("narrow" in name)
    capsys.readouterr()
    figures.main(["--smoke"])
    made = capsys.readouterr().out.split()
    assert all((folder / name).stat().st_size > 500 for name in made)
    if "mnist/narrow/vae" in chosen:
        assert "smoke/narrow/mnist.vae.translations.png" in made
        with Image.open(folder / "smoke/narrow/mnist.vae.truth.png") as picture:
            assert min(picture.size) > 100
    if len(chosen) > 1:
        assert "smoke/full/kth.vae.truth.png" not in made


def test_what_is_measured_of_a_translation_is_its_distance_from_the_truth(folder, monkeypatch):
    """Where translations are the truth they have no distance; the image of the content has one."""
    case = Case("mnist", "vae", narrow=True, smoke=True)
    test = train.of_case(case, "test")
    content, of_class = cells.chosen_pairs(case)
    truth = test.truth(content, of_class) / 255.0
    given = test.source.read(content)["x"], test.source.read(of_class)["x"]

    def translate(first, last):
        for have, want in zip((first, last), given, strict=True):
            np.testing.assert_array_equal(have, want)
        return jnp.asarray(truth, jnp.float32)

    monkeypatch.setattr(cells, "translator", lambda found: translate)
    found = train.Trained(None, None, None, 3)
    measures = {m.metric: m for m in cells._translations(case, found, ("squeeze",))}
    assert measures["lpips"].value == pytest.approx(0.0, abs=1e-6)
    assert measures["mse"].value == pytest.approx(0.0, abs=1e-12)
    for name, images in (("mse_content", given[0]), ("mse_class", given[1])):
        want = np.mean((images / 255.0 - truth) ** 2)
        assert measures[name].value == pytest.approx(want, rel=1e-4)
    assert measures["lpips_content"].value > 1e-4 < measures["lpips_class"].value
    assert (
        measures["lpips"].protocol == "squeeze, translations of test images, widths / 8, 2 epochs"
    )
    assert {m.n for m in measures.values()} == {cells.SMOKE_PAIRS}


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("cars3d/soft_intro_vae", "cars3d is a folder of images, and not in"),
        ("kth/vae", "kth is a folder of images, and not in"),
        ("mnist/narrow/vea", "unknown cell 'mnist/narrow/vea'"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_trained(folder, cell, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        runner.main(folder, cells.CELLS, ["--cell", cell])
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (folder / "runs" / "full").exists()


def test_a_folder_that_cannot_be_translated_is_said(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXVAE_DATA_DIR", str(tmp_path))
    train.images.cache_clear()
    for car in range(3):
        (tmp_path / "cars3d" / f"car{car}").mkdir(parents=True)
        for view in range(2):
            Image.new("RGB", (8, 8), (car, view, 0)).save(
                tmp_path / "cars3d" / f"car{car}" / f"{view}.png"
            )
    cell = next(cell for cell in cells.CELLS if cell.name == "cars3d/vae")
    with pytest.raises(UserError, match="cars3d has 3 classes, and 20 are held out"):
        cell.check(False)
    (tmp_path / "cars3d" / "car3").mkdir()
    with pytest.raises(UserError, match="1 class folders without images: car3"):
        cell.check(False)
    monkeypatch.setattr(setting, "TEST_CARS", 1)
    (tmp_path / "cars3d" / "car3").rmdir()
    with pytest.raises(UserError, match="vgg16"):  # the weights of the error
        cell.check(False)


def test_without_weights_a_narrow_cell_has_its_squared_error_alone(folder, monkeypatch):
    monkeypatch.setenv("JAXVAE_WEIGHTS_DIR", str(folder / "nothing"))
    narrow = Case("mnist", "vae", narrow=True, smoke=True)
    assert cells.backbones(narrow) == ()
    for cell in cells.CELLS:
        if cell.name == "mnist/narrow/vae":
            cell.check(True)
        if cell.name in ("kth/vae", "mnist/narrow/soft_intro_vae_squeeze"):
            with pytest.raises(UserError, match="jaxvae weights fetch squeezenet"):
                cell.check(True)
    truth = train.of_case(narrow, "test").truth
    content, of_class = cells.chosen_pairs(narrow)
    images = jnp.asarray(truth(content, of_class), jnp.float32) / 255.0
    monkeypatch.setattr(cells, "translator", lambda found: lambda first, last: images)
    found = train.Trained(None, None, None, 3)
    measures = cells._translations(narrow, found, ()) + cells._reconstructions(narrow, found, ())
    assert {m.metric for m in measures} == {"mse", "mse_content", "mse_class"}


def test_nothing_trained_is_said(folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        figures.main(["--seed", "7"])
    assert capsys.readouterr().err.startswith("nothing has been trained here")


def test_costs_can_be_counted_without_data_or_weights(folder):
    for cell in cells.CELLS:
        assert cell.needs.steps > 0 and cell.needs.protocols
        parts = cell.needs.parts()
        assert sum(part.steps for part in parts) == cell.needs.steps
        plain_first = "narrow/soft" in cell.name
        assert [len(part.model.objectives) for part in parts] == (
            [1, 2] if plain_first else [1] if cell.name.endswith("/vae") else [2]
        )
    assert writers.read_json(ROOT / "expected.json")["cells"]
