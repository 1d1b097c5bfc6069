"""Trains a model on a source of data with every device there is. The parts are public too: the step
(`step`), the compiled loop (`loop`), the loop over both (`driver`)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jaxvae import parallel, processes
from jaxvae.data.preprocess import Augment, Preprocess, make_preprocess
from jaxvae.data.source import Source, check_source
from jaxvae.errors import UserError, check_count, check_kind, check_seed
from jaxvae.train import folder as folders
from jaxvae.train.checkpoint import fingerprint
from jaxvae.train.driver import drive
from jaxvae.train.optimisers import Optimisers
from jaxvae.train.plan import Phase, Plan, as_phases, check_parts, make_plan
from jaxvae.train.recorder import Recorder
from jaxvae.train.signals import listen
from jaxvae.train.step import TrainState
from jaxvae.train.training import Training
from jaxvae.types import Model


class Fit(NamedTuple):
    """What `fit` returns."""

    train_state: TrainState
    # the last values by split, e.g. metrics["valid"]["elbo"]
    metrics: dict[str, dict[str, float]]


@processes.together()
def fit(
    model: Model | Sequence[Phase],
    tx: Optimisers,
    source: Source,
    *,
    steps: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    workdir: str | Path | None = None,
    preprocess: Preprocess | None = None,
    augment: Augment | None = None,
    valid: Source | None = None,
    log_every: int = 100,
    eval_every: int | None = None,
    save_every: int | None = None,
    keep: int = 2,
    best: tuple[str, str] | None = None,
    patience: int | None = None,
    ema_decay: float | None = None,
    accumulate: int = 1,
    max_grad_norm: float | None = None,
    config: dict[str, Any] | folders.Identity | None = None,
    mesh: Mesh | None = None,
    steps_per_call: int | None = None,
    progress: bool = False,
    on_eval: Callable[[int, TrainState], None] | None = None,
    on_log: Callable[[int, str, dict[str, float]], None] | None = None,
) -> Fit:
    """Trains `model` on `source` with every device there is, and returns the final state and
    metrics.

    The batch of step t is a pure function of (seed, t), and so is all noise: a run that was stopped
    or killed and started again in the same `workdir` ends with the same bits as one that never was
    (on CPU; on GPU with deterministic kernels). Of several processes all call it equally often, and end
    with one that fails (`processes.together`).

    Args:
        model: a `Model` for `steps` steps, or a list of `Phase`s, each with what it brings of its
            own: optimisers, preprocessing, batch size, validation data, decay of the moving average, a
            larger net.
        tx: an optax transformation, or one for each parameter group.
        source: training data; on the devices where `source.arrays` is there, else read in blocks.
        steps: length of the run, with a single model.
        batch_size: of the global batch; a multiple of the number of devices.
        seed: of the parameters, the noise and the order of the data.
        workdir: gets `config.json`, `metrics.jsonl` and `checkpoints/`; None keeps nothing. Lines of
            `valid` have whose batch statistics they are measured with (`statistics.STATS`) as
            "stats", where nets have any.
        preprocess: (rng, examples) -> Batch, inside jit; default: bytes to [0, 1].
        augment: (rng, Batch) -> Batch of the same shapes, after it, of what is trained on alone:
            `data.preprocess.flip`.
        valid: evaluated every `eval_every` steps and at the end; its metric `best` chooses the best
            checkpoint.
        log_every: steps between lines of training means in the log.
        eval_every: steps between evaluations, each followed by a checkpoint (default: at the end
            alone).
        save_every: steps between further checkpoints (default: none).
        keep: newest checkpoints kept, beside the best one.
        best: (metric of `valid`, "max" or "min"); default: the ELBO, or the density where a model
            has one.
        patience: end the run after so many evaluations without a better `best`; the state returned
            is the last one, the best is in its checkpoint (default: never).
        ema_decay: keep a moving average of the parameters, and evaluate with it.
        accumulate, max_grad_norm: as in `make_train_step`.
        config: what describes this run, compared at resume. `fit` cannot see inside `model`, `tx`,
            `preprocess` and `augment`: name here what you vary in them (default: the data and the
            settings above).
        mesh: default: all devices.
        steps_per_call: compiled together; default: chosen by device and network.
        progress: show a bar with loss, images/s and the time left.
        on_eval: called as (step, train_state) after each evaluation; copy what you keep, its arrays
            are donated.
        on_log: called as (step, split, values) with every line of the log, by the first process.

    Raises:
        UserError: for settings that cannot work, a folder that is in use or holds another run, a
            full disk.
        NonFinite: where a metric stops being a number; names the step and the metric.
        signals.Stopped: after SIGTERM or Ctrl-C, once the state is saved (a SystemExit with its own
            code).
    """
    mesh = parallel.make_mesh() if mesh is None else mesh
    check_source("source", source)
    check_parts(preprocess, valid)
    check_kind("mesh", mesh, Mesh, "parallel.make_mesh(devices)")
    check_seed("seed", seed)
    check_count("keep", keep)
    if steps_per_call is not None:
        check_count("steps_per_call", steps_per_call)
    phases = as_phases(model, steps)
    plan = make_plan(
        phases,
        tx,
        preprocess=make_preprocess() if preprocess is None else preprocess,
        batch_size=batch_size,
        valid=valid,
        ema_decay=ema_decay,
        log_every=log_every,
        eval_every=eval_every,
        save_every=save_every,
    )
    options = {"accumulate": accumulate, "max_grad_norm": max_grad_norm}
    if config is None:
        config = _describe(source, plan, batch_size, seed, {"ema_decay": ema_decay, **options})
    identity = folders.identity(config)

    # Everything that can be refused is refused here, before a folder is touched.
    best = _best(plan.phases[-1].model, best)
    training = Training(
        plan, source, mesh, seed, options, best, steps_per_call, on_eval, on_log, augment, patience
    )
    with folders.hold(workdir, identity) as (folder, check), listen() as signals:
        kept = {"check": check, "keep": keep, "best": best, "progress": progress}
        recorder = Recorder(folder, identity.config, plan.total, **kept)
        train_state = drive(plan, training, recorder, signals)
        if folder is None and not fingerprint(train_state.params)[1]:
            raise recorder.non_finite(plan.total, ["parameters"])
    return Fit(train_state, training.last)


def _describe(
    source: Source, plan: Plan, batch_size: int, seed: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Returns what identifies a run whose caller does not say: its data and settings."""
    sizes = [phase.batch_size for phase in plan.phases]
    return {
        "data": source.name,
        "split": source.split,
        "size": source.size,
        "shape": source.shape,
        "batch_size": batch_size if len(set(sizes)) == 1 else sizes,
        "seed": seed,
        "phases": [phase.steps for phase in plan.phases[:-1]],
        **options,
    }


def _best(model: Model, best: tuple[str, str] | None) -> tuple[str, str]:
    """Returns the metric and direction that choose the best checkpoint."""
    if best is None:
        has_elbo = model.terms is not None or model.log_prob is None
        return ("elbo", "max") if has_elbo else ("log_prob", "max")
    if len(best) != 2 or best[1] not in ("max", "min"):
        raise UserError(f"best must be (metric, 'max') or (metric, 'min'), not {best!r}.")
    return best[0], best[1]
