"""From images to features: resizing, what becomes of pixels, in which mode and at which precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distances import ONE, SQUEEZENET, WEIGHTS, go, sampler, some, source
from jaxvae import data
from jaxvae.errors import UserError
from jaxvae.metrics import features, fid, protocols
from small import precisions

pytestmark = pytest.mark.usefixtures("smaller")


def test_the_net_is_compiled_once(monkeypatch):
    traces = []
    extractor = protocols.EXTRACTORS["squeezenet"]

    def counted(params, x, *, stats):
        traces.append(x.shape)
        return some(params, x)

    monkeypatch.setitem(protocols.EXTRACTORS, "squeezenet", extractor._replace(features=counted))
    go(metrics=("fid", "kid"))
    assert traces == [(32, 32, 32, 3)]  # three batches of samples and three of real images


@pytest.mark.parametrize("setting", ["default", "bfloat16"])
def test_features_have_the_highest_precision_whatever_the_environment_says(setting):
    with jax.default_matmul_precision(setting):
        engine = features.make_engine(SQUEEZENET, WEIGHTS, 4, ONE, source())
        assert precisions(engine.features, jnp.zeros((4, 8, 8, 3))) == {"HIGHEST"}


def test_moments_of_batches_need_as_many_real_images():
    released = SQUEEZENET._replace(features="batch", batch_size=32, samples=40, reals=20)
    with pytest.raises(UserError, match="takes moments from batches of 32 images, mine test has 2"):
        go(source(20), protocol=released)


@pytest.mark.parametrize("host", [False, True])
def test_samples_are_drawn_at_the_highest_precision(host):
    """As the features are: a precision belongs to the call that traces a product, not to the one
    that runs it."""
    seen, outside = [], []

    def draw(*args):
        seen.append(jax.config.jax_default_matmul_precision)
        return np.asarray(sampler(*args)) if host else sampler(*args)

    with jax.default_matmul_precision("bfloat16"):
        go(draw=draw, progress=lambda *_: outside.append(jax.config.jax_default_matmul_precision))
    assert set(seen) == {"highest"} and set(outside) == {"bfloat16"}


def test_grey_is_three_equal_channels():
    """In the real images and in the samples."""
    grey = source(channels=1)
    colour = data.from_arrays(np.repeat(grey.arrays["x"], 3, axis=-1), split="test")
    one = go(grey, lambda *args: sampler(*args, channels=1), metrics=("fid", "kid"))
    three = go(
        colour, lambda *args: jnp.repeat(sampler(*args, channels=1), 3, -1), metrics=("fid", "kid")
    )
    for name in ("fid", "kid"):
        assert one[name].value == pytest.approx(three[name].value, rel=1e-4)
        assert (one[name].note, three[name].note) == (fid.GREY, "")
    assert "grey images as three equal channels" in SQUEEZENET.describe()


def test_what_becomes_of_pixels():
    x = jnp.asarray([0.0, 0.25, 0.5, 0.999], jnp.float32).reshape(1, 2, 2, 1)
    for pixels, want in (
        ("float", [0, 63.75, 127.5, 254.745]),
        ("round", [0, 64, 128, 255]),
        ("truncate", [0, 63, 127, 254]),
        ("stretch", [0, 63.8138, 127.6276, 255]),
    ):
        np.testing.assert_allclose(features.to_bytes(x, pixels).reshape(-1), want, rtol=1e-5)
    two = jnp.stack([x[0] * 0.5, jnp.full_like(x[0], 0.3)])
    np.testing.assert_allclose(
        features.to_bytes(two, "stretch")[0], features.to_bytes(x, "stretch")[0], rtol=1e-5
    )  # each its own
    np.testing.assert_array_equal(features.to_bytes(two, "stretch")[1], 0.0)


def test_stretched_samples_differ_real_images_do_not():
    released = SQUEEZENET._replace(pixels="stretch")
    half = [
        go(draw=lambda *args: 0.5 * sampler(*args), protocol=p)["fid"].value
        for p in (SQUEEZENET, released)
    ]
    full = [go(draw=sampler, protocol=p)["fid"].value for p in (SQUEEZENET, released)]
    assert half[1] == pytest.approx(full[1], rel=1e-3) and half[0] > 1.1 * full[0]
    same = [
        fid.statistics(source(), p, weights=WEIGHTS, cache=False).mean
        for p in (SQUEEZENET, released)
    ]
    np.testing.assert_array_equal(*same)


def test_modes_and_batches_of_a_protocol_reach_sampler_and_net(monkeypatch):
    """Soft-IntroVAE's: both nets with the moments of batches of 32, whatever batch size is asked
    for."""
    seen = []
    extractor = protocols.EXTRACTORS["squeezenet"]

    def extract(params, x, *, stats):
        seen.append(("net", len(x), stats))
        return some(params, x)

    def draw(rng, n, stats):
        seen.append(("sampler", n, stats))
        return sampler(rng, n, stats)

    monkeypatch.setitem(protocols.EXTRACTORS, "squeezenet", extractor._replace(features=extract))
    released = fid.PROTOCOLS["soft-intro-released"]._replace(
        extractor="squeezenet", split="test", samples=40, reals=40
    )
    assert go(draw=draw, protocol=released, batch_size=64)["fid"].n == 40
    assert set(seen) == {("net", 32, "batch"), ("sampler", 32, "batch")}


@pytest.mark.parametrize("n", [28, 64, 299, 512])
def test_tensorflows_resizing_by_hand(n):
    """Pixel i of TensorFlow 1's bilinear resizing lies at i n / side, without half pixels, and
    stops at the last one."""
    side = protocols.EXTRACTORS["inception-tf"].side
    row = np.random.default_rng(0).random(n)
    at = np.minimum(np.arange(side) * n / side, n - 1)
    want = np.interp(at, np.arange(n), row)
    np.testing.assert_allclose(features.bilinear(n, side, half_pixels=False) @ row, want, rtol=1e-5)
    x = protocols.EXTRACTORS["inception-tf"]
    assert (255 - x.shift[0]) / x.scale[0] == 127 / 128 and (0 - x.shift[0]) / x.scale[0] == -1
