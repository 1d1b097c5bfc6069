"""The cells of the paper's Table 4 and of its pictures, and narrow nets that a CPU can train.

lpips                  of translations and their truth, where that is known; mse: squared error per number
lpips_reconstruction   of test images and their reconstructions, both from posterior means
lpips_content, lpips_class, mse_content, mse_class    of the image that gives the content, or the class, as it is,
                       and the truth: what a translation that changes nothing, or takes all, would have
elbo, rec, kl, kl_content, kl_class    of the test split, nats per image: p(x|z) has the variance 1/2
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.needs import Needs, unfinished
from experiments.runner import Cell, Measure
from experiments.translation import paired, setting, train
from experiments.translation.setting import BACKBONES, PRECISION
from experiments.translation.train import Case, Trained
from jaxvae.errors import UserError
from jaxvae.metrics import lpips, perceptual, weights
from jaxvae.models import verbs
from jaxvae.train import evaluate
from jaxvae.types import Array, Batch

FOLDER = Path(__file__).parent
MEASURED = 2_000  # translations that are measured
SMOKE_PAIRS, BATCH_SIZE = 8, 100


# ---- what is measured ----------------------------------------------------------------------------


def run(case: Case) -> list[Measure]:
    """Trains the model of a case and measures its translations, where their truth is known, its
    reconstructions and its bound."""
    found, nets = train.trained(case), backbones(case)
    with jax.default_matmul_precision("highest"):
        measures = _translations(case, found, nets) + _reconstructions(case, found, nets)
        return measures + _nats(case, found)


def backbones(case: Case) -> tuple[str, ...]:
    """Returns the nets of LPIPS whose weights are here and that take the images of a case. A narrow
    one, whose translations have a squared error as well, goes without where there is none.

    Raises:
        UserError: where there is none for another.
    """
    found, missing = [], []
    for net in BACKBONES:
        backbone = lpips.BACKBONES[net]
        if case.published.shape[0] < backbone.side:
            continue
        try:
            for name in (backbone.weights, backbone.heads):
                weights.locate(name)
            found.append(net)
        except UserError as error:
            missing.append(error)
    if found or case.narrow:
        return tuple(found)
    raise missing[0]


def _coloured(images: Any) -> Array:
    """Returns bytes or floats [B, H, W, C] in [0, 1], as three channels."""
    x = jnp.asarray(images)
    x = x.astype(jnp.float32) / (255.0 if x.dtype == jnp.uint8 else 1.0)
    return jnp.broadcast_to(x, (*x.shape[:-1], 3))


def _batches(count: int) -> Iterator[np.ndarray]:
    """Yields the numbers below `count`, `BATCH_SIZE` at a time."""
    for start in range(0, count, BATCH_SIZE):
        yield np.arange(start, min(start + BATCH_SIZE, count))


def chosen_pairs(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of contents and classes of the translations that are measured."""
    return paired.pairs(train.of_case(case, "test"), SMOKE_PAIRS if case.smoke else MEASURED)


def translator(found: Trained) -> Callable[[Any, Any], Array]:
    """Returns (contents, classes), both bytes [B, ...] -> translations [B, ...], cut to [0, 1]."""

    @jax.jit
    def translate(params, state, content, of_class):
        both = (Batch(images.astype(jnp.float32) / 255.0) for images in (content, of_class))
        return jnp.clip(verbs.translate(found.model, params, state, *both), 0.0, 1.0)

    return functools.partial(translate, found.params, found.state)


def _translations(case: Case, found: Trained, nets: tuple[str, ...]) -> list[Measure]:
    """Returns how translations differ from their truth; nothing where that is not known."""
    test = train.of_case(case, "test")
    if test.truth is None:
        return []
    given, translate = {net: lpips.load(net) for net in nets}, translator(found)
    content, of_class = chosen_pairs(case)
    values: dict[tuple[str, str], list[Array]] = {}
    about = "translations of test images"
    for at in _batches(len(content)):
        first, last = (test.source.read(indices[at])["x"] for indices in (content, of_class))
        truth = _coloured(test.truth(content[at], of_class[at]))
        shown = {"": translate(first, last), "_content": first, "_class": last}
        for ending, images in shown.items():
            x = _coloured(images)
            error = jnp.mean(jnp.square(x - truth), axis=(1, 2, 3))
            values.setdefault((f"mse{ending}", about), []).append(error)
            for net in nets:
                looks = lpips.distance(given[net], x, truth, net=net)
                values.setdefault((f"lpips{ending}", f"{net}, {about}"), []).append(looks)
    return [_measure(case, found, *key, each) for key, each in values.items()]


def _reconstructions(case: Case, found: Trained, nets: tuple[str, ...]) -> list[Measure]:
    """Returns how reconstructions, translations of an image to its own class, look."""
    source, translate = train.of_case(case, "test").source, translator(found)
    given = {net: lpips.load(net) for net in nets}
    values: dict[str, list[Array]] = {net: [] for net in nets}
    for at in _batches(min(source.size, SMOKE_PAIRS if case.smoke else MEASURED)) if nets else ():
        x = source.read(at)["x"]
        pair = _coloured(translate(x, x)), _coloured(x)
        for net in nets:
            values[net].append(lpips.distance(given[net], *pair, net=net))
    return [
        _measure(case, found, "lpips_reconstruction", f"{net}, test images", each)
        for net, each in values.items()
    ]


def _measure(case: Case, found: Trained, name: str, protocol: str, values: list) -> Measure:
    joined = np.concatenate([np.asarray(value, np.float64) for value in values])
    return Measure(name, protocol + case.suffix, joined.mean(), len(joined), found.steps, PRECISION)


def _nats(case: Case, found: Trained) -> list[Measure]:
    source = train.of_case(case, "test").source
    values = evaluate(found.model, found.params, found.state, source, seed=case.seed)
    names = ("elbo", "rec", "kl", "kl_content", "kl_class")
    protocol = f"nats{case.suffix}"
    return [
        Measure(name, protocol, values[name], source.size, found.steps, PRECISION) for name in names
    ]


# ---- cells ---------------------------------------------------------------------------------------


def _cell(case: Case, name: str) -> Cell:
    """Returns a cell; before any is run, its data and weights are looked for."""
    published = case.published

    def measure(seed: int, smoke: bool) -> list[Measure]:
        return run(case._replace(seed=seed, smoke=smoke))

    def check(smoke: bool) -> None:
        chosen = case._replace(smoke=smoke)
        for split in ("train", "test"):
            train.of_case(chosen, split)
        backbones(chosen)
        if chosen.setting.error != "squared":
            perceptual.make_error(chosen.setting.error)

    def stopped(seed: int) -> bool:
        return unfinished(case._replace(seed=seed).folder)

    extractor = perceptual.EXTRACTORS.get(published.error)
    needs = Needs(
        (published.data,) if case.narrow else (),
        ("squeezenet", "lpips_squeeze") + (() if extractor is None else (extractor.weights,)),
        accelerator=published.shrink == 1,
        steps=train.steps_of(published, published.images),
        net=f"{published.shape}, widths / {published.shrink}, {case.method}",
        parts=lambda: train.parts(case),
        protocols=_protocols(case),
        stopped=stopped,
    )
    return Cell(name, measure, check=check, needs=needs)


def _protocols(case: Case) -> tuple[str, ...]:
    """Returns the protocols of which a seed that is done has a number."""
    known = ("squeeze, translations of test images",) if case.published.truth else ()
    return tuple(each + case.suffix for each in (*known, "nats"))


def _cells() -> list[Cell]:
    found = [
        _cell(Case(name, method), f"{name}/{method}")
        for name in setting.PUBLISHED
        for method in ("vae", "soft_intro_vae")
    ]
    for name in setting.NARROW:
        for method in setting.METHODS:
            found.append(_cell(Case(name, method, narrow=True), f"{name}/narrow/{method}"))
    return found


CELLS = _cells()
