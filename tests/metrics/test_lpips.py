"""LPIPS: the authors' example, all three nets against NumPy, what a distance must do, what does not
fit."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import seeded
from jaxvae import data, models, nets
from jaxvae.errors import UserError
from jaxvae.metrics import lpips, squeezenet, weights
from jaxvae.types import Batch

VGG = [*"CCMCCMCCCMCCCMCCCM"]  # torchvision's "D": convolutions and max pools
THIN = 16  # by which widths are divided here


def head_dict(widths, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"lin{i}.model.1.weight": rng.uniform(size=(1, c, 1, 1)).astype(np.float32)
        for i, c in enumerate(widths)
    }


def made(net, backbone=None):
    """Returns the state dictionaries and `Weights` of a net, drawn."""
    backbone = backbone or lpips.BACKBONES[net]
    state, heads = seeded.state_dict(backbone.shapes()), head_dict(backbone.widths)
    return state, heads, lpips.load(net, weights=state, heads=heads)


def pictures(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def squeeze():
    return made("squeeze")[2]


@pytest.fixture
def thin(monkeypatch):
    """AlexNet and VGG16 with a sixteenth of their channels."""
    for net, layers in (("alex", lpips.ALEXNET), ("vgg", lpips.VGG16)):
        narrow = tuple(layer._replace(features=layer.features // THIN) for layer in layers)
        backbone = lpips.BACKBONES[net]
        monkeypatch.setitem(
            lpips.BACKBONES,
            net,
            lpips._of_chain(backbone.weights, backbone.heads, backbone.side, narrow),
        )


# ---- against the authors, against NumPy ----------------------------------------------------------


def test_the_authors_example():
    """Their three patches: 0.7110 and 0.1479 with the published weights, where JAXVAE_TEST_DATA or
    the usual folders have them."""
    found = [
        weights.find(n, os.environ.get("JAXVAE_TEST_DATA")) for n in ("squeezenet", "lpips_squeeze")
    ]
    if None in found or not (found[1].parent / "ex_ref.png").is_file():
        pytest.skip("needs the weights of LPIPS(squeeze) and the authors' patches")
    reference, *others = (
        jnp.asarray(np.asarray(Image.open(found[1].parent / f"ex_{n}.png")), jnp.float32)[None]
        / 255
        for n in ("ref", "p0", "p1")
    )
    given = lpips.load(weights=found[0], heads=found[1])
    for other, want in zip(others, (0.7110, 0.1479), strict=True):
        assert lpips.distance(given, reference, other)[0] == pytest.approx(want, abs=1e-3)


def numpys(kind, state, heads, x, y):
    """LPIPS(alex) or LPIPS(vgg) of images [B, H, W, 3] as the published code describes it, in
    float64: modules in torchvision's order, slices after the ReLUs 1, 4, 7, 9, 11 and 3, 8, 15, 22,
    29."""
    if kind == "alex":
        conv, pool = (lambda s, p: ("conv", s, p)), ("pool", 3)
        modules = [conv(4, 2), "relu", pool, conv(1, 2), "relu", pool]
        modules += [conv(1, 1), "relu"] * 3
        slices = (1, 4, 7, 9, 11)
    else:
        modules = []
        for entry in VGG:
            modules += [("pool", 2)] if entry == "M" else [("conv", 1, 1), "relu"]
        slices = (3, 8, 15, 22, 29)

    def features(x):
        x = 2 * np.asarray(x, np.float64) - 1  # the published code takes [-1, 1]
        x = (x - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        found = []
        for number, module in enumerate(modules[: slices[-1] + 1]):
            if module == "relu":
                x = np.maximum(x, 0)
            elif module[0] == "pool":
                windows = np.lib.stride_tricks.sliding_window_view(x, (module[1],) * 2, (1, 2))
                x = windows[:, ::2, ::2].max((-1, -2))
            else:
                kernel, (_, stride, pad) = state[f"{number}.weight"], module
                x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
                windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (1, 2))
                x = np.einsum("bhwcij,ocij->bhwo", windows[:, ::stride, ::stride], kernel)
                x = x + state[f"{number}.bias"]
            if number in slices:
                found.append(x)
        return found

    total = 0.0
    for f, g, head in zip(features(x), features(y), heads.values(), strict=True):
        u, v = (h / (np.linalg.norm(h, axis=-1, keepdims=True) + 1e-10) for h in (f, g))
        total = total + ((u - v) ** 2 * head.reshape(-1)).sum(-1).mean((1, 2))
    return total


@pytest.mark.parametrize(("net", "shape"), [("alex", (2, 31, 40, 3)), ("vgg", (2, 16, 19, 3))])
def test_alexnet_and_vgg_are_numpys(thin, net, shape):
    state, heads, given = made(net)
    x, y = pictures(shape), pictures(shape, 1)
    want = numpys(net, state, heads, x, y)
    found = lpips.distance(given, jnp.asarray(x), jnp.asarray(y), net=net)
    np.testing.assert_allclose(found, want, rtol=2e-4)
    assert np.all(want > 0.01)


def test_squeezenets_distance_is_numpys(squeeze):
    """From its features, which are compared with torch's elsewhere."""
    x, y = (jnp.asarray(pictures((2, 17, 20, 3), seed)) for seed in (0, 1))
    parts = []
    for images in (x, y):
        centred = (2 * images - 1 - jnp.array([-0.030, -0.088, -0.188])) / jnp.array(
            [0.458, 0.448, 0.450]
        )
        with jax.default_matmul_precision("highest"):
            parts.append(squeezenet.activations(squeeze.net, centred))
    total = 0.0
    for part, head in zip(("1", "4", "7", "9", "10", "11", "12"), squeeze.heads, strict=True):
        f, g = (np.asarray(p[part], np.float64) for p in parts)
        u, v = (h / (np.linalg.norm(h, axis=-1, keepdims=True) + 1e-10) for h in (f, g))
        total = total + ((u - v) ** 2 * np.asarray(head)).sum(-1).mean((1, 2))
    np.testing.assert_allclose(lpips.distance(squeeze, x, y), total, rtol=1e-4)


def test_nets_have_torchvisions_sizes():
    for net, count in (("squeeze", 722_496), ("alex", 2_469_696), ("vgg", 14_714_688)):
        shapes = lpips.BACKBONES[net].shapes()
        assert sum(int(np.prod(shape)) for shape in shapes.values()) == count
    assert lpips.BACKBONES["alex"].shapes()["3.weight"] == (192, 64, 5, 5)
    assert lpips.BACKBONES["alex"].widths == (64, 192, 384, 256, 256)
    assert lpips.BACKBONES["vgg"].widths == (64, 128, 256, 512, 512)


# ---- what a distance must do ---------------------------------------------------------------------


def test_equal_images_are_at_zero_and_each_pair_counts_alone(squeeze):
    x, y = (jnp.asarray(pictures((3, 20, 20, 3), seed)) for seed in (0, 1))
    np.testing.assert_allclose(lpips.distance(squeeze, x, x), np.zeros(3), atol=1e-9)
    d = lpips.distance(squeeze, x, y)
    assert d.shape == (3,) and np.all(np.asarray(d) > 0)
    np.testing.assert_allclose(lpips.distance(squeeze, y, x), d, rtol=1e-5)
    np.testing.assert_allclose(lpips.distance(squeeze, x[1:2], y[1:2])[0], d[1], rtol=1e-5)
    nearer = lpips.distance(squeeze, x, 0.9 * x + 0.1 * y)
    assert np.all(np.asarray(nearer) < np.asarray(d))


def test_gradients_are_finite(squeeze):
    """Also where the images are equal, and where features are 0 everywhere."""
    x, y = (jnp.asarray(pictures((2, 20, 20, 3), seed)) for seed in (0, 1))
    by_x = jax.jit(jax.grad(lambda x, y, w: lpips.distance(w, x, y).sum()))
    g = np.asarray(by_x(x, y, squeeze))
    assert np.isfinite(g).all() and np.abs(g).max() > 0
    np.testing.assert_allclose(by_x(x, x, squeeze), np.zeros(x.shape), atol=1e-7)
    dead = squeeze._replace(net={k: v - 10 if k == "0.bias" else v for k, v in squeeze.net.items()})
    assert np.isfinite(by_x(x, y, dead)).all()


def vae(shape):
    model = models.vae(
        nets.mlp((6,), 4), nets.mlp((6,), shape), latent_dim=2, likelihood="gaussian"
    )
    return model, *model.init(jax.random.key(0), Batch(jnp.zeros((2, *shape))))


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructions(squeeze, channels):
    """Decoder means at posterior means, cut to [0, 1], grey images thrice, whatever the batches."""
    trained = vae((18, 20, channels))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 18, 20, channels), dtype=np.uint8)
    x = jnp.asarray(pixels, jnp.float32) / 255
    x_hat = jnp.clip(models.reconstruct(*trained, Batch(x)), 0, 1)
    assert float(x_hat.min()) == 0  # the cut matters
    want = lpips.distance(squeeze, *(jnp.broadcast_to(v, (7, 18, 20, 3)) for v in (x, x_hat)))
    found = lpips.of_reconstructions(*trained, data.from_arrays(pixels), squeeze, batch_size=3)
    np.testing.assert_allclose(found, want, rtol=1e-4)


def test_reconstructions_that_cannot_be_compared(squeeze):
    trained = vae((18, 20, 1))
    floats = data.from_arrays(np.full((4, 18, 20, 1), -0.5, np.float32), name="floats")
    with pytest.raises(UserError, match=r"those of floats run from -0.5 to -0.5: scale them"):
        lpips.of_reconstructions(*trained, floats, squeeze)
    for shape, message in (
        ((16, 20, 1), "at least 17 pixels a side, not 16x20: resize them, or use another net"),
        ((8, 8, 1), "not 8x8: resize them[.]$"),
        ((18, 20, 2), "images of 1 or 3 channels"),
        ((400,), "images of 1 or 3 channels"),
    ):
        small = data.from_arrays(np.zeros((4, *shape), np.uint8))
        with pytest.raises(UserError, match=message):
            lpips.of_reconstructions(*trained, small, squeeze)
    model, params, state = trained
    lost = {**params, "decoder": jax.tree.map(lambda v: v * jnp.nan, params["decoder"])}
    images = data.from_arrays(np.zeros((4, 18, 20, 1), np.uint8))
    with pytest.raises(UserError, match="reconstructions hold values that are not finite"):
        lpips.of_reconstructions(model, lost, state, images, squeeze)
    model = model._replace(decode=None)
    with pytest.raises(UserError, match="encodes and decodes"):
        lpips.of_reconstructions(model, *trained[1:], floats, squeeze)


# ---- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., :1], r"\[batch, height, width, 3\], not shape \(2, 20, 20, 1\): repeat"),
        (lambda x: x[0], "not shape"),
        (lambda x: (x * 255).astype(jnp.uint8), "not uint8: divide bytes by 255"),
        (lambda x: 2 * x - 1, r"x must be in \[0, 1\], and runs from -.*\(x \+ 1\) / 2"),
        (lambda x: x.at[0, 0, 0, 0].set(jnp.nan), r"x must be in \[0, 1\], and runs from nan"),
        (lambda x: x[:, :16], r"images of one shape, not \(2, 16, 20, 3\) with \(2, 20, 20, 3\)"),
    ],
    ids=["grey", "one", "bytes", "range", "nan", "shapes"],
)
def test_images_that_do_not_fit(squeeze, change, message):
    x = jnp.asarray(pictures((2, 20, 20, 3)))
    with pytest.raises(UserError, match=message):
        lpips.distance(squeeze, change(x), x)


def test_smallest_images(squeeze, thin):
    """The smallest side that each net takes gives a number; one pixel less is refused."""
    for net, side in (("squeeze", 17), ("alex", 31), ("vgg", 16)):
        given = squeeze if net == "squeeze" else made(net)[2]
        x, y = (jnp.asarray(pictures((1, side, side, 3), seed)) for seed in (0, 1))
        assert np.isfinite(lpips.distance(given, x, y, net=net)).all()
        x = x[:, 1:]
        message = rf"at least {side} pixels a side, not {side - 1}x{side}: resize them"
        with pytest.raises(UserError, match=message):
            lpips.distance(given, x, x, net=net)
        with pytest.raises(UserError, match=message):  # before compiling, too
            jax.eval_shape(lambda w, a, n=net: lpips.distance(w, a, a, net=n), given, x)


def test_weights_that_do_not_fit(monkeypatch, tmp_path):
    state, heads, _ = made("squeeze")
    with pytest.raises(UserError, match="weights of another model"):
        lpips.load("vgg", weights=state, heads=heads)
    with pytest.raises(UserError, match=r"lin\d.model.1.weight has shape .* instead of"):
        lpips.load(weights=state, heads=head_dict((64, 128, 256, 512, 512, 1, 1)))
    with pytest.raises(UserError, match="unknown net of LPIPS 'alexnet'. Did you mean 'alex'"):
        lpips.load("alexnet")
    for name in ("JAXVAE_DATA_DIR", "TFDS_DATA_DIR", weights.ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="vgg16-397923af.pth are not here"):
        lpips.load("vgg")
