"""The data of the translation experiments: images of classes whose content is shared between the classes,
so that the truth of a translation is an image too.

    views     one folder for each class, with the same contents in the order of their names (Cars3D: 183
              cars, 96 views); test classes are not trained on
    colours   grey images, each painted in one of twelve pairs of colours, which is its class; the content
              is the grey image
    ""        one folder for each class, whose contents nobody has labelled (KTH): no truth
"""

import colorsys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.folders import folder_of
from jaxvae import data
from jaxvae.data import Source
from jaxvae.errors import UserError

STYLES = 12  # classes of painted images
# a raw stream of bits for each split: which class an image has, and which pairs are translated
KEYS = {"train": 0xC010, "test": 0xC011, "pairs": 0xC012, "cars": 0xC013}


class Paired(NamedTuple):
    """Labelled images, and what a translation between two of them should give."""

    source: Source
    # (indices of contents [n], indices of classes [n]) -> images [n, ...] uint8; None: nobody knows
    truth: Callable[[np.ndarray, np.ndarray], np.ndarray] | None


def colours() -> np.ndarray:
    """Returns the two colours of each class, of black and of white: [12, 2, 3] in [0, 255].

    Hues of white are even steps around the circle, those of black opposite; every second class has a light
    ground and dark strokes.
    """
    found = np.empty((STYLES, 2, 3))
    for k in range(STYLES):
        hue = k / STYLES
        dark, light = (hue + 0.5, 0.6, 0.25), (hue, 0.8, 1.0)
        if k % 2:
            dark, light = (hue + 0.5, 0.25, 1.0), (hue, 0.8, 0.35)
        found[k] = [colorsys.hsv_to_rgb(h % 1.0, s, v) for h, s, v in (dark, light)]
    return 255.0 * found


def painted(grey: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns grey images [n, H, W, 1] uint8 in the colours of their classes [n]: [n, H, W, 3] uint8."""
    ends = colours()[label][:, :, None, None, :]
    share = grey.astype(np.float64) / 255.0
    return np.rint(ends[:, 0] + (ends[:, 1] - ends[:, 0]) * share).astype(np.uint8)


def coloured(source: Source, key: int) -> Paired:
    """Returns grey images painted, each in a class that depends on `key` and its place alone."""
    if source.arrays is None:
        raise UserError(f"{source.name} must fit in memory to be painted.")
    grey = source.arrays["x"]
    label = (np.random.Philox(key).random_raw(len(grey)) % STYLES).astype(np.int32)
    x = painted(grey, label)
    name = f"{source.name} in {STYLES} colours"
    coloured_source = data.from_arrays(x, label, name=name, split=source.split, num_classes=STYLES)
    return Paired(
        coloured_source, lambda content, of_class: painted(grey[content], label[of_class])
    )


def views(source: Source, indices: np.ndarray, label: np.ndarray, per_class: int) -> Paired:
    """Returns the images at `indices` of a source, sorted by class and, within one, by content.

    Args:
        label: the class of each [n].
        per_class: contents of each class.
    """
    part = subset(source, indices)
    first = {k: i for i, k in reversed(list(enumerate(label)))}

    def truth(content: np.ndarray, of_class: np.ndarray) -> np.ndarray:
        view = content - np.array([first[label[i]] for i in content])
        return part.read(np.array([first[label[j]] for j in of_class]) + view)["x"]

    assert len(label) == per_class * len(first)  # as the caller has checked
    return Paired(part, truth)


def cars(source: Source, split: str, held_out: int) -> Paired:
    """Returns the classes of a split, "test" having `held_out` of them; they are drawn once, by their
    numbers alone.

    Raises:
        UserError: for a source without classes, with too few, or whose classes have not the same
            number of images.
    """
    classes = source.num_classes
    if classes is None:
        raise UserError(
            f"{source.name} needs one folder for each class, and has none: see the README of this "
            "experiment."
        )
    if classes <= held_out:
        raise UserError(f"{source.name} has {classes} classes, and {held_out} are held out.")
    label = source.read(np.arange(source.size))["label"]
    counts = np.bincount(label, minlength=classes)
    if counts.min() != counts.max():
        raise UserError(
            f"the classes of {source.name} must have the same contents in the same order, and have "
            f"{counts.min()} to {counts.max()} images: complete them."
        )
    order = np.argsort(np.random.Philox(KEYS["cars"]).random_raw(classes), kind="stable")
    chosen = order[:held_out] if split == "test" else order[held_out:]
    indices = np.flatnonzero(np.isin(label, chosen))
    indices = indices[np.argsort(label[indices], kind="stable")]
    return views(source, indices, label[indices], int(counts[0]))


def subset(source: Source, indices: np.ndarray) -> Source:
    """Returns the examples of a source at `indices`, in that order."""
    if source.arrays is not None:
        arrays = {name: values[indices] for name, values in source.arrays.items()}
        part = data.from_arrays(
            arrays["x"], arrays.get("label"), name=source.name, num_classes=source.num_classes
        )
        return part._replace(split=f"{source.split}, {len(indices)} of {source.size}")
    return source._replace(
        size=len(indices), read=lambda at: source.read(indices[np.asarray(at)]), indices=None
    )


def folder(name: str, side: int, split: str = "all") -> Source:
    """Returns a folder of images by class, called `name` in a place for data, in squares of `side`.

    Raises:
        UserError: where it is not there, has no classes, or one without images.
    """
    return data.folder(folder_of(name), size=side, by_class=True, split=split, name=name)


def pairs(paired: Paired, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of contents and of classes [n] of translations whose truth is measured: each
    image is a content once, up to `count` of them, beside one of another class, drawn once."""
    size = paired.source.size
    label = paired.source.read(np.arange(size))["label"]
    if label.min() == label.max():
        raise UserError(f"{paired.source.name} has one class here: nothing can be translated.")
    raw = np.random.Philox(KEYS["pairs"]).random_raw(2 * size).reshape(2, size)
    content = np.argsort(raw[0], kind="stable")[:count]
    others = {k: np.flatnonzero(label != k) for k in np.unique(label)}
    of_class = [others[label[i]][raw[1, i] % len(others[label[i]])] for i in content]
    return content, np.asarray(of_class)
