"""Three tiny systems that are no plain VAE, built on the contracts: a GAN, a flow, and a
conditional VAE with BatchNorm whose encoder and decoder learn in turn. Tests train them; readers
may start from them."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvae import distributions, nets, noise, objectives
from jaxvae.distributions import Bernoulli, Normal
from jaxvae.models import vae
from jaxvae.nets.layers import BatchNorm, Dense, Dropout, from_linen, join
from jaxvae.types import Aux, Batch, Model, Objective, Terms


def points(size: int = 16) -> Batch:
    """Returns points [B, 2] on a noisy circle."""
    angle, radius = jax.random.split(jax.random.key(1))
    turn = jax.random.uniform(angle, (size,), maxval=6.28)
    circle = jnp.stack([jnp.cos(turn), jnp.sin(turn)], axis=-1)
    return Batch(circle * (1.0 + 0.1 * jax.random.normal(radius, (size, 1))))


def images(size: int = 16, classes: int = 3) -> Batch:
    """Returns images [B, 4, 4, 1] in [0, 1], brighter for a higher class, and one-hot classes [B,
    3]."""
    label = jnp.arange(size) % classes
    grey = jax.random.uniform(jax.random.key(2), (size, 4, 4, 1))
    level = ((label + 1) / classes).astype(jnp.float32)[:, None, None, None]
    return Batch(grey * level, jax.nn.one_hot(label, classes))


# ---- a GAN -----------------------------------------------------------------------------------


class Discriminator(nn.Module):
    """Returns one logit for each example [B], above 0 for "real"."""

    hidden: int = 16

    @nn.compact
    def __call__(self, x, *, cond=None, train):
        h = nn.leaky_relu(Dense(self.hidden)(x), 0.2)
        return Dense(1)(Dropout(0.3)(h, train=train))[:, 0]


def gan(latent_dim: int = 2) -> Model:
    """Returns a GAN of 2-D points with dropout in the discriminator; the generator moves first.

        generator: -log D(G(z)),   discriminator: -log D(x) - log(1 - D(G(z'))),   D = sigmoid(logit)

    Source: Goodfellow et al. 2014, Eq. 1, and the non-saturating generator loss of section 3.
    """
    generator, discriminator = nets.mlp((16,), 2), from_linen(Discriminator())

    def init(rng, batch):
        rng_g, rng_d = jax.random.split(rng)
        params_g, state_g = generator.init(rng_g, jnp.zeros((batch.x.shape[0], latent_dim)))
        params_d, state_d = discriminator.init(rng_d, batch.x)
        return {"generator": params_g, "discriminator": params_d}, {
            "generator": state_g,
            "discriminator": state_d,
        }

    def generate(params, state, rng, n, *, train):
        z = noise.normal(rng, (n, latent_dim))
        return generator.apply(params["generator"], state["generator"], z, train=train)[0]

    def logits(params, state, rng, x):
        return discriminator.apply(
            params["discriminator"], state["discriminator"], x, rng=rng, train=True
        )[0]

    def generator_loss(params, state, rng, batch, step, carry):
        rng_z, rng_fake = jax.random.split(rng)
        fake = generate(params, state, rng_z, batch.x.shape[0], train=True)
        return jax.nn.softplus(-logits(params, state, rng_fake, fake)), Aux(state)

    def discriminator_loss(params, state, rng, batch, step, carry):
        rng_z, rng_real, rng_fake = jax.random.split(rng, 3)
        fake = generate(params, state, rng_z, batch.x.shape[0], train=True)
        on_real, on_fake = (
            logits(params, state, rng_real, batch.x),
            logits(params, state, rng_fake, fake),
        )
        return jax.nn.softplus(-on_real) + jax.nn.softplus(on_fake), Aux(
            state, {"real": on_real, "fake": on_fake}
        )

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        return generate(params, state, rng, n, train=False)

    return Model(
        init,
        (
            Objective(("generator",), generator_loss, name="generator_loss"),
            Objective(("discriminator",), discriminator_loss, name="discriminator_loss"),
        ),
        sample=sample,
    )


# ---- a flow ----------------------------------------------------------------------------------

COUPLING = nets.mlp((16,), 2, act="tanh")  # one coordinate -> log-scale and shift of the other


def _log_scale_shift(params, a):
    with jax.default_matmul_precision("highest"):
        s, t = jnp.split(COUPLING.apply(params, {}, a, train=False)[0], 2, axis=-1)
    return jnp.tanh(s), t


def to_latent(params, x):
    """Returns z = f(x) [B, 2] and log |det df/dx| [B]; in each coupling the coordinates change
    places."""
    a, b = jnp.split(x, 2, axis=-1)
    log_det = jnp.zeros(x.shape[0])
    for coupling in params["flow"]:
        s, t = _log_scale_shift(coupling, a)
        a, b = b * jnp.exp(s) + t, a
        log_det = log_det + s[:, 0]
    return jnp.concatenate([a, b], axis=-1), log_det


def to_data(params, z):
    """Returns x = f^-1(z) [B, 2]."""
    a, b = jnp.split(z, 2, axis=-1)
    for coupling in reversed(params["flow"]):
        s, t = _log_scale_shift(coupling, b)
        a, b = b, (a - t) * jnp.exp(-s)
    return jnp.concatenate([a, b], axis=-1)


def flow(couplings: int = 4) -> Model:
    """Returns a flow of 2-D points with an exact density: affine couplings that take turns at the
    coordinates.

        z_b = x_b exp(s(x_a)) + t(x_a),   log p(x) = log N(z; 0, I) + sum of s,   loss = -log p(x)

    Source: Dinh et al. 2017 (arXiv 1605.08803), Eqs. 7 to 9.
    """

    def init(rng, batch):
        rngs = jax.random.split(rng, couplings)
        return {"flow": [COUPLING.init(r, batch.x[:, :1])[0] for r in rngs]}, {}

    def log_prob(params, state, x, cond=None, *, stats="running"):
        z, log_det = to_latent(params, x)
        return Normal(jnp.zeros_like(z), jnp.zeros(())).log_prob(z) + log_det

    def loss(params, state, rng, batch, step, carry):
        return -log_prob(params, state, batch.x), Aux(state)

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        return to_data(params, noise.normal(rng, (n, 2)))

    return Model(init, (Objective(("flow",), loss),), sample=sample, log_prob=log_prob)


# ---- a conditional VAE whose nets learn in turn --------------------------------------------


class NormalisedMLP(nn.Module):
    """One hidden layer with BatchNorm, and the condition beside the input."""

    out: tuple[int, ...]
    hidden: int = 16

    @nn.compact
    def __call__(self, x, *, cond=None, train):
        h = Dense(self.hidden)(join(x.reshape(x.shape[0], -1), cond))
        h = nn.relu(BatchNorm()(h, train=train))
        return Dense(math.prod(self.out))(h).reshape(x.shape[0], *self.out)


def alternating_vae(shape: tuple[int, ...] = (4, 4, 1), latent_dim: int = 2) -> Model:
    """Returns a conditional VAE with BatchNorm in both nets: each step moves the encoder, then the
    decoder.

    The encoder's loss is the negative ELBO; the decoder's is rec alone, at the latents that the
    encoder drew before it moved, which the first objective carries to the second. Every pass in
    training mode updates its net's running averages, in the order of the passes.
    """
    encoder, decoder = (
        from_linen(NormalisedMLP((2 * latent_dim,))),
        from_linen(NormalisedMLP(shape)),
    )
    whole = vae(encoder, decoder, latent_dim=latent_dim)

    def reconstruct(params, state, z, batch):
        logits, new = decoder.apply(
            params["decoder"], state["decoder"], z, cond=batch.cond, train=True
        )
        return -distributions.log_prob(Bernoulli(logits), batch.x), {**state, "decoder": new}

    def encoder_loss(params, state, rng, batch, step, carry):
        output, new = encoder.apply(
            params["encoder"], state["encoder"], batch.x, cond=batch.cond, train=True
        )
        q = distributions.posterior("normal").build(output)
        z = distributions.sample(rng, q)
        rec, state = reconstruct(params, {**state, "encoder": new}, z, batch)
        terms = Terms(rec, distributions.kl(q))
        return -objectives.elbo(terms), Aux(state, {"rec": terms.rec, "kl": terms.kl}, carry=z)

    def decoder_loss(params, state, rng, batch, step, carry):
        rec, state = reconstruct(params, state, carry, batch)
        return rec, Aux(state)

    return whole._replace(
        objectives=(
            Objective(("encoder",), encoder_loss, name="encoder_loss"),
            Objective(("decoder",), decoder_loss, name="decoder_loss"),
        )
    )


SYSTEMS = {
    "gan": (gan, points),
    "flow": (flow, points),
    "alternating_vae": (alternating_vae, images),
}
