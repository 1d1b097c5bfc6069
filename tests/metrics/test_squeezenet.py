"""SqueezeNet against torch's own module with the same weights (make_feature_reference.py)."""

import os

import jax
import numpy as np
import pytest

import seeded
from jaxvae.metrics import squeezenet, weights


@pytest.mark.parametrize("side", [64, 67])
def test_squeezenet_is_torchvisions_part_by_part(reference, side):
    params = squeezenet.from_state_dict(seeded.state_dict(squeezenet.shapes()))
    with jax.default_matmul_precision("highest"):
        found = jax.jit(squeezenet.activations)(
            params, seeded.nhwc(seeded.images((2, 3, side, side)) * 2 - 1)
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
    full = {f"features.{name}": value for name, value in part.items()} | {
        "classifier.1.weight": np.zeros((1000, 512, 1, 1))
    }
    for name, value in squeezenet.from_state_dict(full).items():
        np.testing.assert_array_equal(value, squeezenet.from_state_dict(part)[name])


def test_published_squeezenet_weights_against_torchvision():
    """With the real weights, where JAXVAE_TEST_DATA or the usual folders have them and torch is
    there."""
    path = weights.find("squeezenet", os.environ.get("JAXVAE_TEST_DATA"))
    if path is None or not seeded.TORCH:
        pytest.skip("needs the weights of SqueezeNet, torch, torchvision and pytorch_fid")
    import make_feature_reference

    torch, models, _ = make_feature_reference.torch_modules()
    found = weights.read(path)
    net = models.squeezenet1_1(weights=None).features.eval()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    x = seeded.images((2, 3, 96, 96)) * 2 - 1
    with torch.no_grad():
        want = net(torch.from_numpy(x)).mean((2, 3)).numpy()
    with jax.default_matmul_precision("highest"):
        value = squeezenet.features(squeezenet.from_state_dict(found), seeded.nhwc(x))
    np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not seeded.TORCH, reason="needs torch, torchvision and pytorch_fid")
def test_reference_is_what_torch_gives_today(reference):
    import make_feature_reference

    found = make_feature_reference.squeezenet()
    assert found.keys() == {name for name in reference if name.startswith("squeezenet/")}
    for name, value in found.items():
        np.testing.assert_allclose(value, reference[name], atol=1e-4, rtol=1e-4, err_msg=name)
