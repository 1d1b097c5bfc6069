"""What an optimiser's options become: an optax transformation, and the schedule of its rate."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxvae.errors import UserError
from jaxvae.presets.config import WITH_BETA1, Options
from jaxvae.types import Array

DECOUPLED_DECAY = 0.01  # of adamw, as in PyTorch
FINAL = {"cosine": 0.0, "linear": 0.0, "exponential": 0.01}  # share of the rate that is left


def transformation(
    config: Options, rate: float, *, every: int = 1, b1: float | None = None, decay: bool = True
) -> optax.GradientTransformation:
    """Returns the optimiser of these options with a rate of its own.

    Args:
        rate: before warm-up and schedule.
        every: steps for one update of what it moves: the optimiser counts updates, options count
            steps.
        b1: first decay of Adam and its kin, where a preset has one (default: 0.9).
        decay: False for what is no weight, such as entries of a table, and has no weight decay.
    """
    learning_rate = rate_of(config, rate, every)
    options: dict[str, Any] = {}
    if b1 is not None and config.optimizer in WITH_BETA1:
        options["b1"] = b1
    if config.momentum is not None:
        options["momentum"] = config.momentum
    if config.optimizer == "adamw":
        amount = DECOUPLED_DECAY if config.weight_decay is None else config.weight_decay
        amount = amount if decay else 0.0
        return optax.adamw(learning_rate, weight_decay=amount, mask=is_weight, **options)
    tx = getattr(optax, config.optimizer)(learning_rate, **options)
    return with_decay(tx, (config.weight_decay or 0.0) if decay else 0.0)


def with_decay(tx: optax.GradientTransformation, weight_decay: float) -> Any:
    """Returns `tx` of gradients to which weights times `weight_decay` are added; biases have none."""
    if weight_decay == 0.0:
        return tx
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=is_weight), tx)


def is_weight(params: Any) -> Any:
    """Returns True for every leaf that weight decay is for: matrices and kernels, not biases,
    scales and single numbers."""
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


def rate_of(config: Options, rate: float, every: int = 1) -> Any:
    """Returns the learning rate of these options: `rate`, or a schedule of the number of updates.

        rate(t) = rate * min(1, (t + 1) / warmup) * down(t)

        constant      down = 1, or (1/2)^floor(t / lr_halve_every)
        linear        down = 1 - (1 - final) p
        cosine        down = final + (1 - final) (1 + cos(pi p)) / 2
        exponential   down = final^p

    where p goes from 0 at t = warmup to 1 at t = lr_steps, and stays there; t counts steps of the
    run from 0.

    Raises:
        UserError: for a schedule whose length nobody has said.

    Source: cosine, Loshchilov & Hutter 2017 (arXiv 1608.03983), Eq. 5, without restarts; warm-up,
    Goyal et al. 2017 (arXiv 1706.02677), section 2.2.
    """
    down = _down(config, every)
    if not config.warmup:
        return rate if down is None else lambda count: rate * down(count)

    def warm(count: Array) -> Array:
        up = jnp.minimum(1.0, (_float(count) * every + 1.0) / config.warmup)
        return rate * up * (1.0 if down is None else down(count))

    return warm


def _down(config: Options, every: int) -> Callable[[Array], Any] | None:
    """Returns the share of the rate at a number of updates, or None where it stays."""
    kind, warmup = config.lr_schedule, config.warmup
    if kind == "constant":
        if config.lr_halve_every is None:
            return None
        period = max(1, round(config.lr_halve_every / every))
        return optax.exponential_decay(1.0, period, 0.5, staircase=True)
    if config.lr_steps is None:
        raise UserError(f"--lr-schedule {kind} needs the step at which it ends: --lr-steps N.")
    config.check_warmup("--lr-steps", config.lr_steps)
    length = config.lr_steps - warmup
    final = FINAL[kind] if config.lr_final is None else config.lr_final

    def down(count: Array) -> Array:
        p = jnp.clip((_float(count) * every - warmup) / length, 0.0, 1.0)
        if kind == "linear":
            return 1.0 - (1.0 - final) * p
        if kind == "cosine":
            return final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * p))
        return final**p

    return down


def _float(count: Array) -> Array:
    return jnp.asarray(count, jnp.float32)
