"""What a distribution can do: a NamedTuple of arrays with these methods.

Abilities are protocols: any NamedTuple of that form will do, nothing derives from them, and
`isinstance` asks for one. They belong to the contracts (`types`, which has the same names).

Letters in shapes: `B` batch, `D` latent.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jax import Array


@runtime_checkable
class Distribution(Protocol):
    """What every distribution over x [B, ...] has."""

    def sample(self, rng: Array, /) -> Array:
        """Returns one draw [B, ...], differentiable in the distribution's arrays."""
        ...

    def log_prob(self, x: Array, /) -> Array:
        """Returns log p(x) [B], in nats."""
        ...


@runtime_checkable
class HasKL(Protocol):
    """A posterior with a closed form of its KL to the prior."""

    def kl(self) -> Array:
        """Returns KL(q || N(0, I)) [B], in nats."""
        ...


@runtime_checkable
class LatentDistribution(Distribution, HasKL, Protocol):
    """What q(z|x) over z [B, D] has."""


@runtime_checkable
class HasKLPerDim(Protocol):
    """A posterior whose KL is a sum over dimensions."""

    def kl_per_dim(self) -> Array:
        """Returns the KL of each dimension [B, D], which add up to `kl`: free bits need it."""
        ...


@runtime_checkable
class HasMean(Protocol):
    """A distribution that knows its mean."""

    @property
    def mean(self) -> Array:
        """The mean [B, ...]."""
        ...


@runtime_checkable
class HasVariance(Protocol):
    """A distribution that knows its variances."""

    @property
    def variance(self) -> Array:
        """The variance of each dimension [B, ...], of the mean's shape."""
        ...


@runtime_checkable
class HasPenalty(Protocol):
    """A posterior whose loss is not its KL."""

    def penalty(self, z: Array, batch_size: int | None = None, /) -> Array:
        """Returns what a VAE's loss pays [B] where that is not `kl`; z [B, D] is what was drawn."""
        ...


@runtime_checkable
class HasMetrics(Protocol):
    """A distribution that reports on itself."""

    def metrics(self) -> dict[str, Array]:
        """Returns what the distribution reports of itself, by name, each [B]."""
        ...


@runtime_checkable
class HasParts(Protocol):
    """A posterior of two latents, one beside the other in z [B, D]: the content, then the class."""

    @property
    def parts(self) -> tuple[HasMean, HasMean]:
        """The posteriors of content and class."""
        ...


@runtime_checkable
class HasFields(Protocol):
    """A NamedTuple: its arrays can be taken apart, stored, and put together again."""

    _fields: tuple[str, ...]

    def _replace(self, **arrays: Array) -> Any: ...
