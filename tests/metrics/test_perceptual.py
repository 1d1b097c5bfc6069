"""The perceptual error: by hand, against NumPy with both nets, its gradient, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seeded
from jaxvae.errors import UserError
from jaxvae.metrics import lpips, perceptual, squeezenet

THIN = 16  # by which VGG16's widths are divided here


@pytest.fixture(scope="module")
def errors():
    """The error of each net with weights that are drawn; VGG16 with a sixteenth of its channels."""
    narrow = tuple(layer._replace(features=layer.features // THIN) for layer in lpips.VGG16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lpips, "VGG16", narrow)
        states = {
            "vgg": seeded.state_dict(lpips.chain_shapes(narrow)),
            "squeeze": seeded.state_dict(squeezenet.shapes()),
        }
        yield {
            net: (state, jax.jit(perceptual.make_error(net, weights=state)))
            for net, state in states.items()
        }


def pictures(side, channels=3, seed=0):
    return np.random.default_rng(seed).uniform(size=(2, 2, side, side, channels)).astype(np.float32)


def conv(x, weight, bias, stride=1, edge=0):
    """[B, H, W, C] in float64; weight as torch has it [O, C, k, k]; then ReLU."""
    k = weight.shape[-1]
    x = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(1, 2))
    y = np.einsum("bhwcij,ocij->bhwo", windows[:, ::stride, ::stride], weight) + bias
    return np.maximum(y, 0.0)


def vgg_levels(state, x, count):
    """VGG16 by torchvision's numbers: pools at 4, 9, 16; levels at 2, 7, 12, 21."""
    found, x = [], x.astype(np.float64)
    for number in (0, 2, "pool", 5, 7, "pool", 10, 12, 14, "pool", 17, 19, 21):
        if number == "pool":
            b, h, w, c = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
            continue
        x = conv(x, state[f"{number}.weight"], state[f"{number}.bias"], edge=1)
        if number in (2, 7, 12, 21):
            found.append(x)
    return found[:count]


def by_hand(x, y, levels):
    """n times the mean absolute differences of pixels and of each level."""
    total = np.abs(x.astype(np.float64) - y).mean((1, 2, 3))
    for f, g in levels:
        total = total + np.abs(f - g).mean((1, 2, 3))
    return x[0].size * total


@pytest.mark.parametrize(("side", "levels"), [(16, 2), (32, 3), (64, 4)])
def test_vgg_against_numpy(errors, side, levels):
    state, error = errors["vgg"]
    x, y = pictures(side)
    features = zip(vgg_levels(state, x, levels), vgg_levels(state, y, levels), strict=True)
    with jax.default_matmul_precision("highest"):
        have = error(x, y)
    np.testing.assert_allclose(have, by_hand(x, y, features), rtol=1e-4)
    assert have.shape == (2,)


def test_squeeze_against_numpy_and_grey_images(errors):
    """Two levels: the first convolution of stride 2, and the two fire modules after a pool."""
    state, error = errors["squeeze"]
    x, y = pictures(20, channels=1)

    def levels(images):
        images = np.repeat(images, 3, axis=-1).astype(np.float64)
        h = (images - squeezenet.MEAN) / squeezenet.STD
        h = conv(h, state["0.weight"], state["0.bias"], stride=2)
        first = h
        b, side, _, c = h.shape  # 9: three-by-three windows of stride 2 fit
        windows = np.lib.stride_tricks.sliding_window_view(h, (3, 3), axis=(1, 2))
        h = windows[:, ::2, ::2].max((-2, -1))
        for number in (3, 4):
            h = conv(h, state[f"{number}.squeeze.weight"], state[f"{number}.squeeze.bias"])
            h = np.concatenate(
                [
                    conv(
                        h,
                        state[f"{number}.expand{k}x{k}.weight"],
                        state[f"{number}.expand{k}x{k}.bias"],
                        edge=k // 2,
                    )
                    for k in (1, 3)
                ],
                axis=-1,
            )
        assert (side, c, b) == (9, 64, 2)
        return first, h

    with jax.default_matmul_precision("highest"):
        have = error(x, y)
    want = by_hand(x, y, zip(levels(x), levels(y), strict=True))
    np.testing.assert_allclose(have, want, rtol=1e-4)


def test_a_net_without_weights_of_its_own_leaves_the_absolute_error():
    """With all weights 0 the features are equal, and L is the sum of absolute differences."""
    state = {name: np.zeros(shape, np.float32) for name, shape in squeezenet.shapes().items()}
    error = perceptual.make_error("squeeze", weights=state, levels=1)
    x, y = pictures(17)
    np.testing.assert_allclose(error(x, y), np.abs(x - y).sum((1, 2, 3)), rtol=1e-5)


def test_it_is_zero_for_equal_images_and_symmetric_and_has_both_gradients(errors):
    _, error = errors["squeeze"]
    x, y = (jnp.asarray(images) for images in pictures(20, channels=1))
    np.testing.assert_array_equal(error(x, x), 0.0)
    np.testing.assert_allclose(error(x, y), error(y, x), rtol=1e-5)
    to_x, to_y = jax.jit(jax.grad(lambda a, b: error(a, b).sum(), argnums=(0, 1)))(x, y)
    for i, gradient in enumerate((to_x, to_y)):
        direction = jnp.asarray(pictures(20, channels=1, seed=i + 1)[0]) - 0.5
        step, pair = 1e-3 * direction, (x, y)
        sides = []
        for sign in (1.0, -1.0):
            moved = [v + sign * step if j == i else v for j, v in enumerate(pair)]
            sides.append(float(error(*moved).sum()))
        want = (sides[0] - sides[1]) / 2e-3
        assert float((gradient * direction).sum()) == pytest.approx(want, rel=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: perceptual.make_error("alex"), "unknown net of a perceptual error 'alex'"),
        (lambda s: perceptual.make_error("squeeze", weights=s, levels=5), "has 4 levels, not 5"),
        (
            lambda s: perceptual.make_error("squeeze", weights=s, levels=0),
            "levels must be at least",
        ),
        (lambda s: perceptual.make_error("vgg", weights=s), "weights of another model"),
    ],
)
def test_what_it_refuses(errors, call, message):
    with pytest.raises(UserError, match=message):
        call(errors["squeeze"][0])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 16, 16, 3), (2, 16, 16, 3)), "at least 17 pixels a side, not 16x16"),
        (((2, 20, 20, 2), (2, 20, 20, 2)), "images of 1 or 3 channels"),
        (((2, 20, 20, 3), (2, 20, 20, 1)), "images of one shape"),
    ],
)
def test_images_that_do_not_fit_are_refused(errors, shapes, message):
    with pytest.raises(UserError, match=message):
        errors["squeeze"][1](*(jnp.zeros(shape) for shape in shapes))


def test_weights_that_are_missing_are_said_with_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXVAE_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.delenv("JAXVAE_DATA_DIR", raising=False)
    with pytest.raises(UserError, match="vgg16"):
        perceptual.make_error("vgg")
