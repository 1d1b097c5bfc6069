"""The VAE-GAN of latent diffusion: an autoencoder that a discriminator of patches keeps sharp.

    autoencoder     L(x, x_hat) + beta KL(q(z|x) || N(0, I)) - on(t) weight mean_j l_j(x_hat),   x_hat = D(z), z ~ q(z|x)
    discriminator   on(t) 1/2 [mean_j max(0, 1 - l_j(x)) + mean_j max(0, 1 + l_j(x_hat))]
    on(t)           1 from step `start` on, 0 before it

with l_j(x) the logit that patch j of x is data. L is a sum over pixels, of absolute differences or
another error, such as one with n LPIPS(x, x_hat) added, n the numbers of an example; the KL is a sum over
latents, so that the papers' weights of the KL, near 1e-6, are ours.

With `last`, which names the kernel W of the decoder's last layer, `weight` is multiplied by the ratio of the
norms of two gradients there (Esser et al., Eq. 7, with the released code's constants; the paper has 1e-6 and
no bound):

    lambda = min(|d/dW mean L(x, x_hat)| / (|d/dW mean l(x_hat)| + 1e-4), 1e4)

through which nothing is differentiated.

Sources: Larsen et al. 2016 (arXiv 1512.09300), the name; Esser et al. 2021 (arXiv 2012.09841), section
3.1; Rombach et al. 2022 (arXiv 2112.10752), section 3.1 and appendix G; Lim & Ye 2017 (arXiv
1705.02894), the hinge.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxvae import distributions, objectives, parallel
from jaxvae.errors import UserError, check_count, check_number
from jaxvae.models.introspective import Error, Passes, errors_of
from jaxvae.models.kin import JUDGE, kin_of
from jaxvae.objectives import Weight
from jaxvae.types import Array, Aux, Batch, Model, Net, Objective, Params, Posterior, State

FLOOR, CEILING = 1e-4, 1e4  # of the ratio of gradients, as released


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
    last: str | None = None,
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
        last: where in the decoder's parameters the kernel of its last layer is, "Conv_1/kernel": `weight`
            is then multiplied by the ratio lambda, over all devices, of the batch, or of each of its
            parts where gradients are accumulated. It costs a second pass of decoder and discriminator,
            before `start`, too. Of a kernel that the decoder does not use it is 0.
        posterior: "normal", "ar1", or a `Posterior` whose loss is its KL.

    Returns:
        A `Model` whose evaluation is that of a Gaussian `vae` with variance 1/2, in nats, with the
        metrics `loss`, `error`, `squared_error`, `kl`, `adversary` (without its weight, 0 before
        `start`), `adversary_weight` where it varies, `discriminator_loss`, `on_data` and `on_fakes`: mean
        logits.

    Raises:
        UserError: for weights below zero, a start below 0, a posterior with a `penalty`, and as `vae`;
            when initialised, for a discriminator without a number for each example, and a decoder
            without parameters at `last`, or with several.
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

    judge = _judge_of(discriminator)

    def init(rng: Array, batch: Batch) -> tuple[Params, State]:
        rng_base, rng_judge = jax.random.split(rng)
        params, state = kin.base.init(rng_base, batch)
        of_judge, judge_state = discriminator.init(rng_judge, batch.x)
        params, state = {**params, JUDGE: of_judge}, {**state, JUDGE: judge_state}

        _check_logits(
            lambda: discriminator.apply(of_judge, judge_state, batch.x, train=False)[0], batch
        )
        if last is not None:
            _place(params["decoder"], last)
        return params, state

    def loss(params, state, rng, batch: Batch, step, carry):
        net: Passes = kin.passes(params, state, rng, batch)
        q = net.E(batch.x)
        z, rng_decoder, rng_judge = net.draw(q), net.key(), net.key()
        x_hat = net.D(z, rng_decoder)
        paid, kl = error(batch.x, x_hat), distributions.kl(q)
        adversary = -_on(step, start) * jnp.mean(judge(params, state, x_hat, rng_judge)[0], axis=1)
        part = objectives.weight_at(beta, step)
        metrics = errors_of(error, batch.x, x_hat, paid) | {"kl": kl, "adversary": adversary}
        metrics |= distributions.metrics(q)
        if callable(beta):
            metrics["beta"] = part
        factor: Array | float = weight
        if last is not None:
            fixed, z = jax.lax.stop_gradient((params, z))

            def means(decoder: Params) -> tuple[Array, Array]:
                again: Passes = kin.passes({**fixed, "decoder": decoder}, state, rng, batch)
                x_hat = again.D(z, rng_decoder)
                logits = judge(fixed, state, x_hat, rng_judge)[0]
                return jnp.mean(error(batch.x, x_hat)).astype(jnp.float32), jnp.mean(logits)

            factor = metrics["adversary_weight"] = weight * ratio(means, fixed["decoder"], last)
        value = objectives.beta_elbo_loss(paid, kl, part) + factor * adversary
        return value, Aux(net.state, metrics, x_hat)

    return kin.base._replace(
        init=init,
        objectives=(
            Objective(kin.groups, loss),
            Objective((JUDGE,), _loss_of(judge, start), name="discriminator_loss"),
        ),
    )


def hinge(data: Array, fakes: Array) -> Array:
    """Returns 1/2 [mean_j max(0, 1 - l_j(x)) + mean_j max(0, 1 + l_j(x_hat))] [B], of the logits of
    patches [B, P]; 1 where all are 0, and 0 where all are beyond 1 on their side."""
    real = jnp.mean(jax.nn.relu(1.0 - data), axis=1)
    return 0.5 * (real + jnp.mean(jax.nn.relu(1.0 + fakes), axis=1))


def _judge_of(discriminator: Net) -> Callable:
    """Returns (params, state, x, rng) -> the logits of patches [B, P] in float32, and the state after
    this pass."""

    def judge(params: Params, state: State, x: Array, rng: Array | None) -> tuple[Array, State]:
        logits, new = discriminator.apply(params[JUDGE], state[JUDGE], x, rng=rng, train=True)
        return logits.reshape(len(x), -1).astype(jnp.float32), {**state, JUDGE: new}

    return judge


def _loss_of(judge: Callable, start: int) -> Callable:
    """Returns the discriminator's loss, of the reconstructions that the autoencoder's hands on."""

    def discriminator_loss(params, state, rng, batch: Batch, step, carry):
        rng_data, rng_fakes = jax.random.split(rng)
        data, state = judge(params, state, batch.x, rng_data)
        fakes, state = judge(params, state, jax.lax.stop_gradient(carry), rng_fakes)
        metrics = {"on_data": jnp.mean(data, axis=1), "on_fakes": jnp.mean(fakes, axis=1)}
        return _on(step, start) * hinge(data, fakes), Aux(state, metrics)

    return discriminator_loss


def ratio(means: Callable, decoder: Params, last: str) -> Array:
    """Returns lambda [] for `means`, decoder's parameters -> (mean error, mean logit): the ratio of the
    norms of their gradients at the leaf `last`, through which nothing is differentiated."""
    leaves, form = jax.tree.flatten(decoder)
    place = _place(decoder, last)
    (one, _), pull = jax.vjp(
        lambda kernel: means(form.unflatten([*leaves[:place], kernel, *leaves[place + 1 :]])),
        leaves[place],
    )
    pay, rest = jnp.ones_like(one), jnp.zeros_like(one)
    of_error, of_judge = (
        jnp.linalg.norm(parallel.mean(pull(seeds)[0]).ravel())
        for seeds in ((pay, rest), (rest, pay))
    )
    return jax.lax.stop_gradient(jnp.minimum(of_error / (of_judge + FLOOR), CEILING))


def _check_logits(logits: Callable[[], Array], batch: Batch) -> None:
    """Raises `UserError` unless a discriminator has a logit for each example."""
    shape = jax.eval_shape(logits).shape
    if shape[:1] != batch.x.shape[:1] or 0 in shape:
        raise UserError(
            f"the discriminator must return logits [batch, ...], not shape {shape}: it has no patch, "
            "or no row, for each example."
        )


def _place(tree: Params, name: str) -> int:
    """Returns which leaf of parameters is at a path, "Conv_1/kernel".

    Raises:
        UserError: where none is, or several are.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    if names.count(name) != 1:
        found = "several" if name in names else "no"
        raise UserError(
            f"the decoder has {found} parameters at last={name!r}: choose one of {', '.join(names)}."
        )
    return names.index(name)


def _on(step: Array, start: int) -> Array:
    return (step >= start).astype(jnp.float32)
