"""A run of two stages: RUN/first and RUN/second are runs like any other, RUN itself is of the
composed model.

RUN/first is of the preset `vae` and can be used alone. RUN/second is trained on the latents of its
last step, which RUN/second/config.json records as "first_step": another first stage would be
another source of latents.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxvae import models, nets, parallel, paths, writers
from jaxvae.data import Source
from jaxvae.errors import UserError
from jaxvae.paths import PathLike
from jaxvae.presets import finish, parts, run, vae
from jaxvae.presets import load as loading
from jaxvae.presets.config import VAE, Data, System
from jaxvae.presets.load import Loaded
from jaxvae.presets.two_stage_options import FIRST, FIRST_STEP, SECOND, TwoStageVAE
from jaxvae.train import Fit, TrainState, init_state, make_train_step
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.example import first_batch
from jaxvae.train.folder import Identity, hold, read_config
from jaxvae.train.plan import check_patience
from jaxvae.types import Batch, Model


def first_stage(config: TwoStageVAE) -> VAE:
    """Returns the first stage as a run of its own, in RUN/first."""
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(VAE)}
    if config.likelihood == "bernoulli" and config.gamma == "learned":  # the default, in vain
        options["gamma"] = VAE.gamma
    if options["gamma"] != "learned":
        options["gamma_learning_rate"] = None
    return VAE(**{**options, "workdir": config.workdir / FIRST})


def second_stage(config: TwoStageVAE) -> System:
    """Returns model and optimiser of the second stage; its preprocessing comes with the latents."""
    pair = nets.second_stage(
        config.latent_dim,
        width=config.second_width,
        depth=config.second_depth,
        dtype=jnp.dtype(config.dtype),
    )
    options = {"likelihood": "gaussian", "gamma": "learned", "beta": parts.beta_of(config, 1.0)}
    model = models.vae(*pair, latent_dim=config.latent_dim, **options)
    second = {"lr_halve_every": config.second_period, "lr_steps": config.second_lr_steps}
    tx = parts.optimiser(dataclasses.replace(config, **second), model)
    return System(model, tx, latent_dim=config.latent_dim, latent="u")


def build(config: TwoStageVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the composed model and its preprocessing; the optimisers are the stages' own."""
    first = vae.build(first_stage(config), shape, num_classes)
    both = models.two_stage(
        first.model,
        second_stage(config).model,
        latent_dim=config.latent_dim,
        noise_on_z=config.noise_on_z,
    )
    return first._replace(model=both, tx=None, latent="u, at the mean of z")


def train(config: TwoStageVAE, system: System, data: Data, lengths: tuple[int, ...]) -> Fit:
    """Trains both stages for their lengths; returns the composed model's state, steps added up.

    Raises:
        UserError: for what either stage cannot do, before a folder is touched; and where the second
            stage was trained on the latents of a first stage of another step.
    """
    folder, options = paths.path(config.workdir), first_stage(config)
    first = vae.build(options, data.train.shape, data.train.num_classes)
    second = second_stage(config)
    _refuse(config, first, second, data.train)
    for steps in lengths:
        check_patience(config.patience, steps, run.eval_every(config, steps))
    known = first_step(folder)
    if known is not None and lengths[0] > known:
        if config.patience is None:
            raise _other_first(folder, known, lengths[0])
        options = dataclasses.replace(options, patience=None)  # it ended early, and stays so
        lengths = (known, *lengths[1:])
    with hold(folder, run.identity(config, data.train)):
        if known is None and jax.process_index() == 0:  # what was measured there is gone
            writers.cut_back(folder / "metrics.jsonl", 0)
        fit_first = run.train(options, first, data, lengths[:1])
        done = int(fit_first.train_state.step)
        if known not in (None, done):
            raise _other_first(folder, known, done)
        finish.complete(options, first, (), fit_first, data)
        print(
            f"{folder / SECOND}: {lengths[1]:,} steps on the latents of {options.workdir} at step "
            f"{done:,}"
        )
        trained = _trained(first.model, fit_first)
        z, z_valid = (
            models.latents(*trained, each, preprocess=first.preprocess, seed=config.seed)
            for each in (data.train, data.valid)
        )
        second = second._replace(preprocess=z.preprocess)
        identity = Identity({FIRST_STEP: done, "seed": config.seed})
        fit_second = run.fit_run(
            config, second, z.source, z_valid.source, lengths[1], folder / SECOND, identity
        )
    params, state = models.join_stages(trained, _trained(second.model, fit_second))
    last = fit_second.train_state
    both = TrainState(done + last.step, params, state, {}, None, last.rng)
    return Fit(both, fit_first.metrics)


def load(workdir: Path, step: int, config: TwoStageVAE, system: System) -> Loaded:
    """Returns the composed model of a run: the second stage at `step`, the first at the step whose
    latents that learned.

    Raises:
        UserError: where that step of the first is gone.
    """
    known, first = first_step(workdir), workdir / FIRST
    if known not in Checkpoints(first / "checkpoints", read_only=True).steps():
        raise UserError(
            f"{first} has no checkpoint of step {known} any more, whose latents the second stage "
            f"was trained on: delete {workdir / SECOND} and train it anew."
        )
    z = jax.eval_shape(lambda: Batch(jnp.zeros((2, config.latent_dim))))
    second = loading.load(workdir / SECOND, step=step, model=second_stage(config).model, example=z)
    both = models.join_stages(loading.load(first, step=known), second)
    return Loaded(system.model, *both)


def first_step(workdir: PathLike) -> int | None:
    """Returns the step of the first stage whose latents the second one was trained on, or None
    before it was begun."""
    folder = paths.path(workdir) / SECOND
    return read_config(folder).get(FIRST_STEP) if (folder / "config.json").is_file() else None


def _trained(model: Model, fit: Fit) -> Loaded:
    state = fit.train_state
    return Loaded(model, state.params if state.ema is None else state.ema, state.state)


def _refuse(config: TwoStageVAE, first: System, second: System, source: Source) -> None:
    """Raises `UserError` for what `fit` would refuse of either stage, so that it is said before the
    first is trained."""
    parallel.check_batch(config.batch_size, parallel.make_mesh())
    rng, ema = jax.random.key(config.seed), config.ema_decay is not None
    names = ("ema_decay", "accumulate", "max_grad_norm")
    options = {name: getattr(config, name) for name in names}
    x = first_batch(source, first.preprocess, config.batch_size)
    z = Batch(jnp.zeros((config.batch_size, config.latent_dim)))
    for model, tx, batch in ((first.model, first.tx, x), (second.model, second.tx, z)):
        train_step = make_train_step(model, tx, **options)

        def begin(model=model, tx=tx, batch=batch, train_step=train_step):
            return train_step(init_state(model, tx, rng, batch, ema=ema), batch)

        jax.eval_shape(begin)


def _other_first(folder: Path, at: int, step: int) -> UserError:
    return UserError(
        f"{folder / SECOND} was trained on the latents of a first stage at step {at}, not "
        f"{step}: delete that folder to train it anew, keep the first's length to go on with the "
        "second alone (--second-steps), or use another --workdir."
    )
