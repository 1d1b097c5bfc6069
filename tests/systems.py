"""Four tiny systems that are no plain VAE: a GAN, a flow, a translation, and, built on the contracts, a
conditional VAE with BatchNorm whose encoder and decoder learn in turn. Tests train them; readers may start from
the last."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvae import distributions, models, nets, objectives
from jaxvae.distributions import Bernoulli
from jaxvae.models import vae
from jaxvae.models.introspective import squared_error
from jaxvae.nets.layers import BatchNorm, Dense, from_linen, join
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


def gan(latent_dim: int = 2) -> Model:
    """Returns a GAN of 2-D points with dropout in the discriminator, which only samples; the
    generator moves first."""
    pair = nets.mlp((16,), 2), nets.mlp_gan(2, output="linear", shrink=32)[1]
    model = models.gan(*pair, latent_dim=latent_dim, first="generator")
    return model._replace(decode=None, prior=None)


def flow(couplings: int = 4) -> Model:
    """Returns a flow of 2-D points with an exact density."""
    return models.flow(nets.coupling(2, hidden=(16,)), 2, couplings=couplings, alpha=None)


def translation() -> Model:
    """Returns a translation of images [4, 4, 1] with linear nets, two numbers of content and one of
    class."""
    trio = nets.mlp((), 4), nets.mlp((), 2), nets.mlp((), (4, 4, 1))
    return models.translation(*trio, content_dim=2, class_dim=1, beta_neg_class=3.0)


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
    plain = vae(encoder, decoder, latent_dim=latent_dim)

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

    return plain._replace(
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


# ---- variants of the VAE, as small as they get ---------------------------------------------------


def linear_pair():
    """Returns a linear encoder and decoder of images [B, 4, 4, 1], with z [B, 2]."""
    return nets.mlp((), 4), nets.mlp((), (4, 4, 1))


def unconditional() -> Batch:
    """Returns images [B, 4, 4, 1] alone."""
    return Batch(images().x)


VARIANTS = {
    "iwae": (lambda: models.iwae(*linear_pair(), latent_dim=2, k=3, gradient="dreg"), images),
    "vamp": (lambda: models.vamp(*linear_pair(), latent_dim=2, components=3), unconditional),
    "ladder_vae": (
        lambda: models.ladder_vae(
            nets.mlp((), 6), [nets.mlp((), 4)], nets.mlp((), (4, 4, 1)), latent_dims=(2, 1)
        ),
        images,
    ),
    "tc_vae": (
        lambda: models.tc_vae(
            *linear_pair(), latent_dim=2, data_size=50, estimator="mss", posterior="ar1"
        ),
        unconditional,
    ),
    "factor_vae": (
        lambda: models.factor_vae(*linear_pair(), nets.mlp((), ()), latent_dim=2),
        images,
    ),
    "autoencoder": (
        lambda: models.autoencoder(
            nets.mlp((), 2), nets.mlp((), (4, 4, 1)), latent_dim=2, corruption="mask"
        ),
        images,
    ),
    "vae_gan": (
        lambda: models.vae_gan(
            *linear_pair(), nets.mlp((), 2), latent_dim=2, error=squared_error, beta=0.1
        ),
        images,
    ),
    "adaptive vae_gan": (
        lambda: models.vae_gan(
            *linear_pair(), nets.mlp((), 2), latent_dim=2, beta=0.1, last="Dense_0/kernel"
        ),
        images,
    ),
    "vq_vae": (
        lambda: models.vq_vae(
            nets.mlp((), (2, 3)),
            nets.mlp((), (4, 4, 1)),
            models.codebook(4, 3, ema=True),
            shape=(2,),
        ),
        unconditional,
    ),
    "code_prior": (
        lambda: models.code_prior(nets.masked_conv(3, channels=2, blocks=0), shape=(2, 1), codes=3),
        lambda: Batch((jnp.arange(32) % 3).astype(jnp.float32).reshape(16, 2)),
    ),
}
