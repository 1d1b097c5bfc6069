"""Small Fréchet distances: SqueezeNet with seeded weights, smaller images and every 16th feature
(with the fixture `smaller`); and such weights in files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import seeded
from jaxvae import data, parallel
from jaxvae.metrics import fid, lpips, squeezenet

WEIGHTS = seeded.state_dict(squeezenet.shapes())
SIZE, D = 90, 32
ONE = parallel.make_mesh(jax.devices()[:1])  # quicker than all of them, which a few tests take
ALL = parallel.make_mesh()
SQUEEZENET = fid.PROTOCOLS["squeezenet"].with_samples(SIZE)


def write_weights(folder: Path) -> Path:
    """Writes weights of the right shapes for SqueezeNet and LPIPS into a new folder, and returns
    it."""
    folder.mkdir()
    heads = {
        f"lin{i}.model.1.weight": np.full((1, width, 1, 1), 0.1, np.float32)
        for i, width in enumerate(lpips.BACKBONES["squeeze"].widths)
    }
    np.savez(folder / "squeezenet1_1_features.npz", **WEIGHTS)
    np.savez(folder / "lpips_squeeze_linear_v0.1.npz", **heads)
    return folder


def some(params, x, *, stats="running"):
    return squeezenet.features(params, x, stats=stats)[:, ::16]


def images(n: int = SIZE, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Returns bytes [n, 8, 8, channels], smooth, so that features differ."""
    rng = np.random.default_rng(seed)
    corners = rng.random((n, 2, 2, channels))
    smooth = jax.image.resize(jnp.asarray(corners, jnp.float32), (n, 8, 8, channels), "linear")
    return np.rint(255 * np.asarray(smooth)).astype(np.uint8)


def source(n: int = SIZE, channels: int = 3, seed: int = 0) -> data.Source:
    return data.from_arrays(images(n, channels, seed), name="mine", split="test")


def sampler(rng, n, stats, channels=3):
    """Returns smooth images of another distribution."""
    return jax.image.resize(
        jax.random.uniform(rng, (n, 2, 2, channels)) ** 2, (n, 8, 8, channels), "linear"
    )


def go(real=None, draw=sampler, protocol=SQUEEZENET, metrics=("fid",), **options):
    options = {
        "weights": WEIGHTS,
        "cache": False,
        "subset_size": 30,
        "subsets": 5,
        "batch_size": 32,
        "mesh": ONE,
        **options,
    }
    return fid.compare(
        source() if real is None else real, draw, protocol, metrics=metrics, **options
    )


def by_hand(x: np.ndarray) -> np.ndarray:
    """Returns the features of pixels [n, 8, 8, 3] in [0, 255], without the code under test but for
    the net itself."""
    x = jax.image.resize(
        jnp.asarray(x, jnp.float32) / 255, (len(x), 32, 32, 3), "bilinear", antialias=False
    )
    x = (x - jnp.asarray([0.485, 0.456, 0.406], jnp.float32)) / jnp.asarray(
        [0.229, 0.224, 0.225], jnp.float32
    )
    with jax.default_matmul_precision("highest"):
        return np.asarray(some(squeezenet.from_state_dict(WEIGHTS), x), np.float64)
