"""Table 1 of the two-stage VAE: seventeen ways to sample, four data sets, every number with its
protocol; and variants of two of them.

fid                  of 10,000 samples (decoder means; z or u from the prior)
fid_reconstruction   of 10,000 reconstructions, z ~ q(z|x) of training images, as the released code takes them
elbo, rec, kl        of the test split, nats per image; for "two_stage" under u -> z -> x, for
                     "gaussian", "gmm" and "flow" under their own p(z)
latent_dim           the size of z that "two_stage_star" picks
gamma                the learned decoder variance (its square root is the released code's gamma)
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import costs
from experiments.budgets import Budget, check_budget
from experiments.needs import Needs, unfinished
from experiments.runner import Cell, Measure
from experiments.two_stage import gans, setting, toy, train
from experiments.two_stage.train import Case, Stage
from jaxvae import distributions, plots, writers
from jaxvae.data import sets
from jaxvae.metrics import fid, protocols, weights
from jaxvae.metrics.protocols import EXTRACTORS, PROTOCOLS, Protocol
from jaxvae.train import evaluate

FOLDER = Path(__file__).parent
PRECISION = "float32, highest"
SMOKE_SAMPLES = 64
BEST = "best latent_dim of each seed"  # by the test images that it is measured by


def run(case: Case, method: str, protocol: str) -> list[Measure]:
    """Trains what the cell needs, draws its samples, and measures it."""
    chosen = PROTOCOLS[protocol]
    # a tiny number of samples; the features are those of the protocol where its weights are there
    if case.smoke:
        chosen = chosen.with_samples(SMOKE_SAMPLES)
    if method == setting.PICKED:
        return _picked(case, chosen)
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


def _picked(case: Case, protocol: Protocol) -> list[Measure]:
    """Returns the distance of two stages at each size of z, the smallest of them, and that of the
    size whose samples are nearest to training images.

    The paper picks one size for each data set. Ours is picked for each seed, and the mean of such
    picks is at most that of the best size: it has a protocol of its own."""
    of_train, found, steps = protocol._replace(split="train"), {}, 0
    for latent_dim, variant in setting.OF_LATENT_DIM.items():
        one = case._replace(variant=variant)
        stage = train.method(one, "two_stage")
        steps += stage.steps
        sampler = fid.model_sampler(stage.model, stage.params, stage.state)
        with jax.default_matmul_precision("highest"):
            found[latent_dim] = [
                fid.fid(functools.partial(train.source, one), sampler, each, seed=case.seed)
                for each in (protocol, of_train)
            ]
    best = min(found, key=lambda n: found[n][0].value)
    picked = min(found, key=lambda n: found[n][1].value)
    measures = []

    def measure(metric: str, about: str, value: float, n: int) -> None:
        name = f"{protocol.label}, {about}{case.budget.suffix}"
        measures.append(Measure(metric, name, value, n, steps, PRECISION))

    for latent_dim, (d, _) in found.items():
        measure("fid", f"latent_dim {latent_dim}", d.value, d.n)
    for about, latent_dim in ((BEST, best), ("latent_dim picked on train", picked)):
        d = found[latent_dim][0]
        measure("fid", about, d.value, d.n)
        measure("latent_dim", about, latent_dim, d.n)
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
            plots.samples(where / f"{case.label}.{method}.png", np.asarray(images))
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


def needs(case: Case, method: str, protocol: str) -> Needs:
    """Returns what a cell needs: also the stage that it stands on."""
    runs = ["learned_gamma"] if method in setting.ON_STAGE_ONE else [method]
    runs += [method] if method in setting.ON_LATENTS else []
    cases = [case]
    if method == setting.PICKED:
        runs = ["learned_gamma", "two_stage"]
        cases = [case._replace(variant=variant) for variant in setting.OF_LATENT_DIM.values()]
    alone = {*setting.STAGE_ONE, *gans.SETTINGS} - {"learned_gamma"}
    named = {"joint", setting.PICKED, *setting.ON_LATENTS, *gans.SETTINGS}
    shape = "x".join(map(str, sets.DATA_SETS[setting.DATA[case.name]].shape))
    kind = method if method in named else "one stage"

    def stopped(seed: int) -> bool:
        return any(
            unfinished(each._replace(seed=seed).folder / run) for each in cases for run in runs
        )

    chosen, suffix = PROTOCOLS[protocol], case.budget.suffix
    label = f"{chosen.label}, {BEST}" if method == setting.PICKED else chosen.label
    return Needs(
        (setting.DATA[case.name],),
        (EXTRACTORS[chosen.extractor].weights,),
        steps=train.steps_of(case, method),
        net=f"{shape}, {case.variant} {kind}" if case.variant else f"{shape}, {kind}",
        parts=functools.partial(train.parts, case, method),
        protocols=(label + suffix,),
        stopped=stopped,
        shares="" if method in alone else case.label,
    )


# Options of runs that are planned: the published schedule, and what a CPU can do without weights of
# Inception.
VARIANTS = (
    {"protocol": "two-stage-released", "budget": 1.0},
    {"protocol": "squeezenet", "budget": 0.05},
)


def cells(protocol: str, budget: float) -> Sequence[Cell]:
    """Returns the cells of one protocol and budget."""
    share = check_budget(budget)
    protocols.checked(protocol)

    def one(name: str, variant: str, method: str) -> Cell:
        planned = Case(name, 0, share, False, variant)

        def measure(seed: int, smoke: bool) -> list[Measure]:
            budget = Budget() if smoke else share
            case = planned._replace(seed=seed, smoke=smoke, budget=budget)
            check(
                protocol
                # before anything is trained; and are the images there that samples are compared
                # with?
            )
            train.source(case, PROTOCOLS[protocol].split)
            return run(case, method, protocol)

        return Cell(planned.cell(method), measure, needs=needs(planned, method, protocol))

    listed = [
        one(name, variant, method)
        for variant, chosen in setting.VARIANTS.items()
        for name in chosen.data
        for method in chosen.methods
    ]
    return [*listed, *toy.CELLS]
