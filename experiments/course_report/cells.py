"""The report's VAE at two latent sizes, its GAN and its flow.

elbo, rec, kl, iw_nll    of the VAE, nats per image
generator_loss, discriminator_loss    of the GAN, means over the batches of an epoch
bpd                      of the flow, bits per dimension of bytes
fid                      Fréchet distance of samples of the GAN and the flow, offline protocol; only
                         where SqueezeNet's weights are
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments import costs
from experiments.budgets import Budget, check_budget
from experiments.course_report import setting, train
from experiments.course_report.train import Case, Trained
from experiments.needs import Needs, Part, batch, counted, unfinished
from experiments.runner import Cell, Measure
from jaxvae.data.preprocess import make_preprocess
from jaxvae.metrics import fid, likelihood, weights
from jaxvae.metrics.protocols import EXTRACTORS, PROTOCOLS
from jaxvae.types import Model

FOLDER = Path(__file__).parent
PRECISION = "float32, highest"
PROTOCOL = "binarised by split and index, seed 0"
DISTANCE = PROTOCOLS["squeezenet"]
EXTRACTOR = EXTRACTORS[DISTANCE.extractor]
SMOKE_K, SMOKE_SAMPLES = 10, 16
SHAPE = (28, 28, 1)  # of MNIST
FIRST, LAST = "mean of the first epoch", "mean of the last epoch"
ENDS = {  # of the flow's curves
    "train": tuple(f"train, moved; {about}" for about in (FIRST, LAST)),
    "valid": ("valid, moved; after the first epoch", "valid, moved; at the end"),
}


def vae(case: Case) -> list[Measure]:
    """Returns the ELBO of both splits that are not trained on, and the likelihood of the test
    split, once."""
    found, k = train.trained(case), SMOKE_K if case.smoke else setting.K
    measures, trees = [], (found.params, found.state)
    terms = likelihood.make_terms(found.task.model)
    for split in ("valid", "test"):
        images = train.source(case, split)
        values = likelihood.per_example(terms, *trees, images, seed=case.seed, batch_size=500)
        for metric in ("elbo", "rec", "kl"):
            value = np.mean(values[metric], dtype=np.float64)
            protocol = f"{PROTOCOL}; {split}"
            measures.append(_measure(found, metric, protocol, value, images.size))
    values = likelihood.iw_bound(
        found.task.model, *trees, train.source(case, "test"), k=k, seed=case.seed
    )
    bound = likelihood.estimate(values, f"{PROTOCOL}; test; K={k}")
    return [*measures, _measure(found, "iw_nll", bound.protocol, -bound.value, bound.n)]


def gan(case: Case) -> list[Measure]:
    """Returns both losses of the first and the last epoch, and the distance of samples where it
    can be measured."""
    found, images = train.trained(case), train.source(case, "train")
    log = train.curves(case)["train"]
    measures = []
    for name in ("generator_loss", "discriminator_loss"):
        steps, values = log[name]
        for i, about in ((0, FIRST), (-1, LAST)):
            one = _measure(found, name, about + case.budget.suffix, values[i], images.size)
            measures.append(one._replace(steps=int(steps[i])))
    return [*measures, *_distance(case, found)]


def flow(case: Case) -> list[Measure]:
    """Returns bits per dimension in training and at its end, of images that are moved as in
    training and of images as they are, and the distance of samples where it can be measured."""
    found, curves = train.trained(case), train.curves(case)
    parts = {name: train.source(case, name) for name in ("train", "valid", "test")}
    measures = []
    for split, protocols in ENDS.items():
        steps, values = curves[split]["log_prob"]
        for i, protocol in zip((0, -1), protocols, strict=True):
            value, label = bits(values[i], parts[split].shape), protocol + case.budget.suffix
            one = _measure(found, "bpd", label, value, parts[split].size)
            measures.append(one._replace(steps=int(steps[i])))
    density, plain = likelihood.make_log_prob(found.task.model), make_preprocess("dequantised")
    for split in ("valid", "test"):
        values = likelihood.per_example(
            density,
            found.params,
            found.state,
            parts[split],
            preprocess=plain,
            batch_size=500,
            seed=case.seed,
        )["log_prob"]
        value = bits(np.mean(values, dtype=np.float64), parts[split].shape)
        protocol = f"{split}{case.budget.suffix}"
        measures.append(_measure(found, "bpd", protocol, value, parts[split].size))
    return [*measures, *_distance(case, found)]


def bits(log_prob: float, shape: tuple[int, ...]) -> float:
    """Returns bits per dimension of bytes, of a mean log p(x) in nats."""
    value = -float(log_prob)
    return likelihood.bits_per_dim(value, shape, pixels="dequantised", likelihood="exact")[0]


def _measure(found: Trained, metric: str, protocol: str, value: float, n: int) -> Measure:
    return Measure(metric, protocol, float(value), n, found.steps, PRECISION)


def _distance(case: Case, found: Trained) -> list[Measure]:
    if weights.find(EXTRACTOR.weights) is None:
        fetch = f"jaxvae weights fetch {EXTRACTOR.weights}"
        print(f"  fid: not measured, as its weights are not here: {fetch}", flush=True)
        return []
    protocol = DISTANCE.with_samples(SMOKE_SAMPLES) if case.smoke else DISTANCE
    sampler = fid.model_sampler(found.task.model, found.params, found.state)
    with jax.default_matmul_precision("highest"):
        d = fid.fid(
            functools.partial(train.source, case),
            sampler,
            protocol,
            progress=costs.announced("fid"),
            seed=case.seed,
        )
    return [_measure(found, "fid", d.protocol + case.budget.suffix, d.value, d.n)]


# ---- cells ---------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[[Case], list[Measure]]] = {"vae": vae, "gan": gan, "flow": flow}
PROTOCOLS_OF = {  # what a seed that is done has a number of, after all of its steps
    "vae": tuple(f"{PROTOCOL}; {end}" for end in ("valid", "test", f"test; K={setting.K}")),
    "gan": (LAST,),
    "flow": (ENDS["train"][1], ENDS["valid"][1], "valid", "test"),
}


def check(smoke: bool) -> None:
    """Raises `UserError` where the weights that samples are compared by are damaged."""
    path = weights.find(EXTRACTOR.weights)
    if path is not None:
        EXTRACTOR.from_state_dict(weights.read(path), str(path))


def bound_work(model: Model, images: int = 10_000, k: int = setting.K) -> float:
    """Returns the operations of the importance-weighted bound of so many images."""
    some = batch(100, *SHAPE)
    trees = jax.eval_shape(model.init, jax.random.key(0), some)

    def draws(n: int) -> float:
        bound = likelihood.make_iw_bound(model, n, chunk=n)
        return counted(bound, *trees, jax.random.key(0), some)

    one, two = draws(1), draws(2)  # the images are encoded once for all draws
    return images / some.x.shape[0] * (one + (k - 1) * (two - one))


def needs(kind: str, budget: Budget) -> Needs:
    """Returns what a cell needs; most of a VAE's time is the likelihood, much the same for both. A
    seed of GAN or flow lacks its distance only where there are weights to measure it by."""
    system, case = setting.system(kind), Case(kind, budget=budget)

    def epochs_and_steps() -> tuple[setting.Task, int]:
        task = train.task_of(case, SHAPE)
        return task, task.epochs * train.steps_of(task, setting.IMAGES[system])

    def parts() -> list[Part]:
        task, steps = epochs_and_steps()
        examples = {"x": jax.ShapeDtypeStruct((task.batch_size, *SHAPE), "uint8")}
        seen = jax.eval_shape(task.preprocess, jax.random.key(0), examples)
        return [Part(task.model, task.tx, seen, steps)]

    suffix, protocols = "" if system == "vae" else budget.suffix, PROTOCOLS_OF[system]
    if system != "vae" and weights.find(EXTRACTOR.weights) is not None:
        protocols = (*protocols, DISTANCE.label)
    return Needs(
        ("mnist",),
        steps=epochs_and_steps()[1],
        net="mlp" if system == "vae" else system,
        parts=parts,
        measuring=lambda: bound_work(train.task_of(case, SHAPE).model) if system == "vae" else 0.0,
        protocols=tuple(protocol + suffix for protocol in protocols),
        stopped=lambda seed: unfinished(case._replace(seed=seed).folder),
    )


def _cell(kind: str, budget: Budget) -> Cell:
    system = setting.system(kind)

    def run(seed: int, smoke: bool) -> list[Measure]:
        return MEASURES[system](Case(kind, seed, Budget() if smoke else budget, smoke))

    said = needs(kind, budget)
    if system == "vae":
        return Cell(f"mnist/{kind}", run, needs=said)
    return Cell(f"mnist/{kind}", run, check=check, needs=said)


# Budgets of runs that are planned: the published epochs, and what a CPU does in minutes.
VARIANTS = ({"budget": 1.0}, {"budget": 0.05})


def cells(budget: float) -> list[Cell]:
    """Returns the cells at one budget: the VAEs, which take minutes, at the whole one alone."""
    share = check_budget(budget, "epochs")
    kinds = [f"z{latent_dim}" for latent_dim in setting.LATENT_DIMS] if share.share == 1.0 else []
    return [_cell(kind, share) for kind in (*kinds, "gan", "flow")]
