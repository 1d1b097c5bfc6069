"""The rho-VAE: a VAE whose posterior is a first-order autoregression over the latent dimensions.

    q(z|x) = N(mean, s [rho^|i-j|]),   loss = rec + KL,   KL = 1/2 (|mean|^2 + D (s - 1 - log s) - (D - 1) log(1 - rho^2))

Three conventions, from the paper's mathematics to its code; what each one samples and pays is in
`jaxvae.distributions` (`AR1Normal`, `ReadmeAR1`, `ReleasedAR1`). Source: "rho-VAE: Autoregressive
parametrization of the VAE encoder" (2019), section 3.
"""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from jaxvae import distributions
from jaxvae.abilities import LatentDistribution
from jaxvae.distributions import CONVENTIONS, POSTERIORS, Normal, ReleasedAR1
from jaxvae.errors import UserError, unknown
from jaxvae.models.vae import vae
from jaxvae.types import Array, Model, Net, Posterior

NETS = ("vanilla", "cnn", "beta", "info")  # of the paper's experiments (`jaxvae.nets.rho`)


def rho_vae(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    convention: Literal["paper", "readme", "released"] = "paper",
    **options: Any,
) -> Model:
    """Returns a VAE with the AR(1) posterior, in one of three conventions.

    | convention | samples                                            | the loss pays                                       |
    | ---------- | -------------------------------------------------- | --------------------------------------------------- |
    | paper      | N(mean, s rho^abs(i-j)), the correct AR(1)         | its KL                                              |
    | readme     | zeta_j = rho zeta_(j-1) + sd eps_j, as printed     | the KL of "paper"                                   |
    | released   | zeta_j = zeta_(j-1) + sd eps_j, a random walk      | 1/2 abs(mean)^2 + (the rest of "paper") / batch size |

    Whatever the loss pays, the metrics `kl` and `elbo` are exact for what is sampled, so `elbo` is
    a bound under every convention. `loss` is what is minimised. `rho_abs` and `rho_saturated` (the
    share of examples with |rho| > 0.999) tell where rho went. Under "released" B is the batch that
    the loss sees, over all devices; with `accumulate` that is one part of it.

    Args:
        encoder: x [B, ...] -> [B, D + 2]: mean, tanh^-1(rho), log s.
        decoder, latent_dim, options: as in `vae` (free bits are not defined for it).
        convention: see above.

    Raises:
        UserError: for an unknown convention, a posterior beside it, and as `vae`.
    """
    if "posterior" in options:
        raise UserError(
            f"rho_vae's posterior is AR(1): use convention, one of {', '.join(CONVENTIONS)}, or "
            "`vae`."
        )
    return vae(
        encoder, decoder, latent_dim=latent_dim, posterior=distributions.ar1(convention), **options
    )


class SampleForMean(NamedTuple):
    """A posterior whose loss has the *sample* where the KL has the mean, as in released nets.

    `drawn` is what is sampled; its log-density and KL are exact. `paid` is what the loss pays for,
    with z in the place of its mean.
    """

    drawn: Normal | ReleasedAR1
    paid: Normal | ReleasedAR1

    @property
    def mean(self) -> Array:
        """The mean [B, D]."""
        return self.drawn.mean

    @property
    def variance(self) -> Array:
        """The variances [B, D] of what is sampled."""
        return self.drawn.variance

    def sample(self, rng: Array) -> Array:
        """Returns z [B, D]."""
        return self.drawn.sample(rng)

    def log_prob(self, x: Array) -> Array:
        """Returns the log-density of what is sampled [B]."""
        return self.drawn.log_prob(x)

    def kl(self) -> Array:
        """Returns the KL of what is sampled [B]."""
        return self.drawn.kl()

    def penalty(self, z: Array, batch_size: int | None = None) -> Array:
        """Returns what the loss pays [B]."""
        return distributions.penalty(self.paid._replace(mean=z), z, batch_size)

    def metrics(self) -> dict[str, Array]:
        """Returns what `drawn` reports."""
        return distributions.metrics(self.drawn)


# (net, correlated) -> the least variance; the heads of other nets give logvar itself
LEAST_VARIANCE = {("cnn", False): 0.02, ("info", False): 0.01, ("info", True): 0.02}


def net_posterior(net: str, posterior: str) -> Posterior:
    """Returns the posterior called `posterior` on the heads of one of the paper's four nets.

    The heads of "info", and of "cnn" with a Normal posterior, give a variance v and no logarithm:
    logvar = log max(v, least), least = 0.01 ("info", Normal) or 0.02. This is part of these nets:
    with logvar itself in its place "info" diverges under Adam 1e-3. ("cnn" with AR(1) clamps inside
    its encoder, `nets.rho`.)

    Args:
        net: vanilla, cnn, beta or info.
        posterior: normal, ar1, ar1-readme or ar1-released.
    """
    if net not in NETS:
        raise unknown("net", net, NETS)
    if posterior not in tuple(POSTERIORS):
        given = posterior if isinstance(posterior, str) else type(posterior).__name__
        raise unknown("posterior", given, POSTERIORS)
    base = POSTERIORS[posterior]
    least = LEAST_VARIANCE.get((net, posterior != "normal"))
    if least is None:
        return base

    def build(output: Array) -> LatentDistribution:
        q = base.build(output)
        assert isinstance(q, distributions.Gaussian)
        return q._replace(logvar=jnp.log(jnp.maximum(q.logvar, least)))

    return Posterior(base.size, build)


def released_posterior(net: str, *, correlated: bool) -> Posterior:
    """Returns the posterior of one of the paper's four nets with the quirks of its released code.

    | net     | Normal                                             | AR(1): "released", and                         |
    | ------- | -------------------------------------------------- | ---------------------------------------------- |
    | vanilla | -                                                  | -                                              |
    | cnn     | -                                                  | -                                              |
    | beta    | -                                                  | sample in the place of the mean                |
    | info    | v' = log max(v, 0.01): samples with sd = exp(v'),  | sample in the place of the mean                |
    |         | pays for logvar = v', sample in place of the mean  |                                                |

    Args:
        net: vanilla, cnn, beta or info.
        correlated: AR(1) instead of Normal.
    """
    base = net_posterior(net, "ar1-released" if correlated else "normal")
    if net in ("vanilla", "cnn") or (net == "beta" and not correlated):
        return base

    def build(output: Array) -> LatentDistribution:
        q = base.build(output)
        assert isinstance(q, (Normal, ReleasedAR1))
        return SampleForMean(q if correlated else Normal(q.mean, 2.0 * q.logvar), q)

    return Posterior(base.size, build)
