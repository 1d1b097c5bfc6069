"""The variational auto-encoder, with a Bernoulli or a Gaussian likelihood, conditional or not.

    loss(x) = rec + beta KL(q(z|x) || N(0, I)),   rec = -log p(x|z),   z ~ q(z|x)

Sources: Kingma & Welling 2014 (arXiv 1312.6114); Doersch 2016 (arXiv 1606.05908), sections 2 and 4
(conditional); Higgins et al. 2017 (beta); Dai & Wipf 2019 (arXiv 1903.05789), section 3 (learned
gamma).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import distributions, noise, objectives, parallel
from jaxvae.errors import UserError, check_count, check_kind, check_number, concrete, unknown
from jaxvae.models import likelihoods
from jaxvae.models.likelihoods import check_data, check_float
from jaxvae.nets import has_averages
from jaxvae.objectives import Weight
from jaxvae.types import (
    Array,
    Aux,
    Batch,
    Decode,
    Encode,
    EvaluateTerms,
    Likelihood,
    Model,
    Moments,
    Net,
    Objective,
    Params,
    Posterior,
    Sample,
    State,
    Terms,
    Tree,
)

OVER = ("data", "samples")  # what a decoder's statistics are re-estimated over


def vae(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    posterior: str | Posterior = "normal",
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
    gamma: float | Literal["learned"] = 1.0,
    gamma_floor: float = 1e-8,
    beta: Weight = 1.0,
    free_bits: float = 0.0,
    aggregate: Callable[[Array, Array], Array] | None = None,
) -> Model:
    """Returns a VAE, whose one objective moves encoder, decoder and the likelihood's parameters.

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
        likelihood: "bernoulli" (pixels in [0, 1], grey or binary), "gaussian", or a `Likelihood`.
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
        UserError: for hyper-parameters out of range, an unknown posterior or likelihood, and, when
            initialised, for data or nets whose shapes or ranges do not fit.
    """
    for name, net in (("encoder", encoder), ("decoder", decoder)):
        check_kind(name, net, Net, "nets.from_linen(module), or Net(init, apply) of two functions")
    if callable(posterior):
        how = "Posterior(size, build), build(encoder output) -> distribution, or a name"
        check_kind("posterior", posterior, Posterior, how)
    q_of = distributions.posterior(posterior)
    check_count("latent_dim", latent_dim)
    p_of = likelihoods.likelihood(likelihood, gamma=gamma, gamma_floor=gamma_floor)
    objectives.check_weight("beta", beta)
    check_number("free_bits", free_bits, least=0.0)
    free = not (concrete(free_bits) and free_bits == 0)
    if free:
        outputs = jax.ShapeDtypeStruct((1, q_of.size(latent_dim)), jnp.float32)
        objectives.check_free_bits(jax.eval_shape(q_of.build, outputs))
    pair = _Pair(encoder, decoder, q_of, p_of, latent_dim)

    def loss(params, state, rng, batch: Batch, step, carry):
        x, cond = batch
        check_float(x)
        rng_z, rng_encoder, rng_decoder = jax.random.split(rng, 3)
        q, state = pair.encode(params, state, x, cond, rng_encoder, train=True)
        _check_distribution(q)
        z = distributions.sample(rng_z, q)
        p, state = pair.decode(params, state, z, cond, rng_decoder, train=True)
        rec, kl = -distributions.log_prob(p, x), distributions.kl(q)
        weight = objectives.weight_at(beta, step)
        paid = objectives.free_bits_kl(q, free_bits) if free else distributions.penalty(q, z)
        value = objectives.beta_elbo_loss(rec, paid, weight)
        metrics = {"rec": rec, "kl": kl, "elbo": objectives.elbo(Terms(rec, kl))}
        metrics |= distributions.metrics(q)
        if callable(beta):
            metrics["beta"] = weight
        metrics |= likelihoods.report(p_of, params)
        if aggregate is not None:
            metrics["aggregate"] = aggregate(jax.random.fold_in(rng, 3), z)
            value = jnp.mean(parallel.gather(value)) + metrics["aggregate"]
        return value, Aux(state, metrics)

    groups = ("encoder", "decoder", *likelihoods.groups(p_of))
    objective = Objective(groups, loss, coupled=aggregate is not None)
    return Model(pair.init, (objective,), *_evaluation(pair), moments=_moments(pair))


class _Pair(NamedTuple):
    """Both nets and what their outputs stand for."""

    encoder: Net
    decoder: Net
    posterior: Posterior
    likelihood: Likelihood
    latent_dim: int

    def init(self, rng: Array, batch: Batch) -> tuple[Params, State]:
        """Returns parameters and state; raises `UserError` for data and nets that do not fit."""
        x, cond = batch
        check_data(x, self.likelihood)
        rng_encoder, rng_decoder = jax.random.split(rng)
        z = jax.device_put(np.zeros((x.shape[0], self.latent_dim), np.float32))
        encoder = _start("encoder", self.encoder, rng_encoder, x, cond)
        decoder = _start("decoder", self.decoder, rng_decoder, z, cond)
        output = _output_shape("encoder", self.encoder, encoder, x, cond)
        distributions.check_posterior(self.posterior, self.latent_dim, output)
        x_hat = _output_shape("decoder", self.decoder, decoder, z, cond)
        if x_hat.shape != x.shape:
            raise UserError(
                f"the decoder returns shape {x_hat.shape[1:]} per example, the data has "
                f"{x.shape[1:]}: build the decoder for shape {x.shape[1:]}."
            )
        params, state = (
            {"encoder": of_encoder, "decoder": of_decoder}
            for of_encoder, of_decoder in zip(encoder, decoder, strict=True)
        )
        if self.likelihood.init is not None:
            params["likelihood"] = self.likelihood.init()
        return params, state

    def encode(self, params, state, x, cond, rng=None, *, train) -> tuple[Any, State]:
        """Returns q(z|x), and the state after this pass."""
        output, new = self.encoder.apply(
            params["encoder"], state["encoder"], x, cond=cond, rng=rng, train=train
        )
        return self.posterior.build(output), {**state, "encoder": new}

    def decode(self, params, state, z, cond, rng=None, *, train) -> tuple[Any, State]:
        """Returns p(x|z), and the state after this pass."""
        output, new = self.decoder.apply(
            params["decoder"], state["decoder"], z, cond=cond, rng=rng, train=train
        )
        return self.likelihood.build(params.get("likelihood"), output), {**state, "decoder": new}


def _start(name: str, net: Net, rng: Array, x: Array, cond: Array | None) -> tuple[Tree, Tree]:
    return _two(f"the {name}'s init", "(params, state)", net.init(rng, x, cond))


def _output_shape(
    name: str, net: Net, start: tuple[Tree, Tree], x: Array, cond: Array | None
) -> Any:
    found = jax.eval_shape(lambda: net.apply(*start, x, cond=cond, train=False))
    return _two(f"the {name}'s apply", "(output, state)", found)[0]


def _two(what: str, pair: str, found: Any) -> tuple[Any, Any]:
    if not isinstance(found, tuple) or len(found) != 2:
        raise UserError(f"{what} must return {pair}; the state is {{}} where a net has none.")
    return found


def _check_distribution(q: Any) -> None:
    """Raises `UserError` unless q is what this loss needs, a `LatentDistribution`."""
    kind = type(q).__name__
    lacks = [name for name in ("sample", "log_prob", "kl") if not hasattr(q, name)]
    if lacks:
        raise UserError(
            f"the posterior's build returns a {kind}, which lacks {', '.join(lacks)}: let it return "
            "a NamedTuple with sample(rng) [B, D], log_prob(z) [B] and kl() [B]."
        )
    kl = q.kl()
    if kl.ndim != 1:
        raise UserError(
            f"kl of {kind} returns shape {kl.shape}, and must return a number for each example, [B]: "
            "sum over the latent dimensions."
        )


def _evaluation(pair: _Pair) -> tuple[Encode, Decode, EvaluateTerms, Sample]:
    """Returns `encode`, `decode`, `terms` and `sample` of the model."""

    def encode(params, state, x, cond=None, *, stats="running"):
        check_float(x)
        return pair.encode(params, state, x, cond, train=use_batch(stats))[0]

    def decode(params, state, z, cond=None, *, stats="running"):
        return pair.decode(params, state, z, cond, train=use_batch(stats))[0]

    def terms(params, state, rng, batch: Batch, *, stats="running"):
        q = encode(params, state, batch.x, batch.cond, stats=stats)
        p = decode(params, state, distributions.sample(rng, q), batch.cond, stats=stats)
        rec = -distributions.log_prob(p, batch.x)
        return Terms(rec, distributions.kl(q), distributions.metrics(q))

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        check_count("n", n)
        z = noise.normal(rng, (n, pair.latent_dim))
        return decode(params, state, z, cond, stats=stats).mean

    return encode, decode, terms, sample


def _moments(pair: _Pair) -> Moments:
    """Returns `Model.moments` of the model."""

    def pass_with_moments(name, net: Net, params, state, x, cond):
        if net.moments is None:
            if has_averages(state[name]):
                raise UserError(
                    f"the {name} has batch statistics and does not tell its moments: give its Net "
                    "moments, or evaluate with stats='running' or 'batch'."
                )
            y, new = net.apply(params[name], state[name], x, cond=cond, train=False)
        else:
            y, new = net.moments(params[name], state[name], x, cond=cond)
        return y, {**state, name: new}

    def moments(params, state, rng, batch: Batch, *, over="data"):
        if over not in OVER:
            raise unknown("statistics over", over, OVER)
        x, cond = batch
        output, state = pass_with_moments("encoder", pair.encoder, params, state, x, cond)
        if over == "data":
            z = distributions.sample(rng, pair.posterior.build(output))
        else:
            z = noise.normal(rng, (x.shape[0], pair.latent_dim))
        return pass_with_moments("decoder", pair.decoder, params, state, z, cond)[1]

    return moments


def use_batch(stats: str) -> bool:
    """Returns whether `stats` asks for this batch's own BatchNorm moments."""
    if isinstance(stats, str) and stats.startswith("reestimated"):
        raise UserError(
            "re-estimated statistics are a state, not a mode of a pass: "
            "state = train.reestimate(model, params, state, source), and stats='running' with it."
        )
    if stats not in ("running", "batch"):
        raise unknown("stats", stats, ("running", "batch"))
    return stats == "batch"
