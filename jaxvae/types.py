"""The contracts: what a net, a posterior, an objective and a model are. Read this page first.

Everything here is a value (a NamedTuple of pure functions or of arrays). Parameters, batch
statistics, optimiser state and random keys are data that functions take and return.

Letters in shapes: `B` batch, `K` importance samples, `D` latent, `H W C` image (NHWC).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Tree = Any  # a pytree of arrays
Params = dict[str, Tree]  # parameter group -> tree, e.g. {"encoder": ..., "decoder": ...}
State = dict[
    str, Tree
]  # the same for what is not differentiated (BatchNorm averages, power iterations)


class Batch(NamedTuple):
    """What a loss sees: data `x [B, ...]` and, for conditional models, `cond [B, ...]`."""

    x: Array
    cond: Array | None = None


class Mean(NamedTuple):
    """A mean that is still a sum, so that means of parts add up exactly: `float(m)` is total /
    count."""

    total: Array
    count: Array

    def __float__(self) -> float:
        return float(self.total) / float(self.count) if float(self.count) else float("nan")


class Terms(NamedTuple):
    """The parts of an evidence lower bound, per example, in nats: elbo = -(rec + kl)."""

    rec: Array  # [B]  -log p(x|z), z ~ q(z|x)
    kl: Array  # [B]  KL(q(z|x) || p(z))
    extra: dict[str, Array] = {}  # noqa: RUF012 - more [B] quantities worth logging (scalars: of parameters, not data)


class Aux(NamedTuple):
    """What a loss hands on beside its value."""

    state: State  # the state after this loss, threaded in the algorithm's order
    metrics: dict[str, Array] = {}  # noqa: RUF012 - name -> [B] or scalar; averaged over the batch by the step
    carry: Any = None  # given to the next objective of the same step


class Net(NamedTuple):
    """A network as a pair of pure functions. `jaxvae.nets.from_linen` makes one; users may bring
    their own."""

    init: Callable  # (rng, x, cond=None) -> (params, state)
    apply: Callable  # (params, state, x, *, cond=None, rng=None, train) -> (y, state)


class Posterior(NamedTuple):
    """How an encoder's output becomes q(z|x)."""

    size: Callable  # (latent_dim) -> number of encoder outputs
    build: Callable  # (encoder output [B, size]) -> distribution over [B, D]


class Objective(NamedTuple):
    """One loss of a model and the parameter groups that it moves.

    `loss(params, state, rng, batch, step, carry) -> (loss [B], Aux)`; the first objective gets
    `carry=None`, each later one what the one before it handed on (which must then run at every
    step).
    """

    wrt: tuple[str, ...]  # parameter groups that this loss may move, e.g. ("encoder",)
    loss: Callable
    coupled: bool = (
        False  # the loss is a scalar over the global batch (gather with parallel.gather)
    )
    every: int = 1  # moves its groups when step % every == phase
    phase: int = 0
    name: str = "loss"  # what the loss is called in the metrics; unique within a model


class Model(NamedTuple):
    """A system: every field but `init` and `objectives` may be None (a GAN does not encode).

    `encode`, `decode`, `terms`, `sample`, `log_prob` and `log_weight` are for evaluation: they
    return no state and take `stats="running"` (BatchNorm's averages) or `"batch"` (this batch's
    own; never on padded batches).
    """

    init: Callable  # (rng, batch) -> (params, state)
    objectives: tuple[Objective, ...] = ()
    encode: Callable | None = None  # (params, state, x, cond=None) -> distribution over z [B, D]
    decode: Callable | None = None  # (params, state, z, cond=None) -> distribution over x [B, ...]
    terms: Callable | None = None  # (params, state, rng, batch) -> Terms
    sample: Callable | None = None  # (params, state, rng, n, cond=None) -> x [n, ...]
    log_prob: Callable | None = (
        None  # (params, state, x, cond=None) -> [B], exact, where there is one
    )
    log_weight: Callable | None = (
        None  # (params, state, rng, batch) -> log p(x, z) / q(z|x) [B] of one draw of all latents;
    )
    # None: that of encode, decode and p(z) = N(0, I)
