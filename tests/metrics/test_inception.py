"""Inception against torch's own modules with the same weights (make_feature_reference.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seeded
from jaxvae import parallel
from jaxvae.errors import UserError
from jaxvae.metrics import features, fid, inception


@pytest.fixture(scope="module")
def state_dict():
    return seeded.state_dict(inception.shapes())


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
            params, seeded.nhwc(seeded.images((2, 3, 299, 299)) * 2 - 1)
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
    x = seeded.nhwc(seeded.images((2, 3, side, side))) * 255
    with jax.default_matmul_precision("highest"):
        found = engine(fid.PROTOCOLS["standard"], state_dict, side, 2).features(x)
    np.testing.assert_allclose(found, reference[f"inception/pipeline_{side}"], atol=1e-4)


@pytest.mark.large
def test_batch_statistics_are_those_of_a_module_left_in_training_mode(reference, state_dict):
    protocol = fid.PROTOCOLS["soft-intro-released"]._replace(batch_size=4)
    with jax.default_matmul_precision("highest"):
        found = engine(protocol, state_dict, 32, 64).features(
            seeded.nhwc(seeded.images((4, 3, 32, 32))) * 255
        )
    np.testing.assert_allclose(
        found, reference["inception/batch_statistics"], atol=2e-3
    )  # moments of 4 x 8 x 8 values
    assert np.abs(found[:2] - reference["inception/pipeline_32"]).mean() > 0.1
    with pytest.raises(UserError, match="unknown stats"):
        inception.features({}, jnp.zeros((1, 299, 299, 3)), stats="train")


@pytest.mark.skipif(not seeded.TORCH, reason="needs torch, torchvision and pytorch_fid")
def test_reference_is_what_torch_gives_today(reference):
    import make_feature_reference

    found = make_feature_reference.inception()
    assert found.keys() == {name for name in reference if name.startswith("inception/")}
    for name, value in found.items():
        np.testing.assert_allclose(
            value, reference[name], atol=1e-3 if "batch" in name else 1e-4, rtol=1e-4, err_msg=name
        )
