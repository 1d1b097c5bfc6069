"""Pictures of a run, as PNG files: samples, reconstructions, interpolations, a latent grid, curves.

Images are [n, H, W, C] with C = 1 or 3, floating point in [0, 1] (values outside are clipped, as a
Gaussian decoder's may be) or uint8. Nothing here touches pyplot or any other global state.
"""

import io
import itertools
import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from jaxvae import writers
from jaxvae.errors import UserError, check_count
from jaxvae.writers import Curves, PathLike

Line = tuple[np.ndarray, np.ndarray]  # steps [n], values [n]

CELL = 56  # px; smaller images are enlarged until their longer side has at least so many

# Okabe & Ito's colours, which stay apart for colour-blind readers; lines differ in style too.
_STYLES = {"train": ("#0072B2", "-"), "validation": ("#D55E00", "--"), "test": ("#009E73", "-.")}
_MORE_STYLES = (("#CC79A7", ":"), ("#000000", (0, (5, 1))), ("#56B4E9", (0, (3, 1, 1, 1))))
_MORE_STYLES += (("#E69F00", (0, (1, 1))), ("#009E73", "-"), ("#D55E00", (0, (5, 2, 1, 2))))
_PANELS = {  # metric -> title, unit, direction
    "elbo": ("ELBO", "nats per example", "up is better"),
    "log_prob": ("log p(x)", "nats per example", "up is better"),
    "rec": ("rec = -log p(x|z)", "nats per example", "down is better"),
    "kl": ("KL(q(z|x) || p(z))", "nats per example", "down is better at equal rec"),
}


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


def curves(path: PathLike, values: Curves) -> None:
    """Draws each metric of a bound over training steps, one panel per metric, one line per split.

    Panels: elbo, rec and kl (and log_prob), where they were logged; without an elbo the losses.
    Where the first tenth of the steps would flatten all the rest it runs off the scale, and the
    axis says so.

    Args:
        path: the PNG file.
        values: what `writers.read_curves` returns.

    Raises:
        UserError: where none of these metrics was logged.
    """
    from matplotlib.figure import Figure

    figure = Figure(dpi=150, layout="constrained")
    figure.set_size_inches(_draw_curves(figure, values, _curve_names(values)))
    save_figure(path, figure)


def comparison(path: PathLike, values: Curves, pictures: dict[str, np.ndarray]) -> None:
    """Draws the curves of several runs in the same panels, and a picture of each below.

    Args:
        path: the PNG file.
        values: run -> metric -> line, as `writers.read_curves` has them by split; none of models that
            have no log.
        pictures: run -> image [H, W, C], such as its samples, where it has one.

    Raises:
        UserError: where none of these metrics was logged.
    """
    from matplotlib.figure import Figure

    names = _curve_names(values) if values else []
    figure = Figure(dpi=150, layout="constrained")
    both = bool(names and pictures)
    parts: Any = figure.subfigures(2, 1) if both else (figure, figure)
    upper, lower = parts
    wide, tall = _draw_curves(upper, values, names) if names else (0.0, 0.0)
    for i, (name, picture) in enumerate(pictures.items(), start=1):
        axes = lower.add_subplot(1, len(pictures), i)
        axes.imshow(_bytes(picture[None])[0], interpolation="none")
        axes.set_title(name, fontsize="medium")
        axes.axis("off")
    tall = (tall or 3.3) * (1 + both)
    figure.set_size_inches(max(wide, 3.7 * min(len(pictures), 6)), tall)
    save_figure(path, figure)


def _curve_names(values: Curves) -> list[str]:
    """Returns the metrics that have a panel; raises `UserError` where there is none."""
    logged = list(dict.fromkeys(name for metrics in _finite(values).values() for name in metrics))
    names = [name for name in _PANELS if name in logged]
    if "elbo" not in logged:
        names = [name for name in logged if "loss" in name.split("_")] + names
    if not names:
        raise UserError(f"no curve to draw: the log has neither a loss nor {', '.join(_PANELS)}.")
    return names


def _draw_curves(figure: Any, values: Curves, names: list[str]) -> tuple[float, float]:
    """Draws a panel for each metric, a line for each split (or run); returns its size in inches."""
    values = _finite(values)
    splits = [
        *(split for split in _STYLES if split in values),
        *(split for split in values if split not in _STYLES),
    ]
    more = itertools.cycle(_MORE_STYLES)
    styles = {split: _STYLES.get(split) or next(more) for split in splits}

    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    handles = {}
    for i, name in enumerate(names, start=1):
        lines = {split: values[split][name] for split in styles if name in values[split]}
        handles |= _panel(figure.add_subplot(rows, columns, i), name, lines, styles)
    handles = {split: handles[split] for split in styles if split in handles}
    options = {"loc": "outside lower center", "ncols": len(handles), "frameon": False}
    figure.legend(handles.values(), handles.keys(), **options)
    return 3.7 * columns, 3.3 * rows


class Panel(NamedTuple):
    """Densities over the same bins, for `histograms`."""

    title: str
    about: str  # under the title
    edges: np.ndarray  # [bins + 1]
    densities: dict[str, np.ndarray]  # name -> [bins]
    left_out: dict[str, int]  # values outside the range


def histograms(path: PathLike, rows: list[list[Panel]]) -> None:
    """Draws densities of scores, a panel beside the other, each set in a colour of its own.

    Args:
        path: the PNG file.
        rows: panels, of rows of one length.
    """
    from matplotlib.figure import Figure

    height, width = len(rows), len(rows[0])
    figure = Figure(figsize=(5.2 * width, 3.4 * height), dpi=150, layout="constrained")
    styles = (*_STYLES.values(), *_MORE_STYLES)
    for i, panel in enumerate(itertools.chain(*rows), start=1):
        axes = figure.add_subplot(height, width, i)
        for (name, density), (color, line) in zip(panel.densities.items(), styles, strict=False):
            beyond = panel.left_out[name]
            label = f"{name} ({beyond:,} outside)" if beyond else name
            axes.stairs(density, panel.edges, color=color, linestyle=line, label=label)
        axes.set_title(f"{panel.title}\n{panel.about}", fontsize=9)
        axes.set_xlabel("nats per example")
        axes.set_ylabel("density")
        axes.legend(fontsize=7, frameon=False)
        plain_axes(axes)
    save_figure(path, figure)


def _panel(axes: Any, name: str, lines: dict[str, Line], styles: dict[str, Any]) -> dict[str, Any]:
    """Draws one metric of each split. Returns split -> line, for the legend."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    title, unit, direction = _PANELS.get(name, (name, "per example", "down is better"))
    axes.set_title(f"{title}\n", fontsize=11)
    axes.text(
        0.5,
        1.03,
        f"{unit}, {direction}",
        transform=axes.transAxes,
        ha="center",
        fontsize=9,
        color="0.35",
    )
    handles = {}
    for split, (steps, y) in lines.items():
        color, style = styles[split]
        marker = "o" if len(steps) <= 20 else None
        [handles[split]] = axes.plot(
            steps, y, color=color, ls=style, lw=1.6, marker=marker, markersize=3.5
        )
    limits = _limits(list(lines.values()))
    axes.set_xlabel("step (the first values are off the scale)" if limits else "step")
    if limits:
        axes.set_ylim(*limits)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    plain_axes(axes)
    return handles


def _finite(values: Curves) -> Curves:
    """Returns the curves without values that are not finite, and without empty ones."""
    kept: Curves = {}
    for split, metrics in values.items():
        for name, (steps, y) in metrics.items():
            finite = np.isfinite(y)
            if finite.any():
                line = np.asarray(steps)[finite], np.asarray(y)[finite]
                kept.setdefault(split, {})[name] = line
    return kept


def _limits(lines: list[Line]) -> tuple[float, float] | None:
    """Returns the range of the values after the first tenth of the steps, if all span 4 times it."""
    first = min(steps.min() for steps, _ in lines)
    last = max(steps.max() for steps, _ in lines)
    late = np.concatenate([y[steps >= first + 0.1 * (last - first)] for steps, y in lines])
    full = np.concatenate([y for _, y in lines])
    low, high = late.min(), late.max()
    if high <= low or np.ptp(full) <= 4 * (high - low):
        return None
    return low - 0.15 * (high - low), high + 0.15 * (high - low)


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
    axes.scatter(x[:, 0], x[:, 1], s=size, color=_STYLES["train"][0], alpha=0.6, linewidths=0)
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
