"""BEGAN: a generator, and an autoencoder that takes the part of the discriminator.

    L(x) = mean |x - D(x)|
    discriminator   L(x) - k L(G(z))
    generator       L(G(z'))
    balance         k <- k + rate (gamma E L(x) - E L(G(z)))

The autoencoder learns to rebuild data and, as much as k says, not to rebuild fakes; k keeps the
errors of fakes at gamma times those of data. k is no parameter: it starts at 0, is part of the
state, and moves at every step of the discriminator.

Sources: Berthelot et al. 2017 (arXiv 1703.10717), section 3.4; Lucic et al. 2018 (arXiv
1711.10337), Table 1, and its released code, compare_gan v1.0.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxvae import parallel
from jaxvae.errors import UserError, check_count, check_number
from jaxvae.models.gan import PRIORS, Game, Losses, check_names, check_turns, in_turn
from jaxvae.types import Array, Aux, Batch, Model, Net, Params, State

BALANCE = "balance"  # where the state has k


def began(
    generator: Net,
    autoencoder: Net,
    *,
    latent_dim: int,
    gamma: float = 0.75,
    rate: float = 1e-3,
    convention: Literal["paper", "released"] = "paper",
    prior: Literal["normal", "uniform"] = "uniform",
    first: Literal["generator", "discriminator"] = "discriminator",
    every: int = 1,
    same_noise: bool = False,
) -> Model:
    """Returns a BEGAN: two objectives, which move the groups "generator" and "discriminator".

    `convention="paper"` keeps k in [0, 1]; "released" is the GAN study's code, which does not, so
    that fakes worse than gamma asks for make k negative. k follows the errors of the
    discriminator's passes (the paper has the generator's draws in it, the study's code passes both
    once more behind the step). Where gradients are accumulated it moves with each part of a batch.

    Args:
        generator: z [B, D] -> x [B, ...]; takes `cond` if batches have one.
        autoencoder: x [B, ...] -> x [B, ...]; takes `cond` if batches have one.
        latent_dim: D.
        gamma: how much worse fakes are rebuilt, in [0, 1]; it may be traced.
        rate: of k, >= 0; it may be traced.
        convention: what k is kept in.
        prior: of z, U(-1, 1) or N(0, I).
        first, every, same_noise: as of `gan`.

    Returns:
        A `Model` that samples and decodes, as `gan`. Its metrics are both losses, `real_error` and
        `fake_error` (mean absolute differences), `k` (as the losses had it), and `convergence`,
        L(x) + |gamma L(x) - L(G(z))|, the paper's measure M.

    Raises:
        UserError: for unknown names and hyper-parameters out of range; when initialised, for nets
            and data whose shapes do not fit.
    """
    check_names(convention=convention, prior=prior, first=first)
    check_count("latent_dim", latent_dim)
    check_turns(first, every, same_noise)
    check_number("gamma", gamma, least=0.0, at_most=1.0)
    check_number("rate", rate, least=0.0)
    error = Losses(jnp.asarray, jnp.asarray, jnp.asarray)  # L itself, of data and of fakes
    shares = first if same_noise else None
    nets = {"generator": generator, "discriminator": _rebuilding(autoencoder)}
    game = Game(nets, latent_dim, PRIORS[prior], error, None, 0.0, shares, False)

    def init(rng: Array, batch: Batch) -> tuple[Params, State]:
        params, state = game.init(rng, batch)
        return params, {**state, BALANCE: jnp.zeros(())}

    def discriminator_loss(params, state, rng, batch: Batch, step, carry):
        _, aux = game.discriminator_loss(params, state, rng, batch, step, carry)
        k, real, fake = state[BALANCE], aux.metrics["real_loss"], aux.metrics["fake_loss"]
        mean_real, mean_fake = (
            jax.lax.stop_gradient(parallel.mean(jnp.mean(each))) for each in (real, fake)
        )
        gap = gamma * mean_real - mean_fake
        new = k + rate * gap
        if convention == "paper":
            new = jnp.clip(new, 0.0, 1.0)
        metrics = {"real_error": real, "fake_error": fake, "k": k}
        metrics["convergence"] = mean_real + jnp.abs(gap)
        return real - k * fake, Aux({**aux.state, BALANCE: new}, metrics, aux.carry)

    ordered = in_turn(game.generator_loss, discriminator_loss, first, every)
    return Model(init, ordered, decode=game.decode, sample=game.sample, prior=game.draw)


def _rebuilding(autoencoder: Net) -> Net:
    """Returns the net x [B, ...] -> mean |x - D(x)| [B]."""

    def apply(params, state, x, *, cond=None, rng=None, train):
        y, new = autoencoder.apply(params, state, x, cond=cond, rng=rng, train=train)
        if y.shape != x.shape:
            raise UserError(
                f"the autoencoder returns shape {y.shape[1:]} per example for data of "
                f"{x.shape[1:]}: build it for shape {x.shape[1:]}."
            )
        return jnp.mean(jnp.abs(x - y), axis=tuple(range(1, x.ndim))), new

    return Net(autoencoder.init, apply)
