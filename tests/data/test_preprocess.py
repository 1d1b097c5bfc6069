import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import noise
from jaxvae.data.preprocess import PIXELS, augmented, flip, make_preprocess, shifted
from jaxvae.errors import UserError
from jaxvae.types import Batch

RNG = jax.random.key(0)
BYTES = np.array([[0, 51, 255], [1, 128, 254]], np.uint8)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f])
def test_grey_by_hand(wrap):
    batch = wrap(make_preprocess())(RNG, {"x": BYTES, "label": np.zeros(2, np.int32)})
    expected = np.float32([[0, 0.2, 1], [1 / 255, 128 / 255, 254 / 255]])
    np.testing.assert_array_max_ulp(
        np.asarray(batch.x), expected, 1
    )  # compiled, it may multiply by 1 / 255
    assert batch.x[0, 2] == 1.0 and batch.cond is None


def test_grey_leaves_floats_alone():
    x = np.float32([[-3.0, 0.25, 300.0]])
    np.testing.assert_array_equal(jax.jit(make_preprocess())(RNG, {"x": x}).x, x)


@pytest.mark.parametrize("pixels", PIXELS)
def test_deterministic_in_rng_and_the_same_compiled(pixels):
    preprocess = make_preprocess(pixels)
    examples = {"x": np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)}
    first, again = jax.jit(preprocess)(RNG, examples).x, jax.jit(preprocess)(RNG, examples).x
    assert first.dtype == jnp.float32 and first.shape == (1, 16, 16, 1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(preprocess(RNG, examples).x, first, rtol=0, atol=1e-7)
    other = preprocess(jax.random.key(1), examples).x
    assert (pixels == "grey") == bool((other == first).all())


@pytest.mark.parametrize("scale", ["bytes", "floats"])
def test_binarised_pixels_are_fresh_bernoulli_draws(scale):
    row = np.array([0, 51, 128, 255], np.uint8)
    x = np.tile(row if scale == "bytes" else row.astype(np.float32) / 255, (20_000, 1))
    drawn = np.asarray(jax.jit(make_preprocess("binarised"))(RNG, {"x": x}).x)
    assert set(np.unique(drawn)) == {0.0, 1.0} and drawn.dtype == np.float32
    mean = drawn.mean(axis=0)
    assert mean[0] == 0.0 and mean[3] == 1.0
    np.testing.assert_allclose(
        mean, row / 255, atol=5 * 0.5 / np.sqrt(20_000)
    )  # five standard errors
    assert abs(np.corrcoef(drawn[:, 1], drawn[:, 2])[0, 1]) < 0.04  # pixels are independent


def test_dequantised_by_hand(monkeypatch):
    u = np.array(
        [[0.0, 0.5, 1 - 2**-23], [0.25, 0.75, 0.5]], np.float32
    )  # 1 - 2^-23 is the largest draw
    monkeypatch.setattr(noise, "uniform", lambda rng, shape: jnp.asarray(u))
    x = np.asarray(make_preprocess("dequantised")(RNG, {"x": BYTES}).x)
    expected = [[0, 51.5 / 256, 1 - 2**-24], [1.25 / 256, 128.75 / 256, 254.5 / 256]]
    np.testing.assert_array_equal(x, np.float32(expected))
    assert x.max() < 1.0


def test_dequantised_noise_is_uniform_within_the_byte():
    x = np.full((10_000, 1), 7, np.uint8)
    u = np.asarray(jax.jit(make_preprocess("dequantised"))(RNG, {"x": x}).x) * 256 - 7
    assert u.min() >= 0.0 and u.max() <= 1.0
    quantiles = np.quantile(u, [0.1, 0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.025)


def test_cond_is_the_one_hot_label():
    batch = jax.jit(make_preprocess(num_classes=4))(
        RNG, {"x": BYTES, "label": np.array([2, 0], np.int32)}
    )
    np.testing.assert_array_equal(batch.cond, [[0, 0, 1, 0], [1, 0, 0, 0]])
    assert batch.cond.dtype == jnp.float32


def test_refuses():
    with pytest.raises(UserError, match="unknown pixels 'gray'. Did you mean 'grey'?"):
        make_preprocess("gray")
    with pytest.raises(UserError, match="num_classes must be at least 1"):
        make_preprocess(num_classes=0)
    with pytest.raises(UserError, match="num_classes needs labels"):
        make_preprocess(num_classes=3)(RNG, {"x": BYTES})
    with pytest.raises(UserError, match="dequantised pixels need bytes .* not float32"):
        make_preprocess("dequantised")(RNG, {"x": np.zeros((1, 2), np.float32)})
    with pytest.raises(UserError, match="uint8 or floating point, not int32"):
        make_preprocess()(RNG, {"x": np.zeros((1, 2), np.int32)})


# ---- what is done to training batches alone ------------------------------------------------------


def test_flip_mirrors_about_half_of_the_images_and_nothing_else():
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(200, 3, 4, 2)), jnp.float32)
    cond = jnp.eye(200)
    out = flip(jax.random.key(0), Batch(x, cond))
    is_same = (np.asarray(out.x) == np.asarray(x)).all((1, 2, 3))
    is_mirrored = (np.asarray(out.x) == np.asarray(x)[:, :, ::-1]).all((1, 2, 3))
    assert (is_same ^ is_mirrored).all()
    assert 70 < is_mirrored.sum() < 130
    np.testing.assert_array_equal(out.cond, cond)
    again = flip(jax.random.key(1), Batch(x)).x
    assert not np.array_equal(again, out.x)


def test_flips_leave_the_noise_of_the_pixels_as_it_is():
    """The same step with and without: each image is the one without, or its mirror image."""
    plain = make_preprocess("dequantised")
    x = {"x": np.random.default_rng(0).integers(0, 256, (64, 4, 4, 1), dtype=np.uint8)}
    without = np.asarray(plain(jax.random.key(3), x).x)
    out = np.asarray(augmented(plain, flip)(jax.random.key(3), x).x)
    is_mirrored = (out == without[:, :, ::-1]).all((1, 2, 3))
    assert ((out == without).all((1, 2, 3)) ^ is_mirrored).all() and 16 < is_mirrored.sum() < 48
    noise = np.mod(without.reshape(64, -1)[:, 0] * 256, 1.0)  # and no coin is the noise itself
    assert abs(np.corrcoef(noise, is_mirrored)[0, 1]) < 0.4
    assert augmented(plain, None) is plain


def test_flip_refuses_what_is_no_image():
    with pytest.raises(UserError, match=r"have the shape \(5,\): leave it out"):
        flip(jax.random.key(0), Batch(jnp.zeros((2, 5))))


def test_labels_out_of_range_are_refused_where_they_are_known():
    preprocess, x = make_preprocess(num_classes=3), jnp.zeros((2, 4, 4, 1))
    for label, message in (([0, 3], "a label 3, but those of 3 classes"), ([-1, 0], "a label -1")):
        with pytest.raises(UserError, match=message):
            preprocess(jax.random.key(0), {"x": x, "label": np.array(label, np.int32)})


def test_shifted_images_are_windows_of_the_padded_image():
    """Each is one of the 25 crops of an image padded by two pixels of its edge, as often as
    torchvision's RandomAffine takes it: round(U(-1.6, 1.6)) is 0, 1 or -1 with 10/32 each, 2 or -2
    with 1/32."""
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    x = {"x": np.broadcast_to(image, (4000, 28, 28, 1))}
    moved = np.asarray(jax.jit(shifted(make_preprocess()))(jax.random.key(0), x).x) * 255
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    counts = np.zeros((5, 5))
    for down in range(5):
        for right in range(5):
            window = padded[4 - down : 32 - down, 4 - right : 32 - right]
            counts[down, right] = np.sum(np.abs(moved - window).max((1, 2, 3)) < 0.01)
    assert counts.sum() == 4000
    weights = np.array([1, 10, 10, 10, 1]) / 32
    np.testing.assert_allclose(counts / 4000, np.outer(weights, weights), atol=0.02)


def test_pixels_that_come_in_have_noise_of_their_own():
    """Of an image of one grey, no two dequantised pixels are the same, however it is moved; and the
    noise is that of the image as it is."""
    x = {"x": np.full((64, 12, 12, 1), 7, np.uint8)}
    plain = make_preprocess("dequantised")
    out = np.asarray(jax.jit(shifted(plain))(jax.random.key(5), x).x)
    assert all(len(np.unique(image)) > 140 for image in out)  # of 144; copies would be a row less
    np.testing.assert_array_equal(out, np.asarray(jax.jit(plain)(jax.random.key(5), x).x))


def test_what_cannot_be_shifted():
    with pytest.raises(UserError, match="share must be below 1"):
        shifted(make_preprocess(), 1.0)
    with pytest.raises(UserError, match="pad must be"):
        shifted(make_preprocess(), pad=0)
    with pytest.raises(UserError, match="only images .* can be moved"):
        shifted(make_preprocess())(RNG, {"x": BYTES})
    with pytest.raises(UserError, match="moved by up to 6.8 pixels and are padded by 2"):
        shifted(make_preprocess())(RNG, {"x": np.zeros((1, 28, 132, 1), np.uint8)})
