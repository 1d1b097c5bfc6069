"""What the kin of the VAE share: both its nets and its evaluation, beside losses of their own.

    q(z|x) = E(x),   z ~ q(z|x),   p(x|z) = D(z),   rec = -log p(x|z)

Some have a discriminator l(z) of latents, too: one number for each.
"""

from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxvae import distributions, objectives
from jaxvae.abilities import Distribution, LatentDistribution
from jaxvae.errors import UserError
from jaxvae.models import likelihoods
from jaxvae.models.introspective import Passes, check_pays_kl
from jaxvae.models.likelihoods import check_float
from jaxvae.models.vae import vae
from jaxvae.types import (
    Array,
    Batch,
    Likelihood,
    Model,
    ModelInit,
    Net,
    Params,
    Posterior,
    State,
    Terms,
)

JUDGE = "discriminator"  # the group of the discriminator
D = TypeVar("D", bound=Distribution)


def by_row(q: D) -> D:
    """Returns a posterior whose leaves have a row for each example, [B, ...]: a normal's variance may be
    one for all of them."""
    if isinstance(q, distributions.Normal):
        return q._replace(logvar=jnp.broadcast_to(q.logvar, q.mean.shape))
    return q


class Coded(NamedTuple):
    """A batch that has passed both nets once."""

    net: Passes  # whose state is that after both
    q: LatentDistribution  # q(z|x)
    z: Array  # [B, D], drawn from it
    rec: Array  # [B], -log p(x|z)


class Kin(NamedTuple):
    """A VAE whose losses are still to be written."""

    base: Model  # the VAE: how it starts, and how it is evaluated
    encoder: Net
    decoder: Net
    posterior: Posterior
    likelihood: Likelihood
    latent_dim: int

    @property
    def groups(self) -> tuple[str, ...]:
        """The parameter groups of the VAE."""
        return ("encoder", "decoder", *likelihoods.groups(self.likelihood))

    def passes(self, params: Params, state: State, rng: Array, batch: Batch) -> Passes:
        """Returns both nets for one loss; raises `UserError` for data of integers."""
        check_float(batch.x)
        return Passes(self.encoder, self.decoder, self.posterior, params, state, rng, batch.cond)

    def p_of(self, net: Passes, z: Array, rng: Array | None = None) -> Distribution:
        """Returns p(x|z), by a pass of the decoder."""
        return self.likelihood.build(net.params.get("likelihood"), net.D(z, rng))

    def coded(self, params: Params, state: State, rng: Array, batch: Batch) -> Coded:
        """Returns what a loss sees of a batch: posterior, draw and reconstruction error."""
        net = self.passes(params, state, rng, batch)
        q = net.E(batch.x)
        z = net.draw(q)
        return Coded(net, q, z, -distributions.log_prob(self.p_of(net, z), batch.x))

    def report(self, params: Params, q: Any, rec: Array, kl: Array) -> dict[str, Array]:
        """Returns what is logged: `rec`, `kl` and `elbo` [B] in nats, and what posterior and
        likelihood tell of themselves."""
        bound = {"rec": rec, "kl": kl, "elbo": objectives.elbo(Terms(rec, kl))}
        return bound | distributions.metrics(q) | likelihoods.report(self.likelihood, params)


def kin_of(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    posterior: str | Posterior = "normal",
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
    gamma: float | Literal["learned"] = 1.0,
    gamma_floor: float = 1e-8,
    pay_kl: str | None = None,
) -> Kin:
    """Returns a VAE whose losses are still to be written.

    Args:
        encoder, decoder, latent_dim, posterior, likelihood, gamma, gamma_floor: as in `vae`.
        pay_kl: who they are, in words, if their losses pay the KL of what is sampled, and of nothing
            else.

    Raises:
        UserError: as `vae`, and as `check_pays_kl` for those that pay it.
    """
    options: dict[str, Any] = {"gamma": gamma, "gamma_floor": gamma_floor}
    base = vae(
        encoder,
        decoder,
        latent_dim=latent_dim,
        posterior=posterior,
        likelihood=likelihood,
        **options,
    )
    q_of, p_of = distributions.posterior(posterior), likelihoods.likelihood(likelihood, **options)
    if pay_kl is not None:
        check_pays_kl(q_of, latent_dim, pay_kl)
    return Kin(base, encoder, decoder, q_of, p_of, latent_dim)


class Judge(NamedTuple):
    """A discriminator l of latents: the group "discriminator"."""

    net: Net  # z [B, D] -> [B]

    def __call__(
        self, params: Params, state: State, z: Array, rng: Array | None
    ) -> tuple[Array, State]:
        """Returns l(z) [B] in training mode, and the state after this pass."""
        logits, new = self.net.apply(params[JUDGE], state[JUDGE], z, rng=rng, train=True)
        return logits, {**state, JUDGE: new}

    def started(self, kin: Kin) -> ModelInit:
        """Returns the VAE's `init` that also starts the discriminator; it raises `UserError` for one
        that does not return one number for each latent."""

        def init(rng: Array, batch: Batch) -> tuple[Params, State]:
            rng_base, rng_judge = jax.random.split(rng)
            params, state = kin.base.init(rng_base, batch)
            z = jnp.zeros((len(batch.x), kin.latent_dim))
            of_judge, judge_state = self.net.init(rng_judge, z)
            params, state = {**params, JUDGE: of_judge}, {**state, JUDGE: judge_state}
            logits = jax.eval_shape(lambda: self(params, state, z, rng)[0])
            if logits.shape != batch.x.shape[:1]:
                raise UserError(
                    "the discriminator must return one number for each latent, [batch], not shape "
                    f"{logits.shape}."
                )
            return params, state

        return init
