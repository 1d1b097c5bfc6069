"""What the introspective models share: passes through both nets, the squared error, a plain VAE."""

import jax
import jax.numpy as jnp

from jaxvae import distributions, noise, objectives
from jaxvae.errors import UserError, check_number
from jaxvae.models.vae import vae
from jaxvae.types import (
    Array,
    Aux,
    Batch,
    HasPenalty,
    LatentDistribution,
    Model,
    Net,
    Objective,
    Params,
    Posterior,
    State,
)


def squared_error(x: Array, x_hat: Array) -> Array:
    """Returns sum_i (x_i - x_hat_i)^2 [B]: -log N(x; x_hat, 1/2) without its constant."""
    return jnp.sum(jnp.square(x - x_hat), axis=tuple(range(1, x.ndim)))


class Passes:
    """Both nets inside one loss, in training mode: `E`, `D` and draws, each with a fresh key.

    A call that is given a key takes that one. BatchNorm's averages follow the order of the calls:
    `state` is the state after the last one.
    """

    def __init__(
        self,
        encoder: Net,
        decoder: Net,
        posterior: Posterior,
        params: Params,
        state: State,
        rng: Array,
        cond: Array | None,
    ):
        self.nets, self.build = {"encoder": encoder, "decoder": decoder}, posterior.build
        self.params, self.state, self.rng, self.cond = params, state, rng, cond

    def key(self) -> Array:
        """Returns a key that nothing else has."""
        self.rng, key = jax.random.split(self.rng)
        return key

    def _apply(self, name: str, x: Array, rng: Array | None) -> Array:
        rng = self.key() if rng is None else rng
        y, new = self.nets[name].apply(
            self.params[name], self.state[name], x, cond=self.cond, rng=rng, train=True
        )
        self.state = {**self.state, name: new}
        return y

    def E(self, x: Array, rng: Array | None = None) -> LatentDistribution:
        """Returns q(z|x)."""
        return self.build(self._apply("encoder", x, rng))

    def D(self, z: Array, rng: Array | None = None) -> Array:
        """Returns the decoder's mean x_hat [B, ...]."""
        return self._apply("decoder", z, rng)

    def draw(self, q: LatentDistribution, rng: Array | None = None) -> Array:
        """Returns z ~ q [B, D]."""
        return distributions.sample(self.key() if rng is None else rng, q)

    def prior(self, size: int, latent_dim: int, rng: Array | None = None) -> Array:
        """Returns n ~ N(0, I) [size, D]."""
        return noise.normal(self.key() if rng is None else rng, (size, latent_dim))


def check_weights(**weights: float | None) -> None:
    """Raises `UserError` for a concrete weight below zero."""
    for name, value in weights.items():
        check_number(name, value, least=0.0)


def plain_vae(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    beta_rec: float = 1.0,
    beta_kl: float = 1.0,
    posterior: str | Posterior = "normal",
) -> Model:
    """Returns the VAE in the introspective papers' scale.

    It is the phase before their models, and their baseline in two dimensions.

        loss(x) = beta_rec |x - D(z)|^2 + beta_kl KL(q(z|x) || N(0, I)),   z ~ q(z|x)

    The squared error is that of a Gaussian likelihood with variance 1/2, which is what `decode`
    returns: `terms` and `elbo` are in nats, with its constant. Source: Daniel & Tamar 2021, section
    5.

    Args:
        encoder: x [B, ...] -> [B, posterior.size(latent_dim)].
        decoder: z [B, D] -> the mean, of x's shape.
        latent_dim: D.
        beta_rec, beta_kl: weights, >= 0; they may be traced.
        posterior: "normal", "ar1", or a `Posterior` whose loss is its KL.

    Raises:
        UserError: for weights below zero, a posterior with a `penalty` ("ar1-readme",
            "ar1-released"), and as `vae`.
    """
    check_weights(beta_rec=beta_rec, beta_kl=beta_kl)
    gaussian = vae(
        encoder,
        decoder,
        latent_dim=latent_dim,
        posterior=posterior,
        likelihood="gaussian",
        gamma=0.5,
    )
    q_of = distributions.posterior(posterior)
    outputs = jax.ShapeDtypeStruct((1, q_of.size(latent_dim)), jnp.float32)
    if isinstance(jax.eval_shape(q_of.build, outputs), HasPenalty):
        raise UserError(
            "introspective models pay the KL of what is sampled, and this posterior's convention "
            "pays something else: use posterior='ar1' or 'normal' with them, or this one with vae."
        )

    def loss(params, state, rng, batch: Batch, step, carry):
        net = Passes(encoder, decoder, q_of, params, state, rng, batch.cond)
        q = net.E(batch.x)
        error, kl = squared_error(batch.x, net.D(net.draw(q))), distributions.kl(q)
        value = objectives.beta_elbo_loss(beta_rec * error, kl, beta_kl)
        return value, Aux(net.state, {"squared_error": error, "kl": kl, **distributions.metrics(q)})

    return gaussian._replace(objectives=(Objective(("encoder", "decoder"), loss),))
