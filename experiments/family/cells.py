"""Every model of the zoo, there and on other data, trained by `jaxvae train` and measured by
`jaxvae evaluate`, seed after seed.

elbo, rec, kl, active_units    nats per image of the test split, one draw of z
iw_nll       -log p(x), the importance-weighted bound of K draws; nats per image
log_prob     exact, of a flow, with bpd, bits per dimension of bytes
completions  of a model that completes images
lpips        between images and their reconstructions, of models without a likelihood
fid          Fréchet distance of samples, protocol squeezenet, of models without an encoder

A run stays in `experiments.zoo`'s folder, that of seed 0 for the zoo to export.
"""

import functools
from pathlib import Path

from experiments import zoo
from experiments.family import setting
from experiments.needs import Needs, Part, parts_of, unfinished
from experiments.runner import Cell, Measure
from experiments.zoo import Wanted
from jaxvae import writers
from jaxvae.cli import use
from jaxvae.data import sets
from jaxvae.metrics import weights

FOLDER = Path(__file__).parent
EVALUATION = "evaluation.json"  # of a run


def folder(each: Wanted, seed: int, smoke: bool) -> Path:
    """Returns the folder of a run."""
    name = each.name + (f".seed{seed}" if seed else "")
    return FOLDER / "smoke" / "runs" / name if smoke else zoo.RUNS / name


def run(each: Wanted, seed: int, smoke: bool) -> list[Measure]:
    """Trains and measures, each by its command in a process of its own."""
    place = folder(each, seed, smoke)
    words = setting.train_words(each, seed)
    if smoke:
        images = place.with_name(f"{place.name}.npz")
        use.save_npz(images, **setting.enlarged_digits())
        words = setting.smoke_words(each, seed, images)
    zoo.command("train", *words, "--workdir", str(place), "--no-progress")
    zoo.command("evaluate", str(place), *setting.evaluate_words(each, smoke))
    found = writers.read_json(place / EVALUATION)
    steps, precision = found["step"], found["precision"]
    return [
        Measure(row["metric"], row["protocol"], row["value"], row["n"], steps, precision)
        for row in found["metrics"]
    ]


def check(each: Wanted, smoke: bool) -> None:
    """Raises `UserError` where weights of a metric are missing."""
    for name in setting.weights(each):
        weights.locate(name)


def parts(each: Wanted) -> list[Part]:
    """Returns what is trained, one stretch after the other."""
    preset, config = setting.options(each)
    shape = setting.shape(config.data)
    classes = sets.DATA_SETS[config.data].num_classes
    system = preset.build(config, shape, classes)
    size = setting.examples(config.data)
    (steps,) = config.lengths(size)
    return parts_of(system, steps, size, shape, classes, config.batch_size)


def needs(each: Wanted) -> Needs:
    """Returns what a cell needs. Of stages, one after the other, the last one's steps are counted, as an
    evaluation counts them, and what they train is not known before."""
    preset, config = setting.options(each)
    return Needs(
        (config.data,),
        setting.weights(each),
        steps=config.lengths(setting.examples(config.data))[-1],
        net=each.name.split("/")[0],
        parts=None if preset.stages else functools.partial(parts, each),
        protocols=(setting.protocol(each),),
        stopped=lambda seed: unfinished(folder(each, seed, False), EVALUATION),
    )


CELLS = [
    Cell(
        setting.name(each),
        functools.partial(run, each),
        check=functools.partial(check, each),
        needs=needs(each),
    )
    for each in setting.models()
]
