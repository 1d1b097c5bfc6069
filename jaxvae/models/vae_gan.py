"""The VAE-GAN of latent diffusion: an autoencoder that a discriminator of patches keeps sharp.

    autoencoder     L(x, x_hat) + beta KL(q(z|x) || N(0, I)) - on(t) weight mean_j l_j(x_hat),   x_hat = D(z), z ~ q(z|x)
    discriminator   on(t) 1/2 [mean_j max(0, 1 - l_j(x)) + mean_j max(0, 1 + l_j(x_hat))]
    on(t)           1 from step `start` on, 0 before it

with l_j(x) the logit that patch j of x is data. L is a sum over pixels, of absolute differences or
another error, such as one with n LPIPS(x, x_hat) added, n the numbers of an example; the KL is a sum over
latents, so that the papers' weights of the KL, near 1e-6, are ours.

The released code multiplies `weight` by the ratio of the norms of two gradients at the decoder's last
layer (Esser et al., Eq. 7); here it is fixed: nets do not say which layer is their last.

Sources: Larsen et al. 2016 (arXiv 1512.09300), the name; Esser et al. 2021 (arXiv 2012.09841), section
3.1; Rombach et al. 2022 (arXiv 2112.10752), section 3.1 and appendix G; Lim & Ye 2017 (arXiv
1705.02894), the hinge.
"""

import jax
import jax.numpy as jnp

from jaxvae import distributions, objectives
from jaxvae.errors import UserError, check_count, check_number
from jaxvae.models.introspective import Error, Passes, errors_of
from jaxvae.models.kin import JUDGE, kin_of
from jaxvae.objectives import Weight
from jaxvae.types import Array, Aux, Batch, Model, Net, Objective, Params, Posterior, State


def absolute_error(x: Array, x_hat: Array) -> Array:
    """Returns sum_i |x_i - x_hat_i| [B]."""
    return jnp.sum(jnp.abs(x - x_hat), axis=tuple(range(1, x.ndim)))


def vae_gan(
    encoder: Net,
    decoder: Net,
    discriminator: Net,
    *,
    latent_dim: int,
    error: Error = absolute_error,
    beta: Weight = 1e-6,
    weight: float = 1.0,
    start: int = 0,
    posterior: str | Posterior = "normal",
) -> Model:
    """Returns a VAE-GAN: two objectives, the autoencoder's and, of the same reconstructions, the
    discriminator's.

    Args:
        encoder: x [B, ...] -> [B, posterior.size(latent_dim)]; takes `cond` if batches have one.
        decoder: z [B, D] -> the mean, of x's shape; likewise.
        discriminator: x [B, ...] -> logits [B, ...], one for each patch (`nets.patches`); it sees no
            condition.
        latent_dim: D.
        error: (x, x_hat) -> [B], the reconstruction's, such as `introspective.squared_error`.
        beta: weight of the KL, >= 0: a number (it may be traced) or a schedule step -> number.
        weight: of the discriminator, >= 0; it may be traced. The error is a sum over pixels, the
            discriminator's term a mean over patches.
        start: steps of the autoencoder alone, in which the discriminator rests.
        posterior: "normal", "ar1", or a `Posterior` whose loss is its KL.

    Returns:
        A `Model` whose evaluation is that of a Gaussian `vae` with variance 1/2, in nats, with the
        metrics `loss`, `error`, `squared_error`, `kl`, `adversary` (without its weight, 0 before
        `start`), `discriminator_loss`, `on_data` and `on_fakes`: mean logits.

    Raises:
        UserError: for weights below zero, a start below 0, a posterior with a `penalty`, and as `vae`;
            when initialised, for a discriminator without a number for each example.
    """
    check_number("weight", weight, least=0.0)
    objectives.check_weight("beta", beta)
    check_count("start", start, 0)
    kin = kin_of(
        encoder,
        decoder,
        latent_dim=latent_dim,
        posterior=posterior,
        likelihood="gaussian",
        gamma=0.5,
        pay_kl="VAE-GANs",
    )

    def judge(params: Params, state: State, x: Array, rng: Array | None) -> tuple[Array, State]:
        """Returns the logits of patches [B, P], and the state after this pass."""
        logits, new = discriminator.apply(params[JUDGE], state[JUDGE], x, rng=rng, train=True)
        return logits.reshape(len(x), -1), {**state, JUDGE: new}

    def init(rng: Array, batch: Batch) -> tuple[Params, State]:
        rng_base, rng_judge = jax.random.split(rng)
        params, state = kin.base.init(rng_base, batch)
        of_judge, judge_state = discriminator.init(rng_judge, batch.x)
        params, state = {**params, JUDGE: of_judge}, {**state, JUDGE: judge_state}

        def logits() -> Array:
            return discriminator.apply(of_judge, judge_state, batch.x, train=False)[0]

        shape = jax.eval_shape(logits).shape
        if shape[:1] != batch.x.shape[:1] or 0 in shape:
            raise UserError(
                f"the discriminator must return logits [batch, ...], not shape {shape}: it has no "
                "patch, or no row, for each example."
            )
        return params, state

    def loss(params, state, rng, batch: Batch, step, carry):
        net: Passes = kin.passes(params, state, rng, batch)
        q = net.E(batch.x)
        x_hat = net.D(net.draw(q))
        paid, kl = error(batch.x, x_hat), distributions.kl(q)
        adversary = -_on(step, start) * jnp.mean(judge(params, state, x_hat, net.key())[0], axis=1)
        part = objectives.weight_at(beta, step)
        metrics = errors_of(error, batch.x, x_hat, paid) | {"kl": kl, "adversary": adversary}
        metrics |= distributions.metrics(q)
        if callable(beta):
            metrics["beta"] = part
        value = objectives.beta_elbo_loss(paid, kl, part) + weight * adversary
        return value, Aux(net.state, metrics, x_hat)

    def discriminator_loss(params, state, rng, batch: Batch, step, carry):
        rng_data, rng_fakes = jax.random.split(rng)
        data, state = judge(params, state, batch.x, rng_data)
        fakes, state = judge(params, state, jax.lax.stop_gradient(carry), rng_fakes)
        metrics = {"on_data": jnp.mean(data, axis=1), "on_fakes": jnp.mean(fakes, axis=1)}
        return _on(step, start) * hinge(data, fakes), Aux(state, metrics)

    return kin.base._replace(
        init=init,
        objectives=(
            Objective(kin.groups, loss),
            Objective((JUDGE,), discriminator_loss, name="discriminator_loss"),
        ),
    )


def hinge(data: Array, fakes: Array) -> Array:
    """Returns 1/2 [mean_j max(0, 1 - l_j(x)) + mean_j max(0, 1 + l_j(x_hat))] [B], of the logits of
    patches [B, P]; 1 where all are 0, and 0 where all are beyond 1 on their side."""
    real = jnp.mean(jax.nn.relu(1.0 - data), axis=1)
    return 0.5 * (real + jnp.mean(jax.nn.relu(1.0 + fakes), axis=1))


def _on(step: Array, start: int) -> Array:
    return (step >= start).astype(jnp.float32)
