"""The contracts: what a net, a posterior, an objective and a model are. Read this page first.

Everything here is a value (a NamedTuple of pure functions or of arrays). Parameters, batch
statistics, optimiser state and random keys are data that functions take and return.

First the data that functions hand on, then the contracts, then the signatures of their functions.
Signatures are protocols: any function of that form will do, and nothing derives from them. So are
the abilities of a distribution (`abilities`), which are imported here under their own names.

Letters in shapes: `B` batch, `K` importance samples, `D` latent, `H W C` image (NHWC).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from jaxvae.abilities import Distribution as Distribution
from jaxvae.abilities import HasFields as HasFields
from jaxvae.abilities import HasKL as HasKL
from jaxvae.abilities import HasKLPerDim as HasKLPerDim
from jaxvae.abilities import HasMean as HasMean
from jaxvae.abilities import HasMetrics as HasMetrics
from jaxvae.abilities import HasParts as HasParts
from jaxvae.abilities import HasPenalty as HasPenalty
from jaxvae.abilities import HasVariance as HasVariance
from jaxvae.abilities import LatentDistribution as LatentDistribution

Array = jax.Array
Tree = Any  # a pytree of arrays
Params = dict[str, Tree]  # parameter group -> tree, e.g. {"encoder": ..., "decoder": ...}
# parameter group -> what is not differentiated (BatchNorm averages, power iterations)
State = dict[str, Tree]

# ---- data ------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """What a loss sees: data `x [B, ...]` and, for conditional models, `cond [B, ...]`."""

    x: Array
    cond: Array | None = None


class Mean(NamedTuple):
    """A mean that is still a sum, so that means of parts add up exactly; `float` divides."""

    total: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride] - nobody counts in this tuple

    def __float__(self) -> float:
        return float(self.total) / float(self.count) if float(self.count) else float("nan")


class Terms(NamedTuple):
    """The parts of an evidence lower bound, per example, in nats: elbo = -(rec + kl)."""

    rec: Array  # [B]  -log p(x|z), z ~ q(z|x)
    kl: Array  # [B]  KL(q(z|x) || p(z))
    extra: dict[str, Array] = {}  # noqa: RUF012 - more to log: [B], or scalars of parameters


class Aux(NamedTuple):
    """What a loss hands on beside its value."""

    state: State  # the state after this loss, threaded in the algorithm's order
    metrics: dict[str, Array] = {}  # noqa: RUF012 - name -> [B] or scalar; the step takes the mean
    carry: Any = None  # given to the next objective of the same step


# ---- contracts -------------------------------------------------------------------------------


class Net(NamedTuple):
    """A network as a pair of pure functions: of `jaxvae.nets.from_linen`, or of your own."""

    init: NetInit  # (rng, x, cond=None) -> (params, state)
    apply: NetApply  # (params, state, x, *, cond=None, rng=None, train) -> (y, state)
    # (params, state, x, *, cond=None) -> (y, state whose BatchNorm averages are the moments of this
    # pass alone; `nets.pool` takes them over several); None: it has no such averages
    moments: NetMoments | None = None


class Posterior(NamedTuple):
    """How an encoder's output becomes q(z|x)."""

    size: PosteriorSize  # (latent_dim) -> number of encoder outputs
    build: PosteriorBuild  # (encoder output [B, size]) -> distribution over [B, D]


class Likelihood(NamedTuple):
    """How a decoder's output becomes p(x|z), perhaps with parameters: the group "likelihood"."""

    build: LikelihoodBuild  # (params, decoder output [B, ...]) -> distribution over x
    init: LikelihoodInit | None = None  # () -> params; None: it has none
    check: LikelihoodCheck | None = None  # (x) -> None; raises for data not of it
    metrics: LikelihoodMetrics | None = None  # (params) -> {name: scalar} to log


class Objective(NamedTuple):
    """One loss of a model and the parameter groups that it moves.

    The first objective gets `carry=None`, each later one what the one before it handed on (which
    must then run at every step).
    """

    wrt: tuple[str, ...]  # parameter groups that this loss may move, e.g. ("encoder",)
    loss: Loss  # (params, state, rng, batch, step, carry) -> (loss [B], Aux)
    coupled: bool = False  # loss is a scalar over the global batch (gather with parallel.gather)
    every: int = 1  # moves its groups when step % every == phase
    phase: int = 0
    name: str = "loss"  # what the loss is called in the metrics; unique within a model


class Model(NamedTuple):
    """A system: every field but `init` and `objectives` may be None (a GAN does not encode).

    `encode`, `decode`, `terms`, `sample`, `log_prob` and `log_weight` are for evaluation: they
    return no state and take `stats="running"` (BatchNorm's averages) or `"batch"` (this batch's
    own; never on padded batches).
    """

    init: ModelInit  # (rng, batch) -> (params, state)
    objectives: tuple[Objective, ...] = ()
    encode: Encode | None = None  # (params, state, x, cond=None) -> distribution over z [B, D]
    decode: Decode | None = None  # (params, state, z, cond=None) -> distribution over x [B, ...]
    terms: EvaluateTerms | None = None  # (params, state, rng, batch) -> Terms
    sample: Sample | None = None  # (params, state, rng, n, cond=None) -> x [n, ...]
    log_prob: LogProb | None = None  # (params, state, x, cond=None) -> [B], where it is exact
    # (params, state, rng, batch) -> [B], log p(x, z) - log q(z|x) of one draw of all latents;
    # None: that of encode, decode and p(z) = N(0, I)
    log_weight: LogWeight | None = None
    # (params, state, rng, batch, *, over="data") -> state, as `Net.moments`, of a pass of each net:
    # the encoder's over x, the decoder's over z ~ q(z|x) ("data") or over the prior ("samples")
    moments: Moments | None = None
    # how this model is evaluated where nobody says otherwise: "reestimated" where its losses send
    # batches of several kinds through the same BatchNorm, so that its averages are of none
    stats: str = "running"
    # each: (means by name that training logged, line by line) -> what is wrong and to do, or None
    watch: tuple[Watch, ...] = ()
    prior: Prior | None = None  # (rng, n) -> z [n, D]; of a model that decodes and does not encode


# ---- signatures ------------------------------------------------------------------------------


class NetInit(Protocol):
    """How a net's parameters start."""

    def __call__(self, rng: Array, x: Array, cond: Array | None = None, /) -> tuple[Tree, Tree]:
        """Returns (params, state) for inputs like x [B, ...] and cond [B, ...]."""
        ...


class NetApply(Protocol):
    """One pass through a net."""

    def __call__(
        self,
        params: Tree,
        state: Tree,
        x: Array,
        /,
        *,
        cond: Array | None = None,
        rng: Array | None = None,
        train: bool,
    ) -> tuple[Array, Tree]:
        """Returns the output [B, ...] and the state after this pass."""
        ...


class NetMoments(Protocol):
    """One pass through a net, by whose moments it is to be evaluated."""

    def __call__(
        self, params: Tree, state: Tree, x: Array, /, *, cond: Array | None = None
    ) -> tuple[Array, Tree]:
        """Returns the output [B, ...] as with `stats="batch"`, and the state."""
        ...


class PosteriorSize(Protocol):
    """How wide an encoder's output is."""

    def __call__(self, latent_dim: int, /) -> int:
        """Returns how many outputs the encoder needs."""
        ...


class PosteriorBuild(Protocol):
    """From an encoder's output to q(z|x)."""

    def __call__(self, output: Array, /) -> LatentDistribution:
        """Returns q(z|x) over z [B, D] from the encoder's output [B, size]."""
        ...


class LikelihoodBuild(Protocol):
    """From a decoder's output to p(x|z)."""

    def __call__(self, params: Tree, output: Array, /) -> Distribution:
        """Returns p(x|z) over x [B, ...] from the decoder's output [B, ...]; params may be None."""
        ...


class LikelihoodInit(Protocol):
    """How a likelihood's parameters start."""

    def __call__(self) -> Tree:
        """Returns the parameters that the likelihood starts from."""
        ...


class LikelihoodCheck(Protocol):
    """Which data a likelihood takes."""

    def __call__(self, x: Array, /) -> None:
        """Raises `UserError` for concrete data x [B, ...] that it gives no density."""
        ...


class LikelihoodMetrics(Protocol):
    """What a likelihood reports of its parameters."""

    def __call__(self, params: Tree, /) -> dict[str, Array]:
        """Returns what to log of the parameters, by name: scalars."""
        ...


class Watch(Protocol):
    """What looks at a training's log."""

    def __call__(self, rows: Sequence[Mapping[str, float]], /) -> str | None:
        """Returns what is wrong and to do, or None, from the means that were logged: the last 1,000
        lines of training in this phase, the newest at the end."""
        ...


class Loss(Protocol):
    """A loss of an objective."""

    def __call__(
        self, params: Params, state: State, rng: Array, batch: Batch, step: Array, carry: Any, /
    ) -> tuple[Array, Aux]:
        """Returns the loss to minimise, [B] (of a coupled one []), and what it hands on."""
        ...


class ModelInit(Protocol):
    """How a model's parameters start."""

    def __call__(self, rng: Array, batch: Batch, /) -> tuple[Params, State]:
        """Returns parameters and state, by group, for batches like this one."""
        ...


class Encode(Protocol):
    """From data to q(z|x)."""

    def __call__(
        self,
        params: Params,
        state: State,
        x: Array,
        /,
        cond: Array | None = None,
        *,
        stats: str = "running",
    ) -> Any:
        """Returns q(z|x), a `Distribution` over z [B, D]."""
        ...


class Decode(Protocol):
    """From latents to p(x|z)."""

    def __call__(
        self,
        params: Params,
        state: State,
        z: Array,
        /,
        cond: Array | None = None,
        *,
        stats: str = "running",
    ) -> Any:
        """Returns p(x|z), a `Distribution` over x [B, ...]."""
        ...


class EvaluateTerms(Protocol):
    """The evidence lower bound, part by part."""

    def __call__(
        self, params: Params, state: State, rng: Array, batch: Batch, /, *, stats: str = "running"
    ) -> Terms:
        """Returns rec [B] and kl [B] of one draw of z."""
        ...


class Sample(Protocol):
    """Draws of a model."""

    def __call__(
        self,
        params: Params,
        state: State,
        rng: Array,
        n: int,
        /,
        cond: Array | None = None,
        *,
        stats: str = "running",
    ) -> Array:
        """Returns x [n, ...]; cond is [n, ...]."""
        ...


class LogProb(Protocol):
    """An exact density."""

    def __call__(
        self,
        params: Params,
        state: State,
        x: Array,
        /,
        cond: Array | None = None,
        *,
        stats: str = "running",
    ) -> Array:
        """Returns log p(x) [B], in nats."""
        ...


class Prior(Protocol):
    """Draws of latents."""

    def __call__(self, rng: Array, n: int, /) -> Array:
        """Returns z ~ p(z) [n, D]."""
        ...


class LogWeight(Protocol):
    """An importance weight."""

    def __call__(
        self, params: Params, state: State, rng: Array, batch: Batch, /, *, stats: str = "running"
    ) -> Array:
        """Returns log p(x, z) - log q(z|x) [B] of one draw of all latents z."""
        ...


class Moments(Protocol):
    """One pass through all nets of a model, by whose moments it is to be evaluated."""

    def __call__(
        self, params: Params, state: State, rng: Array, batch: Batch, /, *, over: str = "data"
    ) -> State:
        """Returns the state of this pass."""
        ...
