"""Inception and SqueezeNet against torch's own modules with the same weights
(make_feature_reference.py)."""

import importlib.util
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seeded
from jaxvae import parallel
from jaxvae.errors import UserError
from jaxvae.metrics import features, fid, inception, squeezenet, weights
from jaxvae.metrics.protocols import EXTRACTORS

FILE = Path(__file__).with_name("reference.npz")
TORCH = all(importlib.util.find_spec(name) for name in ("torch", "torchvision", "pytorch_fid"))


@pytest.fixture(scope="module")
def reference():
    with np.load(FILE, allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def state_dict():
    return seeded.state_dict(inception.shapes())


def nhwc(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def engine(protocol, state_dict, side, size):
    """Returns the compiled features of a protocol for images of one size, on one device."""
    source = fid.data.from_arrays(np.zeros((8, side, side, 3), np.uint8))
    return features.make_engine(
        protocol, state_dict, size, parallel.make_mesh(jax.devices()[:1]), source
    )


def test_inception_has_the_names_and_the_size_of_pytorch_fid():
    shapes = inception.shapes()
    trained = {name: shape for name, shape in shapes.items() if "running" not in name}
    count = sum(int(np.prod(shape)) for shape in trained.values())
    assert count - 1008 * 2049 == 21_785_568 and len(shapes) == 94 * 5 + 2
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert shapes["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)


@pytest.mark.large
def test_inception_is_pytorch_fids_block_by_block(reference, state_dict):
    params = inception.from_state_dict(state_dict)
    with jax.default_matmul_precision("highest"):
        found = jax.jit(inception.activations)(
            params, nhwc(seeded.images((2, 3, 299, 299)) * 2 - 1)
        )
    names = [name.split("/")[1] for name in reference if name.startswith("inception/")]
    blocks = [name for name in names if name.startswith(("Conv2d", "Mixed"))]
    assert len(blocks) == 16
    for name in blocks:
        want = reference[f"inception/{name}"]
        np.testing.assert_allclose(
            seeded.points(np.asarray(found[name]), len(want)), want, atol=1e-4, err_msg=name
        )
    for name in ("pool3", "logits"):
        np.testing.assert_allclose(
            found[name], reference[f"inception/{name}"], atol=1e-4, err_msg=name
        )


@pytest.mark.parametrize("side", [32, 320])
def test_standard_protocol_is_pytorch_fids_pipeline(reference, state_dict, side):
    """Resizing (to more and to fewer pixels), scaling and pooling, from bytes to features."""
    x = nhwc(seeded.images((2, 3, side, side))) * 255
    with jax.default_matmul_precision("highest"):
        found = engine(fid.PROTOCOLS["standard"], state_dict, side, 2).features(x)
    np.testing.assert_allclose(found, reference[f"inception/pipeline_{side}"], atol=1e-4)


@pytest.mark.large
def test_batch_statistics_are_those_of_a_module_left_in_training_mode(reference, state_dict):
    protocol = fid.PROTOCOLS["soft-intro-released"]._replace(batch_size=4)
    with jax.default_matmul_precision("highest"):
        found = engine(protocol, state_dict, 32, 64).features(
            nhwc(seeded.images((4, 3, 32, 32))) * 255
        )
    np.testing.assert_allclose(
        found, reference["inception/batch_statistics"], atol=2e-3
    )  # moments of 4 x 8 x 8 values
    assert np.abs(found[:2] - reference["inception/pipeline_32"]).mean() > 0.1
    with pytest.raises(UserError, match="unknown stats"):
        inception.features({}, jnp.zeros((1, 299, 299, 3)), stats="train")


@pytest.mark.parametrize("side", [64, 67])
def test_squeezenet_is_torchvisions_part_by_part(reference, side):
    params = squeezenet.from_state_dict(seeded.state_dict(squeezenet.shapes()))
    with jax.default_matmul_precision("highest"):
        found = jax.jit(squeezenet.activations)(
            params, nhwc(seeded.images((2, 3, side, side)) * 2 - 1)
        )
    assert found["pool"].shape == (2, squeezenet.DIMENSION)
    for name, value in found.items():
        want = reference[f"squeezenet/{side}/{name}"]
        value = np.asarray(value)
        np.testing.assert_allclose(
            value if name == "pool" else seeded.points(value, len(want)),
            want,
            rtol=1e-4,
            atol=1e-4,
            err_msg=name,
        )


def test_squeezenet_takes_the_whole_model_or_its_features():
    part = seeded.state_dict(squeezenet.shapes())
    whole = {f"features.{name}": value for name, value in part.items()} | {
        "classifier.1.weight": np.zeros((1000, 512, 1, 1))
    }
    for name, value in squeezenet.from_state_dict(whole).items():
        np.testing.assert_array_equal(value, squeezenet.from_state_dict(part)[name])


@pytest.mark.parametrize("n", [28, 64, 299, 512])
def test_tensorflows_resizing_by_hand(n):
    """Pixel i of TensorFlow 1's bilinear resizing lies at i n / side, without half pixels, and
    stops at the last one."""
    side = EXTRACTORS["inception-tf"].side
    row = np.random.default_rng(0).random(n)
    at = np.minimum(np.arange(side) * n / side, n - 1)
    want = np.interp(at, np.arange(n), row)
    np.testing.assert_allclose(features.bilinear(n, side, half_pixels=False) @ row, want, rtol=1e-5)
    x = EXTRACTORS["inception-tf"]
    assert (255 - x.shift[0]) / x.scale[0] == 127 / 128 and (0 - x.shift[0]) / x.scale[0] == -1


@pytest.mark.skipif(not TORCH, reason="needs torch, torchvision and pytorch_fid")
def test_reference_is_what_torch_gives_today(reference):
    import make_feature_reference as make_reference

    found = {**make_reference.inception(), **make_reference.squeezenet()}
    assert found.keys() == reference.keys()
    for name, value in found.items():
        np.testing.assert_allclose(
            value, reference[name], atol=1e-3 if "batch" in name else 1e-4, rtol=1e-4, err_msg=name
        )


def test_published_squeezenet_weights_against_torchvision():
    """With the real weights, where JAXVAE_TEST_DATA or the usual folders have them and torch is
    there."""
    path = weights.find("squeezenet", os.environ.get("JAXVAE_TEST_DATA"))
    if path is None or not TORCH:
        pytest.skip("needs the weights of SqueezeNet, torch, torchvision and pytorch_fid")
    import make_feature_reference as make_reference

    torch, models, _ = make_reference.torch_modules()
    found = weights.read(path)
    net = models.squeezenet1_1(weights=None).features.eval()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    x = seeded.images((2, 3, 96, 96)) * 2 - 1
    with torch.no_grad():
        want = net(torch.from_numpy(x)).mean((2, 3)).numpy()
    with jax.default_matmul_precision("highest"):
        value = squeezenet.features(squeezenet.from_state_dict(found), nhwc(x))
    np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-4)
