"""Table 1 of the two-stage VAE: nine ways to sample, four data sets, every number with its
protocol.

fid                  of 10,000 samples (decoder means; z or u from the prior)
fid_reconstruction   of 10,000 reconstructions, z ~ q(z|x) of training images, as the released code takes them
elbo, rec, kl        of the test split, nats per image; for "two_stage" under u -> z -> x, for
                     "gaussian", "gmm" and "flow" under their own p(z)
gamma                the learned decoder variance (its square root is the released code's gamma)
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import costs
from experiments.needs import Needs, unfinished
from experiments.runner import Cell, Measure
from experiments.two_stage import setting, toy, train
from experiments.two_stage.setting import Budget
from experiments.two_stage.train import Case, Stage
from jaxvae import distributions, plots, writers
from jaxvae.data import sets
from jaxvae.metrics import fid, protocols, weights
from jaxvae.metrics.protocols import EXTRACTORS, PROTOCOLS, Protocol
from jaxvae.train import evaluate

FOLDER = Path(__file__).parent
PRECISION = "float32, highest"
SMOKE_SAMPLES = 64


def run(case: Case, method: str, protocol: str) -> list[Measure]:
    """Trains what the cell needs, draws its samples, and measures it."""
    chosen = PROTOCOLS[protocol]
    # a tiny number of samples; the features are those of the protocol where its weights are there
    if case.smoke:
        chosen = chosen.with_samples(SMOKE_SAMPLES)
    stage = train.method(case, method)
    measures = _distances(case, method, stage, chosen)
    if stage.model.terms is not None:
        test, protocol = train.source(case, "test"), "nats" + case.budget.suffix
        with jax.default_matmul_precision("highest"):
            found = evaluate(
                stage.model,
                stage.params,
                stage.state,
                test,
                preprocess=train.PREPROCESS,
                seed=case.seed,
            )
        measures += [
            Measure(name, protocol, found[name], test.size, stage.steps, PRECISION)
            for name in ("elbo", "rec", "kl")
        ]
        if method == "learned_gamma":
            name = "decoder variance" + case.budget.suffix
            measures.append(
                Measure("gamma", name, _gamma(case, stage), test.size, stage.steps, PRECISION)
            )
    return measures


def _gamma(case: Case, stage: Stage) -> float:
    """Returns the decoder's variance, as the model itself has it."""
    p = stage.model.decode(stage.params, stage.state, jnp.zeros((1, case.latent_dim)))
    return float(jnp.exp(jnp.max(p.logvar)))


def _distances(case: Case, method: str, stage: Stage, protocol: Protocol) -> list[Measure]:
    real = functools.partial(train.source, case)
    sampler = fid.model_sampler(stage.model, stage.params, stage.state)
    with jax.default_matmul_precision("highest"):
        if case.seed == 0 and not case.smoke:
            where = FOLDER / "figures" / case.budget.folder
            writers.make_folder(where)
            images = sampler(jax.random.key(case.seed), 100, "running")
            plots.samples(where / f"{case.name}.{method}.png", np.asarray(images))
        found = [
            (
                "fid",
                fid.fid(real, sampler, protocol, progress=costs.announced("fid"), seed=case.seed),
            )
        ]
        if method in setting.STAGE_ONE:
            name, sampler = "fid_reconstruction", _reconstructions(case, stage)
            found.append(
                (
                    name,
                    fid.fid(
                        real, sampler, protocol, progress=costs.announced(name), seed=case.seed
                    ),
                )
            )
    return [
        Measure(name, d.protocol + case.budget.suffix, d.value, d.n, stage.steps, PRECISION)
        for name, d in found
    ]


def _reconstructions(case: Case, stage: Stage):
    """Returns a sampler of reconstructions of training images, drawn at random; z ~ q(z|x), not its
    mean."""
    images = train.source(case, "train")

    @functools.partial(jax.jit, static_argnums=4)
    def reconstruct(params, state, rng, x, stats):
        q = stage.model.encode(params, state, x.astype(jnp.float32) / 255, stats=stats)
        return jnp.clip(
            stage.model.decode(params, state, distributions.sample(rng, q), stats=stats).mean,
            0.0,
            1.0,
        )

    def sampler(rng, n: int, stats: str):
        rng_index, rng_z = jax.random.split(rng)
        x = images.read(np.asarray(jax.random.randint(rng_index, (n,), 0, images.size)))["x"]
        return reconstruct(stage.params, stage.state, rng_z, x, stats)

    return sampler


def check(protocol: str) -> None:
    """Raises `UserError` for an unknown protocol, and one whose weights are not here, damaged, or
    of another model."""
    extractor = EXTRACTORS[protocols.checked(protocol).extractor]
    path = weights.locate(extractor.weights)
    extractor.from_state_dict(weights.read(path), str(path))


def needs(name: str, method: str, share: Budget, protocol: str) -> Needs:
    """Returns what a cell needs: also the stage that it stands on."""
    parts = functools.partial(train.parts, name, method, share)
    runs = ["learned_gamma"] if method in setting.ON_STAGE_ONE else [method]
    runs += [method] if method in setting.ON_LATENTS else []
    larger = {"joint", *setting.ON_LATENTS}
    shape = "x".join(map(str, sets.DATA_SETS[setting.DATA[name]].shape))

    def stopped(seed: int) -> bool:
        folder = Case(name, seed, share, False).folder
        return any(unfinished(folder / run) for run in runs)

    return Needs(
        (setting.DATA[name],),
        (EXTRACTORS[protocols.checked(protocol).extractor].weights,),
        steps=train.steps_of(name, method, share),
        net=f"{shape}, {method if method in larger else 'one stage'}",
        parts=parts,
        protocols=(PROTOCOLS[protocol].label + share.suffix,),
        stopped=stopped,
        shares="" if method in setting.STAGE_ONE and method != "learned_gamma" else name,
    )


# Options of runs that are planned: the published schedule, and what a CPU can do without weights of
# Inception.
VARIANTS = (
    {"protocol": "two-stage-released", "budget": 1.0},
    {"protocol": "squeezenet", "budget": 0.05},
)


def cells(protocol: str, budget: float) -> Sequence[Cell]:
    """Returns the cells of one protocol and budget."""
    share = setting.check_budget(budget)
    protocols.checked(protocol)

    def one(name: str, method: str) -> Cell:
        def measure(seed: int, smoke: bool) -> list[Measure]:
            case = Case(name, seed, Budget() if smoke else share, smoke)
            check(
                protocol
                # before anything is trained; and are the images there that samples are compared
                # with?
            )
            train.source(case, PROTOCOLS[protocol].split)
            return run(case, method, protocol)

        return Cell(f"{name}/{method}", measure, needs=needs(name, method, share, protocol))

    return [*(one(name, method) for name in setting.DATA for method in setting.METHODS), *toy.CELLS]
