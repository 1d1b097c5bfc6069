"""The variational auto-encoder, with a Bernoulli or a Gaussian likelihood, conditional or not.

    loss(x) = rec + beta KL(q(z|x) || N(0, I)),   rec = -log p(x|z),   z ~ q(z|x)

Sources: Kingma & Welling 2014 (arXiv 1312.6114); Doersch 2016 (arXiv 1606.05908), sections 2 and 4
(conditional); Higgins et al. 2017 (beta); Dai & Wipf 2019 (arXiv 1903.05789), section 3 (learned
gamma).
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import distributions, noise, objectives, parallel
from jaxvae.distributions import Bernoulli, Distribution, Normal
from jaxvae.errors import UserError, check_count, check_number, concrete, unknown
from jaxvae.objectives import Weight
from jaxvae.types import Array, Aux, Batch, Model, Net, Objective, Posterior, Terms

LIKELIHOODS = ("bernoulli", "gaussian")


def vae(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    posterior: str | Posterior = "normal",
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    gamma: float | Literal["learned"] = 1.0,
    gamma_floor: float = 1e-8,
    beta: Weight = 1.0,
    free_bits: float = 0.0,
    aggregate: Callable[[Array, Array], Array] | None = None,
) -> Model:
    """Returns a VAE: one objective that moves the groups "encoder", "decoder" and, with a learned
    gamma, "likelihood".

    With `likelihood="bernoulli"` the decoder's output is logits, and

        rec = -sum_i [x_i log p_i + (1 - x_i) log(1 - p_i)];

    with "gaussian" it is the mean x_hat, gamma is the *variance* of every pixel, and

        rec = 1/2 sum_i [(x_i - x_hat_i)^2 / gamma + log gamma + log 2 pi].

    A learned gamma is gamma_floor + exp(2 log_sd), with one scalar `params["likelihood"]["log_sd"]`
    that starts at 0 (the parameter of the two-stage VAE's code: under Adam its scale decides how
    fast gamma falls). Its optimum is the mean squared error per pixel. Below gamma = 1 / (2 pi e)
    the loss is negative at that optimum, which is right for a density. On data that the decoder can
    memorise the optimum is 0: the floor keeps the loss finite there, and the metric `gamma_floored`
    counts the steps that end within a factor 2 of it.

    Args:
        encoder: x [B, ...] -> [B, posterior.size(latent_dim)]; takes `cond` if batches have one.
        decoder: z [B, D] -> x's shape; takes `cond` if batches have one.
        latent_dim: D.
        posterior: "normal", "ar1" (one correlation and one variance per example; see `rho_vae` for
            its conventions), or a `Posterior`.
        likelihood: "bernoulli" (pixels in [0, 1], grey or binary) or "gaussian".
        gamma: decoder variance, > 0, or "learned"; Gaussian likelihood only.
        gamma_floor: of a learned gamma, > 0; the default is a standard deviation of 1e-4.
        beta: weight of the KL, >= 0: a number (it may be traced) or a schedule step -> number.
        free_bits: nats per latent dimension that cost nothing in the loss (metrics show the true
            KL).
        aggregate: (rng, z [B, D]) -> scalar, a term of the aggregated posterior that is added to
            the mean loss (see `info_vae`); the objective is then `coupled`, and reports the term as
            `aggregate`.

    Returns:
        A `Model` with metrics `loss`, `rec`, `kl`, `elbo` (nats per example), `beta` where it is a
        schedule, `gamma` and `gamma_floored` where it is learned, and what the posterior reports of
        itself. `sample` returns decoder means; for draws of x use `distributions.sample(rng,
        model.decode(...))`.

    Raises:
        UserError: for hyper-parameters out of range, an unknown posterior or likelihood, and when
            initialised on data or nets whose shapes or ranges do not fit.
    """
    q_of = distributions.posterior(posterior)
    check_count("latent_dim", latent_dim)
    if likelihood not in LIKELIHOODS:
        raise unknown("likelihood", likelihood, LIKELIHOODS)
    learned = isinstance(gamma, str)
    if learned and gamma != "learned":
        raise unknown("gamma", gamma, ("learned",))
    if likelihood == "bernoulli" and (learned or (concrete(gamma) and gamma != 1.0)):
        raise UserError(
            "gamma is the variance of a Gaussian decoder: use likelihood='gaussian' with it."
        )
    if not learned:
        check_number("gamma", gamma, above=0.0)
    check_number("gamma_floor", gamma_floor, above=0.0)
    objectives.check_weight("beta", beta)
    check_number("free_bits", free_bits, least=0.0)
    free = not (concrete(free_bits) and free_bits == 0)
    if free:
        outputs = jax.ShapeDtypeStruct((1, q_of.size(latent_dim)), jnp.float32)
        objectives.check_free_bits(jax.eval_shape(q_of.build, outputs))

    def likelihood_of(params, output: Array) -> Distribution:
        if likelihood == "bernoulli":
            return Bernoulli(output)
        variance = learned_gamma(params) if learned else jnp.asarray(gamma, jnp.float32)
        return Normal(output, jnp.log(variance))

    def learned_gamma(params) -> Array:
        return gamma_floor + jnp.exp(2.0 * params["likelihood"]["log_sd"])

    def init(rng: Array, batch: Batch):
        x, cond = batch
        _check_data(x, likelihood)
        rng_encoder, rng_decoder = jax.random.split(rng)
        encoder_params, encoder_state = encoder.init(rng_encoder, x, cond)
        z = jnp.zeros((x.shape[0], latent_dim))
        decoder_params, decoder_state = decoder.init(rng_decoder, z, cond)
        output = jax.eval_shape(
            lambda: encoder.apply(encoder_params, encoder_state, x, cond=cond, train=False)[0]
        )
        distributions.check_posterior(q_of, latent_dim, output)
        x_hat = jax.eval_shape(
            lambda: decoder.apply(decoder_params, decoder_state, z, cond=cond, train=False)[0]
        )
        if x_hat.shape != x.shape:
            raise UserError(
                f"the decoder returns shape {x_hat.shape[1:]} per example, the data has "
                f"{x.shape[1:]}: "
                f"build the decoder for shape {x.shape[1:]}."
            )
        params = {"encoder": encoder_params, "decoder": decoder_params}
        if learned:
            params["likelihood"] = {"log_sd": jnp.zeros(())}
        return params, {"encoder": encoder_state, "decoder": decoder_state}

    def run_encoder(params, state, x, cond, rng=None, *, train):
        output, new = encoder.apply(
            params["encoder"], state["encoder"], x, cond=cond, rng=rng, train=train
        )
        return q_of.build(output), {**state, "encoder": new}

    def run_decoder(params, state, z, cond, rng=None, *, train):
        output, new = decoder.apply(
            params["decoder"], state["decoder"], z, cond=cond, rng=rng, train=train
        )
        return likelihood_of(params, output), {**state, "decoder": new}

    def loss(params, state, rng, batch: Batch, step, carry):
        x, cond = batch
        _check_float(x)
        rng_z, rng_encoder, rng_decoder = jax.random.split(rng, 3)
        q, state = run_encoder(params, state, x, cond, rng_encoder, train=True)
        z = distributions.sample(rng_z, q)
        p, state = run_decoder(params, state, z, cond, rng_decoder, train=True)
        rec, kl = -distributions.log_prob(p, x), distributions.kl(q)
        weight = objectives.weight_at(beta, step)
        paid = objectives.free_bits_kl(q, free_bits) if free else distributions.penalty(q, z)
        value = objectives.beta_elbo_loss(rec, paid, weight)
        metrics = {
            "rec": rec,
            "kl": kl,
            "elbo": objectives.elbo(Terms(rec, kl)),
            **distributions.metrics(q),
        }
        if callable(beta):
            metrics["beta"] = weight
        if learned:
            metrics["gamma"] = learned_gamma(params)
            metrics["gamma_floored"] = (metrics["gamma"] < 2.0 * gamma_floor).astype(jnp.float32)
        if aggregate is not None:
            metrics["aggregate"] = aggregate(jax.random.fold_in(rng, 3), z)
            value = jnp.mean(parallel.gather(value)) + metrics["aggregate"]
        return value, Aux(state, metrics)

    def encode(params, state, x, cond=None, *, stats="running"):
        return run_encoder(params, state, x, cond, train=use_batch(stats))[0]

    def decode(params, state, z, cond=None, *, stats="running"):
        return run_decoder(params, state, z, cond, train=use_batch(stats))[0]

    def terms(params, state, rng, batch: Batch, *, stats="running"):
        q = encode(params, state, batch.x, batch.cond, stats=stats)
        p = decode(params, state, distributions.sample(rng, q), batch.cond, stats=stats)
        return Terms(
            -distributions.log_prob(p, batch.x), distributions.kl(q), distributions.metrics(q)
        )

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        z = noise.normal(rng, (n, latent_dim))
        return decode(params, state, z, cond, stats=stats).mean

    groups = ("encoder", "decoder", "likelihood") if learned else ("encoder", "decoder")
    return Model(
        init,
        (Objective(groups, loss, coupled=aggregate is not None),),
        encode,
        decode,
        terms,
        sample,
    )


def use_batch(stats: str) -> bool:
    """Returns whether `stats` asks for this batch's own BatchNorm moments."""
    if stats not in ("running", "batch"):
        raise unknown("stats", stats, ("running", "batch"))
    return stats == "batch"


def _check_float(x: Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(
            f"x must be floating point, not {x.dtype}: scale bytes with x.astype('float32') / 255."
        )


def _check_data(x: Array, likelihood: str) -> None:
    """Raises `UserError` for data that no such likelihood fits: integers, non-finite values, pixels
    outside [0, 1]."""
    if x.ndim < 2 or 0 in x.shape:
        raise UserError(f"x must be [batch, ...] with no empty axis, not shape {x.shape}.")
    _check_float(x)
    if not concrete(x) or isinstance(x, jax.ShapeDtypeStruct):
        return
    values = np.asarray(x)
    if not np.isfinite(values).all():
        raise UserError("x holds values that are not finite: clean the data first.")
    low, high = float(values.min()), float(values.max())
    if likelihood == "bernoulli" and (low < 0.0 or high > 1.0):
        raise UserError(
            f"a Bernoulli likelihood needs pixels in [0, 1]; these run from {low:g} to {high:g}. "
            "Scale them (bytes: divide by 255), or use likelihood='gaussian'."
        )
