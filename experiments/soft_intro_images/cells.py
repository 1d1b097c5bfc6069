"""The image cells of the Soft-IntroVAE paper, its Table 7, and narrow nets that a CPU can train.

fid                  of samples, under each protocol whose weights are there
fid_reconstruction   of reconstructions of training images, offline protocol alone
lpips                of test images and their reconstructions from posterior means
elbo, rec, kl        of the test split, nats per image: p(x|z) has the variance 1/2
auroc                of the test split against that of other data
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import costs
from experiments.needs import Needs, unfinished
from experiments.runner import Cell, Measure
from experiments.soft_intro_images import setting, train
from experiments.soft_intro_images.setting import PAIRS, PRECISION, STATS
from experiments.soft_intro_images.train import Case, Trained
from jaxvae.errors import UserError
from jaxvae.metrics import fid, lpips, ood, weights
from jaxvae.metrics.protocols import EXTRACTORS, Protocol
from jaxvae.models import verbs
from jaxvae.presets.conditions import of_classes
from jaxvae.train import evaluate
from jaxvae.train.statistics import OVER
from jaxvae.types import Batch

FOLDER = Path(__file__).parent
SMOKE_SAMPLES = 32


# ---- what is measured ----------------------------------------------------------------------------


def images(case: Case) -> list[Measure]:
    """Trains the model of a case and measures how its samples and reconstructions look."""
    found, measures = train.trained(case), []
    with jax.default_matmul_precision("highest"):
        for protocol in available(case):
            measures += _distances(case, found, protocol)
        return [*measures, *_looks(case, found), *_nats(case, found)]


def narrow(case: Case) -> list[Measure]:
    """Returns the same of a narrow net, and how it tells other data from its own, where those are
    there."""
    measures = images(case)
    try:
        train.source(case._replace(name=PAIRS[case.name], narrow=False), "test")
    except UserError as error:
        print(f"  no auroc: {error}", flush=True)
        return measures
    return measures + detection(case)


def detection(case: Case) -> list[Measure]:
    """Returns how well the model of a case tells its test images from those of other data, by two
    scores and with each kind of BatchNorm's statistics."""
    found, measures = train.trained(case), []
    inside = train.source(case, "test")
    outside = train.source(case._replace(name=PAIRS[case.name], narrow=False), "test")
    for score, name in setting.SCORES.items():
        for stats in STATS:
            state, mode = train.averages(case, stats)
            arrays, options = (found.model, found.params, state), {"stats": mode, "seed": case.seed}
            with jax.default_matmul_precision("highest"):
                seen = ood.detect(*arrays, inside, outside, score=score, **options)
            protocol = f"{name}, {stats} statistics{case.suffix}"
            n = seen.auroc.inside + seen.auroc.outside
            measures.append(Measure("auroc", protocol, seen.auroc.value, n, found.steps, PRECISION))
    return measures


def available(case: Case) -> list[Protocol]:
    """Returns the protocols whose weights are here; in smoke runs with few images.

    Raises:
        UserError: where those of none are, and for weights that are damaged.
    """
    found, missing = [], None
    for protocol in setting.protocols(case.published):
        extractor = EXTRACTORS[protocol.extractor]
        try:
            path = weights.locate(extractor.weights)
        except UserError as error:
            missing = error
            continue
        extractor.from_state_dict(weights.read(path), str(path))
        found.append(protocol.with_samples(SMOKE_SAMPLES) if case.smoke else protocol)
    if missing is not None and not found:
        raise missing
    return found


def _distances(case: Case, found: Trained, protocol: Protocol) -> list[Measure]:
    real = functools.partial(train.source, case)
    anew = protocol.generator in OVER
    state = train.averages(case, protocol.generator)[0] if anew else None
    sampler = fid.model_sampler(*found[:3], train.classes(case), reestimated=state)
    samplers = {"fid": (sampler, protocol)}
    if protocol.extractor == "squeezenet":
        of_data = protocol._replace(generator="reestimated") if anew else protocol
        samplers["fid_reconstruction"] = (_reconstructions(case, found), of_data)
    measures = []
    for name, (sampler, chosen) in samplers.items():
        d = fid.fid(real, sampler, chosen, progress=costs.announced(name), seed=case.seed)
        label = d.protocol + case.suffix
        measures.append(Measure(name, label, d.value, d.n, found.steps, PRECISION))
    return measures


def _reconstructions(case: Case, found: Trained) -> Callable:
    """Returns a sampler of reconstructions of training images drawn at random, from posterior
    means."""
    split, prepare = train.source(case, "train"), train.preprocess(case)

    @functools.partial(jax.jit, static_argnums=3)
    def reconstruct(params, state, examples, stats):
        encode, decode = verbs.both_ways(found.model)
        x, cond = prepare(jax.random.key(0), examples)
        mean = encode(params, state, x, cond, stats=stats).mean
        return jnp.clip(decode(params, state, mean, cond, stats=stats).mean, 0.0, 1.0)

    def sampler(rng, n: int, stats: str):
        index = np.asarray(jax.random.randint(rng, (n,), 0, split.size))
        state, mode = train.averages(case, stats)
        return reconstruct(found.params, state, split.read(index), mode)

    return sampler


def _looks(case: Case, found: Trained) -> list[Measure]:
    test, net, measures = train.source(case, "test"), lpips.load("squeeze"), []
    options = {"preprocess": train.preprocess(case), "seed": case.seed}
    for stats in STATS:
        state, mode = train.averages(case, stats)
        arrays = found.model, found.params, state
        values = lpips.of_reconstructions(*arrays, test, net, stats=mode, **options)
        protocol = f"squeeze, {stats} statistics{case.suffix}"
        value = float(values.mean(dtype=np.float64))
        measures.append(Measure("lpips", protocol, value, test.size, found.steps, PRECISION))
    return measures


def _nats(case: Case, found: Trained) -> list[Measure]:
    test, measures = train.source(case, "test"), []
    options = {"preprocess": train.preprocess(case), "seed": case.seed}
    for stats in ("running", "reestimated"):
        values = evaluate(
            found.model, found.params, train.averages(case, stats)[0], test, **options
        )
        protocol = f"nats, {stats} statistics{case.suffix}"
        measures += [
            Measure(name, protocol, values[name], test.size, found.steps, PRECISION)
            for name in ("elbo", "rec", "kl")
        ]
    return measures


def pictures(case: Case, stats: str, n: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns samples [n, ...] of a trained model, and test images and their reconstructions."""
    found, classes = train.trained(case), train.classes(case)
    encode, decode = verbs.both_ways(found.model)
    sample, (state, mode) = found.model.sample, train.averages(case, stats)
    assert sample is not None  # both methods have it

    @jax.jit
    def draw(params, state, rng, batch: Batch):
        cond = None if classes is None else of_classes(classes, n)
        q = encode(params, state, batch.x, batch.cond, stats=mode)
        x_hat = decode(params, state, q.mean, batch.cond, stats=mode).mean
        return sample(params, state, rng, n, cond, stats=mode), x_hat

    test, rng = train.source(case, "test"), jax.random.key(case.seed)
    batch = train.preprocess(case)(rng, test.read(np.arange(min(n, test.size))))
    x, x_hat = draw(found.params, state, rng, batch)
    return np.asarray(x), np.asarray(batch.x), np.asarray(x_hat)


# ---- cells ---------------------------------------------------------------------------------------


def _cell(name: str, case: Case, measure: Callable[[Case], list[Measure]]) -> Cell:
    """Returns a cell; before any is run, its data and weights are looked for."""

    def run(seed: int, smoke: bool) -> list[Measure]:
        return measure(case._replace(seed=seed, smoke=smoke))

    def stopped(seed: int) -> bool:
        return unfinished(case._replace(seed=seed).folder)

    def check(smoke: bool) -> None:
        chosen = case._replace(smoke=smoke)
        for split in ("train", "test"):
            train.source(chosen, split)
        if measure is detection:
            train.source(chosen._replace(name=PAIRS[case.name]), "test")
            return
        available(chosen)
        lpips.load("squeeze")

    published, looks = case.published, measure is not detection
    needs = Needs(
        _data(case, measure),
        (EXTRACTORS[setting.protocols(published)[0].extractor].weights,) if looks else (),
        accelerator=published.shrink == 1,
        steps=train.steps_of(published, train.size_of(published)),
        net=f"{train.shape_of(published)}, channels / {published.shrink}, {case.method}",
        parts=lambda: [train.part(case)],
        protocols=_protocols(case, measure),
        stopped=stopped,
        shares=case.label if published.shrink == 1 else "",
    )
    return Cell(name, run, check=check, needs=needs)


def _data(case: Case, measure: Callable[[Case], list[Measure]]) -> tuple[str, ...]:
    """Returns the data sets that a cell needs; folders of faces are looked for by its check."""
    names = [case.name, PAIRS[case.name]] if measure is detection else [case.name]
    chosen = [setting.PUBLISHED[name] for name in names]
    return tuple(each.data for each in chosen if each.side is None)


def _protocols(case: Case, measure: Callable[[Case], list[Measure]]) -> tuple[str, ...]:
    """Returns the protocols of which a seed that is done has a number: at the published size that
    of the paper."""
    if measure is detection:
        return tuple(f"{name}, {s} statistics" for name in setting.SCORES.values() for s in STATS)
    if case.published.shrink == 1:
        return (setting.protocols(case.published)[0].label,)
    return tuple(f"nats, {s} statistics{case.suffix}" for s in ("running", "reestimated"))


def _cells() -> list[Cell]:
    found = []
    for name in setting.PUBLISHED:
        case = Case(name, "soft_intro_vae")
        found.append(_cell(f"{name}/unconditional", case, images))
        if name in setting.LABELLED:
            conditional = case._replace(conditional=True)
            found.append(_cell(f"{name}/conditional", conditional, images))
    for name, other in PAIRS.items():
        for method in setting.METHODS:
            found.append(_cell(f"{name}-{other}/{method}", Case(name, method), detection))
    for name in setting.NARROW:
        for method in setting.METHODS:
            case = Case(name, method, narrow=True)
            found.append(_cell(f"{name}/narrow/{method}", case, narrow))
    return found


CELLS = _cells()
