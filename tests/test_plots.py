import math

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from jaxvae import plots
from jaxvae.errors import UserError


@pytest.fixture(scope="module")
def digits():
    return (load_digits().images[:225, ..., None] / 16.0).astype(np.float32)


def image(path):
    with Image.open(path) as file:
        return np.asarray(file)


def flat(*levels, size=2, channels=1):
    """Returns one image [size, size, channels] for each grey level."""
    return np.stack([np.full((size, size, channels), level) for level in levels])


def test_grid_by_hand():
    got = plots.grid(flat(0.0, 0.5, 1.0, 2.0, -1.0), columns=3, pad=1, scale=1)
    assert got.dtype == np.uint8
    assert got.shape == (5, 8, 1)
    w = 255  # the page
    np.testing.assert_array_equal(
        got[..., 0],
        [
            [0, 0, w, 128, 128, w, 255, 255],
            [0, 0, w, 128, 128, w, 255, 255],
            [w, w, w, w, w, w, w, w],
            [255, 255, w, 0, 0, w, w, w],  # 2 and -1 are clipped
            [255, 255, w, 0, 0, w, w, w],
        ],
    )


def test_grid_enlarges_by_repeating_pixels():
    x = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    got = plots.grid(x, scale=3)
    np.testing.assert_array_equal(got, np.kron(x[0], np.ones((3, 3, 1), np.uint8)))


@pytest.mark.parametrize(
    ("size", "cell"), [(8, 56), (28, 56), (32, 64), (56, 56), (64, 64), (1, 56)]
)
def test_small_images_become_legible(size, cell):
    assert plots.grid(np.zeros((1, size, size, 3))).shape == (cell, cell, 3)
    assert plots.grid(np.zeros((4, size, size, 1))).shape == (2 * cell + 2, 2 * cell + 2, 1)


@pytest.mark.parametrize(
    ("n", "columns"), [(1, 1), (2, 2), (7, 3), (10, 5), (12, 4), (16, 4), (20, 5), (64, 8)]
)
def test_columns(n, columns):
    shape = plots.grid(np.zeros((n, 56, 56, 1)), pad=0).shape
    assert shape == (56 * math.ceil(n / columns), 56 * columns, 1)


@pytest.mark.parametrize(
    ("x", "same"),
    [
        (flat(0, 255).astype(np.uint8), flat(0.0, 1.0)),
        (flat(False, True), flat(0.0, 1.0)),
        (flat(0.25, 0.75).astype(np.float16), flat(0.25, 0.75)),
        (flat(-np.inf, np.inf), flat(0.0, 1.0)),
    ],
)
def test_grid_takes_bytes_and_floats(x, same):
    np.testing.assert_array_equal(plots.grid(x), plots.grid(same))


def test_grid_takes_jax_arrays():
    import jax.numpy as jnp

    x = flat(0.0, 0.25, 1.0)
    np.testing.assert_array_equal(plots.grid(jnp.asarray(x, jnp.bfloat16)), plots.grid(x))


@pytest.mark.parametrize(
    "shape",
    [
        (4, 8, 8),
        (4, 8, 8, 2),
        (4, 64),
        (4, 3),
        (2, 3, 4, 8, 1),
        (0, 8, 8, 1),
        (4, 0, 8, 1),
        (0, 2),
        (),
    ],
)
def test_no_picture_of_such_a_shape(tmp_path, shape):
    for draw in (plots.samples, plots.manifold, lambda p, x: plots.reconstructions(p, x, x)):
        with pytest.raises(UserError, match=r"no picture can be drawn of data of shape \(") as info:
            draw(tmp_path / "x.png", np.zeros(shape))
        assert "\n" not in str(info.value)
    assert not list(tmp_path.iterdir())


def test_no_picture_of_such_values(tmp_path):
    with pytest.raises(UserError, match="not int64"):
        plots.grid(flat(0, 1))
    with pytest.raises(UserError, match="nan"):
        plots.samples(tmp_path / "x.png", flat(0.0, np.nan))
    with pytest.raises(UserError, match="not finite"):
        plots.samples(tmp_path / "x.png", np.array([[0.0, np.inf]]))
    for options in ({"columns": 0}, {"pad": -1}, {"scale": 0}, {"scale": 1.5}):
        with pytest.raises(UserError, match=next(iter(options))):
            plots.grid(flat(0.0), **options)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_has_the_pixels(tmp_path, channels):
    x = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    plots.save_png(str(tmp_path / "new" / "x.png"), x)
    got = image(tmp_path / "new" / "x.png")
    assert got.shape == ((5, 7) if channels == 1 else (5, 7, 3))
    np.testing.assert_array_equal(got.reshape(x.shape), x)
    plots.save_png(tmp_path / "y.png", x / 255.0)
    np.testing.assert_array_equal(image(tmp_path / "y.png"), got)


def test_samples_of_images(tmp_path, digits):
    plots.samples(tmp_path / "samples.png", digits[:64])
    np.testing.assert_array_equal(image(tmp_path / "samples.png"), plots.grid(digits[:64])[..., 0])


def test_samples_of_points(tmp_path):
    points = np.random.default_rng(0).normal(size=(500, 2))
    plots.samples(tmp_path / "points.png", points)
    picture = image(tmp_path / "points.png")
    assert picture.shape[0] == picture.shape[1] > 400
    blue = (picture[..., 2].astype(int) - picture[..., 0] > 60).mean()
    assert 0.005 < blue < 0.5


def test_pairs_have_the_original_above_and_keep_together(tmp_path):
    x, x_hat = flat(0.1, 0.2, 0.3, 0.4, size=56), flat(0.6, 0.7, 0.8, 0.9, size=56)
    plots.reconstructions(tmp_path / "pairs.png", x, x_hat)
    got = image(tmp_path / "pairs.png")
    assert got.shape == (56 + 2 + 56, 4 * 56 + 3 * 8)  # four pairs in one row
    for i in range(4):
        left = i * (56 + 8)
        assert (got[:56, left : left + 56] == round(25.5 * (i + 1))).all()
        assert (got[56:58, left : left + 56] == 255).all()
        assert (got[58:, left : left + 56] == np.float32(255 * (0.6 + 0.1 * i)).round()).all()
        assert (got[:, left + 56 : left + 64] == 255).all()


def test_rows_of_pairs_lie_further_apart_than_a_pair(tmp_path, digits):
    plots.reconstructions(tmp_path / "pairs.png", digits[:16], 1.0 - digits[:16])
    got = image(tmp_path / "pairs.png")
    assert got.shape == (2 * 114 + 14, 8 * 56 + 7 * 8)
    assert (got[114:128] == 255).all()


def test_pairs_of_two_shapes(tmp_path):
    with pytest.raises(UserError, match="give pairs of one shape"):
        plots.reconstructions(tmp_path / "x.png", np.zeros((2, 8, 8, 1)), np.zeros((3, 8, 8, 1)))


def test_interpolation_has_one_strip_per_row(tmp_path):
    rows = np.linspace(0.0, 1.0, 6).reshape(2, 3, 1, 1, 1) * np.ones((1, 1, 56, 56, 3))
    plots.interpolation(tmp_path / "strips.png", rows)
    got = image(tmp_path / "strips.png")
    assert got.shape == (2 * 56 + 7, 3 * 56, 3)
    np.testing.assert_array_equal(got[0, ::56, 0], [0, 51, 102])
    np.testing.assert_array_equal(got[-1, ::56, 2], [153, 204, 255])
    assert (got[56:63] == 255).all()
    with pytest.raises(UserError, match="r, steps, H, W, C"):
        plots.interpolation(tmp_path / "x.png", rows[0])


def test_manifold_z_by_hand():
    z = plots.manifold_z(3)
    q = 0.9674216  # Phi(0.9674216) = 5/6
    np.testing.assert_allclose(
        z, [[-q, q], [0, q], [q, q], [-q, 0], [0, 0], [q, 0], [-q, -q], [0, -q], [q, -q]], atol=1e-6
    )
    assert z.dtype == np.float32
    under = np.array(
        [
            [0.5 * (1.0 + math.erf(v / math.sqrt(2.0))) for v in point]
            for point in plots.manifold_z(20)
        ]
    )
    np.testing.assert_allclose(np.unique(under.round(5)), (np.arange(20) + 0.5) / 20, atol=1e-5)
    with pytest.raises(UserError, match="n must be at least 1"):
        plots.manifold_z(0)


def test_manifold_has_no_gaps(tmp_path, digits):
    plots.manifold(tmp_path / "manifold.png", digits)
    got = image(tmp_path / "manifold.png")
    assert got.shape == (15 * 56, 15 * 56)
    small = (got[::7, ::7].reshape(15, 8, 15, 8).transpose(0, 2, 1, 3)).reshape(225, 8, 8)
    np.testing.assert_array_equal(small, np.round(digits[..., 0] * 255))
    with pytest.raises(UserError, match="n by n images, not 10"):
        plots.manifold(tmp_path / "x.png", digits[:10])


def test_a_disk_that_refuses(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        plots.samples(tmp_path / "file" / "x.png", flat(0.0))


def test_a_table_of_translations_has_contents_above_and_classes_on_the_left(tmp_path):
    content, of_class = flat(0.1, 0.2, 0.3), flat(0.6, 0.8)
    x = np.stack([flat(0.0, 0.4, 0.5), flat(0.7, 0.9, 1.0)])
    plots.translations(tmp_path / "a.png", content, of_class, x)
    want = np.concatenate([flat(1.0, 0.1, 0.2, 0.3, 0.6), x[0], of_class[1:], x[1]])
    np.testing.assert_array_equal(image(tmp_path / "a.png"), plots.grid(want, columns=4)[..., 0])
    with pytest.raises(UserError, match="3 contents and 1 classes"):
        plots.translations(tmp_path / "b.png", content, of_class[:1], x)
