"""Training: `fit` for one model, `train_ensemble` for many at once, and the pure step for loops of
your own.

    plan          the phases of a run, and what happens after which step
    step          the one training step, made from any `Model`
    example       the examples that a training looks at before it begins
    optimisers    of each parameter group: states and updates
    loop          many steps in one compiled call
    driver        the loop that both entries share: plan, engine, recorder
    fit, ensemble    the entries; training and members are their engines
    recorder      log, warnings, checkpoints (checkpoint) in a run's folder (folder); signals stop it
    lease         one writer at a time, on a disk or in a bucket
    saving        a write behind the run that fails, heard of by all processes
    workarounds   what of Orbax and TensorStore is put right
    evaluate      means over a whole split
    statistics    batch statistics estimated anew

Knows models and sources of data, no preset and no command; imported by presets and commands.
"""

from jaxvae.train.ensemble import Ensemble, member, train_ensemble
from jaxvae.train.evaluate import evaluate, make_evaluator
from jaxvae.train.fit import Fit, fit
from jaxvae.train.plan import Phase, carry_over
from jaxvae.train.recorder import NonFinite
from jaxvae.train.statistics import make_reestimator, reestimate
from jaxvae.train.step import TrainState, init_state, make_eval_step, make_train_step

__all__ = [
    "Ensemble",
    "Fit",
    "NonFinite",
    "Phase",
    "TrainState",
    "carry_over",
    "evaluate",
    "fit",
    "init_state",
    "make_eval_step",
    "make_evaluator",
    "make_reestimator",
    "make_train_step",
    "member",
    "reestimate",
    "train_ensemble",
]
