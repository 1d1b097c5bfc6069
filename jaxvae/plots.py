"""Pictures of a run, as PNG files: samples, reconstructions, interpolations, a latent grid.

Images are [n, H, W, C] with C = 1 or 3, floating point in [0, 1] (values outside are clipped, as a
Gaussian decoder's may be) or uint8. Nothing here touches pyplot or any other global state.
"""

import io
import math
from statistics import NormalDist
from typing import Any

import numpy as np

from jaxvae import writers
from jaxvae.errors import UserError, check_count
from jaxvae.writers import PathLike

BLUE = "#0072B2"  # of points and of training curves
CELL = 56  # px; smaller images are enlarged until their longer side has at least so many


def grid(
    images: Any, *, columns: int | None = None, pad: int = 2, scale: int | None = None
) -> np.ndarray:
    """Returns the images side by side, row by row, on white: uint8 [height, width, C].

    Args:
        images: [n, H, W, C].
        columns: images per row; by default about as many as rows, and if possible no row left
            unfilled.
        pad: px between images.
        scale: whole-number enlargement, by repeating pixels; by default as much as `CELL` asks for.

    Raises:
        UserError: for what is not a picture, and sizes below one (`pad`: below zero).
    """
    images = _enlarged(_bytes(images), scale)
    return _tile(images, _columns(len(images)) if columns is None else columns, pad, pad)


def save_png(path: PathLike, array: Any) -> None:
    """Writes one image [H, W, 1 or 3], floating point in [0, 1] or uint8, as PNG, in one move."""
    from PIL import Image

    array = np.asarray(array)
    image = _bytes(array[None])[0]
    image = image[..., 0] if image.shape[-1] == 1 else image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    writers.write_bytes(path, file.getvalue())


def save_figure(path: PathLike, figure: Any) -> None:
    """Writes a matplotlib figure as PNG, in one move; equal figures are equal files."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    writers.write_bytes(path, file.getvalue())


def plain_axes(axes: Any) -> None:
    """Gives matplotlib axes the look of all figures: a light grid, and two sides of four."""
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def samples(path: PathLike, x: Any) -> None:
    """Draws images [n, H, W, C] as a grid, or points [n, 2] as a scatter plot.

    Raises:
        UserError: for data of any other shape, of which no picture can be drawn.
    """
    x = np.asarray(x)
    if x.ndim == 2 and x.shape[-1] == 2 and len(x):
        _scatter(path, x)
    else:
        save_png(path, grid(x))


def reconstructions(path: PathLike, x: Any, x_hat: Any) -> None:
    """Draws pairs: each original directly above its reconstruction, each pair apart from the next.

    Args:
        path: the PNG file.
        x: originals [n, H, W, C].
        x_hat: reconstructions, of the same shape.

    Raises:
        UserError: for two different shapes, or shapes that are no images.
    """
    x, x_hat = _bytes(x), _bytes(x_hat)
    if x.shape != x_hat.shape:
        raise UserError(
            f"originals have shape {x.shape}, reconstructions {x_hat.shape}: give pairs of one "
            "shape."
        )
    x, x_hat = _enlarged(x, None), _enlarged(x_hat, None)
    white = np.full_like(x[:, :2], 255)
    pairs = np.concatenate([x, white, x_hat], axis=1)
    aspect = 2.0 * pairs.shape[1] / pairs.shape[2]  # of a page twice as wide as high
    save_png(path, _tile(pairs, _columns(len(pairs), aspect), CELL // 7, CELL // 4))


def interpolation(path: PathLike, rows: Any) -> None:
    """Draws one strip per row, each going from its first image to its last.

    Args:
        path: the PNG file.
        rows: [r, steps, H, W, C].
    """
    rows = np.asarray(rows)
    if rows.ndim != 5:
        raise UserError(
            f"an interpolation is drawn of rows [r, steps, H, W, C], not of shape {rows.shape}."
        )
    r, steps, *image = rows.shape
    images = _enlarged(_bytes(rows.reshape(r * steps, *image)), None)
    save_png(path, _tile(images, steps, 0, CELL // 8))


def translations(path: PathLike, content: Any, of_class: Any, x: Any) -> None:
    """Draws a table of translations: contents in the top row, classes in the left column, and each
    pair's image where they meet.

    Args:
        path: the PNG file.
        content: images [n, H, W, C].
        of_class: images [k, H, W, C].
        x: translations [k, n, H, W, C].

    Raises:
        UserError: for shapes that do not fit.
    """
    content, of_class, x = _bytes(content), _bytes(of_class), np.asarray(x)
    k, n = len(of_class), len(content)
    if x.shape != (k, n, *content.shape[1:]) or content.shape[1:] != of_class.shape[1:]:
        raise UserError(
            f"{n} contents and {k} classes of shape {content.shape[1:]} need translations "
            f"[{k}, {n}, ...], not {x.shape}."
        )
    corner = np.full_like(content[:1], 255)
    x = _bytes(x.reshape(-1, *content.shape[1:])).reshape(x.shape)
    top, below = np.concatenate([corner, content]), np.hstack([of_class[:, None], x])
    rows = np.concatenate([top, below.reshape(-1, *content.shape[1:])])
    save_png(path, grid(rows, columns=n + 1))


def manifold_z(n: int) -> np.ndarray:
    """Returns the latents [n * n, 2] of an n by n picture: N(0, I)'s quantiles on an even grid.

        z_i = Phi^-1((i + 1/2) / n),   i = 0 ... n - 1

    z_1 grows from left to right, z_2 from the bottom row to the top. Kingma & Welling 2014, figure
    4.
    """
    check_count("n", n)
    z = np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)], np.float32)
    return np.stack([np.tile(z, n), np.repeat(z[::-1], n)], axis=1)


def manifold(path: PathLike, x: Any) -> None:
    """Draws the images decoded at `manifold_z(n)`, [n * n, H, W, C], as one square without gaps."""
    x = _bytes(x)
    n = math.isqrt(len(x))
    if n * n != len(x):
        raise UserError(f"a manifold is n by n images, not {len(x)}: decode manifold_z(n).")
    save_png(path, _tile(_enlarged(x, None), n, 0, 0))


def _scatter(path: PathLike, x: np.ndarray) -> None:
    """Draws points [n, 2] in equal units."""
    from matplotlib.figure import Figure

    if not np.isfinite(x).all():
        raise UserError(
            "these points hold values that are not finite: no picture can be drawn of them."
        )
    figure = Figure(figsize=(4.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(6000 / len(x), 1.5, 20))
    axes.scatter(x[:, 0], x[:, 1], s=size, color=BLUE, alpha=0.6, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("$x_1$")
    axes.set_ylabel("$x_2$")
    plain_axes(axes)
    save_figure(path, figure)


def _bytes(images: Any) -> np.ndarray:
    """Returns images [n, H, W, C] as uint8. Raises `UserError` for what cannot be drawn."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"no picture can be drawn of data of shape {images.shape}: images are [n, H, W, 1 or "
            "3], points [n, 2]."
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype != bool and not _is_float(images):
        raise UserError(f"images must be floating point in [0, 1] or uint8, not {images.dtype}.")
    images = images.astype(np.float32)
    if np.isnan(images).any():
        raise UserError(
            "these images hold values that are not numbers (nan): no picture can be drawn of them."
        )
    return np.round(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)


def _is_float(images: np.ndarray) -> bool:
    return np.issubdtype(images.dtype, np.floating) or images.dtype.name == "bfloat16"


def _enlarged(images: np.ndarray, scale: int | None) -> np.ndarray:
    if scale is None:
        scale = math.ceil(CELL / max(images.shape[1:3]))
    check_count("scale", scale)
    return images.repeat(scale, axis=1).repeat(scale, axis=2)


def _columns(n: int, aspect: float = 1.0) -> int:
    """Returns how many of `n` cells go in a row.

    About sqrt(n * aspect), moved by up to half if that fills all rows.
    """
    near = min(n, math.ceil(math.sqrt(n * aspect)))
    full = [c for c in range(1, n + 1) if n % c == 0 and abs(c - near) <= near // 2]
    return min(full, key=lambda c: (abs(c - near), -c), default=near)


def _tile(cells: np.ndarray, columns: int, gap_x: int, gap_y: int) -> np.ndarray:
    """Returns uint8 cells [n, H, W, C] on a white page, row by row."""
    check_count("columns", columns)
    check_count("pad", gap_x, least=0)
    n, height, width, channels = cells.shape
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    page = np.full((rows * (height + gap_y), columns * (width + gap_x), channels), 255, np.uint8)
    for i, cell in enumerate(cells):
        top, left = i // columns * (height + gap_y), i % columns * (width + gap_x)
        page[top : top + height, left : left + width] = cell
    return page[: page.shape[0] - gap_y, : page.shape[1] - gap_x]
