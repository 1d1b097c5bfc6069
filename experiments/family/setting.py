"""How each model of the family is trained: the settings of the zoo, whose models are the first seeds.

`experiments/zoo.json` has them as words of `jaxvae train` and `jaxvae evaluate`, which say what differs
from the commands' defaults: nets (of most a hidden layer of 100 to 128 units), learning rates, passes over
the training split. They are ours: no paper has such a table.
"""

import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import runner, zoo
from experiments.zoo import Wanted
from jaxvae import data
from jaxvae.cli.main import parse
from jaxvae.data import sets
from jaxvae.presets import PRESETS
from jaxvae.presets.config import Options, Preset

SHORT = ("--steps", "8", "--log-every", "4", "--batch-size", "64")  # of a smoke run
SHORTER = {"--num-vae": "0", "--level-steps": "2"}  # where the words have these
LEFT_OUT = ("--data", "--epochs", "--steps")  # of the words, by a smoke run
FEW = {"iw_nll": ("--k", "2"), "fid": ("--samples", "16")}  # of a smoke run's metrics
PROTOCOLS = {  # of a number that an evaluation has, by the first of these metrics in its words
    "completions": "squared distance per example, K=10 means, grey pixels, given the left half drawn as "
    "0 or 1, seed 0",
    "log_prob": "nats per example, exact density, uniform dequantisation with seed 0",
    "lpips": "LPIPS(squeeze) 0.1 of images and their reconstructions from posterior means, {}, grey pixels",
    "fid": "squeezenet",
    "elbo": "nats per example, one draw of z, grey pixels",
}
WEIGHTS = {"fid": ("squeezenet",), "lpips": ("squeezenet", "lpips_squeeze")}  # that metrics need


def models(only: Sequence[str] | None = None) -> list[Wanted]:
    """Returns the models of the zoo, and after each the same on other data, which has no place there; those
    alone that a name or glob in `only` asks for.

    Raises:
        UserError: for a name or glob that fits none.
    """
    every = [
        again for each in zoo.wanted() for again in (each, *(on(each, of) for of in each.also))
    ]
    return runner.select(every, only, "model")


def on(each: Wanted, of: str) -> Wanted:
    """Returns a model trained on other data by the same words."""
    model, words = each.name.split("/")[0], shlex.split(each.train)
    words[words.index("--data") + 1] = of
    return each._replace(name=f"{model}/{of}", train=shlex.join(words), also=())


def name(each: Wanted) -> str:
    """Returns the name of a cell, "mnist/vae" of the model "vae/mnist"."""
    model, of = each.name.split("/")
    return f"{of}/{model}"


def train_words(each: Wanted, seed: int) -> list[str]:
    """Returns the words after `jaxvae train`."""
    return [*shlex.split(each.train), "--seed", str(seed)]


def smoke_words(each: Wanted, seed: int, images: Path) -> list[str]:
    """Returns those of a smoke run on the images of a file."""
    words = train_words(each, seed)
    kept = [
        SHORTER.get(before, word)
        for before, word in itertools.pairwise(["", *words])
        if not {before, word} & set(LEFT_OUT)
    ]
    return [*kept, *SHORT, "--data", f"npz:{images}"]


def enlarged_digits() -> dict[str, np.ndarray]:
    """Returns the embedded digits at the size of MNIST's: each pixel three times, and a margin."""
    source = data.load("digits", "train[:500]")
    found = source.read(np.arange(source.size))
    x = np.repeat(np.repeat(found["x"], 3, axis=1), 3, axis=2)
    return {"x": np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), "label": found["label"]}


def evaluate_words(each: Wanted, smoke: bool) -> list[str]:
    """Returns the words after `jaxvae evaluate RUN`: the noise is the same for every seed, and the last
    one of an option counts."""
    words = shlex.split(each.evaluate or "")
    few = [word for metric, more in FEW.items() if metric in words for word in more]
    return [*words, *(few if smoke else ())]


def protocol(each: Wanted) -> str:
    """Returns the protocol of a number of which every seed that is done has one."""
    words = shlex.split(each.evaluate or "")
    height, width, channels = shape(each.name.split("/")[1])
    size = f"{height}x{width}" + (" as three equal channels" if channels == 1 else "")
    return next(text for metric, text in PROTOCOLS.items() if metric in words).format(size)


def weights(each: Wanted) -> tuple[str, ...]:
    """Returns the weights that its metrics need, by the names of `jaxvae.metrics.weights`."""
    words = shlex.split(each.evaluate or "")
    return tuple(need for metric in words for need in WEIGHTS.get(metric, ()))


def options(each: Wanted) -> tuple[Preset, Options]:
    """Returns the preset of a model, and its options as the command line reads them."""
    name, *words = shlex.split(each.train)
    preset = PRESETS[name]
    return preset, parse(preset.options, [*words, "--workdir", "."], "jaxvae train")


def shape(of: str) -> tuple[int, ...]:
    """Returns the shape (H, W, C) of a data set's examples."""
    return sets.DATA_SETS[of].shape


def examples(of: str) -> int:
    """Returns how many examples a run of a data set trains on: its split is "train[:N]"."""
    found = re.fullmatch(r"train\[:(\d+)\]", data.splits(of).train)
    assert found, of
    return int(found[1])
