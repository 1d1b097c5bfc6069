"""Distributions as NamedTuples of arrays, and the functions of them that a VAE needs.

A distribution has methods `sample(rng)` and `log_prob(x)`, a posterior also `kl()`; axis 0 is the
batch and all other axes are one event, so log-densities and divergences are sums over everything
but the batch: `[B]`, in nats. A user's own distribution needs only those methods; what else it may
be able to do is in `jaxvae.abilities` (`HasMean`, `HasVariance`, `HasKLPerDim`, `HasPenalty`, ...).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import noise, parallel
from jaxvae.abilities import Distribution, HasKL, HasMetrics, HasPenalty, LatentDistribution
from jaxvae.arithmetic import bounded_tanh, differences, excess, log_one_minus_square, recursion
from jaxvae.errors import UserError, check_count, concrete, unknown
from jaxvae.types import Array, Posterior

LOG_2PI = math.log(2.0 * math.pi)
CONVENTIONS = ("paper", "readme", "released")  # of the AR(1) posterior
SATURATED = 0.999  # |rho| above which a posterior is counted as saturated


def _sum(x: Array) -> Array:
    """Sums over all axes but the batch: [B, ...] -> [B]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def _check_event(name: str, have: tuple[int, ...], want: tuple[int, ...]) -> None:
    if have != want:
        raise UserError(f"{name}.log_prob: x has shape {have}, the distribution {want}.")


class Normal(NamedTuple):
    """N(mean, diag(exp(logvar))): `mean [B, ...]`, `logvar` of its shape or broadcasting to it."""

    mean: Array
    logvar: Array

    @property
    def variance(self) -> Array:
        """exp(logvar): shape of `mean`."""
        return jnp.broadcast_to(jnp.exp(self.logvar), self.mean.shape)

    def sample(self, rng: Array) -> Array:
        """Returns z = mean + exp(logvar / 2) eps, eps ~ N(0, I): shape of `mean`."""
        return self.mean + jnp.exp(0.5 * self.logvar) * noise.normal(
            rng, self.mean.shape, self.mean.dtype
        )

    def log_prob(self, x: Array) -> Array:
        """Returns log N(x; mean, exp(logvar)) [B].

        -1/2 sum ((x - mean)^2 / exp(logvar) + logvar + log 2 pi)
        """
        _check_event("Normal", x.shape, self.mean.shape)
        logvar = jnp.broadcast_to(self.logvar, self.mean.shape)
        return -0.5 * _sum(jnp.square(x - self.mean) * jnp.exp(-logvar) + logvar + LOG_2PI)

    def kl_per_dim(self) -> Array:
        """Returns KL(N(mean_j, exp(logvar_j)) || N(0, 1)) for every dimension: shape of `mean`."""
        logvar = jnp.broadcast_to(self.logvar, self.mean.shape)
        return 0.5 * (jnp.square(self.mean) + excess(logvar))

    def kl(self) -> Array:
        """Returns KL(q || N(0, I)) [B] (Kingma & Welling 2014, appendix B)."""
        return _sum(self.kl_per_dim())


def _check_ar1(mean: Array, rho: Array, logvar: Array) -> None:
    """Raises `UserError` unless shapes are [B, D], [B, 1], [B, 1] and a known rho is in (-1, 1)."""
    if mean.ndim != 2 or 0 in mean.shape or not rho.shape == logvar.shape == (mean.shape[0], 1):
        raise UserError(
            f"an AR(1) normal needs mean [B, D], rho [B, 1] and logvar [B, 1], not {mean.shape}, "
            f"{rho.shape}, {logvar.shape}."
        )
    if concrete(rho) and not np.all(np.abs(np.asarray(rho)) < 1.0):
        raise UserError(
            "rho is a correlation and must lie inside (-1, 1): take it from `bounded_tanh`."
        )


def _rho_metrics(q: "AR1Normal | ReadmeAR1 | ReleasedAR1") -> dict[str, Array]:
    """Returns |rho| and whether it is saturated (above `SATURATED`), each [B]."""
    size = jnp.abs(q.rho[:, 0])
    return {"rho_abs": size, "rho_saturated": (size > SATURATED).astype(size.dtype)}


class AR1Normal(NamedTuple):
    """N(mean, Sigma), Sigma_ij = exp(logvar) rho^|i-j|, over the latent dimensions.

    A stationary first-order autoregression: `mean [B, D]`, `rho [B, 1]` inside (-1, 1),
    `logvar [B, 1]`. Finite, with finite gradients, up
    to |rho| = 1 - 1e-6 in float32. rho-VAE paper, section 3, Eqs. 4 to 7.
    """

    mean: Array
    rho: Array
    logvar: Array
    metrics = _rho_metrics

    @property
    def variance(self) -> Array:
        """The variances [B, D] of `sample`, all s."""
        return Normal(self.mean, self.logvar).variance

    def sample(self, rng: Array) -> Array:
        """Returns z = mean + zeta [B, D] (Eq. 7).

        zeta_1 = sd eps_1,   zeta_j = rho zeta_{j-1} + sd sqrt(1 - rho^2) eps_j,   sd = exp(logvar / 2)

        The recursion in the paper's text lacks sqrt(1 - rho^2) (`ReadmeAR1`).
        """
        _check_ar1(*self)
        eps = noise.normal(rng, self.mean.shape, self.mean.dtype)
        fresh = jnp.sqrt((1.0 - self.rho) * (1.0 + self.rho))
        e = jnp.concatenate([eps[:, :1], fresh * eps[:, 1:]], axis=-1)
        return self.mean + jnp.exp(0.5 * self.logvar) * recursion(self.rho, e)

    def log_prob(self, x: Array) -> Array:
        """Returns log N(x; mean, Sigma) [B], by the independent parts e_j of the recursion.

        e_1 = (x - mean)_1,   e_j = (x - mean)_j - rho (x - mean)_{j-1}

        Their variances are exp(logvar), then exp(logvar) (1 - rho^2).
        """
        _check_event("AR1Normal", x.shape, self.mean.shape)
        _check_ar1(*self)
        log_fresh = log_one_minus_square(self.rho)
        e = differences(self.rho, x - self.mean)
        e = jnp.concatenate([e[:, :1], jnp.exp(-0.5 * log_fresh) * e[:, 1:]], axis=-1)
        return (
            Normal(jnp.zeros_like(e), self.logvar).log_prob(e)
            - 0.5 * (x.shape[-1] - 1) * log_fresh[:, 0]
        )

    def kl(self) -> Array:
        """Returns KL(q || N(0, I)) [B], Eq. 6, with s = exp(logvar).

        1/2 (|mean|^2 + D (s - 1 - log s) - (D - 1) log(1 - rho^2))
        """
        _check_ar1(*self)
        correlation = (self.mean.shape[-1] - 1) * log_one_minus_square(self.rho)[:, 0]
        return Normal(self.mean, self.logvar).kl() - 0.5 * correlation


class ReadmeAR1(NamedTuple):
    """What the rho-VAE paper's text and README sample, the recursion without sqrt(1 - rho^2).

        z = mean + zeta,   zeta_j = rho zeta_{j-1} + sd eps_j,   zeta_1 = sd eps_1

    Its covariance is not Sigma of Eq. 4: var_j = s (1 - rho^(2j)) / (1 - rho^2), and for i <= j
    Cov_ij = rho^(j-i) var_i. `log_prob` and `kl` are exact for it; the loss (`penalty`) has the
    paper's closed form, the KL of `AR1Normal`. Fields as in `AR1Normal`.
    """

    mean: Array
    rho: Array
    logvar: Array
    metrics = _rho_metrics

    def sample(self, rng: Array) -> Array:
        """Returns z = mean + zeta [B, D]."""
        _check_ar1(*self)
        return _sample_recursion(rng, *self)

    @property
    def variance(self) -> Array:
        """The variances [B, D] of `sample`, which grow with j."""
        return jnp.exp(self.logvar) * _variances(self.mean, self.rho)

    def log_prob(self, x: Array) -> Array:
        """Returns the exact log-density [B] of `sample`; the recursion has determinant 1."""
        _check_event("ReadmeAR1", x.shape, self.mean.shape)
        _check_ar1(*self)
        return _log_prob_recursion(x, *self)

    def kl(self) -> Array:
        """Returns the exact KL(q || N(0, I)) [B].

        1/2 (|mean|^2 + s sum_j (1 - rho^(2j)) / (1 - rho^2) - D - D log s)
        """
        _check_ar1(*self)
        return _kl_recursion(*self)

    def penalty(self, z: Array, batch_size: int | None = None) -> Array:
        """Returns what the loss pays [B]: Eq. 6 of the paper, not the KL of what is sampled."""
        return AR1Normal(*self).kl()


class ReleasedAR1(NamedTuple):
    """What the rho-VAE's released code computes: a random walk, and a KL mostly divided by B.

        z = mean + zeta,   zeta_j = zeta_{j-1} + sd eps_j,   zeta_1 = sd eps_1

    rho is never used in sampling: Cov_ij = s min(i, j). `log_prob` and `kl` are exact for that;
    `penalty` is the loss of the code. Fields as in `AR1Normal`.
    """

    mean: Array
    rho: Array
    logvar: Array
    metrics = _rho_metrics

    def sample(self, rng: Array) -> Array:
        """Returns z = mean + zeta [B, D]."""
        _check_ar1(*self)
        return _sample_recursion(rng, self.mean, jnp.ones_like(self.rho), self.logvar)

    @property
    def variance(self) -> Array:
        """The variances [B, D] of `sample`: s j."""
        return jnp.exp(self.logvar) * _variances(self.mean, jnp.ones_like(self.rho))

    def log_prob(self, x: Array) -> Array:
        """Returns the exact log-density [B] of `sample`."""
        _check_event("ReleasedAR1", x.shape, self.mean.shape)
        _check_ar1(*self)
        return _log_prob_recursion(x, self.mean, jnp.ones_like(self.rho), self.logvar)

    def kl(self) -> Array:
        """Returns the exact KL(q || N(0, I)) [B].

        1/2 (|mean|^2 + s D (D + 1) / 2 - D - D log s)
        """
        _check_ar1(*self)
        return _kl_recursion(self.mean, jnp.ones_like(self.rho), self.logvar)

    def penalty(self, z: Array, batch_size: int | None = None) -> Array:
        """Returns what the loss pays [B].

        1/2 |mean|^2 + (1/B) 1/2 (D (s - 1 - log s) - (D - 1) log(1 - rho^2))

        The code sums |mean|^2 over batch and dimensions before it takes the mean over the batch, so
        only the other terms are divided. B is `batch_size`, by default that of the (global) batch.
        """
        size = self.mean.shape[0] * parallel.axis_size() if batch_size is None else batch_size
        of_mean = 0.5 * _sum(jnp.square(self.mean))
        return of_mean + AR1Normal(jnp.zeros_like(self.mean), self.rho, self.logvar).kl() / size


Gaussian = Normal | AR1Normal | ReadmeAR1 | ReleasedAR1


def _sample_recursion(rng: Array, mean: Array, rho: Array, logvar: Array) -> Array:
    eps = noise.normal(rng, mean.shape, mean.dtype)
    return mean + jnp.exp(0.5 * logvar) * recursion(rho, eps)


def _log_prob_recursion(x: Array, mean: Array, rho: Array, logvar: Array) -> Array:
    e = differences(rho, x - mean)
    return Normal(jnp.zeros_like(e), logvar).log_prob(e)


def _variances(mean: Array, rho: Array) -> Array:
    """Returns var_j / s [B, D], where var_1 = s and var_j = rho^2 var_{j-1} + s."""
    return recursion(jnp.square(rho), jnp.ones_like(mean))


def _kl_recursion(mean: Array, rho: Array, logvar: Array) -> Array:
    """Returns 1/2 sum (mean_j^2 + var_j - 1 - log s) [B].

    It adds up (s - 1 - log s) and (var_j - s), neither below 0.
    """
    inherited = jnp.square(rho) * jnp.pad(_variances(mean, rho)[:, :-1], ((0, 0), (1, 0)))
    return Normal(mean, logvar).kl() + 0.5 * _sum(jnp.exp(logvar) * inherited)


class Bernoulli(NamedTuple):
    """Independent pixels with p(x = 1) = sigmoid(logits), `logits [B, ...]`.

    `log_prob` also takes grey values in [0, 1]: then it is the negative cross-entropy that VAE
    papers report, not a normalised density (see docs/losses.md).
    """

    logits: Array

    @property
    def mean(self) -> Array:
        """The probability of a one: shape of `logits`."""
        return jax.nn.sigmoid(self.logits)

    def sample(self, rng: Array) -> Array:
        """Returns zeros and ones: shape of `logits`."""
        u = noise.uniform(rng, self.logits.shape, self.logits.dtype)
        return (u < self.mean).astype(self.logits.dtype)

    def log_prob(self, x: Array) -> Array:
        """Returns sum x log p + (1 - x) log(1 - p) [B], finite for any finite logits."""
        _check_event("Bernoulli", x.shape, self.logits.shape)
        # softplus, spelled so that XLA shares exp(-|logits|) with the gradient: faster on
        # CPU (where, not maximum, whose gradient at 0 is 1/2 while that of abs is 1: together they
        # must be 1/2)
        relu = jnp.where(self.logits >= 0, self.logits, 0.0)
        softplus = relu + jnp.log1p(jnp.exp(-jnp.abs(self.logits)))
        return _sum(x * self.logits - softplus)


def sample(rng: Array, dist: Distribution) -> Array:
    """Returns one reparametrised draw from `dist`, of its event shape `[B, ...]`."""
    return dist.sample(rng)


def log_prob(dist: Distribution, x: Array) -> Array:
    """Returns log p(x) in nats, summed over the event: [B]. Goes up when `dist` is better."""
    return dist.log_prob(x)


def kl(dist: HasKL) -> Array:
    """Returns KL(dist || N(0, I)) in nats: [B]."""
    return dist.kl()


def kl_at(dist: Distribution, z: Array) -> Array:
    """Returns KL(dist || N(0, I)) in nats, [B]: its closed form, or without one (`HasKL`) its estimate
    log q(z) - log N(z; 0, I) at z [B, D], a draw from `dist`."""
    if isinstance(dist, HasKL):
        return dist.kl()
    return dist.log_prob(z) - Normal(jnp.zeros_like(z), jnp.zeros(())).log_prob(z)


def penalty(dist: HasKL | HasPenalty, z: Array, batch_size: int | None = None) -> Array:
    """Returns what a VAE's loss pays for a posterior [B]: its KL, or its own `penalty`.

    Args:
        dist: a posterior, with a `penalty` where its convention pays other than the KL to
            N(0, I) (`HasPenalty`).
        z: the sample that the decoder saw [B, D].
        batch_size: what the released rho-VAE divides by; default: the size of the (global) batch.
    """
    return dist.penalty(z, batch_size) if isinstance(dist, HasPenalty) else dist.kl()


def metrics(dist: Distribution) -> dict[str, Array]:
    """Returns what a posterior reports of itself, by name, each [B]; {} unless `HasMetrics`."""
    return dist.metrics() if isinstance(dist, HasMetrics) else {}


def _normal(output: Array) -> Normal:
    mean, logvar = jnp.split(output, 2, axis=-1)
    return Normal(mean, logvar)


def ar1(convention: str = "paper") -> Posterior:
    """Returns the AR(1) posterior: D + 2 encoder outputs, mean [D], then tanh^-1(rho), then logvar.

    Args:
        convention: "paper" is the correct AR(1) (`AR1Normal`), "readme" the recursion that the
            paper prints (`ReadmeAR1`), "released" what its code computes (`ReleasedAR1`).

    Raises:
        UserError: for another convention.
    """
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    kind = (AR1Normal, ReadmeAR1, ReleasedAR1)[CONVENTIONS.index(convention)]

    def build(output: Array) -> LatentDistribution:
        if jnp.finfo(output.dtype).bits < 32:  # these round MAX_RHO to 1
            output = output.astype(jnp.float32)
        mean, rho, logvar = output[:, :-2], output[:, -2:-1], output[:, -1:]
        return kind(mean, bounded_tanh(rho), logvar)

    return Posterior(size=lambda latent_dim: latent_dim + 2, build=build)


POSTERIORS: dict[str, Posterior] = {
    # the encoder's first D outputs are the mean, the last D the log-variance
    "normal": Posterior(size=lambda latent_dim: 2 * latent_dim, build=_normal),
    "ar1": ar1(),
    "ar1-readme": ar1("readme"),
    "ar1-released": ar1("released"),
}


def posterior(value: str | Posterior) -> Posterior:
    """Returns the `Posterior` called `value` ("normal", "ar1", ...), or `value` if it is one.

    Raises:
        UserError: for a name that is not in `POSTERIORS`.
    """
    if isinstance(value, Posterior):
        return value
    if value not in tuple(POSTERIORS):
        raise unknown("posterior", value, POSTERIORS)
    return POSTERIORS[value]


def check_posterior(q: Posterior, latent_dim: int, output: Array) -> None:
    """Raises `UserError` unless an encoder's `output` is [B, q.size(latent_dim)]."""
    check_count("latent_dim", latent_dim)
    want = q.size(latent_dim)
    if output.ndim != 2 or output.shape[-1] != want:
        raise UserError(
            f"the encoder returns shape {output.shape}, but this posterior with "
            f"latent_dim={latent_dim} needs [batch, {want}]: build the encoder with out={want}."
        )
