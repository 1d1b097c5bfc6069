"""A run of two stages: RUN/first and RUN/second are runs like any other, RUN itself is of the
composed model.

RUN/first is of the preset `vae` and can be used alone. RUN/second is trained on the latents of its
last step, which RUN/second/config.json records as "first_step": another first stage would be
another source of latents.
"""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae import config as configs
from jaxvae import models, nets, objectives, parallel, run, writers
from jaxvae import train as training
from jaxvae.checkpoint import Checkpoints
from jaxvae.config import VAE, Parts, TwoStageVAE
from jaxvae.data import Source
from jaxvae.errors import UserError
from jaxvae.types import Batch, Model


def first_stage(config: TwoStageVAE) -> VAE:
    """Returns the first stage as a run of its own, in RUN/first."""
    own = {name: getattr(config, name) for name in VAE.__dataclass_fields__}
    if (
        config.likelihood == "bernoulli" and config.gamma == "learned"
    ):  # the default; a Bernoulli has no variance
        own["gamma"] = VAE.gamma
    if own["gamma"] != "learned":
        own["gamma_learning_rate"] = None
    return VAE(**{**own, "workdir": config.workdir / "first"})


def second_stage(config: TwoStageVAE) -> Parts:
    """Returns model and optimiser of the second stage; its preprocessing comes with the latents."""
    pair = nets.second_stage(
        config.latent_dim,
        width=config.second_width,
        depth=config.second_depth,
        dtype=jnp.dtype(config.dtype),
    )
    beta = objectives.linear_warmup(config.beta_warmup) if config.beta_warmup else 1.0
    model = models.vae(
        *pair, latent_dim=config.latent_dim, likelihood="gaussian", gamma="learned", beta=beta
    )
    return Parts(model, configs.optimiser(config, model), None)


def build(config: TwoStageVAE, shape: tuple[int, ...], num_classes: int | None) -> Parts:
    """Returns the composed model and its preprocessing; it has no optimiser, each stage has its
    own."""
    first = configs.build(first_stage(config), shape, num_classes)
    both = models.two_stage(
        first.model,
        second_stage(config).model,
        latent_dim=config.latent_dim,
        noise_on_z=config.noise_on_z,
    )
    return Parts(both, None, first.preprocess)


def second_steps(config: TwoStageVAE, first: int, size: int) -> int:
    """Returns the length of the second stage: unless it is given twice the first, as published (Dai
    & Wipf 2019, section 5)."""
    if config.second_epochs is not None:
        return math.ceil(config.second_epochs * size / config.batch_size)
    return 2 * first if config.second_steps is None else config.second_steps


def fit(
    config: TwoStageVAE,
    source: Source,
    valid: Source,
    test: Source,
    steps: int,
    second: int,
    record: dict[str, Any],
) -> training.Fit:
    """Trains the first stage for `steps`, the second for `second` steps; returns the composed
    model's state, steps added up.

    Raises:
        UserError: for what either stage cannot do, before a folder is touched; and where the second
            stage was trained on the latents of a first stage of another step.
    """
    from jaxvae.commands import complete, fit_run

    folder, own = Path(config.workdir), first_stage(config)
    one, two = configs.build(own, source.shape, source.num_classes), second_stage(config)
    _refuse(config, one, two, source)
    at = first_step(folder)
    if at is not None and steps > at:
        raise _other_first(folder, at, steps)
    with run.folder(folder, record):
        if (
            at is None and jax.process_index() == 0
        ):  # what is measured there was of a second stage that is gone
            writers.cut_back(folder / "metrics.jsonl", 0)
        a = fit_run(
            own,
            one,
            source,
            valid,
            steps,
            own.workdir,
            configs.as_dict(own, source.shape, source.num_classes),
        )
        done = int(a.train_state.step)
        if at not in (None, done):
            raise _other_first(folder, at, done)
        complete(own, one.model, one.preprocess, a, test)
        first = _trained(one.model, a)
        print(
            f"{folder / 'second'}: {second:,} steps on the latents of {own.workdir} at step "
            f"{done:,}"
        )
        z, z_valid = (
            models.latents(*first, each, preprocess=one.preprocess, seed=config.seed)
            for each in (source, valid)
        )
        b = fit_run(
            config,
            two._replace(preprocess=z.preprocess),
            z.source,
            z_valid.source,
            second,
            folder / "second",
            {"first_step": done, "seed": config.seed},
        )
    params, state = models.join_stages(first, _trained(two.model, b))
    return training.Fit(
        training.TrainState(done + b.train_state.step, params, state, {}, None, b.train_state.rng),
        a.metrics,
    )


def load(workdir: Path, step: int, model: Model) -> run.Loaded:
    """Returns the composed `model` of a run: the second stage at `step`, the first at the step
    whose latents that learned.

    Raises:
        UserError: where that step of the first is gone.
    """
    config, *_ = configs.from_dict(run.read_config(workdir))
    at, first = first_step(workdir), workdir / "first"
    if at not in Checkpoints(first / "checkpoints", read_only=True).steps():
        raise UserError(
            f"{first} has no checkpoint of step {at} any more, whose latents the second stage was "
            "trained on: "
            f"delete {workdir / 'second'} and train it anew."
        )
    z = Batch(jax.ShapeDtypeStruct((2, config.latent_dim), jnp.float32))
    second = run.load(workdir / "second", step=step, model=second_stage(config).model, example=z)
    return run.Loaded(model, *models.join_stages(run.load(first, step=at), second))


def first_step(workdir: str | Path) -> int | None:
    """Returns the step of the first stage whose latents the second one was trained on, or None
    before it was begun."""
    folder = Path(workdir) / "second"
    return run.read_config(folder).get("first_step") if (folder / "config.json").is_file() else None


def _trained(model: Model, found: training.Fit) -> run.Loaded:
    state = found.train_state
    return run.Loaded(model, state.params if state.ema is None else state.ema, state.state)


def _refuse(config: TwoStageVAE, first: Parts, second: Parts, source: Source) -> None:
    """Raises `UserError` for what `fit` would refuse of either stage, so that it is said before the
    first is trained."""
    parallel.check_batch(config.batch_size, parallel.make_mesh())
    rng, ema = jax.random.key(config.seed), config.ema_decay is not None
    options = {
        "ema_decay": config.ema_decay,
        "accumulate": config.accumulate,
        "max_grad_norm": config.max_grad_norm,
    }

    def step(parts: Parts, batch: Batch):
        train_step = training.make_train_step(parts.model, parts.tx, **options)
        return train_step(training.init_state(parts.model, parts.tx, rng, batch, ema=ema), batch)

    x = first.preprocess(rng, source.read(training.first_indices(source, config.batch_size)))
    for parts, batch in (
        (first, x),
        (second, Batch(jnp.zeros((config.batch_size, config.latent_dim)))),
    ):
        jax.eval_shape(lambda parts=parts, batch=batch: step(parts, batch))


def _other_first(folder: Path, at: int, step: int) -> UserError:
    return UserError(
        f"{folder / 'second'} was trained on the latents of a first stage at step {at}, not "
        f"{step}: delete that folder to "
        "train it anew, keep the first's length to go on with the second alone (--second-steps), "
        "or use another --workdir."
    )
