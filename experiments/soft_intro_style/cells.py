"""The style-based cells of the Soft-IntroVAE paper, and narrow nets that a CPU can train.

fid                  of samples with noise, under each protocol whose weights are there
lpips                of test images and their reconstructions from posterior means
elbo, rec, kl        of the test split, nats per image: pixels in [0, 1], p(x|z) has the variance 1/2
"""

import functools
from pathlib import Path

import jax
import numpy as np

from experiments import costs
from experiments.needs import Needs, unfinished
from experiments.runner import Cell, Measure
from experiments.soft_intro_style import setting, train
from experiments.soft_intro_style.setting import PRECISION
from experiments.soft_intro_style.train import Case, Trained
from jaxvae.errors import UserError
from jaxvae.metrics import fid, lpips, weights
from jaxvae.metrics.protocols import EXTRACTORS, Protocol
from jaxvae.train import evaluate

FOLDER = Path(__file__).parent
SMOKE_SAMPLES = 32


def images(case: Case) -> list[Measure]:
    """Trains the model of a case and measures its samples and reconstructions."""
    found = train.trained(case)
    with jax.default_matmul_precision("highest"):
        measures = [_distance(case, found, protocol) for protocol in available(case)]
        return [*measures, *_looks(case, found), *_nats(case, found)]


def available(case: Case) -> list[Protocol]:
    """Returns the protocols whose weights are here; in smoke runs with few images.

    Raises:
        UserError: for weights that are damaged.
    """
    found = []
    for protocol in setting.protocols(case.setting):
        extractor = EXTRACTORS[protocol.extractor]
        path = weights.find(extractor.weights)
        if path is None:
            print(f"  no {protocol.label}: its weights are not here", flush=True)
            continue
        extractor.from_state_dict(weights.read(path), str(path))
        found.append(protocol.with_samples(SMOKE_SAMPLES) if case.smoke else protocol)
    return found


def _distance(case: Case, found: Trained, protocol: Protocol) -> Measure:
    real = functools.partial(train.source, case)
    sampler = fid.model_sampler(*found[:3], None)
    d = fid.fid(real, sampler, protocol, progress=costs.announced("fid"), seed=case.seed)
    return Measure("fid", d.protocol + case.suffix, d.value, d.n, found.steps, PRECISION)


def _looks(case: Case, found: Trained) -> list[Measure]:
    try:
        net = lpips.load("squeeze")
    except UserError as error:
        print(f"  no lpips: {error}", flush=True)
        return []
    test, prepare = train.source(case, "test"), train.system(case).preprocess
    arrays = found.model, found.params, found.state
    values = lpips.of_reconstructions(*arrays, test, net, preprocess=prepare, seed=case.seed)
    value = float(values.mean(dtype=np.float64))
    return [Measure("lpips", f"squeeze{case.suffix}", value, test.size, found.steps, PRECISION)]


def _nats(case: Case, found: Trained) -> list[Measure]:
    test, protocol = train.source(case, "test"), f"nats{case.suffix}"
    options = {"preprocess": train.system(case).preprocess, "seed": case.seed}
    values = evaluate(*found[:3], test, **options)
    return [
        Measure(name, protocol, values[name], test.size, found.steps, PRECISION)
        for name in ("elbo", "rec", "kl")
    ]


def _cell(name: str) -> Cell:
    """Returns a cell; before any is run, its data, and at the published size weights, are looked for."""
    case = Case(name)
    chosen = case.setting
    protocol = setting.protocols(chosen)[0]

    def run(seed: int, smoke: bool) -> list[Measure]:
        return images(case._replace(seed=seed, smoke=smoke))

    def check(smoke: bool) -> None:
        for split in ("train", "test"):
            train.source(case._replace(smoke=smoke), split)
        if not smoke and not chosen.is_narrow:
            weights.locate(EXTRACTORS[protocol.extractor].weights)

    needs = Needs(
        (chosen.data,) if chosen.is_narrow else (),
        () if chosen.is_narrow else (EXTRACTORS[protocol.extractor].weights,),
        accelerator=not chosen.is_narrow,
        steps=train.steps_of(case),
        net=f"style, {name}",
        parts=lambda: train.parts(case),
        protocols=(f"nats{case.suffix}",) if chosen.is_narrow else (protocol.label,),
        stopped=lambda seed: unfinished(case._replace(seed=seed).folder),
    )
    return Cell(name, run, check=check, needs=needs)


CELLS = [_cell(name) for name in setting.SETTINGS]
